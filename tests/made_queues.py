"""A made-up device with queues of work, whose memory and arithmetic are the host's."""

import contextlib
import itertools
import threading

from unet3d.devices.cpu import CpuDevice


class Queues(CpuDevice):
    """A device whose memory and arithmetic are the host's; it notes what is put into which of its queues."""

    is_host = False
    times_events = True

    def __init__(self):
        super().__init__(0)
        self.log, self.names, self.clock = [], itertools.count(1), itertools.count()
        self.current = threading.local()

    def note(self, what, event=None):
        self.log.append((getattr(self.current, "queue", 0), what, event))

    def new_stream(self):
        return next(self.names)

    @contextlib.contextmanager
    def on_stream(self, stream):
        before, self.current.queue = getattr(self.current, "queue", 0), stream
        yield
        self.current.queue = before

    def new_event(self):
        return Moment(self)


class Moment:
    def __init__(self, device):
        self.device, self.at = device, None

    def record(self):
        self.at = next(self.device.clock)
        self.device.note("record", self)

    def wait(self):
        self.device.note("wait", self)

    def synchronize(self):
        assert self.at is not None, "nobody would ever wake this thread"
        self.device.note("synchronize", self)

    def elapsed_time(self, later):
        assert self.at < later.at
        return 1000.0 * (later.at - self.at)
