"""The benchmark's version, which every result carries."""

__version__ = "1.0.0"
