"""Run a generator on arrays."""
