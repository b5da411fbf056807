"""What nodes tell each other besides the ranks' barriers: that they are alive, and why one of them has failed.

torchrun's agents don't tell: a rank that dies on one node is noticed on another only when ranks wait for each other.
All of it goes through the TCPStore that the agent of node 0 serves to the ranks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

PERIOD_S = 1.0
FAILED, ALIVE, SEEN = "unet3d/failed", "unet3d/alive", "unet3d/seen"
TIMEOUT = timedelta(seconds=10)


def connect(host: str, port: int, serve: bool = False) -> Any:
    """A connection of its own, since a waiting call blocks one; `serve` keeps the server of this process alive."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, None, serve, timeout=TIMEOUT, wait_for_workers=False, multi_tenant=True)


class Watch:
    """A rank's look at the other nodes, once a second."""

    def __init__(self, node: int, nodes: int, limit_s: float, tells: bool):
        """tells: whether this rank says for its node that it is alive."""
        self._store = connect(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self._node, self._limit_s, self._tells = node, limit_s, tells
        self._heard = {other: ("", time.monotonic()) for other in range(nodes) if other != node}

    def run(self, stop: threading.Event, end: Callable[[str], None]) -> None:
        """Until `stop`; calls `end` with the reason when the run is over for this rank."""
        beats = 0
        while not stop.wait(PERIOD_S):
            beats += 1
            try:
                reason = self._look(beats)
            except Exception as error:  # noqa: BLE001 - the store's errors are RuntimeErrors of several kinds
                if not stop.is_set():
                    end(f"lost the connection to node 0 ({str(error).partition(chr(10))[0]}); see its output")
                return
            if reason:
                end(reason)
                return

    def _look(self, beats: int) -> str | None:
        if self._tells:
            self._store.set(f"{ALIVE}/{self._node}", str(beats))
        if self._store.check([FAILED]):
            self._store.set(f"{SEEN}/{self._node}", "yes")
            return self._store.get(FAILED).decode()
        now = time.monotonic()
        for other, (beat, since) in self._heard.items():
            key = f"{ALIVE}/{other}"
            news = self._store.get(key).decode() if self._store.check([key]) else ""
            if news != beat:
                self._heard[other] = (news, now)
            elif now - since > self._limit_s:
                return f"node {other} has not been heard of for {self._limit_s} s (RANK_TIMEOUT)"
        return None


class Bulletin:
    """Where the process that starts the ranks of a node tells the other nodes that it has failed."""

    def __init__(self, host: str, port: int, node: int, nodes: int):
        self._address, self._node, self._nodes = (host, port), node, nodes
        # Node 0 serves the store; held here it outlives the agent, until the others know why.
        self._server = connect(host, port, serve=True) if node == 0 else None

    def tell(self, reason: str) -> None:
        """Tell the reason, unless one is told already, and wait a little until every node has read it."""
        with contextlib.suppress(Exception):
            store = self._server or connect(*self._address)
            if store.check([FAILED]):
                return
            store.set(FAILED, reason)
            others = [f"{SEEN}/{node}" for node in range(self._nodes) if node != self._node]
            end = time.monotonic() + 5 * PERIOD_S
            while time.monotonic() < end and not store.check(others):
                time.sleep(0.1)
