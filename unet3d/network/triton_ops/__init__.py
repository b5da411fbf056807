"""Triton kernels of the network's operations on channels-last volumes; one source for NVIDIA and Intel GPUs."""
