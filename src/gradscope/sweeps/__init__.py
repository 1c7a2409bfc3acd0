"""Sweeps: axes become runs, a store keeps them, and engines do them; nothing here but the work itself knows tensors."""
