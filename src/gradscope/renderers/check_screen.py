"""What a gate says of each target, in the words that every format shares, and the screen of `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradscope.profile import Profile
from gradscope.records import ModelResult, Report, RunSpec, Target, Verdict
from gradscope.registry import GATE_RULES
from gradscope.renderers import numbers, report_wording
from gradscope.renderers.strips import influence_strip
from gradscope.renderers.styled_text import Column, Page, Span
from gradscope.text import counted
from gradscope.verdicts import STATUSES, fails, worst

Outcome = Literal["failed", "accepted", "warned", "passed"]
COUNTED: dict[Outcome, str] = {
    "failed": "failed",
    "accepted": "accepted by baseline",
    "warned": "with warnings",
    "passed": "passed",
}
SPECTRA = "T N^3"
"""In a note on what spectra would cost, which a gate does not show."""
SIGNS: dict[Outcome, str] = {"failed": "✗", "accepted": "!", "warned": "!", "passed": "✓"}


@dataclass(frozen=True)
class Row:
    """A target, its result, and what came of it."""

    target: Target
    model: ModelResult
    outcome: Outcome

    @property
    def sign(self) -> str:
        """`?` where nothing failed because too little could be known."""
        unsure = self.outcome == "passed" and self.model.status == "inconclusive"
        return "?" if unsure else SIGNS[self.outcome]

    @property
    def leading(self) -> Verdict | None:
        """The finding to name first: what made it fail, else what was accepted or warned of."""
        found = findings(self.model)
        if self.outcome == "failed":
            found = [verdict for verdict in found if fails([verdict], self.target.spec.fail_on)] or found
        return found[0] if found and self.outcome != "passed" else None

    @property
    def tips(self) -> list[str]:
        """What to try, first what belongs to the finding that made it fail."""
        lead = self.leading
        return tips(self.model, lead) if lead is not None and self.outcome == "failed" else []

    @property
    def said(self) -> str:
        """`GS101 vanishing`, `GS902 limit on min_reach`, `healthy`."""
        lead = self.leading
        if lead is None:
            return self.model.status
        return f"{lead.code} {self.model.status if lead is report_wording.deciding(self.model) else lead.title}"

    @property
    def reach(self) -> str:
        """`9/199, needs 50`."""
        reach = self.model.summary.reach
        if reach is None:
            return numbers.MISSING
        total = Profile.of(self.model).longest
        limits = (self.target.spec.needs_lag, self.target.limits.min_reach)
        needs = max((lag for lag in limits if lag is not None), default=None)
        return f"{reach}/{total}" + (f", needs {needs}" if needs is not None and reach < needs else "")


def rows(report: Report) -> list[Row]:
    """One per target, in their order."""
    if report.check is None:
        return []
    pairs = zip(report.check.targets, report.models, strict=False)
    return [Row(target, model, _outcome(target, model)) for target, model in pairs]


def findings(model: ModelResult) -> list[Verdict]:
    """Failures, then warnings; within them what decides the status first, and what is accepted last."""
    chosen = report_wording.deciding(model)
    every = ([chosen] if chosen else []) + report_wording.other_findings(model)
    found = [verdict for verdict in every if verdict.status in ("fail", "warn")]
    return sorted(found, key=lambda verdict: (verdict.accepted, verdict.status != "fail"))


def tips(model: ModelResult, lead: Verdict) -> list[str]:
    """What to try about a finding: its own advice where the gate found it, then that of the model's other findings.

    Advice on how to become more certain of something else cures nothing that was found.
    """
    unsure = {verdict.advice for verdict in model.verdicts if verdict.status == "inconclusive"}
    own = [lead.advice] if lead.code in GATE_RULES and lead.advice else []
    return list(dict.fromkeys([*own, *(tip for tip in report_wording.advice(model) if tip not in unsure)]))


def new_tips(row: Row, told: dict[str, str], most: int | None) -> list[str]:
    """The row's first tips, and instead of one that stands there already, of which target it does.

    Args:
        row: a target.
        told: the first target of each tip that has been told; added to.
        most: how many; None for all.
    """
    name = row.target.name
    return [f"as for {told[tip]}." if told.setdefault(tip, name) != name else tip for tip in row.tips[:most]]


def notes(report: Report, *, all_of_them: bool) -> list[str]:
    """What was assumed, after the names of the targets that it is about; costs of spectra only with all of them."""
    about: dict[str, list[str]] = {}
    for model in report.models:
        for note in (*model.notes, *model.loaded.assumed):
            if all_of_them or SPECTRA not in note:
                about.setdefault(note, []).append(model.name)
    own = report.check.notes if report.check else ()
    return [*dict.fromkeys(own), *(f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in about.items())]


def counts(every: Sequence[Row]) -> str:
    """`1 failed, 1 accepted by baseline, 2 passed (1 inconclusive, which fails nothing)`."""
    found = Counter(row.outcome for row in every)
    unsure = sum(row.sign == "?" for row in every)
    words = {**COUNTED, "passed": f"passed ({unsure} inconclusive, which fails nothing)"} if unsure else COUNTED
    return ", ".join(f"{found[outcome]} {word}" for outcome, word in words.items() if found[outcome]) or "no target"


def shared(report: Report) -> str:
    """`gradscope 0.1.0 · [tool.gradscope] in pyproject.toml · 3 targets · seed 0 · cpu`."""
    check = report.check
    if check is None:
        return ""
    specs = [target.spec for target in check.targets]
    count = len(specs)
    pieces = [
        f"gradscope {report.environment.get('gradscope', '')}".strip(),
        check.source,
        counted(count, "target"),
        *_one([_seeds(spec) for spec in specs]),
        *_one([spec.device for spec in specs]),
        *([f"baseline {check.baseline}"] if check.baseline else []),
    ]
    return " · ".join(pieces)


def place(model: ModelResult) -> str:
    """`models/enc.py:14`; empty where it is not known."""
    location = model.loaded.location
    if location is None:
        return ""
    return location.file if location.line is None else f"{location.file}:{location.line}"


def _seeds(spec: RunSpec) -> str:
    return f"seed {spec.seed}" if spec.seeds == 1 else f"seeds {spec.seed}-{spec.seed + spec.seeds - 1}"


def _one(values: list[str]) -> list[str]:
    """What all have in common, if they do."""
    return values[:1] if len(set(values)) == 1 else []


def _outcome(target: Target, model: ModelResult) -> Outcome:
    if fails(model.verdicts, target.spec.fail_on):
        return "failed"
    if any(verdict.accepted for verdict in model.verdicts):
        return "accepted"
    return "passed" if worst(model.verdicts) is None else "warned"


COLUMNS = (
    Column("", left=True),
    Column("target", left=True, flexible=True),
    Column("", left=True, flexible=True),
    Column("reach", left=True),
    Column("gain"),
    Column("newest step last", left=True, optional=True),
)
STRIP = 16


def screen(page: Page, report: Report) -> None:
    """Write the whole screen."""
    every = rows(report)
    if page.view.quiet:
        for row in every:
            page.line(Span(f" {row.sign} ", _style(row)), f"{row.target.name}  ", Span(row.said, "bold"))
        return
    page.wrap(shared(report), style="dim")
    page.blank()
    page.table(COLUMNS, [_cells(page, row) for row in every])
    page.blank()
    tips: dict[str, str] = {}
    for row in every:
        if row.outcome != "passed":
            _details(page, row, tips)
    _notes(page, report)
    _sum(page, report, every)


def _cells(page: Page, row: Row) -> list[str | Span]:
    strip = influence_strip(row.model, STRIP, page.view.ascii)
    return [
        Span(row.sign, _style(row)),
        row.target.name,
        Span("accepted by baseline" if row.outcome == "accepted" else row.said, "bold" if row.leading else ""),
        row.reach,
        numbers.gain(row.model.summary.rate),
        Span(strip.glyphs if strip else "", STATUSES[row.model.status].style),
    ]


def _details(page: Page, row: Row, tips: dict[str, str]) -> None:
    """Which model that is and where it is defined, what was found, and what to try."""
    model, word = row.model, row.target.spec.models[0]
    parts = [part for part in (word, place(model)) if part]
    page.line(Span(f" {row.sign} ", _style(row)), Span(row.target.name, "bold"), "  ", Span(" · ".join(parts), "dim"))
    chosen = report_wording.deciding(model)
    found = findings(model)
    red = [one for one in found if one.status == "fail" or fails([one], row.target.spec.fail_on)]
    told = found if page.view.verbose else red or found[:1]
    for verdict in told:
        said = " ".join(report_wording.sentences(model)) if verdict is chosen else verdict.message
        page.wrap(f"{said} Accepted by baseline." if verdict.accepted else said, f"   {verdict.code}  ")
    if row.outcome == "failed":
        # What the gate itself found has two answers: what it is about, and what made it so.
        most = 1 if row.leading is chosen else 2
        for tip in new_tips(row, tips, None if page.view.verbose else most):
            page.wrap(tip, "   try: ")
    page.blank()


def _notes(page: Page, report: Report) -> None:
    for note in notes(report, all_of_them=page.view.verbose > 0):
        page.wrap(note, " note: ", "dim")
    page.blank()


def _sum(page: Page, report: Report, every: list[Row]) -> None:
    codes = [row.leading.code for row in every if row.leading is not None]
    why = f"   why: gradscope explain {codes[0]}" if codes else ""
    page.wrap(f"{counts(every)} in {report.timing.total:.1f} s{why}", style="bold")


def _style(row: Row) -> str:
    failing = row.outcome == "failed" and row.model.status == "healthy"
    return f"bold {STATUSES['non-finite' if failing else row.model.status].style}"
