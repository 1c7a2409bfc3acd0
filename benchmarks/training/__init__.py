"""Real training runs under a Monitor: `python -m benchmarks.training NAME`; their lines of JSON are kept here."""
