"""Files of weights, and of Jacobians, as models."""
