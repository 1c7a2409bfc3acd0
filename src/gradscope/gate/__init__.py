"""The gate: named targets, measured apart from each other, held to limits and to a baseline."""
