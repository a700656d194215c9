"""Places to run, and what a process has there."""
