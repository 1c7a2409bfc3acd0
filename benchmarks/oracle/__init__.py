"""Random recurrent modules, and every number of their reports held against plain autograd.

`python -m benchmarks.oracle 2000` draws that many modules from a small grammar (`modules.py`), analyses each as its
user would, and compares the report with numbers that `truth.py` computes from the definitions with torch.autograd and
numpy alone. Nothing in `modules.py` and `truth.py` imports gradscope.
"""
