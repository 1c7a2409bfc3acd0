"""Files that Keras itself writes, held against Keras on its torch backend: outputs and gradients."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gradscope
from gradscope.errors import UsageError
from gradscope.loading.model_file import source_from_file
from gradscope.models.stack import Recurrent
from gradscope.pipeline import diagnose
from gradscope.records import RunSpec

os.environ.setdefault("KERAS_BACKEND", "torch")
h5py = pytest.importorskip("h5py", reason="h5py (the extra [keras]) is not installed")
try:
    import keras
except ImportError:
    keras = None
needs_keras = pytest.mark.skipif(keras is None, reason="keras (the extra [frameworks]) is not installed")
STEPS, INPUTS, UNITS = 9, 3, 4
WHOLE = ("model.keras", "model.h5", "model.hdf5")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keras in float64 throughout: its matmul on torch rounds to float32, and torch's hardsigmoid has a slope of
    float32(1 / 6) in its backward pass, whatever the type."""
    if keras is None:
        yield
        return
    monkeypatch.setattr(keras.src.backend.numpy, "matmul", torch.matmul)
    monkeypatch.setattr(torch.nn.functional, "hardsigmoid", lambda z, inplace=False: (z / 6 + 0.5).clamp(0, 1))
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def built(layer: Any) -> Any:
    """A float64 model around one layer, its biases drawn too."""
    model = keras.Sequential([keras.Input((None, INPUTS), dtype="float64"), layer])
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 0.6, w.shape) for w in model.get_weights()])
    return model


def layer(kind: str, **settings: Any) -> Any:
    return getattr(keras.layers, kind)(UNITS, return_sequences=True, dtype="float64", **settings)


def read(path: Path, key: str | None = None, **settings: Any) -> Any:
    source = source_from_file(str(path), key, RunSpec(length=STEPS, batch=2, **settings))
    return source.make(INPUTS, 0), source.loaded.assumed


def outputs_and_gradient(function: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    y = y[0] if isinstance(y, tuple) else y
    (gradient,) = torch.autograd.grad((y[:, -1] * v).sum(), x)
    return y.detach(), gradient


def held_against(theirs: Any, ours: Any) -> None:
    """Outputs, gradients, and the Jacobians that gradscope computes with."""
    torch.manual_seed(1)
    x = torch.randn(2, STEPS, INPUTS, dtype=torch.float64)
    v = torch.randn(theirs(x).shape[-1], dtype=torch.float64)
    for a, b in zip(outputs_and_gradient(theirs, x, v), outputs_and_gradient(ours, x, v), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)
    if isinstance(ours, Recurrent):
        walked = ours.run(x)
        torch.testing.assert_close(walked.output, theirs(x).detach(), rtol=1e-10, atol=1e-10)
        state, dense = walked.layers[0].states[STEPS - 1], walked.dense(STEPS - 1, STEPS)[:, 0]
        for row in range(2):
            step = torch.autograd.functional.jacobian(
                lambda s, row=row: ours.cells[0].step(x[row, -1:], s[None])[0], state[row]
            )
            torch.testing.assert_close(dense[row], step, rtol=1e-10, atol=1e-10)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("SimpleRNN", {}),
    "rnn relu": ("SimpleRNN", {"activation": "relu"}),
    "rnn softsign, no bias": ("SimpleRNN", {"activation": "softsign", "use_bias": False}),
    "lstm": ("LSTM", {}),
    "lstm no bias": ("LSTM", {"use_bias": False}),
    "lstm hard": ("LSTM", {"recurrent_activation": "hard_sigmoid"}),
    "lstm elu": ("LSTM", {"activation": "elu"}),
    "gru": ("GRU", {}),
    "gru reset first": ("GRU", {"reset_after": False}),
    "gru no bias": ("GRU", {"use_bias": False}),
    "gru hard": ("GRU", {"recurrent_activation": "hard_sigmoid", "reset_after": False}),
}


@needs_keras
@pytest.mark.parametrize("file", WHOLE)
@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_keras(case: str, file: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    model = built(layer(kind, **settings))
    model.save(tmp_path / file)
    ours, assumed = read(tmp_path / file)
    held_against(model, ours)
    assert not any("assumed" in line for line in assumed)
    assert ("z / 6 + 0.5" in " ".join(assumed)) == ("hard" in case)


@needs_keras
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
def test_a_file_of_weights_alone_says_what_was_assumed(kind: str, tmp_path: Path) -> None:
    model = built(layer(kind))
    model.save_weights(tmp_path / "m.weights.h5")
    ours, assumed = read(tmp_path / "m.weights.h5")
    held_against(model, ours)
    assert any("assumed" in line for line in assumed)


@needs_keras
def test_the_nonlinearity_of_weights_alone_can_be_given(tmp_path: Path) -> None:
    model = built(layer("SimpleRNN", activation="relu"))
    model.save_weights(tmp_path / "m.weights.h5")
    held_against(model, read(tmp_path / "m.weights.h5", nonlinearity="relu")[0])


@needs_keras
def test_a_gru_that_resets_first_is_known_by_its_bias(tmp_path: Path) -> None:
    model = built(layer("GRU", reset_after=False))
    model.save_weights(tmp_path / "m.weights.h5")
    held_against(model, read(tmp_path / "m.weights.h5")[0])


@needs_keras
@pytest.mark.parametrize("file", [*WHOLE, "m.weights.h5"])
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
def test_two_directions_equal_keras(kind: str, file: str, tmp_path: Path) -> None:
    model = built(keras.layers.Bidirectional(layer(kind), dtype="float64"))
    (model.save_weights if "weights" in file else model.save)(tmp_path / file)
    ours, _ = read(tmp_path / file)
    held_against(model, ours)


@needs_keras
def test_one_direction_of_a_cell_torch_has_none_like(tmp_path: Path) -> None:
    both = keras.layers.Bidirectional(layer("GRU", reset_after=False), dtype="float64", name="both")
    model = built(both)
    model.save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match="--key both/forward"):
        read(tmp_path / "m.keras")
    held_against(both.forward_layer, read(tmp_path / "m.keras", "both/forward")[0])
    weights = read(tmp_path / "m.keras", "both/backward")[0]
    twin = layer("GRU", reset_after=False)
    twin.build((None, None, INPUTS))
    twin.set_weights(both.backward_layer.get_weights())
    held_against(twin, weights)


@needs_keras
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_layer_that_reads_from_the_end_is_given_the_data_from_their_end(wrapped: bool, tmp_path: Path) -> None:
    inner = layer("GRU", name="back", go_backwards=not wrapped)
    whole = keras.layers.Bidirectional(inner, dtype="float64", name="back") if wrapped else inner
    model = built(whole)
    model.save(tmp_path / "m.keras")
    x = torch.randn(2, STEPS, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ways = {"/forward": whole.forward_layer, "/backward": whole.backward_layer} if wrapped else {"": inner}
    for way, theirs in ways.items():
        leaf = x.clone().requires_grad_()
        # Keras hands outputs over as they are made, so the last one is the newest of either.
        (gradient,) = torch.autograd.grad(theirs(leaf)[:, -1].sum(), leaf)
        norms = gradient.norm(dim=2).log10().mean(0)
        right = (norms if theirs.go_backwards else norms.flip(0)).tolist()
        found = gradscope.analyze(
            str(tmp_path / "m.keras"), x, lambda y: y[:, -1].sum(), key=f"back{way}" if wrapped else None
        )
        assert found.models[0].series.values["log10_influence"][:STEPS] == pytest.approx(right, abs=1e-9)


@needs_keras
@pytest.mark.parametrize("file", ["m.keras", "m.h5", "m.weights.h5"])
def test_a_stack_of_cells_is_no_layer_and_no_pair_of_directions(file: str, tmp_path: Path) -> None:
    cells = [keras.layers.LSTMCell(INPUTS), keras.layers.LSTMCell(INPUTS)]
    model = keras.Sequential([keras.Input((None, INPUTS)), keras.layers.RNN(cells, name="both")])
    (model.save_weights if "weights" in file else model.save)(tmp_path / file)
    with pytest.raises(UsageError, match="is a stack of cells"):
        read(tmp_path / file)


@needs_keras
def test_one_of_several_is_chosen_by_its_name(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((None, INPUTS)), layer("LSTM", name="encoder"), layer("LSTM", name="decoder")]
    )
    for file in ("m.keras", "m.h5", "m.weights.h5"):
        (model.save_weights if "weights" in file else model.save)(tmp_path / file)
        with pytest.raises(UsageError, match="choose one with --key"):
            read(tmp_path / file)
        held_against(model.get_layer("encoder"), read(tmp_path / file, "encoder")[0])


@needs_keras
def test_as_typed(tmp_path: Path) -> None:
    built(layer("LSTM")).save(tmp_path / "model.keras")
    found = diagnose(RunSpec(models=(str(tmp_path / "model.keras"),), length=60)).models[0]
    check = found.loaded.equality_check
    assert check is not None
    assert check.passed
    assert check.output < 1e-12
    assert found.length == 60


def keras2(path: Path, kind: str, config: dict[str, Any], arrays: list[Any], prefix: str = "model_weights/") -> None:
    """A whole-model file as Keras 2 lays it out."""
    entry = {"class_name": kind, "config": {"name": "old", **config}}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.2.4"
        if prefix:
            text = json.dumps({"class_name": "Sequential", "config": {"name": "s", "layers": [entry]}})
            file.attrs["model_config"] = text.encode()
        for name, value in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), arrays, strict=False):
            file[f"{prefix}old/old/{name}"] = value


def hard2(z: Tensor) -> Tensor:
    return (0.2 * z + 0.5).clamp(0, 1)


def test_hard_sigmoid_of_keras_2_has_its_own_slope(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    kernel, recurrent, bias = draw.normal(size=(3, 16)), draw.normal(size=(4, 16)), draw.normal(size=16)
    config = {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "unit_forget_bias": True}
    keras2(tmp_path / "old.h5", "LSTM", config, [kernel, recurrent, bias])
    ours, assumed = read(tmp_path / "old.h5")
    assert "0.2 z + 0.5" in " ".join(assumed)
    x = torch.randn(1, STEPS, 3, dtype=torch.float64)
    h, c = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for t in range(STEPS):
        z = x[0, t] @ torch.from_numpy(kernel) + h @ torch.from_numpy(recurrent) + torch.from_numpy(bias)
        i, f, g, o = z.chunk(4)
        c = hard2(f) * c + hard2(i) * g.tanh()
        h = hard2(o) * c.tanh()
        torch.testing.assert_close(ours(x)[0, t], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prefix", ["model_weights/", ""])
@pytest.mark.parametrize(("kind", "gates"), [("CuDNNLSTM", 4), ("CuDNNGRU", 3)])
def test_cudnn_layers_are_turned_back(kind: str, gates: int, prefix: str, tmp_path: Path) -> None:
    """Blocks of the canonical (cuDNN) matrices, laid out as Keras 2 keeps them, are those of torch's cuDNN layers."""
    draw, hidden = np.random.default_rng(3), 4
    blocks_x = [draw.normal(size=(hidden, 3)) for _ in range(gates)]
    blocks_h = [draw.normal(size=(hidden, hidden)) for _ in range(gates)]
    bias = draw.normal(size=(2, gates * hidden))
    kernel = np.hstack([block.reshape(3, hidden) for block in blocks_x])
    keras2(tmp_path / "old.h5", kind, {}, [kernel, np.hstack(blocks_h), bias.ravel()], prefix)
    ours, _ = read(tmp_path / "old.h5")
    order = [1, 0, 2] if gates == 3 else range(4)
    twin = (torch.nn.GRU if gates == 3 else torch.nn.LSTM)(3, hidden, batch_first=True).double()
    pick = [bias[side].reshape(gates, hidden)[list(order)].ravel() for side in (0, 1)]
    values = [np.concatenate([blocks[k] for k in order]) for blocks in (blocks_x, blocks_h)] + pick
    with torch.no_grad():
        for parameter, value in zip(twin.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    held_against(lambda x: twin(x)[0], ours)


@needs_keras
def test_foreign_code_is_named_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model = keras.Sequential([keras.Input((None, INPUTS)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(path)
    with pytest.raises(UsageError, match="Lambda is code, which is not run"):
        read(path)


@needs_keras
def test_an_unknown_activation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    built(layer("LSTM", activation="gelu")).save(path)
    with pytest.raises(UsageError, match="'gelu', which is not computed"):
        read(path)


def test_numbers_in_another_file_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        outside = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("lstm/kernel:0", (3, 16), dtype="f8", external=outside)
        file["lstm/recurrent_kernel:0"] = np.zeros((4, 16))
    with pytest.raises(UsageError, match="lies in another file"):
        read(tmp_path / "m.h5")


def test_numbers_that_are_not_stored_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("lstm/kernel:0", (3, 4 * 10**6), dtype="f8")
        file.create_dataset("lstm/recurrent_kernel:0", (10**6, 4 * 10**6), dtype="f8")
    with pytest.raises(UsageError, match="more than are stored"):
        read(tmp_path / "m.h5")


@pytest.mark.parametrize("config", [b"{", b"[]", b'"x"', b'{"class_name": "Sequential", "config": [1, null, {}]}'])
def test_damaged_settings_are_one_line(config: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", config)
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file["x"] = np.zeros(3)
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "m.keras")
    assert "\n" not in str(caught.value)
