"""Training watched: checkpoints in their order, hooks in a running loop, and where both are written."""
