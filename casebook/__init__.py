"""Floor 0: what is being annotated. Knows no torch, no network, no queue, no coronaries."""

__version__ = "0.1.0"
