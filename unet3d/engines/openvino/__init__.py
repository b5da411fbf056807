"""OpenVINO on the CPU and on Intel GPUs."""
