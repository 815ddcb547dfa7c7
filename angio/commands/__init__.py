"""The `casebook` command, a module for each group of verbs."""
