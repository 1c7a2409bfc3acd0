"""Tokens: the gradient arrives at what embeddings make of them, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.models.fused_recurrence import run_opened
from gradscope.models.whole_module import WholeModule

IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])


class Reader(nn.Module):
    """Two embeddings of tokens, and one of positions; `read` says how the first is read."""

    def __init__(self, read: Callable[[nn.Embedding, Tensor], Tensor], second: bool = False) -> None:
        super().__init__()
        self.read, self.second = read, second
        self.embed, self.other, self.place = nn.Embedding(7, 3), nn.Embedding(7, 2), nn.Embedding(9, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.read(self.embed, ids) * (1 + self.place(torch.arange(5)))
        return torch.cat([y, self.other(ids)], -1) if self.second else y


def step_by_step(embed: nn.Embedding, ids: Tensor) -> Tensor:
    return torch.stack([embed(ids[:, t]) for t in range(ids.shape[1])], 1)


READS: dict[str, Callable[[nn.Embedding, Tensor], Tensor]] = {
    "whole": lambda embed, ids: embed(ids),
    "by name": lambda embed, ids: embed(input=ids),
    "steps": step_by_step,
    "unbound": lambda embed, ids: torch.stack([embed(column) for column in ids.unbind(1)], 1),
    "transposed": lambda embed, ids: embed(ids.T).transpose(0, 1),
    "transposed copy": lambda embed, ids: embed(ids.T.contiguous()).transpose(0, 1),
    "copied": lambda embed, ids: embed(ids.clone()),
    "narrow": lambda embed, ids: torch.cat([embed(ids[:, :2]), embed(ids[:, 2:])], 1),
    "flat": lambda embed, ids: embed(ids.view(-1)).view(*ids.shape, -1),
    "indexed": lambda embed, ids: embed.weight[ids],
    "indexed by step": lambda embed, ids: torch.stack([embed.weight[column] for column in ids.unbind(1)], 1),
    "functional": lambda embed, ids: functional.embedding(ids, embed.weight),
    "selected": lambda embed, ids: embed.weight.index_select(0, ids.view(-1)).view(*ids.shape, -1),
    "int32": lambda embed, ids: embed(ids.int()),
}


@pytest.mark.parametrize("name", READS)
def test_every_way_to_read_tokens(name: str) -> None:
    module = Reader(READS[name]).double().eval()
    seen = run_opened(WholeModule("reader", module, 3, kind="module"), IDS)
    assert torch.equal(seen.raw, module(IDS))
    weights = torch.randn(2, 5, 3, dtype=torch.float64)
    found = torch.autograd.grad((seen.raw * weights).sum(), seen.given)[0]
    # y = e * (1 + p): dL/de = w * (1 + p), at the columns of the first embedding.
    assert torch.allclose(found[..., :3], weights * (1 + module.place.weight[:5].detach()))
    assert not found[..., 3:].any()


def test_two_embeddings_of_the_same_tokens_stand_side_by_side() -> None:
    module = Reader(READS["steps"], second=True).double().eval()
    seen = run_opened(WholeModule("reader", module, 3, kind="module"), IDS)
    found = torch.autograd.grad(seen.raw.sum(), seen.given)[0]
    assert found.shape == (2, 5, 8)
    assert torch.equal(found[..., 3:5], torch.ones(2, 5, 2, dtype=torch.float64))


def test_a_token_read_twice_counts_twice() -> None:
    module = Reader(lambda embed, ids: embed(ids) + embed(ids[:, :1])).double().eval()
    seen = run_opened(WholeModule("reader", module, 3, kind="module"), IDS)
    found = torch.autograd.grad(seen.raw[:, 3].sum(), seen.given)[0]
    gain = 1 + module.place.weight[3].detach()
    assert torch.allclose(found[:, 0, :3], gain.expand(2, -1))
    assert torch.allclose(found[:, 3, :3], gain.expand(2, -1))


def test_what_is_no_token_is_not_read_as_one() -> None:
    module = Reader(lambda embed, ids: embed((ids + 1) % 7)).double().eval()
    seen = run_opened(WholeModule("reader", module, 3, kind="module"), IDS)
    assert seen.given is None

    def overwritten(embed: nn.Embedding, ids: Tensor) -> Tensor:
        ids[:, 0] = 0
        return embed(ids)

    assert run_opened(WholeModule("reader", Reader(overwritten).double(), 3, kind="module"), IDS).given is None
    assert int(IDS[0, 0]) == 3


class Tables(nn.Module):
    """Tokens are looked up in two tables that are no layers, at every step anew or at once; then a recurrence."""

    def __init__(self, kind: str, *, fused: bool) -> None:
        super().__init__()
        self.kind, self.fused = kind, fused
        self.a, self.b = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.randn(7, 4))
        self.rnn, self.w = nn.GRU(8, 5, batch_first=True), nn.Linear(13, 5)
        self.register_buffer("kept", (torch.arange(7) % 3 > 0)[:, None] / 0.7)

    def table(self, own: Tensor) -> Tensor:
        made = {"plain": lambda: own, "scaled": lambda: own * 2, "dropped": lambda: own * self.kept}
        return made.get(self.kind, lambda: own / own.norm(dim=1, keepdim=True))()

    def embed(self, ids: Tensor) -> Tensor:
        return torch.cat([functional.embedding(ids, self.table(self.a)) * 1e-3, self.table(self.b)[ids]], -1)

    def rest(self, embedded: Sequence[Tensor]) -> Tensor:
        if self.fused:
            return self.rnn(torch.stack(list(embedded), 1))[0][:, -1]
        h = self.w.weight.new_zeros(len(IDS), 5)
        for e in embedded:
            h = torch.tanh(self.w(torch.cat([e, h], -1)))
        return h

    def forward(self, ids: Tensor) -> Tensor:
        if self.fused:
            return self.rest(self.embed(ids).unbind(1))
        h = self.w.weight.new_zeros(len(ids), 5)
        for column in ids.unbind(1):
            h = torch.tanh(self.w(torch.cat([self.embed(column), h], -1)))
        return h


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["plain", "scaled", "dropped", "normalised"])
def test_tables_that_are_no_layers(kind: str, frozen: bool, fused: bool) -> None:
    torch.manual_seed(2)
    module = Tables(kind, fused=fused).double().requires_grad_(not frozen)
    found = gradscope.analyze(module, IDS, lambda y: y.sum()).models[0]
    assert found.kind == "recurrent"
    assert found.loaded.equality_check is not None
    assert found.loaded.equality_check.passed
    looked_up = [module.embed(column).detach() / torch.tensor([1e-3] * 4 + [1.0] * 4) for column in IDS.unbind(1)]
    leaves = [one.requires_grad_() for one in looked_up]
    module.rest([one * torch.tensor([1e-3] * 4 + [1.0] * 4) for one in leaves]).sum().backward()
    expected = [one.grad.norm(dim=-1).log10().mean().item() for one in leaves if one.grad is not None]
    assert found.series.values["log10_grad_input"] == pytest.approx(expected, abs=1e-9)


def test_ids_that_nothing_looks_up_are_said() -> None:
    class AsNumbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(1, 5, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            return self.rnn(ids[..., None].to(self.rnn.weight_hh_l0.dtype))[0]

    found = gradscope.analyze(AsNumbers(), IDS).models[0]
    assert "no embedding of the module reads its token ids" in found.skipped["log10_influence"]
    assert found.status == "inconclusive"
