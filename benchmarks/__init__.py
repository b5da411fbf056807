"""The benchmark's own benchmarks: predict.py in fresh processes, ours beside what other stacks make of the network."""
