"""Bare weights in files of every kind, found by their keys and held against the torch.nn module they came from."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec
from gradscope.sequences.losses import direction

State = dict[str, Tensor]


def analysed(path: Path | str, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(str(path),), **{"length": 12, "batch": 2, **settings})).models[0]


def refused(path: Path | str, **settings: object) -> str:
    with pytest.raises(UsageError) as caught:
        analysed(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def state(kind: type[nn.RNNBase] = nn.LSTM, *sizes: int, **settings: object) -> State:
    torch.manual_seed(3)
    return kind(*(sizes or (3, 5)), **settings).state_dict()


def npz(weights: State, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in weights.items()})


SAVERS: dict[str, Callable[[State, Path], None]] = {
    "w.pt": torch.save,
    "w.pth": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "w.bin": lambda weights, path: torch.save({"module." + k: v for k, v in weights.items()}, path),
    "w.safetensors": save_file,
    "w.npz": npz,
    "w.ckpt": lambda weights, path: torch.save(
        {
            "pytorch-lightning_version": "2.5",
            "state_dict": {"model.rnn." + k: v for k, v in weights.items()},
            "hyper_parameters": Namespace(lr=1e-3),
            "optimizer_states": [{"state": {0: {"exp_avg": weights["weight_hh_l0"]}}, "param_groups": []}],
        },
        path,
    ),
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_kind_of_file_gives_the_same_model(name: str, tmp_path: Path) -> None:
    weights = state(nn.LSTM, 3, 5, num_layers=2)
    SAVERS[name](weights, tmp_path / name)
    torch.save(weights, tmp_path / "plain.pt")
    found, plain = analysed(tmp_path / name), analysed(tmp_path / "plain.pt")
    assert found.series == plain.series
    assert found.loaded.equality_check.against == "torch.nn.LSTM"
    assert max(found.loaded.equality_check.output, found.loaded.equality_check.grad) < 1e-12
    assert found.loaded.trained
    assert "random input, not your data" in found.notes


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 3}, {"bias": False}, {"bidirectional": True}])
def test_kind_layers_bias_and_direction_are_read_off_the_keys(
    kind: type[nn.RNNBase], settings: dict[str, object], tmp_path: Path
) -> None:
    torch.save(state(kind, 4, 6, **settings), tmp_path / "w.pt")
    found = analysed(tmp_path / "w.pt")
    assert found.loaded.equality_check.passed
    assert f"{kind.__name__}, 4 -> 6" in found.loaded.assumed[0]
    both = settings.get("bidirectional", False)
    width = 12 if kind is nn.LSTM else 6
    assert found.size == width * settings.get("num_layers", 1) * (1 + both)
    assert [layer.name for layer in found.layers][:2] == {True: ["l0.forward", "l0.reverse"]}.get(
        both, ["l0", "l1"] if "num_layers" in settings else []
    )
    assert any("tanh is assumed" in note for note in found.loaded.assumed) == (kind is nn.RNN)


def test_a_projected_lstm_has_the_projected_size(tmp_path: Path) -> None:
    torch.save(state(nn.LSTM, 4, 6, proj_size=2, num_layers=2), tmp_path / "w.pt")
    found = analysed(tmp_path / "w.pt")
    assert (found.size, found.heading.split(" ")[0]) == (16, "2x2")
    assert found.loaded.equality_check.passed


def test_relu_can_be_said(tmp_path: Path) -> None:
    torch.save(state(nn.RNN, nonlinearity="relu"), tmp_path / "w.pt")
    relu, tanh = (analysed(tmp_path / "w.pt", nonlinearity=name) for name in ("relu", "tanh"))
    assert relu.summary.rate != tanh.summary.rate
    assert relu.loaded.equality_check.passed
    assert not any("assumed" in note for note in relu.loaded.assumed)


def test_keys_of_a_cell_and_a_choice_among_several(tmp_path: Path) -> None:
    cell = {f"dec.cell.{k}": v for k, v in nn.GRUCell(3, 5).state_dict().items()}
    save_file({**cell, **{f"enc.{k}": v for k, v in state().items()}}, tmp_path / "w.safetensors")
    said = refused(tmp_path / "w.safetensors")
    assert "enc" in said
    assert "dec.cell" in said
    assert "--key" in said
    assert "GRU, 3 -> 5" in analysed(tmp_path / "w.safetensors", key="dec.cell").loaded.assumed[0]
    assert analysed(f"{tmp_path / 'w.safetensors'}:enc").size == 10
    assert "did you mean" in refused(tmp_path / "w.safetensors", key="encc")


def test_one_matrix_over_input_and_state(tmp_path: Path) -> None:
    layer = nn.Linear(3 + 8, 8)
    torch.save({"i2h.weight": layer.weight.data, "i2h.bias": layer.bias.data}, tmp_path / "w.pt")
    linear, tanh = (analysed(tmp_path / "w.pt", key="i2h", cell=f"{phi}-concat") for phi in ("linear", "tanh"))
    recurrent = layer.weight.data[:, 3:].double()
    assert 10 ** linear.series.values["log10_jacobian_norm"][0] == pytest.approx(
        float(torch.linalg.matrix_norm(recurrent, 2)), rel=1e-12
    )
    assert tanh.loaded.equality_check.passed
    assert tanh.loaded.equality_check.against == "torch.nn.Linear over (x, h)"
    assert "--cell linear-concat --key" in refused(tmp_path / "w.pt")
    assert "--key" in refused(tmp_path / "w.pt", cell="tanh-concat")


def test_the_first_state_from_a_file(tmp_path: Path) -> None:
    torch.save(state(nn.LSTM, 3, 5, num_layers=2), tmp_path / "w.pt")
    h, c = torch.randn(2, 1, 5), torch.randn(2, 1, 5)
    torch.save((h, c), tmp_path / "s.pt")
    np.save(tmp_path / "s.npy", torch.cat([h[0], c[0], h[1], c[1]], -1).numpy()[0])
    first, second = (analysed(tmp_path / "w.pt", state=str(tmp_path / name)) for name in ("s.pt", "s.npy"))
    assert first.series == second.series
    assert first.loaded.equality_check.passed
    assert first.loaded.equality_check.against == "torch.nn.LSTM"
    assert first.summary.rate != analysed(tmp_path / "w.pt").summary.rate
    np.save(tmp_path / "bad.npy", np.ones(7))
    assert "(20,)" in refused(tmp_path / "w.pt", state=str(tmp_path / "bad.npy"))


def test_a_trained_embedding_of_the_same_file(tmp_path: Path) -> None:
    table = torch.randn(4, 3)
    torch.save({"emb.weight": table, **{f"rnn.{k}": v for k, v in state().items()}}, tmp_path / "w.pt")
    (tmp_path / "vocab.json").write_text(json.dumps({"the": 0, "cat": 1, "sat": 2, "<unk>": 3}))
    asked = {"text": "the cat sat there", "vocab": str(tmp_path / "vocab.json"), "length": None, "batch": None}
    found = analysed(tmp_path / "w.pt", embedding="emb", **asked)
    x = table[[0, 1, 2, 3]].double()[None].requires_grad_()
    module = nn.LSTM(3, 5, batch_first=True, dtype=torch.float64)
    module.load_state_dict({k: v.double() for k, v in state().items()})
    (gradient,) = torch.autograd.grad((module(x)[0][0, -1] @ direction(0, 5)), x)
    expected = gradient[0].norm(dim=-1).log10().tolist()
    assert found.series.values["log10_grad_input"] == pytest.approx(expected, abs=1e-12)
    assert any("trained embedding 'emb.weight' of 3 features; 1 of them" in note for note in found.notes)
    assert "unknown embedding 'emd'" in refused(tmp_path / "w.pt", embedding="emd", **asked)


def test_weights_that_are_not_finite_are_a_finding(tmp_path: Path) -> None:
    weights = state()
    weights["weight_hh_l0"][2, 1] = torch.nan
    torch.save(weights, tmp_path / "w.pt")
    found = analysed(tmp_path / "w.pt")
    assert (found.status, found.summary.non_finite.layer) == ("non-finite", "l0.weight_hh")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("weight_ih_l0"), "weight_ih_l0"),
        (lambda w: w.pop("bias_hh_l1"), "bias_hh_l1"),
        (lambda w: w.update(weight_hh_l0=torch.zeros(21, 5)), "weight_hh"),
        (lambda w: w.update(weight_ih_l1=torch.zeros(20, 4)), "weight_ih_l1"),
        (lambda w: w.update(weight_hh_l0=torch.zeros(20, 5).to_sparse()), "sparse"),
        (lambda w: w.update(weight_hh_l0=torch.zeros(1).expand(20, 5)), "expanded"),
        (lambda w: w.update(weight_hh_l0=torch.zeros(20, 5, dtype=torch.int64)), "int64"),
        (lambda w: w.update(weight_hh_l0=torch.empty(20, 5, device="meta")), "meta"),
        (lambda w: w.clear(), "no recurrence"),
    ],
)
def test_weights_that_cannot_be_are_refused(damage: Callable[[State], object], message: str, tmp_path: Path) -> None:
    weights = dict(state(nn.LSTM, 3, 5, num_layers=2))
    damage(weights)
    torch.save(weights, tmp_path / "w.pt")
    assert message in refused(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs"),
        ("w.pt", b"<!DOCTYPE html><html>404</html>", "web page"),
        ("w.pt", b"", "empty"),
        ("m.keras", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "m.keras' is "),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "m.h5' is "),
        ("m.onnx", b"\x08\x08\x12\x07pytorch" + b"\0" * 40, "m.onnx' is "),
    ],
)
def test_what_is_no_file_of_weights_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message.lower() in refused(tmp_path / name).lower()
