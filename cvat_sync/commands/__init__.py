"""The verbs of the `cvatsync` command, a module for each group of them."""
