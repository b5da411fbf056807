"""Software that runs the network: a folder each, found in `registry`."""
