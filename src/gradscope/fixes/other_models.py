"""Remedies that put another step, or another family of as many parameters, in the model's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from gradscope.fixes.remedy import Remedy, RemedyInput, RemedyResult
from gradscope.models.cell import Cell
from gradscope.models.family import FamilyModel, Model, family_model
from gradscope.models.rnn import PHI, RNNCell
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.rules.advice import half_life_bias


class Leaky(nn.Module):
    """s' = (1 - a) s + a phi(W x + U s + b) (Jaeger et al. 2007)."""

    def __init__(self, weights: Mapping[str, Tensor], nonlinearity: str, leak: float) -> None:
        """Copy the weights of an Elman layer."""
        super().__init__()
        self.weights = nn.ParameterDict({key: nn.Parameter(value.clone()) for key, value in weights.items()})
        self.nonlinearity, self.leak = nonlinearity, leak

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """(batch, I), (batch, H) -> (batch, H)."""
        return s + self.leak * (PHI[self.nonlinearity](_driven(self.weights, x, s)) - s)


class Normed(nn.Module):
    """s' = phi(norm(W x + U s + b)), norm over the units (Ba et al. 2016)."""

    def __init__(self, weights: Mapping[str, Tensor], nonlinearity: str) -> None:
        """Copy the weights of an Elman layer; scale one, shift zero."""
        super().__init__()
        self.weights = nn.ParameterDict({key: nn.Parameter(value.clone()) for key, value in weights.items()})
        hidden = weights["weight_hh"].shape[0]
        self.norm = nn.LayerNorm(hidden).to(weights["weight_hh"])
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """(batch, I), (batch, H) -> (batch, H)."""
        return PHI[self.nonlinearity](self.norm(_driven(self.weights, x, s)))


def _driven(weights: nn.ParameterDict, x: Tensor, s: Tensor) -> Tensor:
    biases = [weights[name] for name in ("bias_ih", "bias_hh") if name in weights]
    driven: Tensor = x @ weights["weight_ih"].T + s @ weights["weight_hh"].T
    for bias in biases:
        driven = driven + bias
    return driven


def exchanged(model: Model, step: Callable[[dict[str, Tensor], str], nn.Module]) -> Recurrent | None:
    """A copy whose layers take `step(weights, nonlinearity)`; None where a layer is no Elman layer."""
    if not isinstance(model, Recurrent) or not all(isinstance(cell, RNNCell) for cell in model.cells):
        return None
    cells: list[Cell] = []
    for cell in model.cells:
        assert isinstance(cell, RNNCell)
        start = cell.initial_state(1)[0]
        cells.append(CustomCell(cell.name, step(cell.parameters, cell.nonlinearity), start, cell.input_size))
    return Recurrent(model.name, cells, start=model.start, cuts=model.cuts)


def leaky_state(remedy_input: RemedyInput) -> RemedyResult | None:
    """A leaky state (Jaeger et al. 2007): h' = (1 - a) h + a phi(...), with a for a half-life of the needed lag.

    (1 - a)^K = 1/2.
    """
    leak = 1 - 0.5 ** (1 / max(remedy_input.lag, 1))
    model = exchanged(remedy_input.model, lambda weights, phi: Leaky(weights, phi, leak))
    if model is None:
        return None
    assert isinstance(remedy_input.model, Recurrent)
    what = f"h + {leak:.4g} (phi(W x + U h + b) - h) (Jaeger et al. 2007)."
    code, weights = other_step(remedy_input.model, "Leaky", what, f"h + {leak!r} * ({{phi(sum)}} - h)")
    return RemedyResult(f"h + {leak:.2g} (φ - h)", model, code, weights)


LEAKY_STATE = Remedy("leaky state", "a straight path that keeps half of the state over the needed lag", leaky_state)


def layer_norm(remedy_input: RemedyInput) -> RemedyResult | None:
    """Layer normalisation inside the recurrence (Ba, Kiros & Hinton 2016).

    phi(norm(W x + U h + b)).
    """
    model = exchanged(remedy_input.model, Normed)
    if model is None:
        return None
    assert isinstance(remedy_input.model, Recurrent)
    what = "phi(norm(W x + U h + b)) (Ba, Kiros and Hinton 2016)."
    norm = "        self.norm = nn.LayerNorm(hidden)\n"
    code, weights = other_step(remedy_input.model, "Normed", what, "{phi(norm)}", norm)
    for place, cell in enumerate(remedy_input.model.cells):
        like = cell.parameters["weight_hh"]
        weights |= {
            f"{place}.norm.weight": like.new_ones(cell.output_size),
            f"{place}.norm.bias": like.new_zeros(cell.output_size),
        }
    return RemedyResult("φ(norm(·))", model, code, weights)


LAYER_NORM = Remedy("layer norm", "keeps units out of saturation, where slopes are small", layer_norm)


HEAD = "import torch\nfrom torch import nn\n\n\n"
GATED = """
with torch.no_grad():  # b_ih + b_hh of the gate that keeps the old state
    model.bias_ih_l0[{hidden}:{twice}], model.bias_hh_l0[{hidden}:{twice}] = {bias}, 0.0
"""
LRU = '''class LRU(nn.Module):
    """h_t = lambda h_(t-1) + gamma B x_t, y_t = Re(C h_t) + D x_t (Orvieto et al. 2023)."""

    def __init__(self, inputs, hidden, r_min, r_max):
        super().__init__()
        radius, phase = torch.rand(2, hidden)
        self.nu = nn.Parameter((-0.5 * (radius * (r_max**2 - r_min**2) + r_min**2).log()).log())
        self.theta = nn.Parameter((2 * torch.pi * phase).log())
        self.b = nn.Parameter(torch.randn(2 * hidden, inputs) / (2 * inputs) ** 0.5)
        self.c = nn.Parameter(torch.randn(hidden, 2 * hidden) / hidden**0.5)
        self.d = nn.Parameter(torch.randn(hidden, inputs) / inputs**0.5)

    def forward(self, x):
        decay, phase = self.nu.exp(), self.theta.exp()
        turn = torch.polar((-decay).exp(), phase)
        gamma = (-torch.expm1(-2 * decay)).sqrt()
        driven = torch.complex(*(x @ self.b.T).chunk(2, -1)) * gamma
        h, states = torch.zeros_like(driven[:, 0]), []
        for t in range(x.shape[1]):
            h = turn * h + driven[:, t]
            states.append(torch.cat((h.real, h.imag), -1))
        return torch.stack(states, 1) @ self.c.T + x @ self.d.T


'''
ATTENTION = '''class Attention(nn.Module):
    """One causal self-attention layer with sinusoidal positions (Vaswani et al. 2017)."""

    def __init__(self, inputs, hidden, heads):
        super().__init__()
        self.project = nn.Linear(inputs, hidden)
        self.attend = nn.MultiheadAttention(hidden, heads, batch_first=True)

    def forward(self, x):
        z, steps = self.project(x), torch.arange(x.shape[1], device=x.device)
        rates = torch.arange(0, z.shape[-1], 2, device=x.device, dtype=z.dtype) / z.shape[-1]
        angle = steps[:, None] / 10000**rates
        z = z + torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
        future = steps[:, None] < steps
        return self.attend(z, z, z, attn_mask=future, need_weights=False)[0]


'''
LOOP = '''class {name}(nn.Module):
    """{what}"""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.w, self.u = nn.Linear(inputs, hidden, bias={bias}), nn.Linear(hidden, hidden, bias={bias})
{more}
    def forward(self, x):
        h, states = x.new_zeros(len(x), self.u.out_features), []
        for x_t in x.unbind(1):
            h = {step}
            states.append(h)
        return torch.stack(states, 1)


'''
PHI_CODE = {"tanh": "torch.tanh({})", "relu": "torch.relu({})", "linear": "{}"}


def other_cell(model: Model) -> tuple[str, dict[str, Tensor]]:
    """Lines and weights of a family of one layer: lstm, gru, lru or attention."""
    family, weights = model.name.partition(":")[0], model.parameters()
    if isinstance(model, WholeModule):
        names = {"embedding.projection": "project", "attention": "attend"}
        own = {_renamed(name, names): value.detach() for name, value in weights.items()}
        hidden, heads = len(weights["attention.out_proj.bias"]), model.module.attention.heads  # type: ignore[union-attr]
        return f"{HEAD}{ATTENTION}model = Attention({model.input_size}, {hidden}, {heads})\n", own
    cell = model.cells[0]
    own, hidden = dict(cell.parameters), cell.output_size
    if family == "lru":
        radius = (-own["nu"].exp()).exp()
        ring = f"{float(radius.min()):.4f}, {float(radius.max()):.5f}"
        return f"{HEAD}{LRU}model = LRU({model.input_size}, {hidden}, {ring})\n", own
    bias = own["bias_ih"][hidden]
    built = f"model = nn.{family.upper()}({model.input_size}, {hidden}, batch_first=True)\n"
    gates = GATED.format(hidden=hidden, twice=2 * hidden, bias=f"{float(bias):.4g}").lstrip("\n")
    return f"{HEAD.rstrip()}\n\n{built}{gates}", {f"{name}_l0": value for name, value in own.items()}


def other_step(model: Recurrent, kind: str, what: str, step: str, more: str = "") -> tuple[str, dict[str, Tensor]]:
    """Lines and weights of a stack of Elman layers whose step is another.

    Args:
        model: what they were before.
        kind: the name of the class.
        what: the step as a formula.
        step: the new state in Python; `{phi(sum)}` and `{phi(norm)}` stand for the nonlinearity of what drives it.
        more: lines of `__init__` besides.
    """
    first = model.cells[0]
    bias, phi = "bias_ih" in first.parameters, PHI_CODE[str(getattr(first, "nonlinearity", "tanh"))]
    driven = "self.w(x_t) + self.u(h)"
    said = step.replace("{phi(sum)}", phi.format(driven)).replace("{phi(norm)}", phi.format(f"self.norm({driven})"))
    body = LOOP.format(name=kind, what=what, bias=bias, more=more, step=said)
    sizes = ", ".join(f"{kind}({cell.input_size}, {cell.output_size})" for cell in model.cells)
    names = {"weight_ih": "w.weight", "bias_ih": "w.bias", "weight_hh": "u.weight", "bias_hh": "u.bias"}
    weights = {
        f"{place}.{names[name]}": value
        for place, cell in enumerate(model.cells)
        for name, value in cell.parameters.items()
    }
    return f"{HEAD}{body}model = nn.Sequential({sizes})\n", weights


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for before, after in names.items():
        name = name.replace(f"{before}.", f"{after}.") if name.startswith(f"{before}.") else name
    return name


WIDEST = 4096


def swapped(
    family: str, options: Callable[[int], dict[str, str]], *, multiple: int = 1
) -> Callable[..., RemedyResult | None]:
    """What `apply` of a swap is.

    Args:
        family: the word of the family.
        options: lag -> its options as text.
        multiple: of which its hidden size must be one.
    """

    def apply(remedy_input: RemedyInput) -> RemedyResult | None:
        model = remedy_input.model
        if not isinstance(model, Recurrent) or model.name.partition(":")[0] == family:
            return None
        given, wanted = options(remedy_input.lag), parameters(model)
        first = next(iter(model.parameters().values()), None)
        if first is None or not wanted or not model.input_size:
            return None

        def settled(hidden: int) -> FamilyModel:
            chosen = {"hidden": str(hidden), **given}
            text = f"{family}:{','.join(f'{key}={value}' for key, value in chosen.items())}"
            return family_model(family, chosen, text, {})

        def build(hidden: int) -> Model:
            return settled(hidden).build(
                input_size=model.input_size, seed=remedy_input.seed, dtype=first.dtype, device=str(first.device)
            )

        low, high = 1, 2
        while parameters(build(high * multiple)) < wanted and high < WIDEST:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(build(middle * multiple)) <= wanted else (low, middle)
        word = settled(low * multiple).text
        found = build(low * multiple)
        code, weights = other_cell(found)
        return RemedyResult(word, found, f"# gradscope analyze {word}\n{code}", weights, another=True)

    return apply


def parameters(model: Model) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for value in model.parameters().values())


def held(name: str) -> Callable[[int], dict[str, str]]:
    """Options with a gate bias for a half-life of the lag."""
    return lambda lag: {name: f"{half_life_bias(lag):.2f}"}


LSTM_INSTEAD = Remedy("lstm instead", "gates decide what is kept", swapped("lstm", held("forget_bias")))


GRU_INSTEAD = Remedy("gru instead", "gates decide what is kept", swapped("gru", held("update_bias")))


def ring(lag: int) -> dict[str, str]:
    """|lambda| from a half-life of the lag to ten times that."""
    inner = min(0.5 ** (1 / max(lag, 1)), 0.9999)
    return {"r_min": f"{inner:.4f}", "r_max": f"{1 - (1 - inner) / 10:.5f}"}


LRU_INSTEAD = Remedy(
    "lru instead", "a linear recurrence whose eigenvalues lie where one wants them", swapped("lru", ring)
)


ATTENTION_INSTEAD = Remedy(
    "attention instead", "every step is read directly", swapped("attention", lambda lag: {}, multiple=4)
)
