"""Every performance figure, one command each: `python -m bench.NAME [--quick]`."""
