"""A grammar of recurrent modules: cells, norms, delays, resets, detaches, stacks, orders of loops, shapes of outputs.

Every module can be run in two ways: `forward`, written as a user writes it, and `step`, one step of the joint state.
The numbers of a report come from the first, those they are held against from the second.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

CELLS = ("tanh", "relu", "linear", "leaky", "diagonal", "minimal gated", "gru", "lstm", "lstm of one matrix")
VOCABULARY = 5
OUTPUTS = ("steps", "last", "value", "scalar", "pair", "named", "time first")
COLLECTED = ("list", "buffer", "longer buffer", "rows", "two writes", "added", "index_copy_", "index_copy")
UPDATES = ("value", "where", "rows", "row numbers", "elements", "two parts", "units", "copy_")
PARTS = {"lstm": 2, "lstm of one matrix": 2, "rotating": 2}
"""Tensors of state in a layer, where it is not one."""


@dataclass(frozen=True)
class Recipe:
    """What one module is made of."""

    seed: int
    cell: str = "tanh"
    layers: int = 1
    by_layer: bool = False
    """Whether each layer walks the whole sequence before the next one begins."""
    between: str = "nothing"
    """What stands between two layers: `nothing`, `norm`, `linear` or `residual`."""
    norm: bool = False
    """Whether the new state is normalised."""
    delay: int = 0
    """The state of so many steps before is read too, from a list."""
    reset: int = 0
    """The state is made anew before every so many steps."""
    mask: bool = False
    """The state is multiplied by 0 or 1 before each step."""
    detach: int = 0
    """The state is detached before every so many steps."""
    begin: str = "zeros"
    """`zeros`, `shared` (one tensor of zeros for all states), `number` or `learned`."""
    output: str = "steps"
    head: bool = False
    loop: str = "index"
    """`index`, `unbind` or `iterate`."""
    whole: bool = False
    """Whether each layer is torch's own module over the whole sequence, nn.RNN, nn.GRU or nn.LSTM."""
    single_gate: bool = False
    """Whether the gate of a minimal gated unit is computed in float32."""
    gain: float = 1.0
    features: int = 2
    hidden: int = 3
    steps: int = 8
    batch: int = 2
    reads: str = "last"
    """Which outputs the loss reads: `last`, `every`, or the number of a step."""
    needs_lag: int | None = None
    around: bool = False
    """Whether the outputs read the step's input too, past the recurrence."""
    tied: bool = False
    """Whether all layers but the first are one module."""
    ids: bool = False
    """Whether the input are token ids, which a table turns into features."""
    own_mask: bool = False
    """Whether the state is multiplied by 0 before steps that the input of the sequence itself tells."""
    sequence: int | None = None
    """The only sequence that the loss reads; all of them where it is None."""
    collect: str = "list"
    """How outputs of the steps are gathered: in a list, or written into a tensor made before (`COLLECTED`)."""
    update: str = "value"
    """How the new state takes the old one's place (`UPDATES`); by `where`, `rows`, `row numbers` and `elements` a part
    of it stays as it was, as the input of the step tells."""
    clockwork: bool = False
    """Whether layer l = 0, 1, .. is updated at every 2^l-th step alone."""
    mask_by: str = "product"
    """How a state is set to 0 where the input tells it: `product`, `fill` or `write`."""
    extra: str = ""
    """What the module has no joint state for: `attends` to all past states, or `both` directions in one loop each."""

    def __str__(self) -> str:
        """Only what differs from the plainest module."""
        plain = {one.name: one.default for one in fields(self)}
        return ", ".join(f"{key}={value!r}" for key, value in asdict(self).items() if value != plain[key])

    @property
    def parts(self) -> int:
        """Tensors of state in a layer."""
        return PARTS.get(self.cell, max(1, self.delay))

    @property
    def size(self) -> int:
        """Numbers in the joint state."""
        return self.layers * self.parts * self.hidden

    @property
    def anchor(self) -> int:
        """The newest step whose output the loss reads."""
        return int(self.reads) if self.reads.isdigit() else self.steps


def draw(seed: int) -> Recipe:
    """One recipe of the grammar; the same for the same seed."""
    rng = random.Random(seed)
    some = lambda part, value, other: value if rng.random() < part else other  # noqa: E731
    cell, layers = rng.choice(CELLS), rng.choice((1, 1, 1, 2, 2, 3))
    whole = cell in ("tanh", "gru", "lstm") and rng.random() < 0.3
    delay = some(0.3, rng.choice((2, 3)), 0) if cell == "tanh" and layers == 1 and not whole else 0
    steps, output = rng.randint(5, 12), rng.choice(OUTPUTS)
    by_step = output in ("steps", "pair", "named", "time first")
    reads = rng.choice(("last", "last", "every", str(rng.randint(3, steps)))) if by_step else "last"
    anchor = int(reads) if reads.isdigit() else steps
    between = rng.choice(("nothing", "norm", "linear", "residual")) if layers > 1 else "nothing"
    norm = cell in ("tanh", "linear") and not delay and not whole and rng.random() < 0.2
    return Recipe(
        seed=seed,
        cell=cell,
        layers=layers,
        by_layer=whole or (layers > 1 and delay == 0 and rng.random() < 0.5),
        between=between,
        norm=norm,
        delay=delay,
        reset=some(0.12, rng.randint(2, 5), 0) if not delay and not whole else 0,
        mask=rng.random() < 0.12 and not delay and not whole,
        detach=some(0.12, rng.randint(2, 5), 0) if not delay and not whole else 0,
        begin=rng.choice(("zeros", "zeros", "shared", "number", "learned")) if not delay and not whole else "zeros",
        output=output,
        head=rng.random() < 0.5,
        loop=rng.choice(("index", "unbind", "iterate")),
        whole=whole,
        single_gate=cell == "minimal gated" and rng.random() < 0.3,
        gain=rng.choice((0.3, 0.7, 1.0, 1.0, 1.5, 2.5)),
        features=rng.randint(1, 3),
        # Two units that are normalised are plus and minus one, whatever they were.
        hidden=rng.randint(3 if norm or between == "norm" else 1, 4),
        steps=steps,
        batch=rng.randint(1, 3),
        reads=reads,
        needs_lag=rng.choice((None, rng.randint(1, anchor - 1))),
    )


def draw_wide(seed: int) -> Recipe:
    """A recipe of the wider grammar: one of the other with something more."""
    rng, plain = random.Random(-1 - seed), draw(seed)
    kinds = ["around", "tied", "ids", "own mask", "rotating", "sequence", "attends", "both"]
    chosen = {rng.choice(kinds), rng.choice(kinds)}
    wide: dict[str, Any] = {"around": "around" in chosen, "tied": "tied" in chosen and plain.layers > 1}
    if "ids" in chosen and plain.output != "time first":
        wide["ids"] = True
    if "own mask" in chosen and not plain.whole and not plain.delay:
        wide |= {"own_mask": True, "mask": False}
    if "rotating" in chosen and not plain.whole:
        wide |= {"cell": "rotating", "delay": 0, "norm": False, "single_gate": False}
    if "sequence" in chosen and plain.batch > 1 and plain.output != "scalar":
        wide["sequence"] = rng.randrange(plain.batch)
    if chosen & {"attends", "both"}:
        wide |= {"extra": (chosen & {"attends", "both"}).pop(), "cell": "tanh", "layers": 1, "delay": 0, "whole": False}
        wide |= {"by_layer": False, "reset": 0, "mask": False, "own_mask": False, "detach": 0, "norm": False}
        wide |= {"between": "nothing", "tied": False, "single_gate": False, "begin": "zeros"}
    return replace(plain, **wide)


def draw_written(seed: int) -> Recipe:
    """A recipe of which states and outputs are written into tensors that exist, or only at some steps."""
    rng, plain = random.Random(-(10**9) - seed), draw(seed)
    own_mask = not plain.delay and rng.random() < 0.2
    cell = "gru" if plain.delay else plain.cell
    layers = plain.layers
    return replace(
        plain,
        cell=cell,
        delay=0,
        whole=False,
        by_layer=layers > 1 and rng.random() < 0.6,
        begin=rng.choice(("zeros", "learned")),
        mask=plain.mask and not own_mask,
        own_mask=own_mask,
        mask_by=rng.choice(("product", "fill", "write")),
        detach=0 if own_mask else plain.detach,
        collect=rng.choice(COLLECTED),
        update=rng.choice(UPDATES) if rng.random() < 0.6 else "value",
        clockwork=layers > 1 and rng.random() < 0.25,
    )


class Collected:
    """Outputs of the steps, gathered as `how` says: `add` each, then `steps()`, each (batch, width), or `whole()`."""

    def __init__(self, how: str, length: int) -> None:
        self.how, self.length, self.first = how, length, 1 if how == "longer buffer" else 0
        self.values: list[Tensor] = []
        self.buffer: Tensor | None = None

    def add(self, y: Tensor) -> None:
        """The output of the next step, (batch, width)."""
        t = len(self.values) + self.first
        self.values.append(y)
        if self.how == "list":
            return
        if self.buffer is None:
            batch, width = y.shape
            shape = (self.length, batch, width) if self.how == "rows" else (batch, self.length + self.first, width)
            self.buffer = y.new_zeros(shape)
        if self.how in ("buffer", "longer buffer"):
            self.buffer[:, t] = y
        elif self.how == "rows":
            self.buffer[t] = y
        elif self.how == "two writes":
            self.buffer[:, t, :1] = y[:, :1]
            self.buffer[:, t, 1:] = y[:, 1:]
        elif self.how == "added":
            self.buffer[:, t] += y
        elif self.how == "index_copy_":
            self.buffer.index_copy_(1, torch.tensor([t]), y[:, None])
        else:
            self.buffer = self.buffer.index_copy(1, torch.tensor([t]), y[:, None])

    def whole(self) -> Tensor:
        """(batch, T, width)."""
        if self.buffer is None:
            return torch.stack(self.values, 1)
        return self.buffer.transpose(0, 1) if self.how == "rows" else self.buffer[:, self.first :]

    def steps(self) -> list[Tensor]:
        """Y_1 .. Y_T."""
        if self.buffer is None:
            return self.values
        whole = self.whole()
        return [whole[:, t] for t in range(self.length)]


class Unit(nn.Module):
    """One layer's cell: `forward(x, parts) -> parts`, the first of which is what the layer gives on."""

    def __init__(self, recipe: Recipe, width: int) -> None:
        super().__init__()
        self.recipe, hidden = recipe, recipe.hidden
        if recipe.whole:
            kind = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[recipe.cell]
            self.over_sequence = kind(width, hidden, batch_first=True)
        elif recipe.cell == "gru":
            self.torch = nn.GRUCell(width, hidden)
        elif recipe.cell == "lstm":
            self.torch = nn.LSTMCell(width, hidden)
        elif recipe.cell == "rotating":
            self.u = nn.Linear(width, 2 * hidden)
            self.radius, self.angle = nn.Parameter(torch.randn(hidden)), nn.Parameter(torch.randn(hidden))
        elif recipe.cell == "lstm of one matrix":
            self.gates = nn.Linear(width + hidden, 4 * hidden)
        else:
            self.u = nn.Linear(width, hidden)
            self.w = nn.Parameter(torch.randn(hidden)) if recipe.cell == "diagonal" else nn.Linear(hidden, hidden)
        if recipe.cell == "minimal gated":
            self.gate = nn.Linear(width + hidden, hidden)
        if recipe.norm:
            self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, parts: list[Tensor]) -> list[Tensor]:
        """The new state from x (batch, width) and the old one."""
        recipe, h = self.recipe, parts[0]
        if recipe.whole:
            return self._one_step(x, parts)
        if recipe.cell == "gru":
            return [self.torch(x, h)]
        if recipe.cell == "lstm":
            return list(self.torch(x, (h, parts[1])))
        if recipe.cell == "lstm of one matrix":
            i, f, o, g = self.gates(torch.cat((x, h), -1)).chunk(4, -1)
            c = f.sigmoid() * parts[1] + i.sigmoid() * g.tanh()
            return [o.sigmoid() * c.tanh(), c]
        if recipe.cell == "minimal gated":
            return [self._gated(x, h)]
        if recipe.cell == "rotating":
            real, imaginary = self.u(x).chunk(2, -1)
            a, b = self.radius.sigmoid() * self.angle.cos(), self.radius.sigmoid() * self.angle.sin()
            return [a * h - b * parts[1] + real, b * h + a * parts[1] + imaginary]
        inner = self.u(x) + (self.w * h if recipe.cell == "diagonal" else self.w(h))
        if recipe.delay:
            inner = inner + 0.5 * parts[-1]
        new = self._activated(inner, h)
        return [self.norm(new) if recipe.norm else new, *(parts[:-1] if recipe.delay else ())]

    def _one_step(self, x: Tensor, parts: list[Tensor]) -> list[Tensor]:
        """A step of torch's module by torch's cell of the same weights."""
        kind = {"tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[self.recipe.cell]
        cell = kind(x.shape[-1], self.recipe.hidden, dtype=x.dtype)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, name, getattr(self.over_sequence, f"{name}_l0"))
        new = cell(x, tuple(parts) if len(parts) > 1 else parts[0])
        return list(new) if len(parts) > 1 else [new]

    def _activated(self, inner: Tensor, h: Tensor) -> Tensor:
        if self.recipe.cell == "linear":
            return inner
        if self.recipe.cell == "relu":
            return inner.relu()
        return 0.8 * h + 0.2 * inner.tanh() if self.recipe.cell == "leaky" else inner.tanh()

    def _gated(self, x: Tensor, h: Tensor) -> Tensor:
        both = torch.cat((x, h), -1)
        if self.recipe.single_gate:
            z = nn.functional.linear(both.float(), self.gate.weight.float(), self.gate.bias.float()).sigmoid()
        else:
            z = self.gate(both).sigmoid()
        return z * h + (1 - z) * (self.w(h) + self.u(x)).tanh()


class Written(nn.Module):
    """The module of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        hidden, layers = recipe.hidden, recipe.layers
        self.units = nn.ModuleList(Unit(recipe, hidden if layer else recipe.features) for layer in range(layers))
        for layer in range(2, layers if recipe.tied else 0):
            self.units[layer] = self.units[1]
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers - 1) if recipe.between == "norm")
        self.linears = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1) if recipe.between == "linear")
        if recipe.begin == "learned":
            self.first = nn.Parameter(0.3 * torch.randn(layers, PARTS.get(recipe.cell, 1), hidden))
        if recipe.head:
            self.readout = nn.Linear(hidden, 2)
        if recipe.around:
            self.skip = nn.Linear(recipe.features, 2 if recipe.head else hidden)
        if recipe.ids:
            self.table = nn.Embedding(VOCABULARY, recipe.features)
        if recipe.extra == "both":
            self.back = Unit(recipe, recipe.features)
        self.double()
        with torch.no_grad():
            for weight in self.units.parameters():
                weight.mul_(recipe.gain)
        kept = torch.rand(recipe.steps, generator=torch.Generator().manual_seed(recipe.seed)) > 0.2
        self.register_buffer("kept", kept.double())

    # --- as a user writes it

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        """What a user's module returns for x (batch, T, features), or (T, batch, features)."""
        if self.recipe.ids:
            x = self.table(x)
        if self.recipe.output == "time first":
            x = x.transpose(0, 1)
        ys = self.outputs(x)
        gathered = Collected(self.recipe.collect, len(ys))
        for y in ys:
            gathered.add(y)
        return self._given(gathered)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Y_1 .. Y_T of x (batch, T, features)."""
        if self.recipe.extra:
            hs = self._attending(x) if self.recipe.extra == "attends" else self._both(x)
        else:
            hs = self._by_layer(x) if self.recipe.by_layer else self._by_step(x)
        return [self._read(h, step) for h, step in zip(hs, self._walk(x), strict=True)]

    def _attending(self, x: Tensor) -> list[Tensor]:
        hs = [x.new_zeros(len(x), self.recipe.hidden)]
        for step in self._walk(x):
            past = torch.stack(hs, 1)
            weight = (past * hs[-1][:, None]).sum(-1, keepdim=True).softmax(1)
            hs += self.units[0](step, [(weight * past).sum(1)])
        return hs[1:]

    def _both(self, x: Tensor) -> list[Tensor]:
        walks = []
        for unit, steps in ((self.units[0], self._walk(x)), (self.back, self._walk(x)[::-1])):
            h, hs = x.new_zeros(len(x), self.recipe.hidden), []
            for step in steps:
                (h,) = unit(step, [h])
                hs.append(h)
            walks.append(hs)
        return [ahead + back for ahead, back in zip(walks[0], walks[1][::-1], strict=True)]

    def _by_step(self, x: Tensor) -> list[Tensor]:
        states, ys = self.begun(x), []
        for t, step in enumerate(self._walk(x), 1):
            flow = step
            for layer, unit in enumerate(self.units):
                old = self._before(t, states[layer], step)
                states[layer] = self._updated(t, layer, old, unit(flow, old), step)
                flow = self._between(layer, states[layer][0], flow)
            ys.append(flow)
        return ys

    def _by_layer(self, x: Tensor) -> list[Tensor]:
        steps, states = list(self._walk(x)), self.begun(x)
        flows = steps
        for layer, unit in enumerate(self.units):
            if self.recipe.whole:
                given = torch.stack(flows, 1)
                flows = list(self._between(layer, unit.over_sequence(given)[0], given).unbind(1))
                continue
            state, above = states[layer], Collected(self.recipe.collect, len(flows))
            for t, flow in enumerate(flows, 1):
                old = self._before(t, state, steps[t - 1])
                state = self._updated(t, layer, old, unit(flow, old), steps[t - 1])
                above.add(self._between(layer, state[0], flow))
            flows = above.steps()
        return flows

    def _walk(self, x: Tensor) -> list[Tensor]:
        if self.recipe.loop == "index":
            return [x[:, t] for t in range(x.shape[1])]
        return list(x.unbind(1)) if self.recipe.loop == "unbind" else list(x.transpose(0, 1))

    def begun(self, x: Tensor) -> list[list[Tensor]]:
        """The first state, a list of tensors for each layer."""
        recipe, one = self.recipe, x.new_zeros(len(x), self.recipe.hidden)
        count = range(recipe.parts)
        if recipe.begin == "learned":
            return [[part.expand(len(x), -1) for part in parts] for parts in self.first]
        if recipe.begin == "number":
            return [[torch.zeros(1, 1, dtype=x.dtype) for _ in count] for _ in self.units]
        shared = recipe.begin == "shared"
        return [[one if shared else torch.zeros_like(one) for _ in count] for _ in self.units]

    def _before(self, t: int, state: list[Tensor], x: Tensor) -> list[Tensor]:
        """What is done to a layer's state before step t, t = 1 .. T, reads it and x (batch, features)."""
        recipe = self.recipe
        if recipe.reset and t > 1 and (t - 1) % recipe.reset == 0:
            state = [x.new_zeros(len(x), recipe.hidden) for _ in state]
        if recipe.mask:
            state = [part * self.kept[t - 1] for part in state]
        if recipe.own_mask:
            state = [self._masked(part, x) for part in state]
        if recipe.detach and t > 1 and (t - 1) % recipe.detach == 0:
            state = [part.detach() for part in state]
        if recipe.begin == "number":
            state = [part.expand(len(x), recipe.hidden) for part in state]
        return state

    def _between(self, layer: int, h: Tensor, given: Tensor) -> Tensor:
        recipe = self.recipe
        if layer == recipe.layers - 1:
            return h
        if recipe.between == "norm":
            return self.norms[layer](h)
        if recipe.between == "linear":
            return self.linears[layer](h)
        return h + given if recipe.between == "residual" and layer else h

    def _masked(self, part: Tensor, x: Tensor) -> Tensor:
        keeps = self.keeps(x)
        if self.recipe.mask_by == "product":
            return part * keeps
        if self.recipe.mask_by == "fill":
            return part.masked_fill(keeps == 0, 0.0)
        part = part.clone()
        part[keeps[:, 0] == 0] = 0.0
        return part

    def _rests(self, t: int, layer: int) -> bool:
        return self.recipe.clockwork and t % 2**layer != 0

    def _taken(self, how: str, new: Tensor, x: Tensor) -> Tensor:
        """Where the new value is taken, (batch, hidden) or (batch, 1)."""
        return new.detach() > -0.4 if how == "elements" else x[:, :1] > -0.7

    def _updated(self, t: int, layer: int, old: list[Tensor], new: list[Tensor], x: Tensor) -> list[Tensor]:
        if self._rests(t, layer):
            return old
        return [self._written(a, b, x) for a, b in zip(old, new, strict=True)]

    def _written(self, old: Tensor, new: Tensor, x: Tensor) -> Tensor:
        """The state after a step, from the one before it and what the cell made of it, as the recipe's code has it."""
        how, taken = self.recipe.update, self._taken(self.recipe.update, new, x)
        if how == "value":
            return new
        if how == "where":
            return torch.where(taken, new, old)
        if how == "copy_":
            return torch.empty_like(new).copy_(new)
        state = torch.zeros_like(new) if how == "units" else old.clone()
        if how == "units":
            for unit in range(new.shape[1]):
                state[:, unit] = new[:, unit]
        elif how == "two parts":
            state[:, :1] = new[:, :1]
            state[:, 1:] = new[:, 1:]
        elif how == "row numbers":
            rows = taken[:, 0].nonzero()[:, 0]
            state[rows] = new[rows]
        else:
            taken = taken if how == "elements" else taken[:, 0]
            state[taken] = new[taken]
        return state

    def _known(self, old: Tensor, new: Tensor, x: Tensor) -> Tensor:
        """The same by its definition."""
        if self.recipe.update in ("value", "copy_", "units", "two parts"):
            return new
        return torch.where(self._taken(self.recipe.update, new, x), new, old)

    def keeps(self, x: Tensor) -> Tensor:
        """1 where a sequence goes on at this step, 0 where it begins anew, (batch, 1)."""
        return (x[:, :1] > -0.84).to(x)

    def _read(self, h: Tensor, x: Tensor) -> Tensor:
        y = self.readout(h) if self.recipe.head else h
        return y + self.skip(x) if self.recipe.around else y

    def _given(self, gathered: Collected) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        output, ys = self.recipe.output, gathered.values
        if output == "time first":
            return gathered.whole().transpose(0, 1)
        if output == "last":
            return ys[-1]
        if output in ("value", "scalar"):
            value = ys[-1].sum(-1)
            return value if output == "value" else value.sum()
        steps = gathered.whole()
        return (steps, ys[-1]) if output == "pair" else {"y": steps} if output == "named" else steps

    # --- as the definitions have it

    def first_state(self, x: Tensor) -> Tensor:
        """s_0, (batch, size)."""
        return torch.cat([part.expand(len(x), self.recipe.hidden) for parts in self.begun(x) for part in parts], -1)

    def step(self, t: int, s: Tensor, x: Tensor) -> Tensor:
        """s_t from s_{t-1} (batch, size) and x_t (batch, features)."""
        recipe = self.recipe
        parts, flow, new = s.split(recipe.hidden, -1), x, []
        for layer, unit in enumerate(self.units):
            own = list(parts[layer * recipe.parts : (layer + 1) * recipe.parts])
            old = self._before(t, own, x)
            state = [self._known(a, b, x) for a, b in zip(old, unit(flow, old), strict=True)]
            state = old if self._rests(t, layer) else state
            flow = self._between(layer, state[0], flow)
            new += state
        return torch.cat(new, -1)

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        """y_t from s_t and x_t: the state of the topmost layer, through the head where there is one."""
        recipe = self.recipe
        top = (recipe.layers - 1) * recipe.parts * recipe.hidden
        y = self._read(s[:, top : top + recipe.hidden], x)
        return y.sum(-1, keepdim=True) if recipe.output in ("value", "scalar") else y
