"""GS403: sequences of a batch that influence each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.records import Verdict


class Wrong(nn.Module):
    """An LSTM that takes time first, fed with the batch first."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4, batch_first=batch_first), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Trained(nn.Module):
    """Batch normalization that stays in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm = nn.GRU(3, 4, batch_first=True), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return self.norm(self.rnn(x)[0].transpose(1, 2)).transpose(1, 2)


def verdicts(module: nn.Module, batch: int = 5) -> dict[str, Verdict]:
    x = torch.randn(batch, 12, 3, generator=torch.Generator().manual_seed(0))
    model = gradscope.analyze(module, x).models[0]
    return {verdict.code: verdict for verdict in model.verdicts} | {"": model.status}


def test_axes_that_are_taken_for_each_other_are_found_with_the_pair() -> None:
    found = verdicts(Wrong())
    assert found["GS403"].status == "fail"
    assert "the output of sequence 5 depends on the input of sequence" in found["GS403"].message
    assert {found[code].status for code in ("GS101", "GS102", "GS104")} == {"skip"}
    assert found[""] == "degenerate"


def test_batch_normalization_in_training_mode_is_found() -> None:
    assert verdicts(Trained())["GS403"].status == "fail"


def test_sequences_that_keep_to_themselves_pass() -> None:
    assert verdicts(Wrong(batch_first=True))["GS403"].status == "pass"


@pytest.mark.parametrize("batch", [1])
def test_a_single_sequence_cannot_be_judged(batch: int) -> None:
    found = verdicts(Wrong(batch_first=True), batch)["GS403"]
    assert found.status == "skip"
    assert "single sequence" in found.message


def test_a_layer_that_says_it_takes_time_first_is_handed_that() -> None:
    x = torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(0))
    model = gradscope.analyze(nn.LSTM(3, 4, bidirectional=True), x).models[0]
    assert {verdict.status for verdict in model.verdicts if verdict.code == "GS403"} == {"pass"}
