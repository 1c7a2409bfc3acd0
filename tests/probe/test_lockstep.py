"""Copies in lockstep compute what the cells compute, and autograd's own gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.models.family import family_model
from gradscope.models.whole_module import WholeModule
from gradscope.probe.copies import Lockstep, Modules, Unrolled, copies_of

WORDS = (
    "rnn",
    "rnn:nonlinearity=relu",
    "rnn:nonlinearity=linear,init=orthogonal",
    "rnn:bias=false",
    "gru",
    "gru:bias=false",
    "lstm",
    "lstm:bias=false",
    "lru",
    "lstm:layers=2",
    "gru:layers=3",
)


def built(word, seed, size=3):
    name, _, options = word.partition(":")
    given = dict(part.split("=") for part in options.split(",")) if options else {}
    return family_model(name, given, word, {"hidden": 5}).build(input_size=size, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("word", WORDS)
def test_outputs_and_gradients_of_every_copy_are_those_of_its_own_model(word):
    models = [built(word, seed) for seed in (0, 1, 2)]
    copies = copies_of(models, word)
    assert isinstance(copies, Lockstep)
    for run in range(3):
        for leaf in copies.leaves(run):
            leaf.data = leaf.data.double()
    x = torch.randn(2, 4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = copies.outputs(x, (2, 0))
    leaves = [leaf for run in (2, 0) for leaf in copies.leaves(run)]
    grads = torch.autograd.grad(found.square().sum(), [x, *leaves])
    for place, run in enumerate((2, 0)):
        model, own = models[run], x[place].detach().requires_grad_()
        for cell in model.cells:
            cell.parameters = {key: value.float().double().requires_grad_() for key, value in cell.parameters.items()}
        output = model(own)
        torch.testing.assert_close(found[place], output, rtol=1e-12, atol=1e-14)
        wanted = torch.autograd.grad(output.square().sum(), [own, *model.parameters().values()])
        torch.testing.assert_close(grads[0][place], wanted[0], rtol=1e-10, atol=1e-12)
        count = len(wanted) - 1
        mine = grads[1 + place * count : 1 + (place + 1) * count]
        for one, other in zip(mine, wanted[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.rnn(x)[0])


def test_modules_are_copied_and_trained_in_training_mode():
    module = Loop().eval()
    direct = WholeModule("loop", module, 3, kind="module")
    copies = copies_of([direct, direct], "loop")
    assert isinstance(copies, Modules)
    assert copies.output_size == 5
    x = torch.randn(2, 4, 6, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = copies.outputs(x, (0, 1)), copies.outputs(x, (0, 1))
    assert not torch.equal(first, second)
    assert not module.training
    copies.leaves(0)[0].data.zero_()
    assert float(module.rnn.weight_ih_l0.detach().abs().sum()) > 0
    assert float(copies.leaves(1)[0].detach().abs().sum()) > 0
    with copies.precise():
        assert copies.outputs(x.double(), (0, 1)).dtype == torch.float64
    assert copies.leaves(0)[0].dtype == torch.float32


def test_copies_of_a_module_in_float64_train_in_float32():
    direct = WholeModule("loop", Loop().double(), 3, kind="module")
    copies = copies_of([direct, direct], "loop")
    assert isinstance(copies, Modules)
    assert (copies.output_size, copies.has_steps) == (5, True)


def test_what_has_no_weights_is_refused():
    with pytest.raises(UsageError, match="no weights to train"):
        copies_of([WholeModule("bare", nn.Identity(), 3, kind="module")], "bare")


def test_other_cells_are_unrolled():
    from gradscope.models.stack import Recurrent
    from gradscope.models.user_step import CustomCell

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(8, 5)

        def forward(self, x, s):
            return torch.tanh(self.map(torch.cat([x, s], -1)))

    step = Step()
    models = [Recurrent("own", [CustomCell("l0", step, torch.zeros(5), 3)]) for _ in range(2)]
    copies = copies_of(models, "own")
    assert isinstance(copies, Unrolled)
    assert len(copies.leaves(0)) == 2
    copies.leaves(0)[0].data.zero_()
    assert float(step.map.weight.detach().abs().sum()) > 0
    assert float(copies.leaves(1)[0].detach().abs().sum()) > 0
    assert copies.outputs(torch.randn(2, 4, 6, 3), (0, 1)).shape == (2, 4, 6, 5)


class Written(nn.Module):
    """A loop by hand, as people write it."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 5, bias=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x):
        h, seen = x.new_zeros(x.shape[0], 5), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(x[:, t]) + self.outer(h))
            seen.append(h)
        return torch.stack(seen, 1)


class Normalised(Written):
    """Counts what it has seen, which a run as one would lose."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2))


class Remembering(Written):
    """Keeps a tensor between calls, which must not be one of torch.func's."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


class Looking(Written):
    """Python looks at numbers, which torch.vmap refuses."""

    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


class Weighted(Written):
    """Weight normalisation of the old kind leaves a result of its last call on the module."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.outer = nn.utils.weight_norm(self.outer)


@pytest.mark.parametrize(
    ("kind", "as_one"), [(Weighted, False), (Written, True), (Remembering, True), (Normalised, False), (Looking, False)]
)
def test_modules_run_as_one_give_what_each_gives_alone(kind, as_one):
    torch.manual_seed(1)
    modules = [kind() for _ in range(3)]
    modules[0](torch.randn(2, 4, 3))
    copies = copies_of([WholeModule("written", module, 3, kind="module") for module in modules], "written")
    for runs in ((0, 1, 2), (0, 2), (1,)):
        for _ in range(2):
            x = torch.randn(len(runs), 4, 6, 3)
            found = copies.outputs(x, runs)
            found.square().sum().backward()
            for run, part, own in zip(runs, x, found, strict=True):
                alone = modules[run].train()(part)
                torch.testing.assert_close(own, alone)
                alone.square().sum().backward()
                for leaf, known in zip(copies.leaves(run), modules[run].parameters(), strict=True):
                    if known.grad is not None:
                        torch.testing.assert_close(leaf.grad, known.grad)
                    leaf.grad = known.grad = None
    assert copies.runs_as_one is as_one
    if kind is Normalised:
        # Copy 0 is run once more to see what it returns; looking whether it can be run as one leaves no trace.
        assert [int(module.norm.num_batches_tracked) for module in copies.modules] == [6, 4, 4]
