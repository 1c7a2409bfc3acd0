"""The caller's process is as it was after every door of gradscope, and in any state of it the doors open."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.__main__ import main
from gradscope.errors import UsageError
from gradscope.isolation.caller_state import seed_generators


class Net(nn.Module):
    """A layer of torch with a readout; it draws random numbers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x)[0])
        return y * (1 + 0 * (torch.rand(()) + random.random() + np.random.rand()))


def broken(output: Tensor) -> Tensor:
    """A loss that fails."""
    raise ValueError("broken")


SWITCHING = """
import os, sys, random, warnings
import numpy, torch
from torch import nn

print("said on import")
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_num_threads(3)
torch.use_deterministic_algorithms(True)
torch.set_flush_denormal(True)
torch.autograd.set_detect_anomaly(True)
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.mha.set_fastpath_enabled(False)
numpy.seterr(all="ignore")
warnings.simplefilter("ignore")
sys.path.append("/somewhere")
os.makedirs("elsewhere", exist_ok=True)
os.chdir("elsewhere")


class Net(nn.Module):
    def __init__(self, broken=False):
        super().__init__()
        assert os.getcwd().endswith("elsewhere")
        if broken:
            raise ValueError("broken")
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, x):
        print("said in forward")
        return self.rnn(x)[0]
"""


def state() -> dict[str, Any]:
    """What somebody's program may rely on, read apart from the package."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "denormals": float(torch.full((), 2.0**-1070, dtype=torch.float64, device="cpu") * 2),
        "folder": os.getcwd(),
        "numpy": np.geterr(),
        "warnings": list(warnings.filters),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "stdout": sys.stdout,
        "draws": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "modules": {name for name in sys.modules if "switching" in name},
    }


SMALL: dict[str, Any] = {"length": 6, "batch": 2}


def watched() -> None:
    """Two steps of a training with a Monitor."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.Monitor(model, every=1, sinks=[]) as flow, torch.enable_grad():
        before = state()
        for _ in range(2):
            x = torch.zeros(2, 6, 3)
            loss = (model.head(model.rnn(x)[0])).square().sum()
            loss.backward()
            optimizer.step()
            flow.step(loss)
        assert state() == before


def on_the_command_line(*words: str) -> Callable[[], int]:
    """A command, in this process."""
    return lambda: main([*words, "--length", "6", "--batch", "2", "-q"])


DOORS: dict[str, Callable[[], Any]] = {
    "analyze": lambda: gradscope.analyze(Net(), torch.ones(2, 6, 3)),
    "analyze, failing": lambda: gradscope.analyze(Net(), torch.ones(2, 6, 3), broken),
    "compare": lambda: gradscope.compare("rnn:hidden=3", Net, **SMALL),
    "fix": lambda: gradscope.analyze("rnn:hidden=3", fix=True, **SMALL),
    "probe": lambda: gradscope.analyze("rnn:hidden=3", probe=True, task="recall", needs_lag=3, train_steps=2),
    "file": lambda: gradscope.analyze("switching.py:Net", **SMALL),
    "file, failing": lambda: gradscope.analyze("switching.py:Net", args={"broken": True}, **SMALL),
    "command": on_the_command_line("analyze", "switching.py:Net"),
    "command, failing": on_the_command_line("analyze", "switching.py:Gone"),
    "Monitor": watched,
}


@pytest.mark.parametrize("door", DOORS)
def test_the_process_is_as_it_was(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "switching.py").write_text(SWITCHING)
    monkeypatch.chdir(tmp_path)
    DOORS["analyze"]()  # what is imported on first use is imported
    with torch.random.fork_rng():
        before = state()
        with contextlib.suppress(UsageError, ValueError):
            DOORS[door]()
        after = state()
        if door in ("Monitor", "analyze", "analyze, failing"):
            before.pop("draws"), after.pop("draws")  # weights of the caller's own model
        assert after == before
    assert "said" not in capsys.readouterr().out


def test_a_file_that_throws_switches_is_measured_as_if_it_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The number type alone decides which weights are drawn.
    plain = "import torch\nfrom torch import nn\ntorch.set_default_dtype(torch.float64)\n" + SWITCHING[
        SWITCHING.index("\n\nclass Net") :
    ].replace("assert", "#")
    (tmp_path / "switching.py").write_text(SWITCHING)
    (tmp_path / "plain.py").write_text(plain)
    monkeypatch.chdir(tmp_path)
    loud, quiet = (gradscope.analyze(f"{name}.py:Net", **SMALL).models[0] for name in ("switching", "plain"))
    assert quiet.summary.rate is not None
    assert loud.summary.rate == quiet.summary.rate
    assert any("gradient mode" in note for note in loud.loaded.assumed)
    assert not any("gradient mode" in note for note in quiet.loaded.assumed)


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    """As a script sets it."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """As a script sets it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "set_default_device": lambda: default_device("meta"),
    "with device": lambda: torch.device("meta"),
    "set_default_dtype": lambda: default_type(torch.float64),
}


@pytest.mark.parametrize("kind", ["loop", "layer", "word"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_numbers_are_the_same_whatever_the_caller_is_in_the_middle_of(name: str, kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3)
    model: Any = {"loop": Loop(), "layer": nn.LSTM(3, 4, batch_first=True), "word": "rnn:hidden=3"}[kind]
    expected = gradscope.analyze(model, x).models[0].summary
    with SURROUNDINGS[name]():
        before = state()
        found = gradscope.analyze(model, x).models[0].summary
        assert state() == before
    assert (found.rate, found.reach) == (expected.rate, expected.reach)


class Loop(nn.Module):
    """A recurrence in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros(len(x), 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.both(torch.cat([x[:, t], h], 1)))
            outputs.append(h)
        return torch.stack(outputs, 1)


@pytest.mark.parametrize("make", [Loop, lambda: nn.GRU(3, 4, batch_first=True)])
def test_tensors_made_in_inference_mode_are_measured(make: Callable[[], nn.Module]) -> None:
    with torch.inference_mode():
        torch.manual_seed(0)
        model, x = make(), torch.randn(2, 6, 3)
    found = gradscope.analyze(model, x).models[0].summary
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 6, 3)
    assert found.rate == gradscope.analyze(model, x).models[0].summary.rate


def test_two_threads_measure_what_one_does_and_leave_the_process_as_it_was() -> None:
    words = ["rnn:hidden=3", "lstm:hidden=3", "gru:hidden=3", "rnn:hidden=4"]
    expected = {word: gradscope.analyze(word, **SMALL).models[0].summary.rate for word in words}
    found: dict[str, Any] = {}

    def work(mine: list[str]) -> None:
        for word in mine:
            found[word] = gradscope.analyze(word, **SMALL).models[0].summary.rate

    threads_before, before = torch.get_num_threads(), state()
    torch.set_num_threads(2)
    try:
        workers = [threading.Thread(target=work, args=(words[place::2],)) for place in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads_before)
    assert found == expected
    assert state() == before


def test_generators_of_devices_that_nobody_uses_get_no_order_to_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", ordered.append)
    gradscope.analyze(nn.RNN(3, 4, batch_first=True), torch.ones(2, 6, 3))
    gradscope.compare("rnn:hidden=3", Net, **SMALL)
    assert ordered == []


def test_generators_of_devices_in_use_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [torch.tensor([7])]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(held))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: held.__setitem__(slice(None), states))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: held.__setitem__(0, torch.tensor([seed])))
    seen: list[int] = []

    def loss(output: Tensor) -> Tensor:
        seen.append(int(held[0]))
        return output.sum()

    gradscope.analyze("rnn:hidden=3", None, loss, seed=5, **SMALL)
    assert set(seen) == {5}
    assert int(held[0]) == 7
    seed_generators(9)
    assert int(held[0]) == 9
