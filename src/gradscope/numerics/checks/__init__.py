"""Whether what was measured can be believed: equality with the user's model, finiteness, direction of time."""
