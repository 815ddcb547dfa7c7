"""Small working things with memory, for rooms that need a model but not a real one."""
