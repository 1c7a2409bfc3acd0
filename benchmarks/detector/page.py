"""The page of results: what was fitted on the calibration part, and how it does on what was held out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detector import fresh_page
from benchmarks.detector.goals import goals
from benchmarks.detector.published import ADDING, SMALL, small_shares
from benchmarks.detector.remedies_page import remedies
from benchmarks.detector.score import Curve, auc, fitted
from benchmarks.detector.statistics import RULES, Row, failed, share, share_after, word
from benchmarks.detector.tables import areas, chances_of, part
from benchmarks.detector.twins import labels
from gradscope.rules.gs1_learning import HARD_TASKS, NEAR, SHARE_ARRIVES

PILOT_FAIL, PILOT_FINE = -6.0, -1.5
"""Shares (log10) named by an earlier pilot."""
PAGE = Path(__file__).with_name("RESULTS.md")


def write(runs: Path) -> None:
    """Read the outcomes, fit, score, and write RESULTS.md beside them, and calibration.json for the rules."""
    rows, fresh, twins, fixed = (
        outcomes(runs.with_name(name)) for name in (runs.name, "fresh.jsonl", "twins.jsonl", "fixed.jsonl")
    )
    shipped = {"bands": bands(rows, fresh, twins), "curves": calibration(rows, ("calibration", "held out"))}
    runs.with_name("calibration.json").write_text(json.dumps(shipped, indent=2) + "\n", encoding="utf-8")
    runs.with_name(PAGE.name).write_text(page(rows, fixed, fresh, twins), encoding="utf-8")


def outcomes(path: Path) -> list[Row]:
    """Outcomes of a file, if it is there; a half-written last line is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def bands(rows: Sequence[Row], fresh: Sequence[Row] = (), twins: Sequence[Row] = ()) -> dict[str, dict[str, Any]]:
    """Fixed lags of both studies, by the words of the rules: how many failed, were blocked, of how many.

    `single` and `hard` are [learned, of] at lags up to `NEAR` and at longer ones: of recall and adding, which ask for
    what is remembered and nothing else, and of copy and xor.
    """
    everything = [*rows, *fresh]
    known = zip(everything, labels(everything, twins), strict=True)
    own = [(row, label) for row, label in known if row["kind"] == "fixed" and row["part"] != "control"]
    found = {}
    for name in ("fails", "open", "arrives"):
        named = [(row, label) for row, label in own if word(row) == name]
        like = [row for row, _ in named]
        found[name] = {
            "failed": sum(map(failed, like)),
            "blocked": sum(label is True for _, label in named),
            "of": len(named),
            "single": [_learned(like, hard=False, far=far) for far in (False, True)],
            "hard": [_learned(like, hard=True, far=far) for far in (False, True)],
        }
    return found


def _learned(rows: Sequence[Row], *, hard: bool, far: bool) -> list[int]:
    chosen = [row for row in rows if (row["task"] in HARD_TASKS) == hard and (row["lag"] > NEAR) == far]
    return [sum(not failed(row) for row in chosen), len(chosen)]


def calibration(rows: Sequence[Row], parts: Sequence[str] = ("calibration",)) -> dict[str, Any]:
    """The curve of each kind of lags from some parts, and what lies behind it."""
    found: dict[str, Any] = {}
    for kind in ("fixed", "spread"):
        own = [row for row in rows if row["part"] in parts and row["kind"] == kind]
        fails = [failed(row) for row in own]
        if len(set(fails)) < 2:
            continue
        curve, after = fitted([share(row) for row in own], fails), fitted([share_after(row) for row in own], fails)
        found[kind] = {
            "intercept": round(curve.intercept, 4),
            "slope": round(curve.slope, 4),
            "after": {"intercept": round(after.intercept, 4), "slope": round(after.slope, 4)},
            "combinations": len(own),
            "failed": sum(fails),
        }
    return found


def page(rows: Sequence[Row], fixed: Sequence[Row] = (), fresh: Sequence[Row] = (), twins: Sequence[Row] = ()) -> str:
    """All tables, as markdown.

    Args:
        rows: outcomes of the first study.
        fixed: what became of blocked models with a remedy.
        fresh: outcomes of the second study.
        twins: of the trainings that tell whether a failure shows anything.
    """
    curves = calibration(rows)
    seconds = sum(row["seconds"] for row in rows)
    parts = [
        "# The detector benchmark",
        f"Found by `python -m benchmarks.detector --resume` over {len(rows)} combinations of model, task and lag "
        f"({seconds / 3600:.1f} core-hours), hidden 32, Adam at rates 0.003 and 0.01, gradient norm clipped at 1, "
        "batches of 32, at most 800 steps, two seeds. A combination failed when no run of any seed learned. What is "
        "held out (families gru, lru and transformer, tasks copy and xor, lag 50) was named before anything was run; "
        "the curves are fitted to the rest. `python -m benchmarks.detector --score` makes this page from the outcomes "
        "again.",
        "## Curves\n\n" + _curves(curves),
    ]
    for kind in ("fixed", "spread"):
        if kind not in curves:
            continue
        curve = Curve(curves[kind]["intercept"], curves[kind]["slope"])
        after = Curve(curves[kind]["after"]["intercept"], curves[kind]["after"]["slope"])
        for place in ("calibration", "held out"):
            own = [row for row in rows if row["kind"] == kind and row["part"] == place]
            if own:
                parts.append(f"## {kind} lags, {place}: {len(own)} combinations, {sum(map(failed, own))} failed")
                parts.append(_verdicts(own, curve, after))
        held = [row for row in rows if row["kind"] == kind and row["part"] == "held out"]
        if held:
            parts += [f"### {kind} lags, held out: areas under the curve", areas(held, [failed(row) for row in held])]
            parts += [f"### {kind} lags, held out: other people's constants", _constants(held)]
    parts += ["## Fixed lags, each family left out in turn", _left_out(rows)]
    parts += ["## Fixed lags, limits known before", _pilot(rows)]
    if fresh:
        every = calibration(rows, ("calibration", "held out"))["fixed"]
        fitted_to_all = (Curve(one["intercept"], one["slope"]) for one in (every, every["after"]))
        curves_of_all = next(fitted_to_all), next(fitted_to_all)
        parts += fresh_page.sections(rows, fresh, twins, *curves_of_all)
        parts += ["## Goals, on the second study", goals(rows, fresh, twins, fixed, curves_of_all)]
    parts += ["## Spread lags, published", _published()]
    parts += (
        ["## Blocked models, with the remedies that measure best", remedies([*rows, *fresh], twins, fixed)]
        if fixed
        else []
    )
    parts += ["## The other seed as a predictor", _ceiling(rows), "## Controls", _controls(rows)]
    return "\n\n".join(parts) + "\n"


def _curves(curves: dict[str, Any]) -> str:
    lines = ["| lags | P(fail) at share S (log10) | after 100 steps | combinations | failed |", "|---|---|---|---|---|"]
    for kind, one in curves.items():
        texts = [f"1 / (1 + exp(-({c['intercept']:.2f} {c['slope']:+.2f} S)))" for c in (one, one["after"])]
        lines.append(f"| {kind} | {texts[0]} | {texts[1]} | {one['combinations']} | {one['failed']} |")
    return "\n".join(lines)


def _verdicts(rows: Sequence[Row], before: Curve, after: Curve) -> str:
    lines = [
        "| verdict from | says fail: right | says healthy: right | inconclusive | calibration error | AUC |",
        "|---|---|---|---|---|---|",
    ]
    for name, curve, value in (("initialisation", before, share), ("a 100-step probe", after, share_after)):
        lines.append(f"| {name} | {_scored(rows, curve, value)} |")
    return "\n".join(lines)


def _scored(rows: Sequence[Row], curve: Curve, value: Callable[[Row], float]) -> str:
    return chances_of([curve.at(value(row)) for row in rows], [failed(row) for row in rows])


def _constants(rows: Sequence[Row]) -> str:
    lines = ["| rule | says fail: right | of all failures found |", "|---|---|---|"]
    count = sum(map(failed, rows))
    for name, says in RULES.items():
        hits = [failed(row) for row in rows if says(row)]
        lines.append(f"| {name} | {part(hits)} | {sum(hits)} of {count} |")
    return "\n".join(lines)


def _left_out(rows: Sequence[Row]) -> str:
    """Every combination judged by a curve fitted to the other families alone."""
    own = [row for row in rows if row["kind"] == "fixed" and row["part"] != "control"]
    lines = ["| verdict from | says fail: right | says healthy: right | inconclusive | calibration error | AUC |"]
    lines.append("|---|---|---|---|---|---|")
    for name, value in (("initialisation", share), ("a 100-step probe", share_after)):
        chances = []
        for row in own:
            rest = [other for other in own if other["family"] != row["family"]]
            curve = fitted([value(other) for other in rest], [failed(other) for other in rest])
            chances.append(curve.at(value(row)))
        lines.append(f"| {name} | {chances_of(chances, [failed(row) for row in own])} |")
    return "Every combination judged by a curve that was fitted to the other families alone.\n\n" + ("\n".join(lines))


def _pilot(rows: Sequence[Row]) -> str:
    """The limits of the pilot of 2,608 trainings that came before."""
    own = [row for row in rows if row["kind"] == "fixed" and row["part"] != "control"]
    low = [failed(row) for row in own if share(row) < PILOT_FAIL]
    high = [not failed(row) for row in own if share(row) > PILOT_FINE]
    unsure = len(own) - len(low) - len(high)
    arrive = [row for row in own if share(row) + math.log10(row["lag"] + 1) > SHARE_ARRIVES]
    growing = [not failed(row) for row in arrive if word(row) != "arrives"]
    return (
        f"A pilot of 2,608 trainings had given S < {PILOT_FAIL:g} (fails) and S > {PILOT_FINE:g} (learns). On all "
        f"fixed combinations here: fails {part(low)}, learns {part(high)}, inconclusive {unsure} of {len(own)} "
        f"({unsure / max(len(own), 1):.0%}). Of those whose gradient at the needed lag is at least a tenth of a "
        "uniform one, as gradscope asks of what it calls healthy, those that grow more than tenfold over the lag, or "
        f"whose reach is short of it, learned in {part(growing)}, the others in "
        f"{part([not failed(row) for row in arrive if word(row) == 'arrives'])}."
    )


def _published() -> str:
    learned, small = small_shares()
    area = auc([-one.share for one in ADDING], [not one.learned for one in ADDING])
    return (
        f"torchrecurrent's published runs of adding with random places, T = 100, {len(ADDING)} cells of one seed: "
        f"{sum(one.learned for one in ADDING)} learned. The share at initialisation has an area of {area:.2f} for "
        f"failing, worse than chance; of the cells with a share under 10^{SMALL:.0f}, {learned} of {small} learned."
    )


def _ceiling(rows: Sequence[Row]) -> str:
    pairs = [[seed["learned_at"] is None for seed in row["seeds"]] for row in rows if row["part"] != "control"]
    said = [b for a, b in pairs if a] + [a for a, b in pairs if b]
    fine = [not b for a, b in pairs if not a] + [not a for a, b in pairs if not b]
    return (
        f"Where one seed failed the other did too: {part(said)}. Where one learned the other did too: "
        f"{part(fine)}. No statistic of a single seed can be expected to do better."
    )


def _controls(rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["part"] == "control"]
    lines = [
        f"Parity needs every step, and fails for other reasons than gradients: {sum(map(failed, own))} of {len(own)} "
        "combinations failed.",
        "",
        "| model | lag | share | learned |",
        "|---|---|---|---|",
    ]
    for row in sorted(own, key=lambda row: (row["model"], row["lag"])):
        learned = sum(seed["learned_at"] is not None for seed in row["seeds"])
        lines.append(
            f"| `{row['model']}` | {row['lag']} | 10^{share(row):.1f} | {learned} of {len(row['seeds'])} seeds |"
        )
    return "\n".join(lines)
