"""Devices: the same verbs for a CPU, an NVIDIA GPU and an Intel GPU."""
