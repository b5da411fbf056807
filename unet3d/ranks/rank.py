"""What torchrun starts: one rank, in a process of its own. `predict.py rank JOB`, for `launch` alone."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet3d.devices import topology
from unet3d.errors import BenchmarkError, UserError
from unet3d.planning import placement
from unet3d.ranks import pool, spool
from unet3d.ranks.group import PeerLost, Ranks

# From Linux' <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
UNEXPECTED = 70
# Long enough for the agent that runs this rank, or the watch over the nodes, to end it with the true reason.
WAIT_FOR_THE_REASON_S = 60


@dataclass(frozen=True)
class Job:
    """What every rank of a node is given."""

    values: dict[str, Any]
    sources: dict[str, str]
    reasons: dict[str, str]
    warnings: list[tuple[str, str]]
    command: list[str]
    log: Path
    places: list[placement.Placement]
    # `module:function`, called with the record, the console and the group.
    task: str


def main(argv: Sequence[str]) -> int:
    """Carry out this rank's part; returns its exit code."""
    if len(argv) != 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UserError("'rank' is what the benchmark starts by itself; use DEVICES, INSTANCES or NNODES")
    # torchrun ends ranks with SIGTERM. There is nothing to save: the samples are in the spool already.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    folder = Path(argv[0]).parent
    local_rank = int(os.environ["LOCAL_RANK"])
    writer = spool.Writer(spool.path_of(folder, local_rank))
    writer.hello(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]), pid=os.getpid())
    # Written by this user's own process into a folder that nobody else can write to.
    job: Job = pickle.loads(Path(argv[0]).read_bytes())
    try:
        return _work(job, job.places[local_rank], writer, folder)
    except PeerLost as error:
        writer.error(f"lost the connection to another rank: {error}", 1, kind="peer")
        time.sleep(WAIT_FOR_THE_REASON_S)
        return 1
    except BenchmarkError as error:
        writer.error(str(error).replace("\n", "; "), error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - told by the process that started this one
        first = str(error).strip().partition("\n")[0]
        writer.error(f"unexpected {type(error).__name__}: {first}", UNEXPECTED, trace=traceback.format_exc())
        return UNEXPECTED


def _work(job: Job, place: placement.Placement, writer: spool.Writer, folder: Path) -> int:
    facts = placement.take(place)
    from unet3d.devices.registry import PLATFORMS, open_device
    from unet3d.planning.resolve import Settings
    from unet3d.results.console import Console
    from unet3d.results.record import Record

    settings = Settings(dict(job.values), job.sources, job.reasons, job.warnings)
    settings.values["threads"] = place.threads
    # Its variables show it one device.
    settings.device = open_device(PLATFORMS[settings.platform])
    if settings.platform != "CPU" and len(topology.by_node(cores := topology.cores())) > 1:
        if beside := placement.near(settings.device, cores):
            facts = {**placement.take(beside), "name": place.name, "threads": place.threads, "variables": facts["variables"]}
    group = Ranks(writer)
    with _other_nodes(writer, group, settings.rank_timeout) if settings.nnodes > 1 else contextlib.nullcontext():
        record = Record(settings, command=job.command)
        out = Console(group.rank, group.size, only_status=group.rank > 0)
        out.open_log(job.log, append=True)
        module, _, function = job.task.partition(":")
        getattr(importlib.import_module(module), function)(record, out, group)
        parts = group.gather(pool.part(record, facts))
        if group.rank == 0:
            pool.pool(record, parts)
            (folder / "pooled.pkl").write_bytes(pickle.dumps(pool.hand_over(record)))
        group.barrier()
    group.leave()
    sys.stdout.flush()
    return 0


def _die_with_parent() -> None:
    """The kernel ends this process when the agent that started it ends, however that comes about."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def _other_nodes(writer: spool.Writer, group: Ranks, limit_s: int):
    """While the body runs, end this rank when another node has failed or has not been heard of for `limit_s` seconds."""
    from unet3d.ranks.nodes import Watch

    def end(message: str) -> None:
        writer.error(message, 1, kind="told")
        os._exit(1)

    stop = threading.Event()
    watch = Watch(
        node=int(os.environ["GROUP_RANK"]),
        nodes=int(os.environ["GROUP_WORLD_SIZE"]),
        limit_s=limit_s,
        tells=group.local_rank == 0,
    )
    threading.Thread(target=watch.run, args=(stop, end), name="other-nodes", daemon=True).start()
    # After an error the watch goes on, so that a rank that lost its peers learns why.
    yield
    stop.set()
