"""Products of Jacobians: singular values, directions, exponents; functions of a chain and nothing else."""
