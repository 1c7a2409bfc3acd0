"""Remedies of recurrences that users wrote: what multiplies the state and what keeps it is found, and set."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gradscope.fixes.layer_edit import changed
from gradscope.fixes.measure_remedies import measure_fixes, save, treat
from gradscope.fixes.remedy import RemedyInput
from gradscope.forward.recurrent_matrices import recurrent_weights
from gradscope.loading.source import Source
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Run
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.pick_trace import choose_module_trace, first_opened
from gradscope.pipeline import diagnose_sources
from gradscope.records import Loaded, RunSpec
from gradscope.registry import FIXES, load

H = 5


class Written(nn.Module):
    """A loop over steps."""

    pair, size = False, H

    def forward(self, x):
        zero = x.new_zeros(len(x), self.size)
        state, seen = (zero, zero) if self.pair else zero, []
        for t in range(x.shape[1]):
            state = self.step(x[:, t], state)
            seen.append(state[0] if self.pair else state)
        return torch.stack(seen, 1)


class Elman(Written):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, H), nn.Linear(H, H, bias=False)

    def step(self, x, h):
        return torch.tanh(self.a(x) + self.b(h))


class Joined(Written):
    def __init__(self):
        super().__init__()
        self.both = nn.Linear(3 + H, H)

    def step(self, x, h):
        return torch.tanh(self.both(torch.cat((x, h), 1)))


class Plain(Written):
    """Parameters of its own, the matrix on the right."""

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Parameter(0.3 * torch.randn(3, H)), nn.Parameter(0.3 * torch.randn(H, H))
        self.b, self.f = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.ones(H))

    def step(self, x, h):
        f = torch.sigmoid(x @ self.w + self.f)
        return f * h + (1 - f) * torch.tanh(x @ self.w + h @ self.u + self.b)


class FourMaps(Written):
    pair = True

    def __init__(self):
        super().__init__()
        self.f, self.i, self.o, self.g = (nn.Linear(3 + H, H) for _ in range(4))

    def step(self, x, state):
        h, c = state
        z = torch.cat((h, x), 1)
        c = torch.sigmoid(self.f(z)) * c + torch.sigmoid(self.i(z)) * torch.tanh(self.g(z))
        return torch.sigmoid(self.o(z)) * torch.tanh(c), c


class Chunked(Written):
    pair = True

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Linear(3, 4 * H), nn.Linear(H, 4 * H)

    def step(self, x, state):
        h, c = state
        i, f, g, o = (self.w(x) + self.u(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Sliced(Chunked):
    def step(self, x, state):
        h, c = state
        both = self.w(x) + self.u(h)
        z = torch.sigmoid(both)
        c = z[:, H : 2 * H] * c + z[:, :H] * torch.tanh(both[:, 2 * H : 3 * H])
        return z[:, 3 * H :] * c.tanh(), c


class Shut(Written):
    """A GRU of papers, whose gate is shut to keep, with a reset gate that keeps nothing."""

    def __init__(self):
        super().__init__()
        self.z, self.r, self.n = (nn.Linear(3 + H, H) for _ in range(3))

    def mixed(self, z, h, n):
        return (1 - z) * h + z * n

    def step(self, x, h):
        both = torch.cat((x, h), 1)
        z, r = torch.sigmoid(self.z(both)), torch.sigmoid(self.r(both))
        return self.mixed(z, h, torch.tanh(self.n(torch.cat((x, r * h), 1))))


class Leaning(Shut):
    def mixed(self, z, h, n):
        return torch.lerp(h, n, z)


class Stepping(Shut):
    def mixed(self, z, h, n):
        return h + z * (n - h)


class Returning(Shut):
    def mixed(self, z, h, n):
        return n + z * (h - n)


class Leaving(Shut):
    def mixed(self, z, h, n):
        return h - z * (h - n)


class Spread(Shut):
    def mixed(self, z, h, n):
        return h - z * h + z * n


class Receding(Shut):
    def mixed(self, z, h, n):
        return n - z * (n - h)


class Fused(Shut):
    def mixed(self, z, h, n):
        return torch.addcmul((1 - z) * n, z, h)


class Masked(Shut):
    def mixed(self, z, h, n):
        return torch.where(torch.ones(len(h), 1, dtype=torch.bool), (1 - z) * h + z * n, h)


class Leaking(FourMaps):
    def step(self, x, state):
        h, c = state
        z = torch.cat((h, x), 1)
        i = torch.sigmoid(self.i(z))
        c = c - i * c + i * torch.tanh(self.g(z))
        return torch.sigmoid(self.o(z)) * torch.tanh(c), c


class Folded(Chunked):
    def step(self, x, state):
        h, c = state
        i, f, g, o = (self.w(x) + self.u(h)).view(-1, 4, H).unbind(1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Shifted(FourMaps):
    """A forget gate that adds a number, as ports from TensorFlow do."""

    shift = 5.0

    def step(self, x, state):
        h, c = state
        z = torch.cat((h, x), 1)
        c = torch.sigmoid(self.f(z) + self.shift) * c + torch.sigmoid(self.i(z)) * torch.tanh(self.g(z))
        return torch.sigmoid(self.o(z)) * torch.tanh(c), c


class Lowered(Shifted):
    def step(self, x, state):
        h, c = state
        z = torch.cat((h, x), 1)
        c = torch.sigmoid(self.f(z) - 3.0) * c + torch.sigmoid(self.i(z)) * torch.tanh(self.g(z))
        return torch.sigmoid(self.o(z)) * torch.tanh(c), c


CASES = {
    Elman: ({"b.weight": (0, H)}, None),
    Joined: ({"both.weight": (3, H)}, None),
    Plain: ({"u": (0, H)}, (1, ["f"])),
    FourMaps: ({f"{name}.weight": (0, H) for name in "fiog"}, (1, ["f.bias"])),
    Chunked: ({"u.weight": (0, H)}, (1, ["w.bias", "u.bias"])),
    Sliced: ({"u.weight": (0, H)}, (1, ["w.bias", "u.bias"])),
    Shut: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Leaning: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Stepping: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Returning: ({f"{name}.weight": (3, H) for name in "zrn"}, (1, ["z.bias"])),
    Leaving: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Spread: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Receding: ({f"{name}.weight": (3, H) for name in "zrn"}, (1, ["z.bias"])),
    Fused: ({f"{name}.weight": (3, H) for name in "zrn"}, (1, ["z.bias"])),
    Masked: ({f"{name}.weight": (3, H) for name in "zrn"}, (-1, ["z.bias"])),
    Leaking: ({f"{name}.weight": (0, H) for name in "iog"}, (-1, ["i.bias"])),
    Folded: ({"u.weight": (0, H)}, (1, ["w.bias", "u.bias"])),
    Shifted: ({f"{name}.weight": (0, H) for name in "fiog"}, (1, ["f.bias"])),
    Lowered: ({f"{name}.weight": (0, H) for name in "fiog"}, (1, ["f.bias"])),
}


def made(kind):
    torch.manual_seed(0)
    return WholeModule(kind.__name__, kind().double(), 3, kind="module")


def inputs(steps=40):
    return torch.randn(2, steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights_of(model, x):
    (found,) = recurrent_weights(first_opened(model, x))
    return found


@pytest.mark.parametrize("kind", CASES)
def test_what_multiplies_the_state_and_what_keeps_it_is_read_off_the_computation(kind):
    matrices, keep = CASES[kind]
    found = weights_of(made(kind), inputs(12))
    assert {m.piece.name: m.piece.spans[m.axis] for m in found.matrices} == matrices
    if keep is None:
        assert not found.keeps
        return
    (gate,) = found.keeps
    assert (gate.sign, [bias.name for bias in gate.biases]) == keep
    assert all(bias.spans[-1] == ((H, H) if kind in (Chunked, Sliced, Folded) else (0, H)) for bias in gate.biases)


@pytest.mark.parametrize(
    ("cell", "sign", "keeps"),
    [
        ("UGRNN", 1, (H, H)),
        ("JANET", 1, (0, H)),
        ("LiGRU", 1, (0, H)),
        ("MGU", -1, (0, H)),
        ("PeepholeLSTM", 1, (H, H)),
        ("RAN", 1, (H, H)),
        ("STAR", -1, (0, H)),
    ],
)
def test_gates_that_keep_are_found_in_cells_that_others_wrote(cell, sign, keeps):
    import torchrecurrent

    torch.manual_seed(0)
    module = getattr(torchrecurrent, cell)(3, H).double()
    model = WholeModule(cell, module, 3, kind="module", time_first=True)
    found = weights_of(model, inputs(12))
    (gate,) = found.keeps
    recurrent = next(bias for bias in gate.biases if bias.name.endswith("bias_hh"))
    assert (gate.sign, recurrent.spans[-1]) == (sign, keeps)
    # The truth: without any matrix, a state comes back as it was where the gates keep, and leaves nothing where not.
    pair = cell in ("PeepholeLSTM", "RAN", "JANET")
    old = torch.full((1, 2, H), 0.1, dtype=torch.float64)
    for away, kept in ((40.0, old.tanh() if cell == "STAR" else old), (-40.0, torch.zeros_like(old))):
        own = copy.deepcopy(module)
        with torch.no_grad():
            for name, value in own.named_parameters():
                if "bias" not in name:
                    value.zero_()
            for bias in gate.biases:
                bias.of(own).fill_(gate.sign * away)
            afters = []
            for state in (old, torch.zeros_like(old)):
                after = own(torch.zeros(1, 2, 3, dtype=torch.float64), (state, state) if pair else state)[1]
                afters.append(after[-1] if pair else after)
        torch.testing.assert_close(afters[0] - afters[1], kept, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["open gates", "chrono", "uniform gates", "unit exponent", "orthogonal"])
@pytest.mark.parametrize("kind", CASES)
def test_the_lines_change_what_the_remedy_changed_and_nothing_else(kind, name):
    model = made(kind)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    remedy_input = RemedyInput(model, "own", 30, inputs(), 0, lambda y: y[:, -1].sum())
    found = load(FIXES[name]).apply(remedy_input)
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    if found is None:
        assert name == "unit exponent" or CASES[kind][1] is None
        return
    own = copy.deepcopy(model.module)
    exec(found.code, {"torch": torch, "model": own})
    lines = {key: value for key, value in own.state_dict().items() if not torch.equal(value, before[key])}
    mine = {key: value for key, value in found.weights.items() if not torch.equal(value, before[key])}
    assert lines.keys() == mine.keys() != set()
    if name in ("open gates", "unit exponent"):
        for key, value in mine.items():
            torch.testing.assert_close(lines[key], value)
    torch.testing.assert_close(found.model(remedy_input.x), changed_output(model, found.weights, remedy_input.x))


def changed_output(model, weights, x):
    module = copy.deepcopy(model.module)
    module.load_state_dict(dict(weights))
    return module(x)


@pytest.mark.parametrize("kind", [kind for kind, (_, keep) in CASES.items() if keep is not None])
@torch.no_grad()
def test_gates_opened_for_a_lag_hold_half_of_the_state_over_it(kind):
    model = made(kind)
    with torch.no_grad():
        for name, value in model.module.named_parameters():
            value.mul_(1.0 if "bias" in name or name in ("b", "f") else 0.0)
    with torch.enable_grad():
        found = load(FIXES["open gates"]).apply(RemedyInput(model, "own", 30, inputs(), 0, lambda y: y[:, -1].sum()))
    state = torch.full((1, H), 0.1, dtype=torch.float64)
    for _ in range(30):
        given = (torch.zeros_like(state), state) if model.module.pair else state
        following = found.model.module.step(torch.zeros(1, 3, dtype=torch.float64), given)
        nothing = found.model.module.step(
            torch.zeros(1, 3, dtype=torch.float64),
            (torch.zeros_like(state), torch.zeros_like(state)) if model.module.pair else torch.zeros_like(state),
        )
        state = (following[1] - nothing[1]) if model.module.pair else following - nothing
    assert float(state[0, 0]) == pytest.approx(0.05, rel=1e-6)


class Wide(Elman):
    size = 24

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 24), nn.Linear(24, 24, bias=False)


def test_a_gain_is_solved_for_a_loop_by_its_own_exponent():
    found = load(FIXES["unit exponent"]).apply(RemedyInput(made(Wide), "own", 30, inputs(100), 0, torch.sum))
    chain = choose_module_trace(found.model, inputs(100)[:1]).chain(0)
    assert abs(float(lyapunov(chain, 1).mean[0])) < 0.05


def test_layers_of_torch_beside_a_loop_are_changed_once():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.loop = nn.RNN(3, 4, batch_first=True), nn.Linear(4 + H, H)

        def forward(self, x):
            y, h, seen = self.rnn(x)[0], x.new_zeros(len(x), H), []
            for t in range(x.shape[1]):
                h = torch.tanh(self.loop(torch.cat((y[:, t], h), 1)))
                seen.append(h)
            return torch.stack(seen, 1)

    model = made(Both)
    found = changed(model, lambda layer: layer.scale(2.0), inputs())
    before = model.module.state_dict()
    torch.testing.assert_close(found.weights["rnn.weight_hh_l0"], 2 * before["rnn.weight_hh_l0"])
    torch.testing.assert_close(found.weights["rnn.weight_ih_l0"], before["rnn.weight_ih_l0"])
    torch.testing.assert_close(found.weights["loop.weight"][:, 4:], 2 * before["loop.weight"][:, 4:])
    torch.testing.assert_close(found.weights["loop.weight"][:, :4], before["loop.weight"][:, :4])
    code = found.code('weights["weight_hh"].mul_(2.0)')
    own = copy.deepcopy(model.module)
    exec(code, {"torch": torch, "model": own, "rnn": own.rnn})
    for key, value in found.weights.items():
        torch.testing.assert_close(own.state_dict()[key], value)


def test_what_has_no_recurrence_has_nothing_to_change():
    flat = WholeModule("flat", nn.Linear(3, 2).double(), 3, kind="module")
    assert changed(flat, lambda layer: layer.scale(2.0), inputs()) is None


def test_steps_of_the_users_are_changed_as_loops_are():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.n = nn.Linear(3 + H, H), nn.Linear(3 + H, H)

        def forward(self, x, h):
            both = torch.cat((x, h), -1)
            z = torch.sigmoid(self.z(both))
            return z * h + (1 - z) * torch.tanh(self.n(both))

    torch.manual_seed(0)
    step = Step().double()
    before = {key: value.clone() for key, value in step.state_dict().items()}
    model = Recurrent("own", [CustomCell("own", step, torch.zeros(H, dtype=torch.float64), 3)])
    found = load(FIXES["open gates"]).apply(RemedyInput(model, "own", 30, inputs(), 0, torch.sum))
    assert {key for key, value in found.weights.items() if not torch.equal(value, before[key])} == {"z.bias"}
    assert all(torch.equal(value, before[key]) for key, value in step.state_dict().items())
    own = copy.deepcopy(step)
    exec(found.code, {"torch": torch, "model": own})
    torch.testing.assert_close(found.model.cells[0].module.z.bias, own.z.bias)
    torch.testing.assert_close(own.z.bias.detach().sigmoid() ** 30, torch.full((H,), 0.5, dtype=torch.float64))
    assert not torch.equal(found.model(inputs()), model(inputs()))


def test_modules_of_one_length_alone_are_looked_at_whole():
    class Fixed(Elman):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.zeros(40, 3))

        def forward(self, x):
            return super().forward(x + self.places)

    found = changed(made(Fixed), lambda layer: layer.scale(2.0), inputs())
    before = made(Fixed).module.state_dict()
    torch.testing.assert_close(found.weights["b.weight"], 2 * before["b.weight"])


class OneVector(Written):
    """An independent recurrence: a vector multiplies the state."""

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Linear(3, H), nn.Parameter(torch.full((H,), 0.5))

    def step(self, x, h):
        return torch.tanh(self.w(x) + self.u * h)


class Normalised(Written):
    """Weight normalisation of the old kind, whose weight is no parameter."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.both = nn.utils.weight_norm(nn.Linear(3 + H, H))

    def step(self, x, h):
        return torch.tanh(self.both(torch.cat((x, h), 1)))


class Batched(Written):
    """Two states go through one product, one under the other."""

    pair = True

    def __init__(self):
        super().__init__()
        self.w, self.u = nn.Linear(3, H), nn.Linear(H, H)

    def step(self, x, state):
        a, b = self.u(torch.cat(state, 0)).chunk(2, 0)
        return torch.tanh(self.w(x) + a), torch.tanh(b)


class Layered(Written):
    """Two layers of different widths in one loop: what the upper one hears of the lower is not its own state."""

    def __init__(self):
        super().__init__()
        self.low, self.up = nn.Linear(3 + H, H), nn.Linear(H + 4, 4)

    def forward(self, x):
        low, up, seen = x.new_zeros(len(x), H), x.new_zeros(len(x), 4), []
        for t in range(x.shape[1]):
            low = torch.tanh(self.low(torch.cat((x[:, t], low), 1)))
            up = torch.tanh(self.up(torch.cat((low, up), 1)))
            seen.append(up)
        return torch.stack(seen, 1)


class LayerNormed(Written):
    """What is multiplied was normalised together with the input."""

    def __init__(self):
        super().__init__()
        self.norm, self.both = nn.LayerNorm(3 + H), nn.Linear(3 + H, H)

    def step(self, x, h):
        return torch.tanh(self.both(self.norm(torch.cat((x, h), 1))))


@pytest.mark.parametrize(
    ("kind", "matrices"),
    [
        (OneVector, set()),
        (Normalised, set()),
        (Batched, {("u.weight", (0, H))}),
        (Layered, {("low.weight", (3, H)), ("up.weight", (H, 4))}),
        (LayerNormed, {("both.weight", (3, H))}),
    ],
)
def test_only_what_multiplies_the_state_counts_and_nothing_fails(kind, matrices):
    model = made(kind)
    found = weights_of(model, inputs(12))
    assert {(one.piece.name, one.piece.spans[one.axis]) for one in found.matrices} == matrices
    remedy_input = RemedyInput(model, "own", 20, inputs(30), 0, lambda y: y[:, -1].sum())
    remedied = {name: load(path).apply(remedy_input) for name, path in FIXES.items()}
    assert (remedied["orthogonal"] is not None) == bool(matrices)
    if kind is Layered:
        new = remedied["orthogonal"].weights
        for name, (start, size) in matrices:
            block = new[name][:, start : start + size]
            torch.testing.assert_close(block @ block.T, torch.eye(size, dtype=torch.float64))
        torch.testing.assert_close(new["up.weight"][:, :H], model.module.up.weight.detach()[:, :H])


class OwnStep(nn.Module):
    """A step as `analyze file.py:Step` takes it."""

    def __init__(self):
        super().__init__()
        self.initial_state = torch.zeros(H)
        self.z, self.n = nn.Linear(3 + H, H), nn.Linear(3 + H, H)

    def forward(self, x, h):
        both = torch.cat((x, h), -1)
        z = torch.sigmoid(self.z(both))
        return z * h + (1 - z) * torch.tanh(self.n(both))


def test_names_are_those_of_the_users_own_step():
    from gradscope.loading.step_function import own_cell

    torch.manual_seed(0)
    step = OwnStep()
    cell = own_cell(step, "own", RunSpec(), 3)
    found = load(FIXES["open gates"]).apply(RemedyInput(Recurrent("own", [cell]), "own", 30, inputs(), 0, torch.sum))
    own = OwnStep().double()
    own.load_state_dict(dict(found.weights))
    exec(found.code, {"torch": torch, "model": step})
    torch.testing.assert_close(step.z.bias.detach(), own.z.bias.detach())
    assert float(own.z.bias.detach().sigmoid()[0] ** 30) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["open gates", "orthogonal"])
@pytest.mark.parametrize("kind", ["cell", "both ways"])
def test_lines_for_layers_of_torch_fit_cells_and_both_directions(kind, name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.LSTMCell(3, H) if kind == "cell" else nn.LSTM(3, H, 2, batch_first=True, bidirectional=True)

        def forward(self, x):
            if kind != "cell":
                return self.part(x)[0]
            h, c, seen = x.new_zeros(len(x), H), x.new_zeros(len(x), H), []
            for t in range(x.shape[1]):
                h, c = self.part(x[:, t], (h, c))
                seen.append(h)
            return torch.stack(seen, 1)

    model = made(Net)
    remedy_input = RemedyInput(model, "own", 20, inputs(20), 0, lambda y: y[:, -1].sum())
    found, own = load(FIXES[name]).apply(remedy_input), copy.deepcopy(model.module)
    exec(found.code, {"torch": torch, "rnn": own.part})
    before = model.module.state_dict()
    for key, value in own.state_dict().items():
        assert torch.equal(value, before[key]) == torch.equal(found.weights[key], before[key])
        if name == "open gates":
            torch.testing.assert_close(value, found.weights[key])
    floss = load(FIXES["flossing"]).apply(remedy_input)
    assert (floss is None) == (kind != "cell")
    if floss is not None:
        exec(floss.code, {"torch": torch, "rnn": (fresh := copy.deepcopy(model.module)).part, "x": remedy_input.x[0]})
        torch.testing.assert_close(fresh.part.weight_hh.detach(), floss.weights["part.weight_hh"], rtol=1e-4, atol=1e-5)


def _normed(layer, name="weight_hh_l0"):
    return torch.nn.utils.parametrizations.weight_norm(layer, name)


def _spectral(layer, name="weight_hh_l0"):
    return torch.nn.utils.parametrizations.spectral_norm(layer, name)


def _old_normed(layer, name="weight_hh_l0"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still in use
        return torch.nn.utils.weight_norm(layer, name)


LAYERS = {
    "RNN without biases": lambda: nn.RNN(3, H, bias=False, batch_first=True),
    "GRU without biases": lambda: nn.GRU(3, H, bias=False, batch_first=True),
    "LSTM normed": lambda: _normed(nn.LSTM(3, H, batch_first=True)),
    "GRU spectral": lambda: _spectral(nn.GRU(3, H, batch_first=True)),
    "LSTM old normed": lambda: _old_normed(nn.LSTM(3, H, batch_first=True)),
    "LSTM projected": lambda: nn.LSTM(3, H, proj_size=2, batch_first=True),
    "LSTM, two layers, both ways": lambda: nn.LSTM(3, H, 2, batch_first=True, bidirectional=True),
    "RNN and LSTM": lambda: nn.ModuleList([nn.RNN(3, H, batch_first=True), nn.LSTM(H, H, batch_first=True)]),
    "GRU on projected LSTM": lambda: nn.ModuleList(
        [nn.LSTM(3, H, proj_size=2, batch_first=True), nn.GRU(2, H, batch_first=True)]
    ),
    "RNNCell without biases": lambda: nn.RNNCell(3, H, bias=False),
    "GRUCell normed": lambda: _normed(nn.GRUCell(3, H), "weight_hh"),
    "LSTMCell": lambda: nn.LSTMCell(3, H),
}


class Held(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.part = make()

    def forward(self, x):
        if not isinstance(self.part, nn.RNNCellBase):
            for layer in self.part if isinstance(self.part, nn.ModuleList) else [self.part]:
                x = layer(x)[0]
            return x
        state, seen = None, []
        for x_t in x.unbind(1):
            state = self.part(x_t, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(seen, 1)


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_measured_is_what_the_weights_and_the_lines_make_of_every_variant(kind):
    """Of every remedy: the copy is another model, its weights load, and the lines run and do the same."""
    model, steps, known = made(lambda: Held(LAYERS[kind])), 12, 0
    model.module.eval()
    remedy_input = RemedyInput(model, "own", steps, inputs(steps), 0, lambda y: y[:, -1].sum())
    run = Run(model, remedy_input.x, remedy_input.loss, 0)
    with torch.no_grad():
        before = model.module(remedy_input.x)
    for name in FIXES:
        found = treat(load(FIXES[name]), run, RunSpec(needs_lag=steps - 1), "own")
        if found is None or found.of_training or found.another:
            continue
        known += 1
        loaded, pasted = copy.deepcopy(model.module), copy.deepcopy(model.module)
        loaded.load_state_dict(found.weights)
        (named,) = re.findall(r"^# rnn: (.*)$", found.code, re.M) or [""]
        for path in re.findall(r"model\.([\w.]+)", named) or [""]:
            space = {"torch": torch, "rnn": pasted.get_submodule(path), "model": pasted}
            exec(found.code, {**space, "x": _taken_by(model.module, path, remedy_input.x[:1])})
        with torch.no_grad():
            after = found.model.module(remedy_input.x)
            assert float((after - before).abs().max()) > 1e-6, name
            torch.testing.assert_close(loaded(remedy_input.x), after)
            if name in ("chrono", "uniform gates", "orthogonal"):
                assert float((pasted(remedy_input.x) - before).abs().max()) > 1e-6, name
                continue
            close = {"rtol": 1e-3, "atol": 1e-4} if name == "flossing" else {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(
                pasted(remedy_input.x), after, **close, msg=lambda said, name=name: f"{name}: {said}"
            )
    assert known or kind == "LSTM projected"


def _taken_by(model, path, x):
    """What a part of the model is given of one sequence, (T, features)."""
    seen = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda part, given: seen.append(given[0].detach()))
    with torch.no_grad():
        model(x)
    hook.remove()
    return torch.cat(seen) if len(seen) > 1 else seen[0][0]


def test_tied_weights_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.one, self.two = nn.GRU(3, H, batch_first=True), nn.Linear(H, H), nn.Linear(H, H)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(self.rnn(x)[0]))

    model = made(Tied)
    source = Source("tied", lambda size, seed: model, 3, Loaded("given"))
    spec = RunSpec(length=20, batch=2, fix=True, save=str(tmp_path), remedy="open gates", input_size=3)
    (result,) = diagnose_sources([source], spec).models
    save(measure_fixes(source, spec), spec, result)
    own = Tied().double()
    own.load_state_dict(load_file(tmp_path / "tied-open_gates.safetensors"))
    assert float(own.rnn.bias_ih_l0.detach()[H : 2 * H].min()) > 2
