"""Cells of Flax by their keys, and weight-dropped LSTMs, against their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.loading.model_file import source_from_file
from gradscope.records import RunSpec

INPUTS, UNITS, STEPS = 3, 4, 6
GATES = {"LSTM": "ifgo", "GRU": "rzn"}


def read(path: Path, key: str | None = None) -> Any:
    source = source_from_file(str(path), key, RunSpec(length=STEPS, batch=2))
    return source.make(INPUTS, 0), source.loaded.assumed


def cell(kind: str) -> dict[str, Tensor]:
    """Parameters as flax.linen draws them: biases only on the side of h in an LSTM; on i and on hn in a GRU."""
    torch.manual_seed(0)
    found = {}
    for gate in GATES[kind]:
        found[f"i{gate}/kernel"] = torch.randn(INPUTS, UNITS, dtype=torch.float64)
        found[f"h{gate}/kernel"] = torch.randn(UNITS, UNITS, dtype=torch.float64)
        biased = [f"h{gate}"] if kind == "LSTM" else [f"i{gate}", *["hn"] * (gate == "n")]
        found |= {f"{name}/bias": torch.randn(UNITS, dtype=torch.float64) for name in biased}
    return found


def walked(kind: str, p: dict[str, Tensor], x: Tensor) -> Tensor:
    def dense(name: str, value: Tensor) -> Tensor:
        return value @ p[f"{name}/kernel"] + p.get(f"{name}/bias", torch.zeros(UNITS, dtype=torch.float64))

    h, c, outputs = torch.zeros(len(x), UNITS, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), []
    for step in x.unbind(1):
        if kind == "LSTM":
            i, f, g, o = (dense(f"i{gate}", step) + dense(f"h{gate}", h) for gate in "ifgo")
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            r, z = ((dense(f"i{gate}", step) + dense(f"h{gate}", h)).sigmoid() for gate in "rz")
            h = (1 - z) * (dense("in", step) + r * dense("hn", h)).tanh() + z * h
        outputs.append(h)
    return torch.stack(outputs, 1)


def packed(path: Path, params: dict[str, Tensor]) -> None:
    """What flax.serialization.to_bytes writes."""
    msgpack = pytest.importorskip("msgpack", reason="msgpack (the extra [flax]) is not installed")
    tree: dict[str, Any] = {}
    for key, tensor in params.items():
        gate, part = key.split("/")
        array = tensor.numpy()
        content = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
        tree.setdefault(gate, {})[part] = msgpack.ExtType(1, content)
    path.write_bytes(msgpack.packb({"params": {"OptimizedLSTMCell_0": tree}}))


@pytest.mark.parametrize("form", ["m.safetensors", "m.msgpack"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cells_of_flax(kind: str, form: str, tmp_path: Path) -> None:
    params, path = cell(kind), tmp_path / form
    if form == "m.msgpack":
        packed(path, params)
    else:
        save_file({f"params/rnn/{key}": value for key, value in params.items()}, path)
    ours, assumed = read(path)
    x = torch.randn(2, STEPS, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(ours(x), walked(kind, params, x), rtol=1e-12, atol=1e-12)
    assert any(kind in line for line in assumed)


def test_several_cells_want_a_key(tmp_path: Path) -> None:
    params = cell("GRU")
    both = {f"{name}.{key.replace('/', '.')}": value.clone() for name in "ab" for key, value in params.items()}
    save_file(both, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=r"choose one with --key \(a, b\)"):
        read(tmp_path / "m.safetensors")
    read(tmp_path / "m.safetensors", "b")


@pytest.mark.parametrize("place", ["beside", "inside", "instead"])
def test_weight_dropped_lstms_are_read_undropped(place: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    twin = nn.LSTM(INPUTS, UNITS, batch_first=True).double()
    state = {f"rnns.0.module.{key}": value for key, value in twin.state_dict().items()}
    whole = state["rnns.0.module.weight_hh_l0"]
    holes = whole * (torch.rand_like(whole) > 0.5)
    raw = "rnns.0.weight_hh_l0_raw" if place == "beside" else "rnns.0.module.weight_hh_l0_raw"
    state |= {raw: whole, "rnns.0.module.weight_hh_l0": holes}
    if place == "instead":
        del state["rnns.0.module.weight_hh_l0"]
    torch.save(state, tmp_path / "awd.pt")
    ours, assumed = read(tmp_path / "awd.pt")
    x = torch.randn(2, STEPS, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(ours(x), twin(x)[0], rtol=1e-12, atol=1e-12)
    assert any("weight-dropped" in line for line in assumed)
