"""Tasks that need exactly a given lag: what a probe trains on, and what a verdict is calibrated against."""
