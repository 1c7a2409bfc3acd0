"""Forward and backward passes in log scale, products of Jacobians, spectra and exponents."""
