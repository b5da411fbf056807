"""compare reference, how a result gets among the committed ones, and the README's table of them."""

import json
import re
import sys
from pathlib import Path

import pytest
from comparing import document
from made_results import full

from unet3d import cli, places
from unet3d.commands.compare import machines, reference, runs
from unet3d.errors import UserError

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(places.REFERENCE_RESULTS.glob("*.json"))
PRIVATE = re.compile(r"(?<![\w:/])~?/(home|root|Users|tmp|work|mnt|data|srv|opt)/")


@pytest.fixture
def headline(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "headline", raising=False)
    import headline

    return headline


def measured(cpu="EPYC 9", cores=2, milliseconds=3500, precision="bf16", instructions=("avx512_bf16",), **changes):
    doc = document([milliseconds * (1 + 0.002 * (index % 5)) for index in range(12)], **changes)
    doc["environment"]["hardware"] |= {"cpu": cpu, "usable_cores": cores, "instructions": list(instructions), "host": "anna"}
    doc["effective"] |= {"precision": precision, "details": {"library": "/home/anna/.cache/unet3d/ops-1234.so", "threads": 2}}
    doc["settings"]["requested"] |= {"precision": precision, "output_dir": "/home/anna/output"}
    doc["benchmark"] |= {"git_commit": "0123456789abcdef", "git_dirty": False, "command": ["/home/anna/predict.py"]}
    doc["weights"]["path"] = "/home/anna/weights/fold_1.zip"
    telemetry = full()["telemetry"]
    doc["telemetry"] = {
        **telemetry,
        "energy": {**telemetry["energy"], "joules": {"RAPL": 840.0}, "joules_per_volume": {"RAPL": 210.0}},
    }
    return doc


@pytest.fixture
def committed(tmp_path, monkeypatch, save):
    """Two machines among the committed results, added as a user adds them."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(places, "REFERENCE_RESULTS", folder)
    for name, doc in (
        ("epyc", measured()),
        ("epyc32", measured(precision="fp32", milliseconds=4700)),
        ("xeon", measured("Xeon 8481C", 16, 640, instructions=("amx_tile", "avx512f"))),
    ):
        reference.add(Path(save(f"measured/{name}", doc)))
    return folder


def test_an_added_result_tells_nothing_of_people_and_reads_the_same(committed):
    assert [path.name for path in sorted(committed.iterdir())] == [
        "2026-03-01-epyc-9-2-cores-torch-bf16.json",
        "2026-03-01-epyc-9-2-cores-torch-fp32.json",
        "2026-03-01-xeon-8481c-16-cores-torch-bf16.json",
    ]
    for path in committed.iterdir():
        assert "anna" not in path.read_text()
    doc = json.loads((committed / "2026-03-01-epyc-9-2-cores-torch-bf16.json").read_text())
    assert doc["weights"]["path"] == "…/fold_1.zip"
    assert doc["effective"]["details"] == {"library": "…/ops-1234.so", "threads": 2}
    assert doc["samples"]["latency_ms"] == measured()["samples"]["latency_ms"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"complete": False, "incomplete_reason": "stopped"}, "incomplete"),
        ({"volume": {"shape": [4, 64, 64, 64], "standard": False}}, "volume"),
        ({"benchmark": {**document([1])["benchmark"], "git_commit": None, "git_dirty": None}}, "commit"),
        ({"benchmark": {**document([1])["benchmark"], "git_commit": "abc", "git_dirty": True}}, "commit"),
        (
            {"benchmark": {**document([1])["benchmark"], "git_commit": "abc", "git_dirty": None}},
            "whether they did is not known",
        ),
    ],
)
def test_what_is_no_reference_is_refused(committed, save, change, reason):
    before = sorted(committed.iterdir())
    with pytest.raises(UserError, match=reason):
        reference.add(Path(save("bad", measured() | change)))
    assert sorted(committed.iterdir()) == before


def test_a_result_is_not_overwritten(committed, save):
    with pytest.raises(UserError, match="there already"):
        reference.add(Path(save("again", measured(milliseconds=1))))


def test_ones_own_run_beside_the_committed(committed, save, capsys):
    own = save("mine", measured("EPYC 9 X", 4, 1750))
    assert cli.main(["compare", "reference", own, "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    rows = {row["result"]: row for row in listed["rows"]}
    [mine] = [row for row in rows.values() if row["own"]]
    assert mine["place"] == 2
    assert mine["against"].endswith("epyc-9-2-cores-torch-bf16")
    assert mine["ratio"] == pytest.approx(2)
    [nearest] = [note for note in listed["notes"] if note.startswith("nearest machine")]
    assert "EPYC 9, 2 cores" in nearest
    assert "cores: 2, here 4" in nearest
    assert cli.main(["compare", "reference", own]) == 0
    assert "* " in capsys.readouterr().out
    assert cli.main(["compare", "reference"]) == 0
    assert cli.main(["compare", "reference", own, "--against", "2026-03-01-xeon-8481c-16-cores-torch-bf16"]) == 0
    assert "times reference/2026-03-01-xeon" in " ".join(capsys.readouterr().out.split())


def test_ones_own_small_volume_gets_no_place(committed, capsys):
    assert cli.main(["compare", "reference", str(Path(__file__).with_name("small_run.json"))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "NOT COMPARABLE: " in out
    assert "nearest machine to" in out


def test_without_committed_results_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(places, "REFERENCE_RESULTS", tmp_path)
    assert cli.main(["compare", "reference"]) == 2
    assert "no results come with this benchmark" in capsys.readouterr().err


def test_nearest_machine_by_what_decides_its_speed():
    def cpu(name, cores, instructions, memory=64):
        return machines.Machine("CPU", name, instructions, cores, memory, 1)

    here = cpu("AMD EPYC 9R14", 4, "AVX512-BF16")
    others = [
        cpu("Intel Xeon 8481C", 4, "AMX"),
        cpu("AMD EPYC 9654", 8, "AVX512-BF16"),
        cpu("AMD EPYC 7R13", 4, "AVX2"),
        machines.Machine("CUDA", "NVIDIA H100", "AVX512-BF16", 4, 64, 1),
    ]
    assert machines.nearest(here, others) == 1
    gpus = [
        machines.Machine("CUDA", name, None, 8, 64, 1) for name in ("NVIDIA A100 80GB", "NVIDIA H100 80GB HBM3", "NVIDIA L4")
    ]
    assert machines.nearest(machines.Machine("CUDA", "NVIDIA H100 PCIe", None, 96, 900, 1), gpus) == 1
    assert machines.distance(here, here) == 0


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_are_what_their_names_say(path):
    doc = runs.load(path)
    assert doc["complete"]
    assert doc["volume"]["standard"]
    assert doc["benchmark"]["git_commit"]
    assert not doc["benchmark"]["git_dirty"]
    assert path.name == reference.name_of(doc)
    assert not PRIVATE.search(path.read_text(encoding="utf-8"))


def test_headline_is_made_from_the_committed(committed, headline):
    lines = headline.headline().splitlines()
    assert lines[0].startswith("| Machine | Precision, engine | Volumes/s |")
    assert len(lines) == 2 + 3
    assert lines[2].startswith("| Xeon 8481C, 16 cores, AMX | bf16, torch 2.13.0 | 1.557 | 645.1 |")
    assert lines[3].endswith("| 210 | – | 01234567 | 2026-03-01 |")


def test_headline_shows_dice_of_real_weights_alone(headline):
    scored = {"total": 0.8531, "cases": {}}
    for kind, standard, shown in (("mlperf", True, "| 0.8531 |"), ("sample", False, "| – |"), ("mlperf", False, "| – |")):
        doc = measured(accuracy=scored)
        doc["weights"]["kind"], doc["data"] = kind, {"kind": "BraTS 2019", "standard_names": standard}
        assert shown in headline.headline([runs.Side("a", [doc])])


def test_the_table_is_put_between_its_comments(headline):
    readme = f"# A\n\n{headline.BEGIN}\nold\n{headline.END}\nmore\n"
    assert headline.with_headline(readme, "new") == f"# A\n\n{headline.BEGIN}\nnew\n{headline.END}\nmore\n"
    with pytest.raises(UserError, match="two comments"):
        headline.with_headline("# A", "new")


def test_readme_shows_the_committed_results(headline):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert headline.BEGIN in readme
    if not COMMITTED:
        pytest.skip("no results are committed: the table is not made from any")
    assert headline.with_headline(readme, headline.headline()) == readme, "run python benchmarks/headline.py --write"
