"""What a model costs: path lengths, time, memory, threads."""
