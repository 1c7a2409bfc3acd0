"""Trained vectors for the tokens of a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.text import read_vocabulary


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    rnn = {f"rnn.{name}": value for name, value in nn.GRU(4, 4).state_dict().items()}
    torch.save({"emb.weight": torch.randn(256, 4), **rnn}, tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def vocabulary(folder: Path, content: object, name: str = "v.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"a": 0, " ": 1, "b": 2}, "v.json"),
        ({"0": "a", "1": " ", "2": "b"}, "v.json"),
        (["a", " ", "b"], "v.json"),
        ("a\n \nb\n", "v.txt"),
        ("a\r\n \r\nb", "vocab"),
    ],
)
def test_vocabularies_in_every_form(content: object, name: str, tmp_path: Path) -> None:
    assert read_vocabulary(vocabulary(tmp_path, content, name), 3) == {"a": 0, " ": 1, "b": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "holds no tokens"),
        ([1, 2], "holds no tokens"),
        (["a", "a"], "holds 'a' twice"),
        ({"a": 3}, "puts 'a' in row 3, there are 3"),
        ({"a": -1}, "puts 'a' in row -1"),
        ({"a": "b"}, "is no table of tokens"),
        ({"9" * 5000: "b"}, "is no table of tokens"),
        ("3", "is no table of tokens"),
    ],
)
def test_what_is_no_vocabulary(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_vocabulary(vocabulary(tmp_path, content), 3)
    assert "\n" not in str(caught.value)


def test_bytes_need_no_vocabulary(model: str) -> None:
    batch = make_batch(RunSpec(models=(model,), text="ab\n", tokens="byte", embedding="emb"), seed=0, input_size=4)
    table = torch.load(model, weights_only=True)["emb.weight"].double()
    assert torch.equal(batch.x[0], table[[97, 98, 10]])


def test_tokens_without_a_row_are_named(model: str, tmp_path: Path) -> None:
    asked = {"models": (model,), "text": "the dog sat", "embedding": "emb"}
    words = vocabulary(tmp_path, ["the", "sat"])
    with pytest.raises(UsageError, match=r"no row for 1 of 3 tokens \('dog'\) and no <unk>"):
        make_batch(RunSpec(**asked, vocab=words), seed=0)
    with pytest.raises(UsageError, match="add --vocab FILE"):
        make_batch(RunSpec(**asked), seed=0)
    with pytest.raises(UsageError, match="embedding has 4 features, the model takes 7"):
        make_batch(RunSpec(**asked, vocab=vocabulary(tmp_path, ["the", "dog", "sat"])), seed=0, input_size=7)


def test_an_embedding_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model here is one"):
        make_batch(RunSpec(models=("rnn",), text="a b c", embedding="emb"), seed=0)
