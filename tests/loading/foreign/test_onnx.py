"""Recurrent operators of ONNX, held against onnxruntime (outputs) and finite differences (gradients)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.loading.model_file import source_from_file
from gradscope.models.stack import Recurrent
from gradscope.records import RunSpec

onnx = pytest.importorskip("onnx", reason="onnx (the extra [onnx]) is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime (the extra [frameworks]) is not installed")
from onnx import helper, numpy_helper  # noqa: E402

STEPS, INPUTS, UNITS = 7, 3, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def saved(path: Path, kind: str, *, bias: bool = True, peepholes: bool = False, **settings: Any) -> Path:
    """One operator; X is (T, batch, I) unless layout=1."""
    draw, ways = np.random.default_rng(0), 2 if settings.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * UNITS
    sizes = {"W": (ways, rows, INPUTS), "R": (ways, rows, UNITS)}
    sizes |= {"B": (ways, 2 * rows)} if bias else {}
    sizes |= {"P": (ways, 3 * UNITS)} if peepholes else {}
    tensors = [numpy_helper.from_array(draw.normal(0, 0.6, n).astype(np.float32), name) for name, n in sizes.items()]
    inputs = ["X", "W", "R", "B" if bias else "", *["", "", "", "P"] * peepholes]
    node = helper.make_node(kind, inputs, ["Y"], name="net/rec", hidden_size=UNITS, **settings)
    x = helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [None, None, INPUTS])
    y = helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, path)
    return path


def read(path: Path, key: str | None = None) -> Any:
    source = source_from_file(str(path), key, RunSpec(length=STEPS, batch=2))
    return source.make(INPUTS, 0), source.loaded.assumed


def theirs(path: Path, x: np.ndarray, layout: int = 0) -> np.ndarray:
    """(batch, T, directions * H)."""
    given = x if layout else x.transpose(1, 0, 2)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"X": given.astype(np.float32)})
    y = y if layout else y.transpose(2, 0, 1, 3)
    return y.reshape(*y.shape[:2], -1)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("RNN", {}),
    "rnn relu": ("RNN", {"activations": ["Relu"]}),
    "rnn both ways": ("RNN", {"direction": "bidirectional", "activations": ["Tanh", "Tanh"]}),
    "rnn elu": ("RNN", {"activations": ["Elu"], "activation_alpha": [0.7]}),
    "rnn leaky": ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    "rnn affine": ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    "rnn scaled": ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.8], "activation_beta": [0.6]}),
    "rnn softplus": ("RNN", {"activations": ["Softplus"]}),
    "rnn softsign": ("RNN", {"activations": ["Softsign"]}),
    "rnn thresholded": ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.2]}),
    "rnn clip": ("RNN", {"clip": 0.5}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "gru reset first": ("GRU", {"linear_before_reset": 0}),
    "gru both ways": ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
    "gru hard": ("GRU", {"activations": ["HardSigmoid", "Tanh"], "linear_before_reset": 1}),
    "lstm": ("LSTM", {}),
    "lstm no bias": ("LSTM", {"bias": False}),
    "lstm both ways": ("LSTM", {"direction": "bidirectional"}),
    "lstm peepholes": ("LSTM", {"peepholes": True}),
    "lstm hard": ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Softsign"], "peepholes": True}),
    "lstm own slope": (
        "LSTM",
        {"activations": ["HardSigmoid", "Elu", "Tanh"], "activation_alpha": [0.3, 0.9], "activation_beta": [0.4]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_operator_equals_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    path = saved(tmp_path / "m.onnx", kind, **settings)
    ours, _ = read(path)
    x = np.random.default_rng(1).normal(size=(2, STEPS, INPUTS))
    y = ours(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(y, theirs(path, x), rtol=2e-5, atol=2e-6)  # onnxruntime computes in float32


@pytest.mark.parametrize("case", [case for case in CASES if "both" not in case])
def test_gradients_equal_finite_differences(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    ours, _ = read(saved(tmp_path / "m.onnx", kind, **settings))
    assert isinstance(ours, Recurrent)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, STEPS, INPUTS)))
    walked = ours.run(x)
    torch.testing.assert_close(walked.output, ours(x), rtol=1e-12, atol=1e-12)
    cell, state = ours.cells[0], walked.layers[0].states[STEPS - 1][0]
    dense, step = walked.dense(STEPS - 1, STEPS)[0, 0], 1e-6
    for column in range(len(state)):
        moved = torch.zeros_like(state)
        moved[column] = step
        ahead, behind = (cell.step(x[0, -1:], (state + sign * moved)[None])[0] for sign in (1, -1))
        torch.testing.assert_close(dense[:, column], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_layer_that_reads_backwards_is_run_as_it_reads(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", kind, direction="reverse")
    ours, assumed = read(path)
    assert any("from its end" in line for line in assumed)
    x = np.random.default_rng(1).normal(size=(2, STEPS, INPUTS))
    y = ours(torch.from_numpy(x[:, ::-1].copy())).detach().numpy()[:, ::-1]
    np.testing.assert_allclose(y, theirs(path, x), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("direction", "key"), [("reverse", None), ("bidirectional", "rec/backward")])
def test_data_and_targets_are_turned_for_a_layer_that_reads_from_their_end(
    direction: str, key: str | None, tmp_path: Path
) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM", direction=direction)
    ours, _ = read(path, key)
    x = np.random.default_rng(1).normal(size=(1, STEPS, INPUTS))
    target = np.random.default_rng(2).normal(size=(1, STEPS, ours.output_size))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", target)
    leaf = torch.from_numpy(x).requires_grad_()
    y = ours(leaf.flip(1))
    given = {"key": key, "input": str(tmp_path / "x.npy"), "target": str(tmp_path / "y.npy")}
    squares = (y - torch.from_numpy(target).flip(1)).square().mean(-1).sum()
    for found, loss in (
        (gradscope.analyze(str(path), torch.from_numpy(x), lambda y: y[:, -1].sum(), key=key), y[:, -1].sum()),
        (gradscope.analyze(str(path), loss="mse", **given), squares),
    ):
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        right = gradient[0].flip(0).norm(dim=1).log10().tolist()
        assert found.models[0].series.values["log10_grad_input"] == pytest.approx(right, abs=1e-9)


def test_one_direction_of_two(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "GRU", direction="bidirectional")
    with pytest.raises(UsageError, match="--key net/rec/forward"):
        read(path)
    x = np.random.default_rng(1).normal(size=(2, STEPS, INPUTS))
    forward = read(path, "rec/forward")[0](torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(forward, theirs(path, x)[..., :UNITS], rtol=2e-5, atol=2e-6)


def test_weights_in_a_file_beside(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM")
    x = np.random.default_rng(1).normal(size=(1, STEPS, INPUTS))
    wanted, model = theirs(path, x), onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    np.testing.assert_allclose(read(path)[0](torch.from_numpy(x)).detach(), wanted, rtol=2e-5, atol=2e-6)
    (tmp_path / "m.data").unlink()
    with pytest.raises(UsageError, match="is not there"):
        read(path)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../secret", 0, 192)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="outside the model's folder"):
        read(path)


def test_weights_that_the_graph_computes_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM")
    model = onnx.load(path)
    model.graph.node[0].input[1] = "W2"
    model.graph.node.insert(0, helper.make_node("Neg", ["W"], ["W2"]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="computed by Neg"):
        read(path)


def test_an_operator_in_a_body_is_found_and_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM")
    model = onnx.load(path)
    body = helper.make_graph(list(model.graph.node), "body", [], [helper.make_tensor_value_info("Y", 1, None)])
    node = helper.make_node("If", ["yes"], ["Z"], then_branch=body, else_branch=body)
    del model.graph.node[:]
    model.graph.node.append(node)
    path.write_bytes(model.SerializeToString())
    _, assumed = read(path, "net/rec")
    assert any("body of a If" in line for line in assumed)


def test_no_recurrence(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "LSTM")
    model = onnx.load(path)
    del model.graph.node[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="no RNN, GRU or LSTM"):
        read(path)
