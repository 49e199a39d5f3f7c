"""The run folder: what a run writes, and how to read it."""
