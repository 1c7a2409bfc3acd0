"""Tables of name -> "module:attr": the one list of what gradscope offers, and how a name becomes an object."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from gradscope.errors import UsageError
from gradscope.text import safe_text

FAMILIES: Mapping[str, str] = {
    "rnn": "gradscope.models.rnn:FAMILY",
    "gru": "gradscope.models.gru:FAMILY",
    "lstm": "gradscope.models.lstm:FAMILY",
    "lru": "gradscope.models.lru:FAMILY",
    "attention": "gradscope.models.attention:FAMILY",
    "transformer": "gradscope.models.attention:TRANSFORMER",
}

TASKS: Mapping[str, str] = {
    "recall": "gradscope.sequences.builtin_tasks:RECALL",
    "copy": "gradscope.sequences.builtin_tasks:COPY",
    "adding": "gradscope.sequences.builtin_tasks:ADDING",
    "xor": "gradscope.sequences.builtin_tasks:XOR",
    "parity": "gradscope.sequences.builtin_tasks:PARITY",
    "digits": "gradscope.sequences.builtin_tasks:DIGITS",
}

SUMMARY_METRICS: Mapping[str, str] = {
    "rate": "gradscope.metrics.influence:rate",
    "rate_ci": "gradscope.metrics.influence:rate_interval",
    "gain": "gradscope.metrics.influence:gain",
    "half_life": "gradscope.metrics.influence:half_life",
    "reach": "gradscope.metrics.influence:reach",
    "coverage": "gradscope.metrics.influence:coverage",
    "spread": "gradscope.metrics.influence:spread",
    "temporal_range": "gradscope.metrics.influence:temporal_range",
    "gradient_share": "gradscope.metrics.influence:gradient_share",
    "lags": "gradscope.metrics.influence:kind_of_lags",
    "zero_lags": "gradscope.metrics.influence:zero_lags",
    "overflow_lags": "gradscope.metrics.influence:overflow_lags",
    "directions": "gradscope.metrics.state_spectra:directions",
    "lyapunov": "gradscope.metrics.state_spectra:lyapunov_exponents",
    "lyapunov_ci": "gradscope.metrics.state_spectra:lyapunov_interval",
    "rank_lost_at": "gradscope.metrics.state_spectra:rank_lost_at",
    "finite_time_exponents": "gradscope.metrics.state_spectra:finite_time_exponents",
    "log10_condition": "gradscope.metrics.state_spectra:condition",
    "chain_rule_residual": "gradscope.metrics.state_spectra:chain_rule_residual",
    "log10_grad_weight": "gradscope.metrics.gradients:weight_gradient",
    "precision_horizon": "gradscope.metrics.precision_horizon:measure",
    "saturation": "gradscope.metrics.forward_pass:saturation",
    "cut": "gradscope.metrics.forward_pass:cut",
    "made_anew": "gradscope.metrics.forward_pass:made_anew",
    "zeroed": "gradscope.metrics.forward_pass:zeroed",
    "anew_by": "gradscope.metrics.forward_pass:anew_by",
    "input_cut": "gradscope.metrics.forward_pass:input_cut",
    "mixed": "gradscope.metrics.forward_pass:mixed",
    "axes_guessed": "gradscope.metrics.forward_pass:axes_guessed",
    "carried_floats": "gradscope.metrics.forward_pass:carried_floats",
    "silent": "gradscope.metrics.gradients:silent",
    "unheard": "gradscope.metrics.gradients:unheard",
    "output_scale": "gradscope.metrics.forward_pass:output_scale",
    "parameter_sensitivity": "gradscope.metrics.gradients:parameter_sensitivity",
    "parameters": "gradscope.metrics.gradients:parameter_gradients",
    "gate_bias": "gradscope.metrics.forward_pass:gate_bias",
    "pace": "gradscope.metrics.forward_pass:pace",
}

COMPARE_METRICS: Mapping[str, str] = {
    "path_length": "gradscope.metrics.operation_counts:path_length",
    "sequential_steps": "gradscope.metrics.operation_counts:sequential_steps",
    "growth": "gradscope.metrics.operation_counts:growth",
}

SERIES_METRICS: Mapping[str, str] = {
    "log10_influence": "gradscope.metrics.influence:influence",
    "log10_grad_state": "gradscope.metrics.gradients:state_gradients",
    "log10_grad_input": "gradscope.metrics.gradients:input_gradients",
    "log10_jacobian_norm": "gradscope.metrics.state_spectra:jacobian_norm",
    "log10_product_norm": "gradscope.metrics.state_spectra:product_norm",
    "log10_product_min": "gradscope.metrics.state_spectra:product_min",
    "weight_share": "gradscope.metrics.gradients:weight_share",
    "gate": "gradscope.metrics.forward_pass:gates",
}

RULES: Mapping[str, str] = {
    "GS101": "gradscope.rules.gs1_vanishing:VANISHING_RATE",
    "GS102": "gradscope.rules.gs1_vanishing:EXACT_ZERO",
    "GS103": "gradscope.rules.gs1_vanishing:ONE_DIRECTION",
    "GS104": "gradscope.rules.gs1_vanishing:SHORT_REACH",
    "GS105": "gradscope.rules.gs1_learning:NOT_LEARNED",
    "GS201": "gradscope.rules.gs2_exploding:EXPLODING_RATE",
    "GS202": "gradscope.rules.gs2_exploding:CHAOS",
    "GS203": "gradscope.rules.gs2_exploding:SENSITIVE_WEIGHTS",
    "GS204": "gradscope.rules.gs2_exploding:WRONG_SCALE",
    "GS301": "gradscope.rules.gs3_numbers:NON_FINITE",
    "GS302": "gradscope.rules.gs3_numbers:LOW_PRECISION",
    "GS303": "gradscope.rules.gs3_numbers:SATURATION",
    "GS304": "gradscope.rules.gs3_numbers:DEAD_UNITS",
    "GS305": "gradscope.rules.gs3_numbers:FIRST_LAYER_BIAS",
    "GS401": "gradscope.rules.gs4_wiring:GRADIENT_CUT",
    "GS402": "gradscope.rules.gs4_wiring:NO_GRADIENT",
    "GS403": "gradscope.rules.gs4_wiring:MIXED_SEQUENCES",
    "GS405": "gradscope.rules.gs4_wiring:ACTS_WITHOUT_GRADIENT",
}

TRAINING_RULES: Mapping[str, str] = {
    "GS501": "gradscope.rules.gs5_training:REACH_LOST",
    "GS502": "gradscope.rules.gs5_training:SHARE_COLLAPSE",
    "GS503": "gradscope.rules.gs5_training:CLIPPED_DIRECTION",
    "GS504": "gradscope.rules.gs5_training:FIRST_NON_FINITE",
    "GS505": "gradscope.rules.gs5_training:NOTHING_OLD_LEARNED",
}
"""Rules that judge a trajectory, not a report."""

GATE_RULES: Mapping[str, str] = {
    "GS901": "gradscope.rules.gs9_gate:UNMEASURED",
    "GS902": "gradscope.rules.gs9_gate:LIMIT",
    "GS903": "gradscope.rules.gs9_gate:WORSE",
}

SWEEP_RUNS: Mapping[str, str] = {
    "analyze": "gradscope.sweeps.run_point:analyzed",
    "probe": "gradscope.sweeps.run_point:probed",
}
"""What `gradscope sweep --run` can do at a point: run(spec) -> Outcome."""

FIXES: Mapping[str, str] = {
    "open gates": "gradscope.fixes.initial_weights:OPEN_GATES",
    "chrono": "gradscope.fixes.initial_weights:CHRONO",
    "uniform gates": "gradscope.fixes.initial_weights:UNIFORM_GATES",
    "unit exponent": "gradscope.fixes.solved_numbers:UNIT_EXPONENT",
    "critical": "gradscope.fixes.solved_numbers:CRITICAL",
    "flossing": "gradscope.fixes.flossing:REMEDY",
    "orthogonal": "gradscope.fixes.initial_weights:ORTHOGONAL",
    "identity": "gradscope.fixes.initial_weights:IDENTITY",
    "leaky state": "gradscope.fixes.other_models:LEAKY_STATE",
    "layer norm": "gradscope.fixes.other_models:LAYER_NORM",
    "truncated": "gradscope.fixes.solved_numbers:TRUNCATED",
    "clipped": "gradscope.fixes.solved_numbers:CLIPPED",
    "lstm instead": "gradscope.fixes.other_models:LSTM_INSTEAD",
    "gru instead": "gradscope.fixes.other_models:GRU_INSTEAD",
    "lru instead": "gradscope.fixes.other_models:LRU_INSTEAD",
    "attention instead": "gradscope.fixes.other_models:ATTENTION_INSTEAD",
}


class Format(NamedTuple):
    """A form that a report can take."""

    renderer: str
    """`module:attr` of render(report, view) -> str | bytes."""
    suffix: str | None = None
    """Files that end so are written in this format."""
    needs: tuple[str, ...] = ()
    """Modules of an extra that must be installed for it."""
    extra: str = ""


def lacking(form: Format) -> str:
    """Why a form cannot be made here, and the way out; empty where it can."""
    if missing := [module for module in form.needs if find_spec(module) is None]:
        what = f"needs {', '.join(missing)}, which is not installed"
        return f"{what}; add the extra: pip install 'gradscope-bptt[{form.extra}]'"
    if "altair" in form.needs and sys.flags.optimize > 1:
        return "needs altair, which needs its docstrings; run without PYTHONOPTIMIZE=2 (python -OO)"
    return ""


_DRAWN = (("altair", "vl_convert", "jinja2"), "report")

FORMATS: Mapping[str, Format] = {
    "text": Format("gradscope.renderers.screen:render", ".txt"),
    "json": Format("gradscope.renderers.report_data:json_text", ".json"),
    "csv": Format("gradscope.renderers.report_data:csv_text", ".csv"),
    "markdown": Format("gradscope.renderers.markdown:render", ".md"),
    "html": Format("gradscope.renderers.html_page:render", ".html", *_DRAWN),
    "svg": Format("gradscope.charts.draw:svg", ".svg", *_DRAWN),
    "png": Format("gradscope.charts.draw:png", ".png", *_DRAWN),
    "github": Format("gradscope.renderers.ci:github"),
    "junit": Format("gradscope.renderers.ci:junit", ".xml"),
    "sarif": Format("gradscope.renderers.ci:sarif", ".sarif"),
}
RENDERERS: Mapping[str, str] = {name: form.renderer for name, form in FORMATS.items()}
SUFFIXES: Mapping[str, str] = {form.suffix: name for name, form in FORMATS.items() if form.suffix}

SWEEP_FORMATS: Mapping[str, Format] = {
    "text": Format("gradscope.renderers.sweep_screen:render", ".txt"),
    "json": Format("gradscope.renderers.sweep_data:json_text", ".json"),
    "csv": Format("gradscope.renderers.sweep_data:csv_text", ".csv"),
    "markdown": Format("gradscope.renderers.sweep_data:render", ".md"),
    "parquet": Format("gradscope.renderers.sweep_data:parquet_bytes", ".parquet"),
}
"""Forms that a sweep can take: render(sweep, view) -> str | bytes."""

FLOW_FORMATS: Mapping[str, Format] = {
    "text": Format("gradscope.renderers.run_screen:render", ".txt"),
    "jsonl": Format("gradscope.renderers.run_wording:json_lines", ".jsonl"),
    "json": Format("gradscope.renderers.run_wording:json_text", ".json"),
    "csv": Format("gradscope.renderers.run_wording:csv_text", ".csv"),
    "markdown": Format("gradscope.renderers.run_screen:render_markdown", ".md"),
    "html": Format("gradscope.renderers.html_page:render_run", ".html", *_DRAWN),
    "svg": Format("gradscope.charts.draw:training_run_svg", ".svg", *_DRAWN),
    "png": Format("gradscope.charts.draw:training_run_png", ".png", *_DRAWN),
}
"""Forms that a trajectory can take."""

SINKS: Mapping[str, str] = {
    "jsonl": "gradscope.monitor.sinks:JsonlSink",
    "tensorboard": "gradscope.monitor.sinks:TensorBoardSink",
    "wandb": "gradscope.monitor.sinks:WandbSink",
    "trackio": "gradscope.monitor.sinks:TrackioSink",
}
"""Where a monitor writes, by the name that `Monitor(sinks=...)` takes."""

CHARTS: Mapping[str, str] = {
    "profile": "gradscope.charts.influence_charts:PROFILE",
    "words": "gradscope.charts.influence_charts:WORDS",
    "gradients": "gradscope.charts.gradient_charts:GRADIENTS",
    "heatmap": "gradscope.charts.pair_charts:HEATMAP",
    "spectrum": "gradscope.charts.dynamics_charts:SPECTRUM",
    "exponents": "gradscope.charts.dynamics_charts:EXPONENTS",
    "jacobians": "gradscope.charts.gradient_charts:JACOBIANS",
    "gates": "gradscope.charts.dynamics_charts:GATES",
    "attention": "gradscope.charts.pair_charts:ATTENTION",
    "weights": "gradscope.charts.gradient_charts:WEIGHTS",
    "precision": "gradscope.charts.cost_charts:PRECISION",
    "costs": "gradscope.charts.cost_charts:COSTS",
    "learning": "gradscope.charts.cost_charts:LEARNING",
}
"""Pictures in the order of a page."""

SCREENS: Mapping[str, str] = {"screen": "gradscope.renderers.svg_screen:render"}
"""What can be asked for like a chart and is drawn as SVG without one: the terminal's own screen."""

LESSONS: Mapping[str, str] = {
    "text": "gradscope.renderers.lesson:render",
    "html": "gradscope.renderers.html_page:render_lesson",
}
"""Forms of `gradscope lesson`."""

SHOWN: Mapping[str, str] = {
    "text": "gradscope.renderers.shown:text",
    "notebook": "gradscope.renderers.shown:mimebundle",
    "file": "gradscope.renderers.shown:save",
}
"""How a report and a training run show and save themselves; records find it here, for they sit below all renderers."""


def resolve(table: Mapping[str, str], name: str, what: str) -> Any:
    """The object that `name` stands for in `table`.

    Raises:
        UsageError: `name` is not in the table; the message lists the names and the nearest one.
    """
    if name not in table:
        raise UsageError(unknown(what, name, table))
    return load(table[name])


def load(reference: str) -> Any:
    """Import `module:attr`."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known: `unknown model 'lstn'; did you mean 'lstm'? (one of: ...)`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} '{safe_text(name)}'{hint} (one of: {', '.join(names)})"
