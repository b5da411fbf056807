"""CUDA C++ kernels for Hopper GPUs: whole layers in one pass, where Triton cannot say what the matrix units should read."""
