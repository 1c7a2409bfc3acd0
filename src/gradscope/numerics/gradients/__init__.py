"""Backward passes in log scale, and the influence profile."""
