"""User code and the caller's process kept apart: how files are imported, and what is as it was afterwards."""
