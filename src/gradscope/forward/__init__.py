"""A user's forward pass opened: the graph of one pass, its steps, its state, and the chain of its Jacobians."""
