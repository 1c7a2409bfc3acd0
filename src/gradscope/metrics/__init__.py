"""One file per reported quantity: what an analysis says about it."""
