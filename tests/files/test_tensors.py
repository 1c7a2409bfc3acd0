"""Tensors of nested data by name, and what each is held to."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from gradscope.errors import UsageError
from gradscope.files.tensors import checked, floats, named_tensors
from gradscope.files.weights_file import read_weights


def test_nested_data_by_dotted_names_without_the_state_of_optimizers() -> None:
    w = torch.ones(2)
    optimizer = torch.optim.Adam([nn.Parameter(w)])
    data = {
        "model": {"a.b": w, "list": [w, {"c": w}]},
        "epoch": 3,
        ("not", "a name"): w,
        "optimizer": {"exp_avg": w},
        "anything": optimizer.state_dict() | {"state": {0: {"exp_avg": w}}},
        "optimism": w,
    }
    assert list(named_tensors(data)) == ["model.a.b", "model.list.0", "model.list.1.c", "optimism"]
    assert list(named_tensors(w)) == ["tensor"]


def test_data_that_holds_itself_ends() -> None:
    data: dict[str, object] = {"w": torch.ones(1)}
    data["again"] = data
    assert list(named_tensors(data)) == ["w"]


def test_names_of_methods_hung_on_an_object_are_not_called() -> None:
    # A pickle that may only build data can still put anything into the attributes of an OrderedDict or a tensor.
    odd = OrderedDict(w=torch.ones(2))
    odd.__dict__["items"] = 5
    odd["w"].__dict__["detach"] = 5
    assert torch.equal(floats(named_tensors(odd)["w"], "w", "w.pt"), torch.ones(2))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "without numbers"),
        (torch.ones(1).expand(2**40), "larger than what is stored"),
        (torch.ones(9).as_strided((4, 4), (1, 1)), "larger than what is stored"),
    ],
)
def test_tensors_that_are_not_all_there(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        checked(tensor, "layer.w", "f.pt")
    assert "('layer.w')" in str(caught.value)


@pytest.mark.parametrize(
    "tensor", [torch.ones(4)[1:], torch.ones(3, 2).T, torch.ones(0, 4), nn.Parameter(torch.ones(2))]
)
def test_views_and_parameters_are_fine(tensor: torch.Tensor) -> None:
    assert torch.equal(checked(tensor, "", "f.pt"), tensor)


def test_a_name_twice_in_safetensors(tmp_path: Path) -> None:
    raw = save({"a": torch.ones(1), "b": torch.zeros(1)})
    (tmp_path / "w.safetensors").write_bytes(raw.replace(b'"b"', b'"a"'))
    with pytest.raises(UsageError, match="holds 'a' twice"):
        read_weights(tmp_path / "w.safetensors", "model")


def test_paths_and_namespaces_beside_the_weights_are_harmless(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "args": {"out": Path("runs/1")}}, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt", "model")) == ["w"]
