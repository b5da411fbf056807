"""Starts the ranks of this node with torchrun's agent, watches them, and brings back what rank 0 has pooled."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from unet3d import progress, signals
from unet3d.config.values import Settings
from unet3d.devices import control_groups
from unet3d.engines import registry
from unet3d.errors import BenchmarkError, ExitCode, UserError, shown
from unet3d.files import write_atomically
from unet3d.places import command
from unet3d.planning import placement
from unet3d.planning.placement import Placement
from unet3d.planning.plan import Plan
from unet3d.ranks import nodes, pool, spool
from unet3d.ranks.rank import Job
from unet3d.results import advice
from unet3d.results.console import Console
from unet3d.results.record import Record

POLL_S = 0.2
# Importing PyTorch from a slow disk and opening a device take their time, whatever limit an inference is given.
START_S = 300


class RankFailed(BenchmarkError):
    """A rank ended before its work was done; the exit code is the rank's own, or 5 where it died or hung."""

    def __init__(self, message: str, exit_code: int, trace: str | None = None):
        super().__init__(message)
        self.exit_code, self.trace = exit_code, trace


def run(plan: Plan, record: Record, out: Console, task: str) -> None:
    """Have a task done by every rank, and fill in the record: on node 0 from all ranks, elsewhere nothing.

    task: `module:function`, called in each rank with its plan, its record, its console and its group.

    Raises:
        RankFailed: with the rank's name, reason and exit code; the samples so far are in the record.
        UserError: when the nodes don't meet.
    """
    settings, places = plan.settings, plan.places
    try:
        folder = Path(tempfile.mkdtemp(prefix="unet3d-ranks-"))
    except OSError as error:
        raise UserError(
            f"no temporary folder can be made for the ranks ({error.strerror}); set TMPDIR to a folder that can be written to"
        ) from None
    record.at_end.append(lambda: shutil.rmtree(folder, ignore_errors=True))
    job = folder / "job.pkl"
    job.write_bytes(pickle.dumps(_job(plan, record, task)))
    readers = [spool.Reader(spool.path_of(folder, local_rank)) for local_rank in range(len(places))]
    record.at_end.append(lambda: _collect(record, readers))
    bulletin = _bulletin(settings) if settings.nnodes > 1 else None
    if bulletin:
        record.at_end.append(
            lambda: bulletin.tell(f"node {settings.node_rank}: {record.incomplete_reason}") if not record.complete else None
        )
    out.line(
        f"{len(places)} rank{'s' if len(places) > 1 else ''} on this machine: {placement.told(places, settings.threads)}"
        + (f"; node {settings.node_rank} of {settings.nnodes}, meeting at {settings.rdzv_endpoint}" if bulletin else "")
    )
    record.warn(*advice.other_load(settings))
    load = list(record.warnings)
    with progress.shown_on(out):
        registry.engine_class(settings.engine).build(plan.request)
    kills = control_groups.oom_kills()
    agent = Agent(settings, len(places), job)
    hung: dict[int, str] = {}
    while agent.alive(POLL_S):
        for local_rank, reader in enumerate(readers):
            reader.follow()
            limit = settings.rank_timeout if reader.step != spool.STARTING else max(START_S, settings.rank_timeout)
            if reader.hello and reader.limited and reader.silent_s > limit and local_rank not in hung:
                hung[local_rank] = f"made no progress for {limit} s (RANK_TIMEOUT); it was killed"
                _kill(reader.hello["pid"])
    out.clear()
    for reader in readers:
        reader.follow()
    if agent.error is not None:
        failure = _failure(settings, agent, readers, places, hung, control_groups.oom_kills() > kills)
        if trace := getattr(failure, "trace", None):
            write_atomically(settings.output_dir / "traceback.log", trace)
        if failure.exit_code == ExitCode.PIPE_CLOSED:
            raise BrokenPipeError from None
        raise failure
    if settings.node_rank in (None, 0):
        # Written by rank 0, a process of this user, into a folder that nobody else can write to.
        pool.take_over(record, pickle.loads((folder / "pooled.pkl").read_bytes()))
        record.warnings[:0] = load
        out.size = len(record.ranks)
        out.fitted(lambda width: pool.table(record, width))


def _job(plan: Plan, record: Record, task: str) -> Job:
    settings = plan.settings
    # Segmentations of all nodes belong into one folder; only logs and partial results are kept apart.
    whole = settings.output_dir.parent if settings.node_rank else settings.output_dir
    return Job(
        settings=replace(settings, output_dir=whole),
        warnings=plan.warnings,
        command=record.command,
        log=settings.output_dir / "output_raw.log",
        places=plan.places,
        task=task,
    )


def _collect(record: Record, readers: list[spool.Reader]) -> None:
    """Samples of ranks that could not hand them over."""
    if not record.samples:
        for reader in readers:
            reader.follow()
            record.samples += reader.samples
        record.samples.sort(key=lambda sample: sample.start)
        record.planned_calls = record.settings.num_iterations * len(readers)


def _bulletin(settings: Settings) -> nodes.Bulletin:
    host, port = endpoint(settings.rdzv_endpoint)
    try:
        return nodes.Bulletin(host, port, settings.node_rank or 0, settings.nnodes)
    except (RuntimeError, ValueError, OSError) as error:  # names that no resolver takes are of all kinds
        raise UserError(
            f"RDZV_ENDPOINT: node 0 cannot listen at {shown(settings.rdzv_endpoint)} "
            f"({shown(str(error).partition(chr(10))[0])}); name an address of this machine and a free port"
        ) from None


def endpoint(text: str | None) -> tuple[str, int]:
    """Host and port of host:port."""
    host, _, port = (text or "").rpartition(":")
    return host.strip("[]"), int(port)


class Agent:
    """torchrun's agent for this node, in a thread: the main thread has to answer signals."""

    def __init__(self, settings: Settings, ranks: int, job: Path):
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(settings, ranks, job), name="torchrun", daemon=True)
        self._thread.start()

    def alive(self, wait_s: float) -> bool:
        """Whether it runs still, after `wait_s` seconds at most."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def _run(self, settings: Settings, ranks: int, job: Path) -> None:
        try:
            # A store's client that tries again while the other side starts is no news.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
            from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
            from torch.distributed.launcher.api import LaunchConfig, elastic_launch

            # The agent's own reports hold tracebacks; what a user has to know is told in one line.
            for name in list(logging.root.manager.loggerDict):
                if name.startswith("torch.distributed"):
                    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            # Torch 2.13 asks how long ranks have to end by themselves; older ones know no other than their own.
            known = {field.name for field in fields(LaunchConfig)}
            patience: dict[str, Any] = {"shutdown_timeout": 5} if "shutdown_timeout" in known else {}
            config = LaunchConfig(
                min_nodes=settings.nnodes,
                max_nodes=settings.nnodes,
                nproc_per_node=ranks,
                logs_specs=DefaultLogsSpecs(log_dir=str(job.parent / "torchrun")),
                max_restarts=0,
                monitor_interval=0.1,
                **patience,
                **_rendezvous(settings),
            )
            start, *words = command()
            elastic_launch(config, start)(*words, "rank", str(job))
        except BaseException as error:  # noqa: BLE001 - looked at by the thread that waits for this one
            self.error = error


def _rendezvous(settings: Settings) -> dict[str, Any]:
    if settings.nnodes > 1:
        if endpoint(settings.rdzv_endpoint)[0] in ("localhost", "127.0.0.1", "::1"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return {
            "rdzv_backend": "static",
            "rdzv_endpoint": settings.rdzv_endpoint,
            "run_id": "unet3d",
            "rdzv_configs": {"rank": settings.node_rank, "timeout": settings.rank_timeout},
        }
    # Gloo looks up the host's name otherwise, which fails on machines without a resolver.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex, "local_addr": "127.0.0.1"}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # torchrun gives each rank a process group of its own


def _failure(
    settings: Settings,
    agent: Agent,
    readers: list[spool.Reader],
    places: Sequence[Placement],
    hung: dict[int, str],
    out_of_memory: bool,
) -> BenchmarkError:
    """The first cause, in one line: a rank's own error or death rather than what it did to others."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(agent.error, ChildFailedError):
        first = shown(str(agent.error).strip().partition("\n")[0])
        if settings.nnodes > 1:
            return UserError(
                f"the {settings.nnodes} nodes did not meet at {settings.rdzv_endpoint} ({first}); start the same "
                "command on every node, each with its own NODE_RANK, and see that node 0 can be reached"
            )
        return RankFailed(f"torchrun: {type(agent.error).__name__}: {first}", ExitCode.RANK_DIED)
    ended = {failure.local_rank: failure for failure in agent.error.failures.values()}

    def order(local_rank: int) -> tuple[int, int]:
        error = readers[local_rank].error
        kind = "hung" if local_rank in hung else error["kind"] if error else "died"
        if kind == "died" and ended[local_rank].exitcode == -signal.SIGTERM:
            kind = "stopped"  # by the agent, as a rule because of another one
        return ("hung", "error", "died", "told", "peer", "stopped").index(kind), local_rank

    local_rank = min(set(ended) | set(hung), key=order)
    reader, code = readers[local_rank], ended[local_rank].exitcode if local_rank in ended else -signal.SIGKILL
    told = reader.hello or {"rank": local_rank, "size": "?"}
    name = f"rank {told['rank']} of {told['size']} ({places[local_rank].name})"
    if reader.error and reader.error["kind"] == "told":
        return RankFailed(reader.error["message"], ExitCode.RANK_DIED)
    if local_rank in hung:
        return RankFailed(f"{name}, {reader.step}: {hung[local_rank]} (exit code {code})", ExitCode.RANK_DIED)
    if reader.error:
        return RankFailed(
            f"{name}, {reader.step}: {reader.error['message']} (exit code {code})",
            reader.error["exit_code"],
            reader.error["trace"],
        )
    if code == -signal.SIGKILL and out_of_memory:
        return RankFailed(
            f"{name}, {reader.step}: out of memory, the kernel killed it (exit code {code}); use fewer ranks "
            "on this machine, or lower BATCH_SIZE or STREAMS",
            ExitCode.OUT_OF_MEMORY,
        )
    how = f"killed by {signals.name_of(-code)}" if code < 0 else "died"
    return RankFailed(f"{name}, {reader.step}: {how} (exit code {code})", ExitCode.RANK_DIED)
