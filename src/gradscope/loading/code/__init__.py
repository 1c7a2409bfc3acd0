"""The user's own Python code as a model."""
