"""Token ids for modules with an embedding of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.loading.user_module import from_module
from gradscope.models.token_models import TokenIds
from gradscope.pipeline import diagnose_sources
from gradscope.records import Loaded, ModelResult, RunSpec
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.token_ids import given_ids


class Speller(nn.Module):
    """Characters to the logits of the next one."""

    def __init__(self, tokens: int = 6) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(tokens, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, tokens)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


def analysed(module: nn.Module, **settings: object) -> ModelResult:
    spec = RunSpec(models=("speller",), **settings)
    torch.manual_seed(0)
    source = from_module(module.double().eval(), "speller", spec, Loaded("speller", trained=None))
    return diagnose_sources([source], spec).models[0]


def ids_of(spec: RunSpec, ids: TokenIds) -> list[list[int]]:
    return make_batch(spec, seed=0, ids=ids).x.tolist()


@pytest.fixture
def vocab(tmp_path: Path) -> str:
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(["<unk>", "a", "b", "n", "s", " "]))
    return str(path)


def test_text_goes_through_the_vocabulary(vocab: str) -> None:
    module = Speller()
    found = analysed(module, text="bananas ban", tokens="char", vocab=vocab, loss="ce")
    ids = torch.tensor([[2, 1, 3, 1, 3, 1, 4, 5, 2, 1, 3]])
    leaf = module.embed(ids).detach().requires_grad_()
    logits = module.head(module.rnn(leaf)[0])[0, :-1]
    value = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    (gradient,) = torch.autograd.grad(value, leaf)
    assert found.series.values["log10_grad_input"][:-1] == pytest.approx(gradient[0, :-1].norm(dim=-1).log10().tolist())
    assert found.series.token == tuple("bananas ban")
    assert found.loaded.equality_check.passed
    assert found.size == 5
    assert "cross-entropy of the next of 6 token ids through the model's own head" in found.notes


def test_without_logits_of_its_own_a_readout_is_seeded(vocab: str) -> None:
    module = Speller()
    module.head = nn.Linear(5, 3)
    found = analysed(module, text="bananas ban", tokens="char", vocab=vocab, loss="ce")
    assert "cross-entropy of the next of 5 tokens through a seeded readout" in found.notes


def test_tokens_without_a_row_are_unknown_or_refused(vocab: str, tmp_path: Path) -> None:
    found = analysed(Speller(), text="a bzd", tokens="char", vocab=vocab)
    assert any("2 of them have no row and are <unk>" in note for note in found.notes)
    (tmp_path / "bare.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match="no row for 1 of 3 tokens"):
        analysed(Speller(), text="abz", tokens="char", vocab=str(tmp_path / "bare.txt"))
    with pytest.raises(UsageError, match="--vocab FILE"):
        analysed(Speller(), text="aba", tokens="char")


def test_bytes_are_ids_where_asked_for() -> None:
    assert ids_of(RunSpec(text="hé", tokens="byte"), TokenIds(256)) == [[104, 195, 169]]
    with pytest.raises(UsageError, match="or --tokens byte"):
        ids_of(RunSpec(text="hi there"), TokenIds(256))
    with pytest.raises(UsageError, match=r"per line\)$"):
        ids_of(RunSpec(text="hi there", tokens="byte"), TokenIds(255))


def test_random_ids_are_seeded_and_within_range() -> None:
    spec = RunSpec(length=50, batch=3)
    found = make_batch(spec, seed=1, ids=TokenIds(7)).x
    assert found.shape == (3, 50)
    assert found.dtype == torch.int64
    assert sorted(found.unique().tolist()) == list(range(7))
    assert torch.equal(found[:2], make_batch(RunSpec(length=50, batch=2), seed=1, ids=TokenIds(7)).x)
    assert not torch.equal(found, make_batch(spec, seed=2, ids=TokenIds(7)).x)
    assert ids_of(RunSpec(sequence="zeros", length=3, batch=1), TokenIds(7)) == [[0, 0, 0]]
    with pytest.raises(UsageError, match="--sequence sine makes numbers"):
        ids_of(RunSpec(sequence="sine"), TokenIds(7))


def test_notes_of_random_ids() -> None:
    found = analysed(Speller(), length=15, batch=3)
    assert {"random input, not your data", "random token ids, of 6"} <= set(found.notes)
    assert "3 sequences" in found.heading


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 5, 2], [[0, 5, 2]]),
        ([[0], [5], [2]], [[0, 5, 2]]),
        ([[0, 5, 2], [1, 1, 1]], [[0, 5, 2], [1, 1, 1]]),
        ([[[0], [5]], [[1], [2]]], [[0, 5], [1, 2]]),
        ([0.0, 3.0], [[0, 3]]),
    ],
)
def test_ids_from_files(values: list[object], expected: list[list[int]], tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array(values))
    assert ids_of(RunSpec(input=str(tmp_path / "ids.npy")), TokenIds(6)) == expected


def test_files_are_cut_as_others_are(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(10))
    spec = RunSpec(input=str(tmp_path / "ids.npy"), length=3, batch=2)
    assert ids_of(spec, TokenIds(10)) == [[0, 1, 2], [3, 4, 5]]
    assert ids_of(RunSpec(input=spec.input), TokenIds(10, longest=4)) == [[0, 1, 2, 3]]
    (tmp_path / "ids.csv").write_text("when,id\n1,3\n2,4\n3,5\n")
    assert ids_of(RunSpec(input=str(tmp_path / "ids.csv"), columns=("id",)), TokenIds(6)) == [[3, 4, 5]]
    with pytest.raises(UsageError, match="2 columns, the model takes one token id per step; choose one"):
        ids_of(RunSpec(input=str(tmp_path / "ids.csv")), TokenIds(6))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5, 1.0], r"has 0\.5 at step 1; the model's token ids are whole numbers 0 to 5"),
        ([0, 6], "has 6 at step 2;"),
        ([[0, 1], [1, -1]], "has -1 at step 2 of sequence 1;"),
        ([0.0, np.nan], "has nan at step 2;"),
    ],
)
def test_what_is_no_id_is_named_with_its_place(values: list[object], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array(values))
    with pytest.raises(UsageError, match=said):
        ids_of(RunSpec(input=str(tmp_path / "ids.npy")), TokenIds(6))


def test_ids_at_hand() -> None:
    assert given_ids(torch.tensor([[1, 5]], dtype=torch.int32), RunSpec(), TokenIds(6)).x.tolist() == [[1, 5]]
    with pytest.raises(UsageError, match=r"x is \(1, 4, 2\) of float32; this model takes token ids"):
        given_ids(torch.zeros(1, 4, 2), RunSpec(), TokenIds(6))
    report = gradscope.analyze(Speller(), torch.tensor([[1, 2, 3, 4, 5]]))
    assert report.models[0].length == 5
    assert report.models[0].loaded.equality_check.passed


def test_squared_errors_need_numbers() -> None:
    with pytest.raises(UsageError, match="no numbers to predict from token ids"):
        analysed(Speller(), loss="mse", length=5)


def test_pairs_are_differentiated_by_the_embeddings(vocab: str) -> None:
    module = Speller()
    found = analysed(module, text="bananas", tokens="char", vocab=vocab, pair=("b:s",)).pairs[0]
    leaf = module.embed(torch.tensor([[2, 1, 3, 1, 3, 1, 4]])).detach().requires_grad_()
    y = module.head(module.rnn(leaf)[0])[0, -1]
    rows = torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0][0] for value in y])
    norms = rows.square().sum((0, 2)).sqrt()
    assert found.share == pytest.approx(float(norms[0] / norms.sum()))
    assert (found.source_step, found.target_step, found.of) == (1, 7, 7)
