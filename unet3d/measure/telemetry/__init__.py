"""What the machine does while it is measured: `sources` read it, `watch` samples them beside the run."""
