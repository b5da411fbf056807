"""The network's operations on a CPU in C++, built on first use."""
