"""Random recurrent modules, and every number of their reports held against plain autograd.

`python -m benchmarks.oracle 2000` draws that many modules from a small grammar (`modules.py`), analyses each as its
user would, and compares the report with numbers that `truth.py` computes from the definitions with torch.autograd and
numpy alone. `--wide` adds token ids, tied layers, inputs that pass the recurrence, masks of a sequence's own,
rotations, losses that read one sequence, attention to all past states, and loops in both directions. Nothing in
`modules.py` and `truth.py` imports gradscope.
"""
