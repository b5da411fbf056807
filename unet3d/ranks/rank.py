"""What torchrun starts: one rank, in a process of its own. `predict.py rank JOB`, for `launch` alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet3d import signals
from unet3d.config.values import Settings
from unet3d.devices import topology
from unet3d.errors import BenchmarkError, ExitCode, UserError, messages_of, of_the_system
from unet3d.planning import placement
from unet3d.planning.placement import Placement
from unet3d.planning.plan import of_rank
from unet3d.ranks import pool, spool
from unet3d.ranks.group import PeerLost, TorchrunGroup
from unet3d.results.console import Console
from unet3d.results.record import Record

# Long enough for the agent that runs this rank, or the watch over the nodes, to end it with the true reason.
WAIT_FOR_THE_REASON_S = 60


@dataclass(frozen=True)
class Job:
    """What every rank of a node is given."""

    settings: Settings
    warnings: Sequence[tuple[str, str]]
    command: list[str]
    log: Path
    places: Sequence[Placement]
    # `module:function`, called with the plan, the record, the console and the group.
    task: str


def main(argv: Sequence[str]) -> int:
    """Carry out this rank's part; returns its exit code."""
    if len(argv) != 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UserError("'rank' is what the benchmark starts by itself; use DEVICES, INSTANCES or NNODES")
    # torchrun ends ranks with SIGTERM. There is nothing to save: the samples are in the spool already.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The agent that started it.
    signals.end_with_parent(signal.SIGKILL)
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
    except BrokenPipeError:
        writer.error("who read the output has closed it", ExitCode.PIPE_CLOSED)
        return ExitCode.PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - told by the process that started this one
        known = error if isinstance(error, BenchmarkError) else of_the_system(error)
        if known is not None:
            writer.error("; ".join(messages_of(known)), known.exit_code)
            return known.exit_code
        first = str(error).strip().partition("\n")[0]
        writer.error(f"unexpected {type(error).__name__}: {first}", ExitCode.DEFECT, trace=traceback.format_exc())
        return ExitCode.DEFECT


def _work(job: Job, place: Placement, writer: spool.Writer, folder: Path) -> int:
    bound = placement.bind(place)
    from unet3d.devices.registry import PLATFORMS, open_device

    # Its variables show it one device.
    device = open_device(PLATFORMS[job.settings.platform])
    if not device.is_host and len(topology.by_node(cores := topology.cores())) > 1:
        if beside := placement.beside_device(device, cores):
            bound = replace(placement.bind(beside), name=place.name, threads=place.threads, variables=dict(place.variables))
    plan = of_rank(job.settings, device, place, job.warnings)
    group = TorchrunGroup(writer)
    timeout = job.settings.rank_timeout
    with _other_nodes(writer, group, timeout) if job.settings.nnodes > 1 else contextlib.nullcontext():
        record = Record(plan.settings, command=job.command)
        out = Console(group.rank, group.size, only_status=group.rank > 0)
        out.open_log(job.log, append=True)
        module, _, function = job.task.partition(":")
        getattr(importlib.import_module(module), function)(plan, record, out, group)
        parts = group.gather(pool.part(record, bound))
        if group.rank == 0:
            pool.pool(record, parts)
            (folder / "pooled.pkl").write_bytes(pickle.dumps(pool.hand_over(record)))
        group.barrier()
    group.leave()
    sys.stdout.flush()
    return 0


@contextlib.contextmanager
def _other_nodes(writer: spool.Writer, group: TorchrunGroup, limit_s: int):
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
