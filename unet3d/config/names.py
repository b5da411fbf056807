"""Names that a setting can take although what they name lies on floors above, which check their registries against these."""

from __future__ import annotations

# See unet3d.engines.registry.
ENGINES = ("torch", "openvino", "onnxruntime")
# See unet3d.engines.onnxruntime.providers.
ONNX_PROVIDERS = ("cuda", "tensorrt")
# See unet3d.devices.registry.
PLATFORMS = ("Flex", "Max", "CUDA", "CPU")
