"""A module takes all of a file's weights and leaves none over, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.loading.user_module import fill

State = dict[str, Tensor]


class Tagger(nn.Module):
    """An embedding, a recurrence, a head."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, 2)


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.write.weight = self.read.weight


def trained() -> State:
    torch.manual_seed(5)
    return Tagger().state_dict()


def refused(module: nn.Module, path: Path, key: str | None = None) -> str:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        fill(module, str(path), key)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda w: w, None),
        (lambda w: {f"module.{name}": value for name, value in w.items()}, "module"),
        (lambda w: {f"_orig_mod.{name}": value for name, value in w.items()}, None),
        (lambda w: {"step": 3, "model_state": w, "optimizer_state": {"state": {}, "param_groups": []}}, "model_state"),
        (lambda w: {"state_dict": {f"net.{name}": value for name, value in w.items()}}, "state_dict.net"),
    ],
)
def test_weights_are_found_where_they_lie(wrap: Callable[[State], object], place: str | None, tmp_path: Path) -> None:
    weights, module = trained(), Tagger()
    torch.save(wrap(weights), tmp_path / "w.pt")
    said = fill(module, str(tmp_path / "w.pt"))
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    assert [line.rpartition(": ")[2] for line in said] == ([place] if place else [])


def test_a_matrix_under_two_names_is_saved_once(tmp_path: Path) -> None:
    module, weight = Tied(), torch.randn(3, 3)
    save_file({"read.weight": weight}, tmp_path / "w.safetensors")
    fill(module, str(tmp_path / "w.safetensors"))
    assert torch.equal(module.write.weight, weight)


def test_several_sets_are_chosen_by_key(tmp_path: Path) -> None:
    weights = trained()
    torch.save({"student": Tagger().state_dict(), "teacher": weights}, tmp_path / "w.pt")
    assert "--key (student, teacher)" in refused(Tagger(), tmp_path / "w.pt")
    module = Tagger()
    fill(module, str(tmp_path / "w.pt"), "teacher")
    assert torch.equal(module.head.weight, weights["head.weight"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("head.bias"), "has no head.bias, which Tagger needs"),
        (lambda w: w.update(extra=torch.ones(2)), "has extra, which Tagger does not know"),
        (lambda w: w.update({"head.weight": torch.ones(2, 5)}), "head.weight of shape (2, 5), the module (2, 4)"),
        (lambda w: w.update({"head.weight": torch.ones(2, 4, dtype=torch.int64)}), "int64 numbers, the module float32"),
        (lambda w: w.update({"head.bias": torch.ones(1).expand(2)}), "expanded tensor ('head.bias')"),
        (lambda w: w.clear(), "has no rnn.weight_ih_l0"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_touched(
    damage: Callable[[State], object], message: str, tmp_path: Path
) -> None:
    weights = dict(trained())
    damage(weights)
    torch.save(weights, tmp_path / "w.pt")
    assert message in refused(Tagger(), tmp_path / "w.pt")


def test_a_module_without_parameters_takes_no_file(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    assert "has no parameters" in refused(nn.Tanh(), tmp_path / "w.pt")
