"""What crosses rooms: frozen, plain data that holds neither tensors nor arrays.

A `Report` is everything gradscope has to say. Renderers read it, rules judge its parts, and it survives a JSON
round trip unchanged. Magnitudes are base-10 logarithms (`log10_...`), rates are in nats per step, `None` is unknown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any, Literal

from gradscope.registry import SHOWN, load
from gradscope.trained import Probe

SCHEMA = "gradscope.report/1"
BUILT = "built"
"""`Loaded.source` of a family, whose weights are drawn here."""
AS_MADE = "weights as its code makes them; --weights FILE fills it"
"""Among what is assumed of a class or a factory, which is called anew for every seed."""

Number = float | None
Values = tuple[Number, ...]
Severity = Literal["error", "warning"]
VerdictStatus = Literal["pass", "warn", "fail", "skip", "inconclusive"]
Status = Literal["healthy", "vanishing", "exploding", "non-finite", "degenerate", "inconclusive"]
ModelKind = Literal["recurrent", "attention", "module", "chain"]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run. Two equal specs on one machine give equal reports (times aside)."""

    models: tuple[str, ...] = ("rnn",)
    sequence: str = "random"
    """`random`, `zeros`, `impulse` or `sine`; ignored when `input` or `text` is given."""
    length: int | None = None
    """Steps T. None: 200 for synthetic sequences, all of a text, the first 2,000 steps of a file of numbers."""
    batch: int | None = None
    """Sequences B. None: 8 for synthetic sequences, what the file holds otherwise."""
    input: str | None = None
    columns: tuple[str, ...] = ()
    scale: str | None = None
    """`none` or `standard`. None: standard for csv and wav, none otherwise."""
    text: str | None = None
    tokens: str = "word"
    loss: str = "final"
    """`final`, `every`, `ce`, `mse` or `path/to/file.py:function`."""
    target: str | None = None
    task: str | None = None
    """A task in place of sequence and loss: `recall`, `adding` ... or `path/to/file.py:task`, with its needed lag."""
    lags: str | None = None
    """`fixed` where every sequence needs the needed lag, `spread` where shorter ones occur too. None: the task's own
    kind, fixed without a task."""
    probe: bool = False
    """Whether copies of the model are trained on the task."""
    fix: bool = False
    """Whether remedies are applied to copies of the model and measured; with `probe`, trained too."""
    save: str | None = None
    """Folder that a remedy's weights, and the lines of PyTorch that do the same, are written to."""
    remedy: str | None = None
    """Which remedy is written. None: the best one that has weights."""
    train_steps: int = 800
    """Steps of a probe's trainings."""
    hidden: int = 64
    input_size: int | None = None
    """Features per step. None: 16 for synthetic sequences, the file's otherwise."""
    layers: int = 1
    needs_lag: int | None = None
    anchors: int = 1
    burn_in: int = 0
    """Steps left out of Lyapunov averages: what a trajectory does before it has settled."""
    item: int = 0
    seed: int = 0
    seeds: int = 1
    dtype: str = "float64"
    device: str = "cpu"
    state_size: int | None = None
    key: str | None = None
    """Which recurrence of a file of weights: the beginning of its keys, `encoder.lstm`. None: the only one."""
    cell: str | None = None
    """What one matrix over input and state is, `torch.cat((x, h))`: `linear-concat` or `tanh-concat`."""
    nonlinearity: str | None = None
    """`tanh` or `relu` of an Elman RNN in a file, which weights do not tell. None: tanh, said so."""
    layout: str | None = None
    """What a module takes: `batch-first`, (batch, T, features), or `time-first`. None: what its layers say."""
    embedding: str | None = None
    """Key of an embedding (tokens, features) in the file of weights, used for a text instead of a seeded one."""
    vocab: str | None = None
    """File with the token of each row of the embedding: a JSON object or list, or one token per line."""
    weights: str | None = None
    """File that fills the parameters of a module of the user's."""
    args: dict[str, str] = field(default_factory=dict)
    """Arguments of the user's class or factory, as written: `{"hidden": "64"}`."""
    trust: bool = False
    """Whether model files may run code while they load: whole pickles, TorchScript, .pt2."""
    import_path: tuple[str, ...] = ()
    """Folders in which a module, or the classes of a trusted pickle, are looked for."""
    state: str | None = None
    """File with the state s_0, (size,), of all sequences: .npy, .npz or .pt. None: zeros, or the cell's own."""
    pair: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()
    """Published rules of other tools to evaluate beside: `smdebug`, `autotrainer`."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Rule thresholds that differ from their defaults, by name: `{"vanishing_share": 0.01}`."""
    fail_on: str = "never"


@dataclass(frozen=True)
class Series:
    """Per-step quantities of one model.

    `step` is 0..T. `token` is one word per step 1..T, or None. `values` maps a name to numbers; the name says which
    steps: `log10_grad_state` s_0..s_T, `log10_grad_input` x_1..x_T, `log10_influence` lags 0.., `log10_jacobian_norm`
    J_1..J_T, `log10_product_norm` and `log10_product_min` P_0..P_T, `weight_share` 1..T, `gate.<name>.mean` 1..T.
    In JSON the three stand side by side in one object.
    """

    step: tuple[int, ...] = ()
    token: tuple[str, ...] | None = None
    values: dict[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Band:
    """Smallest and largest value over sequences and seeds, aligned with the series of the same name."""

    low: Values
    high: Values


@dataclass(frozen=True)
class SingularValues:
    """Singular values of the product of `lag` Jacobians up to the anchor, J_a ... J_{a-lag+1}, ln, largest first.

    `resolved[i][j]` is false where double precision cannot determine `ln_sigma[i][j]`.
    """

    lag: tuple[int, ...]
    ln_sigma: tuple[Values, ...]
    resolved: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class NonFinite:
    """Where NaN or Inf first appears in the forward pass or, where that is finite, in the gradient."""

    step: int
    layer: str
    where: str
    """The gate or value: `input`, `weights`, `gate.forget`, `state`; `gradient` for the newest step without one."""
    value: str
    """`nan`, `inf` or `-inf`."""
    cause: str = ""
    """What brought it, where that was traced: `constant` (a number in the code) or `arithmetic` (of finite ones)."""


@dataclass(frozen=True)
class ParameterGradient:
    """dL/dW of one parameter, the loss averaged over sequences."""

    name: str
    mean_abs: float
    norm: float


@dataclass(frozen=True)
class Growth:
    """A count at the lengths T and 2T, measured on unrolled copies."""

    length: tuple[int, ...]
    count: tuple[int, ...]
    order: str
    """`O(1)` or `O(n)`, or `unclear`."""


@dataclass(frozen=True)
class Summary:
    """One number (or short list) per quantity of one model; None where `skipped` says why."""

    rate: Number = None
    """Slope of ln I(k) over lags 1..K, nats per step back: mean over sequences and seeds."""
    rate_ci: tuple[float, float] | None = None
    """95 % t-interval of `rate` over the means of seeds, or the sequences of one; None where `skipped` says why."""
    gain: Number = None
    half_life: Number = None
    reach: int | None = None
    coverage: Number = None
    spread: dict[str, float] | None = None
    """Standard error of `reach` and of `coverage` over seeds, over the sequences of a single seed."""
    temporal_range: Number = None
    gradient_share: Number = None
    """log10 of the influence at the needed lag beside the sum over all lags up to it."""
    needed_lag: int | None = None
    zero_lags: tuple[int, ...] | None = None
    """Lags 1..K at which the influence is exactly zero (the first, and how many): (first, count), () for none."""
    overflow_lags: tuple[int, ...] | None = None
    """Lags at which the gradient is too large for the type it was carried in: (first, count), () for none."""
    directions: int | None = None
    lyapunov: Values | None = None
    """Lyapunov exponents by QR, nats per step, largest first."""
    lyapunov_ci: tuple[float, float] | None = None
    """Interval of the leading exponent from block averages along the trajectory."""
    rank_lost_at: int | None = None
    """First step whose Jacobian is singular: a direction of the state is lost there for good."""
    finite_time_exponents: Values | None = None
    log10_condition: Number = None
    chain_rule_residual: Number = None
    log10_grad_weight: Number = None
    """log10 of the norm of dL/dW, weights of the recurrence alone (the figure parameter monitors watch)."""
    precision_horizon: dict[str, Any] | None = None
    path_length: int | None = None
    sequential_steps: int | None = None
    carried_floats: int | None = None
    growth: dict[str, Growth] | None = None
    saturation: dict[str, float] | None = None
    """Share of (unit, step) pairs that are saturated, by activation or gate name."""
    non_finite: NonFinite | None = None
    cut: int | None = None
    """Step whose Jacobian is exactly zero although the state does depend on the one before (a detach)."""
    made_anew: tuple[int, ...] | None = None
    zeroed: tuple[int, ...] | None = None
    anew_by: int | None = None
    """Steps whose state is not made of the one before, those that multiply that by 0; by when all sequences had one."""
    input_cut: int | None = None
    """Newest step up to which no input receives a gradient although the outputs depend on them (a detach)."""
    silent: tuple[str, ...] | None = None
    """Parameters and input features that receive no gradient at all."""
    unheard: tuple[str, ...] | None = None
    """Learnable parameters, `the input` among them, that act on the loss and receive no gradient."""
    output_scale: Number = None
    """Root mean square of the outputs that the loss reads."""
    parameter_sensitivity: Number = None
    """log10 of how much larger the gradient of the weights is than the newest step's part in it."""
    parameters: tuple[ParameterGradient, ...] | None = None
    """Gradients by parameter; measured where a preset of another tool is asked for."""
    gate_bias: tuple[float, ...] | None = None
    """Mean bias of the gate that keeps the state, by layer."""
    pace: float | None = None
    """Steps of the recurrence to one of the input: fewer than one behind a convolution with a stride."""
    lags: str | None = None
    """`fixed` or `spread`: which kind of lags the verdict is about."""
    mixed: tuple[int, int] | None = None
    """(source, target), from 1: sequences of the batch that influence each other."""
    axes_guessed: bool | None = None
    """Whether the module would fit with batch and time in either order, so that time first is a guess."""


@dataclass(frozen=True)
class Layer:
    """One layer of a stack, judged by itself."""

    name: str
    series: Series
    summary: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class Attention:
    """Attention weights of one sequence: `weights[layer][head][query][key]`, rows sum to one."""

    token: tuple[str, ...] | None
    weights: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]


@dataclass(frozen=True)
class Path:
    """One way on which one token acts on another; log10 of the norm of that part of the Jacobian."""

    layer: str
    path: str
    """`all`, `cell` (through the cell state alone), `gates` (the rest), `head 0` (attention weight)."""
    log10_norm: Number


@dataclass(frozen=True)
class Pair:
    """How much the output at step `target` depends on the input at step `source`."""

    source: str
    source_step: int
    target: str
    target_step: int
    share: Number
    """Part of the summed influence of all tokens up to the target, 0..1."""
    rank: int
    """1 = the token that matters most."""
    of: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Verdict:
    """What one rule says about one model."""

    code: str
    title: str
    severity: Severity
    status: VerdictStatus
    message: str
    advice: str = ""
    first_step: int | None = None
    last_step: int | None = None
    measured: Number = None
    threshold: Number = None
    gives: Status | None = None
    """What this finding makes of the model's status, where no graver one is found; None for no part in it."""
    accepted: bool = False
    """A finding that the baseline of `gradscope check` holds too: shown, but nothing fails because of it."""
    location: Location | None = None
    """The line that it is about, where that is known better than the model's own."""


@dataclass(frozen=True)
class Outlook:
    """What became of trained combinations whose gradient arrives as much as this one's: about learning.

    It stands beside the status, which is about the gradient, and decides nothing.
    """

    lags: str
    """`fixed` or `spread`: the kind of lags that they were trained on."""
    learned: int
    of: int
    sentence: str


@dataclass(frozen=True)
class Fix:
    """A remedy applied to a copy of the model and measured again."""

    name: str
    change: str
    reach: int | None
    rate: Number
    status: Status
    gradient_share: Number = None
    learned: int | None = None
    """Runs of a probe that learned the task with it; None where none was made."""
    learned_at: int | None = None
    """The earliest training step."""
    runs: int | None = None


@dataclass(frozen=True)
class EqualityCheck:
    """Largest relative differences between the analysed chain and the model run by torch itself."""

    output: float
    grad: float
    against: str
    passed: bool
    inside: str | None = None
    """A coarser number type that took part in the module, by which the differences are judged: `float32`."""
    unheld: tuple[str, ...] = ()
    """Gradients of torch's own that are not finite (`dL/dx`, `dL/dW`), to which nothing could be compared."""
    rounding_from: int | None = None
    """Step from which the two differ as far as one rounding of the input moves the states; None where none does."""


@dataclass(frozen=True)
class Location:
    """A place in a file, for whoever has to change it; the path counts from the repository or the working folder."""

    file: str
    line: int | None = None


@dataclass(frozen=True)
class Loaded:
    """Where a model came from, and what had to be assumed about it."""

    source: str
    assumed: tuple[str, ...] = ()
    trained: bool | None = False
    """Whether the weights were learned: True from a file, False drawn here, None as given and nobody knows."""
    equality_check: EqualityCheck | None = None
    location: Location | None = None
    """Where the user's code defines the model, or where the target of `gradscope check` is written."""
    parts: dict[str, str] = field(default_factory=dict)
    """Recurrent layers of torch.nn inside a user's module, dotted name -> class: {"encoder.rnn": "LSTM"}."""

    @property
    def drawn(self) -> bool:
        """Whether every seed has weights of its own."""
        return self.source == BUILT or AS_MADE in self.assumed


@dataclass(frozen=True, repr=False)
class ModelResult:
    """Everything measured on, and said of, one model."""

    name: str
    kind: ModelKind
    status: Status
    size: int
    length: int
    loaded: Loaded
    summary: Summary
    series: Series
    bands: dict[str, Band] = field(default_factory=dict)
    singular_values: SingularValues | None = None
    layers: tuple[Layer, ...] = ()
    attention: Attention | None = None
    pairs: tuple[Pair, ...] = ()
    step_pairs: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Name of a series or summary value -> why it is absent."""
    verdicts: tuple[Verdict, ...] = ()
    fixes: tuple[Fix, ...] = ()
    probe: Probe | None = None
    heading: str = ""
    """`1x64 · T=200 · 8 sequences · seed 0 · float64 · cpu`: the settings in one line."""
    notes: tuple[str, ...] = ()
    """What was assumed or done to the data, one sentence each: `random input, not your data`."""
    outlook: Outlook | None = None
    """About learning, where `status` is about the gradient; None without a needed lag."""

    def __repr__(self) -> str:
        reach = "no reach" if self.summary.reach is None else f"reach {self.summary.reach}"
        return f"<ModelResult of {self.name}: {self.status}, {reach}, {self.length} steps>"


@dataclass(frozen=True)
class Timing:
    """Wall times in seconds; outside any promise of identity."""

    total: float = 0.0
    models: dict[str, float] = field(default_factory=dict)
    training_step: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per model: `length`, `seconds` (forward + backward at T, 2T, 4T), `exponent` and its `spread` (or None)."""


@dataclass(frozen=True)
class Limits:
    """What `gradscope check` holds one target to, beside the rules."""

    min_reach: int | None = None
    rate: tuple[float, float] | None = None
    """Smallest and largest rate, nats per step back."""
    precision_horizon: dict[str, int] = field(default_factory=dict)
    """Number type -> the lag up to which a gradient must survive in it: `{"float32": 50}`."""
    max_drop: float = 0.1
    """How much worse than the baseline a number may be, as a part of it."""
    timeout: float = 600.0
    """Seconds after which a target counts as hanging."""
    min_healthy: float | None = None
    """The part of the points of a sweep that must be healthy; None: all of them."""


@dataclass(frozen=True)
class Target:
    """One named thing that `gradscope check` measures and judges."""

    name: str
    spec: RunSpec
    limits: Limits = Limits()
    location: Location | None = None
    """Where it is written down; None for a model named on the command line."""
    over: tuple[str, ...] = ()
    """Axes, as `gradscope sweep` takes them: the target is measured at every point of them."""


@dataclass(frozen=True)
class Check:
    """What `gradscope check` was asked; the answers are the models of the report, in the order of the targets."""

    source: str
    """`[tool.gradscope] in pyproject.toml`, or `command line`."""
    targets: tuple[Target, ...]
    baseline: str | None = None
    notes: tuple[str, ...] = ()


class Shown:
    """What shows itself: `print` and a session give the screen, a notebook pictures too, and `save` writes a file."""

    def __str__(self) -> str:
        return str(load(SHOWN["text"])(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the screen in plain text and in HTML, and charts."""
        bundle: dict[str, str] = load(SHOWN["notebook"])(self)
        return bundle

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a file in the format that its suffix names, as `-o` does: `.json`, `.html`, `.png`, `.csv`, `.md`.

        Raises:
            UsageError: no such format, an extra that is not installed, or a file that cannot be written.
        """
        load(SHOWN["file"])(self, path)


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """The saved result between measuring and showing."""

    run: RunSpec
    environment: dict[str, str]
    models: tuple[ModelResult, ...]
    timing: Timing = Timing()
    schema: str = SCHEMA
    check: Check | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of this report (plain dicts, lists, numbers; non-finite floats still floats)."""
        return asdict(self)
