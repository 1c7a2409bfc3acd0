"""Trajectory in, string out: one module per format, each with `render(trajectory, view)`. None of them prints."""
