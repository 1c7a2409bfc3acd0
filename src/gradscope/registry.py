"""Tables of name -> "module:attr": the one list of what gradscope offers, and how a name becomes an object."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gradscope.errors import UsageError
from gradscope.text import safe_text

FAMILIES: Mapping[str, str] = {
    "rnn": "gradscope.models.rnn:FAMILY",
    "gru": "gradscope.models.gru:FAMILY",
    "lstm": "gradscope.models.lstm:FAMILY",
    "lru": "gradscope.models.lru:FAMILY",
    "attention": "gradscope.models.attention:FAMILY",
    "transformer": "gradscope.models.transformer:FAMILY",
}

SUMMARY_METRICS: Mapping[str, str] = {
    "rate": "gradscope.metrics.rate:rate",
    "rate_ci": "gradscope.metrics.rate:interval",
    "gain": "gradscope.metrics.rate:gain",
    "half_life": "gradscope.metrics.rate:half_life",
    "reach": "gradscope.metrics.reach:measure",
    "coverage": "gradscope.metrics.coverage:measure",
    "temporal_range": "gradscope.metrics.temporal_range:measure",
    "gradient_share": "gradscope.metrics.gradient_share:measure",
    "zero_lags": "gradscope.metrics.zero_lags:measure",
    "directions": "gradscope.metrics.directions:measure",
    "lyapunov": "gradscope.metrics.lyapunov:measure",
    "lyapunov_ci": "gradscope.metrics.lyapunov:interval",
    "rank_lost_at": "gradscope.metrics.rank:measure",
    "finite_time_exponents": "gradscope.metrics.finite_time:measure",
    "log10_condition": "gradscope.metrics.condition:measure",
    "chain_rule_residual": "gradscope.metrics.chain_rule:measure",
    "log10_grad_weight": "gradscope.metrics.weight_gradient:measure",
    "precision_horizon": "gradscope.metrics.precision_horizon:measure",
    "saturation": "gradscope.metrics.saturation:measure",
    "cut": "gradscope.metrics.cut:measure",
    "mixed": "gradscope.metrics.mixed:measure",
    "carried_floats": "gradscope.metrics.carried:measure",
}

COMPARE_METRICS: Mapping[str, str] = {
    "path_length": "gradscope.metrics.path:length",
    "sequential_steps": "gradscope.metrics.path:sequential_steps",
    "growth": "gradscope.metrics.path:growth",
}

SERIES_METRICS: Mapping[str, str] = {
    "log10_influence": "gradscope.metrics.influence:measure",
    "log10_grad_state": "gradscope.metrics.gradients:of_state",
    "log10_grad_input": "gradscope.metrics.gradients:of_input",
    "log10_jacobian_norm": "gradscope.metrics.jacobian_norm:measure",
    "log10_product_norm": "gradscope.metrics.product_norm:largest",
    "log10_product_min": "gradscope.metrics.product_norm:smallest",
    "weight_share": "gradscope.metrics.weight_share:measure",
    "gate": "gradscope.metrics.gates:measure",
}

RULES: Mapping[str, str] = {
    "GS101": "gradscope.rules.gs101_vanishing_rate:RULE",
    "GS102": "gradscope.rules.gs102_exact_zero:RULE",
    "GS103": "gradscope.rules.gs103_one_direction:RULE",
    "GS104": "gradscope.rules.gs104_reach:RULE",
    "GS201": "gradscope.rules.gs201_exploding_rate:RULE",
    "GS202": "gradscope.rules.gs202_chaos:RULE",
    "GS301": "gradscope.rules.gs301_non_finite:RULE",
    "GS302": "gradscope.rules.gs302_low_precision:RULE",
    "GS303": "gradscope.rules.gs303_saturation:RULE",
    "GS401": "gradscope.rules.gs401_gradient_cut:RULE",
    "GS403": "gradscope.rules.gs403_mixed_sequences:RULE",
}

GATE_RULES: Mapping[str, str] = {
    "GS901": "gradscope.rules.gate:UNFINISHED",
    "GS902": "gradscope.rules.gate:LIMIT",
    "GS903": "gradscope.rules.gate:WORSE",
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


_DRAWN = (("altair", "vl_convert", "jinja2"), "report")

FORMATS: Mapping[str, Format] = {
    "text": Format("gradscope.renderers.terminal.screen:render", ".txt"),
    "json": Format("gradscope.renderers.json:render", ".json"),
    "csv": Format("gradscope.renderers.csv:render", ".csv"),
    "markdown": Format("gradscope.renderers.markdown.report:render", ".md"),
    "html": Format("gradscope.renderers.page.page:render", ".html", *_DRAWN),
    "svg": Format("gradscope.charts.sheet:svg", ".svg", *_DRAWN),
    "png": Format("gradscope.charts.sheet:png", ".png", *_DRAWN),
    "github": Format("gradscope.renderers.ci.github:render"),
    "junit": Format("gradscope.renderers.ci.junit:render", ".xml"),
    "sarif": Format("gradscope.renderers.ci.sarif:render", ".sarif"),
}
RENDERERS: Mapping[str, str] = {name: form.renderer for name, form in FORMATS.items()}
SUFFIXES: Mapping[str, str] = {form.suffix: name for name, form in FORMATS.items() if form.suffix}

CHARTS: Mapping[str, str] = {
    "profile": "gradscope.charts.profile:CHART",
    "words": "gradscope.charts.words:CHART",
    "gradients": "gradscope.charts.gradients:CHART",
    "heatmap": "gradscope.charts.heatmap:CHART",
    "spectrum": "gradscope.charts.spectrum:CHART",
    "exponents": "gradscope.charts.exponents:CHART",
    "jacobians": "gradscope.charts.jacobians:CHART",
    "gates": "gradscope.charts.gates:CHART",
    "attention": "gradscope.charts.attention:CHART",
    "weights": "gradscope.charts.weights:CHART",
    "precision": "gradscope.charts.precision:CHART",
    "costs": "gradscope.charts.costs:CHART",
}
"""Pictures in the order of a page."""

SCREENS: Mapping[str, str] = {"screen": "gradscope.renderers.terminal.svg:render"}
"""What can be asked for like a chart and is drawn as SVG without one: the terminal's own screen."""

LESSONS: Mapping[str, str] = {
    "text": "gradscope.renderers.lesson.screen:render",
    "html": "gradscope.renderers.page.lesson:render",
}
"""Forms of `gradscope lesson`."""

NOTEBOOK: Mapping[str, str] = {"report": "gradscope.renderers.notebook:mimebundle"}
"""What a notebook shows an object with; records find it here, for they sit below all renderers."""


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
