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
from gradscope.loading.modules import from_module
from gradscope.models.capture.attention import attention_weights
from gradscope.pipeline import diagnose_sources
from gradscope.records import ModelResult, RunSpec


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
    source = from_module(module.double().eval(), "speller", spec)
    return diagnose_sources([source], spec).models[0]


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


def test_tokens_without_a_row_are_unknown_or_refused(vocab: str, tmp_path: Path) -> None:
    found = analysed(Speller(), text="a bzd", tokens="char", vocab=vocab)
    assert any("2 distinct ones are <unk>" in note for note in found.notes)
    (tmp_path / "bare.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match="no 'z'"):
        analysed(Speller(), text="abz", tokens="char", vocab=str(tmp_path / "bare.txt"))
    with pytest.raises(UsageError, match="--vocab FILE"):
        analysed(Speller(), text="aba", tokens="char")


def test_random_ids_and_ids_from_files(tmp_path: Path) -> None:
    found = analysed(Speller(), length=15, batch=3)
    assert "random tokens, not your data" in found.notes
    assert "3 sequences" in found.heading
    np.save(tmp_path / "ids.npy", np.array([0, 5, 2, 2, 1]))
    assert analysed(Speller(), input=str(tmp_path / "ids.npy")).length == 5
    np.save(tmp_path / "bad.npy", np.array([0.5, 1.0]))
    with pytest.raises(UsageError, match="no token ids"):
        analysed(Speller(), input=str(tmp_path / "bad.npy"))
    np.save(tmp_path / "far.npy", np.array([0, 6]))
    with pytest.raises(UsageError, match=r"token id 6 is outside 0\.\.5"):
        analysed(Speller(), input=str(tmp_path / "far.npy"))


def test_squared_errors_need_numbers() -> None:
    with pytest.raises(UsageError, match="takes tokens"):
        analysed(Speller(), loss="mse", length=5)


def test_attention_inside_a_users_module_is_read(vocab: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    weights = attention_weights(module, x)
    assert [tuple(w.shape) for w in weights] == [(1, 2, 6, 6)] * 2
    part = module.layers[0].self_attn
    expected = part(x, x, x, need_weights=True, average_attn_weights=False)[1]
    assert torch.allclose(weights[0], expected, atol=1e-6)
    found = gradscope.analyze(module, x.expand(2, -1, -1)).models[0]
    assert len(found.attention.weights) == 2
    assert "reads the future" in found.skipped["reach"]
    assert found.summary.rate is not None
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in module.modules())
