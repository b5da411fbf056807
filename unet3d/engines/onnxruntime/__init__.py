"""ONNX Runtime on a CPU, and on NVIDIA GPUs by its CUDA or TensorRT provider."""
