"""Reported quantities by topic: what an analysis says about each."""
