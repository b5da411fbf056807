"""The network: nnU-Net's own class as the reference, the form made for speed, and what it costs to compute."""
