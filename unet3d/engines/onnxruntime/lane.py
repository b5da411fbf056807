"""One inference call in flight: its stream on the device, and its sessions, whose input and output are PyTorch's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from unet3d.engines.lanes import Lane
from unet3d.engines.onnxruntime.export import INPUT, OUTPUT
from unet3d.errors import UserError, shown

if TYPE_CHECKING:
    import onnxruntime
    import torch

    from unet3d.devices.base import Device

    # A session for volumes of a shape, None: of any, that runs on the stream of this address, None: on the host.
    Open = Callable[[tuple[int, ...] | None, int | None], onnxruntime.InferenceSession]

# In what ONNX Runtime raises: of its arena, of CUDA, and of TensorRT.
OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "outofmemory")


class SessionLane(Lane):
    """A place for one call at a time.

    On a GPU each shape has a session of its own. The extents of the graph are fixed then: TensorRT would build an engine for a
    range of extents otherwise, which is slower than one for the extents that are timed.
    """

    def __init__(self, device: Device, open_session: Open):
        super().__init__(device, own_stream=True)
        self._open = open_session
        self.sessions: dict[tuple[int, ...] | None, onnxruntime.InferenceSession] = {}

    def session(self, shape: tuple[int, ...]) -> onnxruntime.InferenceSession:
        """The session for volumes of this shape, made at the first call."""
        key = None if self._device.is_host else shape
        if key not in self.sessions:
            # ONNX Runtime works on this lane's stream: what PyTorch puts there before and after it keeps its order.
            self.sessions[key] = self._open(key, getattr(self.stream, "cuda_stream", None))
        return self.sessions[key]

    def keep_only(self, shape: tuple[int, ...]) -> None:
        """Give back the memory of the sessions for other shapes."""
        key = None if self._device.is_host else shape
        self.sessions = {known: session for known, session in self.sessions.items() if known == key}

    def run(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits in memory of their own, finished on return. volumes: on the device, channels outermost.

        ONNX Runtime reads and writes both in place.

        Raises:
            torch.OutOfMemoryError: where ONNX Runtime says that a GPU's memory was not enough.
            UserError: where it says that it cannot run on a GPU for another reason.
            UserError, MismatchError: as `providers.open_session`.
        """
        import torch

        try:
            return self._run(volumes)
        except Exception as error:  # its classes have no common base but this
            its_own = type(error).__module__.startswith("onnxruntime") or type(error) is RuntimeError
            if self._device.is_host or not its_own:
                raise
            if any(words in str(error).casefold() for words in OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(str(error)) from error
            raise UserError(
                f"ENGINE=onnxruntime: ONNX Runtime cannot run on this GPU: {shown(error)}; compare the libraries that it needs "
                "with those of requirements-onnxruntime-gpu.txt, or use ENGINE=torch"
            ) from error

    def _run(self, volumes: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        session = self.session(tuple(volumes.shape))
        classes = session.get_outputs()[0].shape[1]
        logits = torch.empty((volumes.shape[0], classes, *volumes.shape[2:]), dtype=volumes.dtype, device=volumes.device)
        element = {torch.float32: np.float32, torch.float16: np.float16}[volumes.dtype]
        binding = session.io_binding()
        for bind, name, tensor in ((binding.bind_input, INPUT, volumes), (binding.bind_output, OUTPUT, logits)):
            place = tensor.device
            bind(name, place.type, place.index or 0, element, tuple(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding)
        return logits

    def clear(self) -> None:
        """Give back the sessions with their memory."""
        self.sessions.clear()
