"""Nothing in a file runs unless --trust says so, and then it is said."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec

CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]
"""


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


class Walk(nn.Module):
    """Something that can be scripted and exported."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


def analysed(path: Path, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(str(path),), **{"length": 8, "batch": 2, **settings})).models[0]


@pytest.mark.parametrize("new", [True, False])
def test_a_payload_does_not_run(new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"w": torch.ones(2), "x": Evil(tmp_path / "ran")}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(UsageError, match=r"mkdir.*--trust") as caught:
        analysed(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "chain.npy", np.array([Evil(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="Python objects"):
        analysed(tmp_path / "chain.npy")
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_names_its_classes_and_loads_when_trusted(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "netcode.py").write_text(CODE)
    sys.path.insert(0, str(tmp_path / "code"))
    try:
        import netcode

        torch.save(netcode.Net(), tmp_path / "whole.pt")
    finally:
        sys.path.remove(str(tmp_path / "code"))
        sys.modules.pop("netcode", None)
    with pytest.raises(UsageError, match=r"netcode\.Net.*--trust --import-path.*") as caught:
        analysed(tmp_path / "whole.pt")
    assert "--weights" in str(caught.value)
    with pytest.raises(UsageError, match="--import-path"):
        analysed(tmp_path / "whole.pt", trust=True)
    found = analysed(tmp_path / "whole.pt", trust=True, import_path=(str(tmp_path / "code"),), input_size=3)
    assert found.loaded.equality_check.passed
    assert "was run (--trust), sha256" in found.loaded.assumed[0]
    assert str(tmp_path / "code") not in sys.path


def test_a_class_of_the_script_that_saved_it_is_in_no_folder(tmp_path: Path) -> None:
    """What a script saves of its own classes is looked for in the script that loads it."""
    script = f"import torch{CODE}\ntorch.save(Net(), 'whole.pt')\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with pytest.raises(UsageError, match=r"only to the script that saved it: .*state_dict.*--weights") as caught:
        analysed(tmp_path / "whole.pt", trust=True)
    assert "--import-path" not in str(caught.value)


@pytest.mark.parametrize("kind", ["script", "export"])
def test_programs_are_run_at_input_level_when_trusted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("w.pt" if kind == "script" else "w.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "script":
            torch.jit.script(Walk().double()).save(str(path))
        else:
            torch.export.save(torch.export.export(Walk(), (torch.randn(2, 8, 3),)), path)
    with pytest.raises(UsageError, match="--trust"):
        analysed(path)
    found = analysed(path, trust=True, input_size=3)
    assert found.summary.rate is not None
    assert found.kind == "module"
    assert "its LSTM is hidden inside one node" in found.skipped["log10_jacobian_norm"]
    assert any("its LSTM is hidden" in note for note in found.loaded.assumed)


def test_a_class_named_in_a_checkpoint_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "lurking.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    data = {
        "state_dict": nn.GRU(3, 4).state_dict(),
        "hyper_parameters": {"_instantiator": "lurking.Make", "_target_": "lurking.Make"},
        "pytorch-lightning_version": "2.5",
    }
    torch.save(data, tmp_path / "m.ckpt")
    sys.path.insert(0, str(tmp_path))
    try:
        assert analysed(tmp_path / "m.ckpt").loaded.equality_check.passed
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert "lurking" not in sys.modules


def test_a_bare_pickle_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}))
    with pytest.raises(UsageError):
        analysed(tmp_path / "w.bin")
    assert not (tmp_path / "ran").exists()
