"""Verdicts against what training does: combinations of model, task and lag whose outcome is found by training them."""
