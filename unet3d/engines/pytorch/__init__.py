"""PyTorch on CPU, CUDA and XPU."""
