"""How fast gradscope is beside what people do instead and beside the machine's own limit: `python -m benchmarks`."""
