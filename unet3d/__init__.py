"""3D U-Net inference benchmark on BraTS 2019 volumes.

From Python: `unet3d.run(precision="bf16", num_iterations=3)`, see `unet3d.api`.
"""

from typing import TYPE_CHECKING, Any

from unet3d.version import __version__

if TYPE_CHECKING:
    from unet3d.api import Result, run

__all__ = ["Result", "__version__", "run"]


def __getattr__(name: str) -> Any:
    # Later than this package, which every one of its modules imports first.
    if name in ("Result", "run"):
        from unet3d import api

        return getattr(api, name)
    raise AttributeError(f"module 'unet3d' has no attribute {name!r}")
