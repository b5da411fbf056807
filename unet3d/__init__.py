"""3D U-Net inference benchmark on BraTS 2019 volumes."""

__version__ = "1.0.0"
