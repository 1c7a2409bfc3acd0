"""Which modules take token ids, and how many."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradscope.loading.user_module import token_ids
from gradscope.models.token_models import TokenIds


class Positions(nn.Module):
    """Positions before tokens, in the order of its parts too, and no more than `most` of them."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.place, self.word, self.head = nn.Embedding(most, 4), nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.word(ids) + self.place(torch.arange(ids.shape[1])))


class Calendar(nn.Module):
    """An embedding that its input has nothing to do with."""

    def __init__(self) -> None:
        super().__init__()
        self.day, self.mix = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x) + self.day(torch.arange(x.shape[1]) % 7)


def test_the_embedding_that_reads_the_ids_counts() -> None:
    assert token_ids(Positions(37)) == TokenIds(size=9, width=9, longest=37)
    assert token_ids(Positions(200)) == TokenIds(size=9, width=9, longest=None)


def test_modules_of_numbers_take_no_ids() -> None:
    assert token_ids(nn.Linear(3, 3)) is None
    assert token_ids(Calendar()) is None


def test_nothing_is_left_on_the_module() -> None:
    module = Positions(37)
    token_ids(module)
    assert not any(part._forward_hooks for part in module.modules())
