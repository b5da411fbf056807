"""Runs on many tiles, devices, NUMA nodes and machines: one process each, started by torchrun, pooled into one result.

`launch` starts the ranks and watches them, `rank` is what each of them does, `pool` makes one record of theirs.
"""
