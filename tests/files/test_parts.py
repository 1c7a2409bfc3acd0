"""Models that are saved in parts, as `save_pretrained(max_shard_size=...)` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.monitor.checkpoints import found_files, number_in

X = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))


def parts(folder: Path) -> tuple[Path, Path, nn.LSTM]:
    """The weights of a layer in one file, its biases in another."""
    torch.manual_seed(0)
    layer = nn.LSTM(3, 6, batch_first=True)
    for bias in (layer.bias_ih_l0, layer.bias_hh_l0):
        nn.init.constant_(bias, 1.0)
    folder.mkdir()
    weights = {f"rnn.{name}": value.detach() for name, value in layer.named_parameters()}
    paths = [folder / f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    save_file({name: value for name, value in weights.items() if "weight" in name}, paths[0])
    save_file({name: value for name, value in weights.items() if "bias" in name}, paths[1])
    return paths[0], paths[1], layer


def test_all_parts_are_the_model(tmp_path: Path) -> None:
    first, second, layer = parts(tmp_path / "one")
    profiles = [
        gradscope.analyze(model, X.double()).models[0].series.values["log10_influence"]
        for model in (str(first), str(second), layer.double())
    ]
    assert profiles[0] == profiles[1] == pytest.approx(profiles[2], abs=1e-6)


def test_without_a_part_it_is_refused(tmp_path: Path) -> None:
    first, second, _ = parts(tmp_path / "one")
    second.unlink()
    with pytest.raises(UsageError, match=r"one of 2 parts of a model, and 'model-00002-of-00002\.safetensors' is not"):
        gradscope.analyze(str(first), X)


def test_checkpoints_in_parts_are_one_each_and_numbered_by_their_folders(tmp_path: Path) -> None:
    firsts = [parts(tmp_path / f"checkpoint-{step}")[0] for step in (100, 200)]
    assert found_files([str(tmp_path)]) == firsts
    assert [number_in(path) for path in firsts] == [100, 200]
