"""float32 means float32 while something is analysed, and what was set comes back."""

from __future__ import annotations

import json

import pytest

import forked

SCRIPT = """
import json
import sys

import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError

backends = torch.backends
parts = (
    backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
    backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn,
)


def precisions():
    return [part.fp32_precision for part in parts]


class Noting(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, x):
        seen.append(precisions())
        if broken:
            raise RuntimeError("broken")
        return self.rnn(x)[0]


exec(sys.argv[1])
before, seen, broken = precisions(), [], False
gradscope.analyze(Noting(), length=10, batch=2, dtype="float32")
broken = True
try:
    gradscope.analyze(Noting(), length=10, batch=2, dtype="float32")
except UsageError as error:
    seen.append(precisions())
print(json.dumps([before, seen[:-1], seen[-1], precisions()]))
"""


@pytest.mark.parametrize(
    "setting",
    [
        "pass",
        "torch.set_float32_matmul_precision('medium')",
        "backends.cuda.matmul.allow_tf32 = True",
        "backends.fp32_precision = 'tf32'",
        "backends.mkldnn.matmul.fp32_precision = 'bf16'",
    ],
)
def test_products_are_not_rounded_to_fewer_digits_and_what_was_set_comes_back(setting: str) -> None:
    done = forked.run_text(["-c", SCRIPT, setting])
    assert done.returncode == 0, done.stderr
    before, inside, after_an_error, after = json.loads(done.stdout)
    assert len(inside) >= 2
    assert {precision for seen in inside for precision in seen} <= {"ieee", "none"}
    # `none` asks what stands above it, which is left alone only where that asks for nothing.
    assert "none" not in inside[0] or "fp32_precision" not in setting
    assert after == after_an_error == before
