"""Remedies, each applied to a copy of the model and measured on the same input and seed: one file each."""
