"""A run: prepare an engine, check it, time it, score it."""
