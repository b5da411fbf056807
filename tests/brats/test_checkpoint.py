"""Checkpoints and plans: read as PyTorch reads them where nnU-Net wrote them, refused in one line otherwise."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness.hostile import weights as hostile
from unet3d.brats import weights
from unet3d.brats.weights import checkpoint
from unet3d.errors import UserError
from unet3d.network import plans, reference

FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def read(data):
    return checkpoint.tensors(checkpoint.read(data, "x.model"), "x.model")


def refused(work):
    """What `work` gives, None where it refuses in one printable line."""
    try:
        return work()
    except UserError as error:
        assert str(error).isprintable() and 10 < len(str(error)) < 1000
        return None


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_what_torch_saves_is_read_as_torch_reads_it(legacy, kind):
    shared = torch.randn(40).to(kind)
    state = {
        "a": torch.randn(2, 3, 4, 5, 6).to(kind),
        "last": torch.randn(2, 3, 4, 5, 6).to(kind).to(memory_format=torch.channels_last_3d),
        "view": shared[3:30:2],
        "turned": shared[:12].view(3, 4).T,
        "parameter": torch.nn.Parameter(torch.randn(3).to(kind)),
        "empty": torch.zeros(0, 3, dtype=kind),
        "one": torch.tensor(2.5, dtype=kind),
    }
    rest = {"optimizer": {0: torch.arange(5), 1: torch.ones(2, dtype=torch.bool)}, "curve": [np.float32(1), np.float64(2)]}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, **rest}, buffer, _use_new_zipfile_serialization=not legacy)
    found = read(buffer.getvalue())
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value.detach().float()) and found[key].dtype == torch.float32


def test_names_of_data_parallel_are_those_without():
    state = {f"module.{key}": value for key, value in hostile.made().state_dict.items()}
    assert read(hostile.saved(state)).keys() == hostile.made().state_dict.keys()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", hostile.TYPES)
def test_other_types_are_not_cast(tmp_path, kind, legacy):
    if (legacy and kind.itemsize == 1 and kind.is_floating_point) or (legacy and "uint" in str(kind)):
        pytest.skip("the old format has no such type")
    with pytest.raises(UserError, match=r"allowed are float32 and float16|refused, it asks for 'torch"):
        weights.load(hostile.first(lambda value: value.to(kind), legacy=legacy)(tmp_path))


def as_torch_can(change, tensor):
    """The changed tensor, or the same where PyTorch has no such change for its type."""
    try:
        return change(tensor)
    except (NotImplementedError, RuntimeError):
        return tensor


CHANGES = [torch.clone, torch.Tensor.to_sparse, lambda t: t.to("meta"), lambda t: t[None].expand(4, *t.shape), lambda t: t / 0]
tensors = st.builds(
    lambda shape, kind, change: as_torch_can(change, torch.ones(shape).to(kind)),
    st.lists(st.integers(0, 3), max_size=5),
    st.sampled_from([torch.float32, *hostile.TYPES]),
    st.sampled_from(CHANGES),
)
names = st.text(max_size=8) | st.integers()
plain = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
contents = st.fixed_dictionaries({"state_dict": st.dictionaries(names, tensors | plain, max_size=4)}) | plain


@settings(max_examples=60, **FUZZ)
@given(content=contents)
def test_any_content_is_finite_fp32_or_refused(content):
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
    except Exception:  # noqa: BLE001 - what torch cannot write needs no reader
        return
    found = refused(lambda: read(buffer.getvalue()))
    for key, value in (found or {}).items():
        stored = content["state_dict"].get(key, content["state_dict"].get(f"module.{key}"))
        assert stored.dtype in (torch.float32, torch.float16) and torch.equal(value, stored.float()) and value.isfinite().all()


scalars = [st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=4)]
numbers = st.one_of(*scalars, st.just(np.int64(3)), st.just([2, 2, 2]))
nested = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.one_of(scalars), inner, max_size=3)
)


@settings(max_examples=80, **FUZZ)
@given(data=st.data())
def test_any_plans_are_a_network_or_refused(data):
    values = plans.random_plans(2, 4)
    stage = data.draw(st.sampled_from(["pool_op_kernel_sizes", "conv_kernel_sizes", None]))
    target = values if stage is None else values["plans_per_stage"][0]
    keys = ["num_modalities", "num_classes", "base_num_features", "conv_per_stage", "max_num_features", "plans_per_stage"]
    target[stage or data.draw(st.sampled_from(keys))] = data.draw(nested)
    shape = refused(lambda: plans.architecture(values))
    if shape is not None:
        assert (shape.input_channels, shape.classes) == (4, 4)
        if shape.base_features < 64 and shape.max_features < 64:
            reference.build(values, device="meta")


def test_a_record_proves_nothing(tmp_path, monkeypatch):
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    archive.mkdir()
    folder.mkdir()
    monkeypatch.setattr(weights, "MLPERF_SHA256", "0" * 64)
    path = hostile.claimed(archive)
    assert weights.load(path).kind == weights.load(hostile.claimed_folder(folder)).kind == "custom"
    # The known sum is not enough either: the plans beside the checkpoint decide what is computed.
    monkeypatch.setattr(weights, "MLPERF_SHA256", weights.load(path).sha256)
    assert weights.load(path).kind == "custom"
    monkeypatch.setattr(weights, "random_plans", lambda: hostile.made().plans)
    assert weights.load(path).kind == "mlperf"


def test_what_was_fetched_is_unverified_while_no_sum_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MLPERF_SHA256", None)
    claimed = hostile.claimed_folder(tmp_path)
    assert weights.load(claimed).kind == "custom"  # of another architecture
    monkeypatch.setattr(weights, "random_plans", lambda: hostile.made().plans)
    assert weights.load(claimed).kind == "mlperf-unverified"
    (claimed / "origin.json").unlink()
    assert weights.load(claimed).kind == "custom"


def test_the_sample_is_known_by_its_sum():
    loaded = weights.load("sample")
    assert loaded.kind == "sample" and loaded.sha256 == weights.SAMPLE_SHA256


def test_a_changed_record_is_told(tmp_path):
    path = hostile.claimed(tmp_path)
    record = json.loads((tmp_path / "fold_1.zip.json").read_text())
    (tmp_path / "fold_1.zip.json").write_text(json.dumps({**record, "sha256": "0" * 64}))
    with pytest.raises(UserError, match="differs from the checksum recorded"):
        weights.load(path)


@settings(max_examples=30, **FUZZ)
@given(method=st.sampled_from([0, 8, 12, 14]), data=st.data())
def test_damaged_members_of_every_method(tmp_path, method, data):
    path = hostile.write(tmp_path, hostile.members(), method)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    loaded = refused(lambda: weights.load(path))
    for key, value in (loaded.state_dict if loaded else {}).items():
        assert torch.equal(value, hostile.made().state_dict[key])


@pytest.mark.parametrize("offset", [20, 24], ids=["packed size", "size"])
@settings(max_examples=15, **FUZZ)
@given(size=st.integers(0, 2**32 - 1))
def test_announced_sizes_may_lie(tmp_path, offset, size):
    refused(lambda: weights.load(hostile.archive(hostile.directory(offset, "<I", size))(tmp_path)))


def test_a_member_that_is_too_large_is_not_read(tmp_path):
    path = hostile.write(tmp_path, {**hostile.members(), "model/plans.pkl": bytes(2**27)})
    with pytest.raises(UserError, match=r"plans.pkl has 134217728 bytes, at most 67108864 are allowed"):
        weights.load(path)
    assert zipfile.is_zipfile(path)
