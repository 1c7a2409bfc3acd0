"""What a sweep says in sentences: its best point, and where along an axis things turn."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from gradscope.config.axes import spec_at
from gradscope.config.command import command
from gradscope.errors import UsageError
from gradscope.records import Number
from gradscope.registry import unknown
from gradscope.renderers import numbers
from gradscope.renderers.view import View
from gradscope.swept import LOOKS, Axis, Cell, Sweep
from gradscope.text import counted

FIELDS = ("reach", "needed_lag", "rate")
"""Numbers of a summary that the order rests on."""


def ranked(sweep: Sweep, cells: Sequence[Cell]) -> list[Cell]:
    """Cells with a result, best first: most seeds healthy, then the longest reach, then the rate nearest to zero."""
    places = {name: sweep.fields.index(name) for name in FIELDS if name in sweep.fields}

    def order(cell: Cell) -> tuple[float, float, float]:
        reach = cell.values[places["reach"]] if "reach" in places else None
        rate = cell.values[places["rate"]] if "rate" in places else None
        healthy = cell.agreeing / cell.runs if cell.status == "healthy" else 0.0
        return -healthy, -(reach or 0.0), abs(rate) if rate is not None and math.isfinite(rate) else math.inf

    return sorted((cell for cell in cells if cell.values), key=order)


def reproduced(sweep: Sweep, cell: Cell) -> str:
    """The command that analyses a point, all seeds of it together."""
    names = [axis.name for axis in sweep.axes]
    spec = spec_at(sweep.spec, sweep.axes, sweep.at(cell.point))
    if "seed" not in names:
        spec = replace(spec, seed=sweep.seeds[0], seeds=max(len(sweep.seeds), spec.seeds))
    return command(spec, always=names)


COLUMNS = ("reach", "gain", "gradient_share", "lyapunov", "directions")
"""Numbers of the table, as far as the runs have them."""
NEEDED = ("reach", "needed_lag", "rate", *COLUMNS)
"""Numbers of the summaries that a screen is made of."""
SHORTEST, LONGEST = 8, 24
"""Rows of the table where not every point is shown, and points up to which all are."""


def heading(sweep: Sweep) -> str:
    """`lstm · 14 points · 2 seeds · hidden 16`: what was varied, and what was not."""
    models = tuple({axis.name: axis.values for axis in sweep.axes}.get("model", sweep.spec.models))
    parts = [" ".join(models), _count(sweep.points, "point")]
    if len(sweep.seeds) > 1:
        parts.append(f"seeds {sweep.seeds[0]}-{sweep.seeds[-1]}")
    # What varies is no setting of all, whatever the project's file says of it.
    varied = {axis.name for axis in sweep.axes if axis.kind == "setting"} | {
        "seeds",
        *(("seed",) if len(sweep.seeds) > 1 else ()),
    }
    line = command(replace(sweep.spec, models=models), without=varied)
    shared = line.removeprefix(shlex.join(["gradscope", "analyze", *models])).strip()
    parts += [shared] if shared else []
    parts += [f"{axis.name}={axis.values[0]}" for axis in sweep.axes if len(axis.values) == 1]
    return " · ".join(parts)


def verdict(cells: Sequence[Cell]) -> tuple[str, str]:
    """The sign and the sentence of a whole sweep: `9 of 14 points are healthy`."""
    count = Counter(cell.status for cell in cells)
    healthy = count["healthy"]
    rest = [f"{count[status]} {status}" for status in LOOKS if count[status] and status != "healthy"]
    said = f"{healthy} of {counted(len(cells), 'point')} {'is' if healthy == 1 else 'are'} healthy"
    sign = "✓" if healthy == len(cells) else "✗" if not healthy else "≈"
    return sign, said + (f"; {', '.join(rest)}" if rest else "")


def chosen_field(sweep: Sweep, view: View) -> int | None:
    """The place of the number that the cells show, None for their status.

    Raises:
        UsageError: no run has that number.
    """
    if not view.shade:
        return None
    if view.shade not in sweep.fields:
        raise UsageError(f"{unknown('number', view.shade, sweep.fields)} (--shade)")
    return sweep.fields.index(view.shade)


def rows(sweep: Sweep, cells: Sequence[Cell], view: View) -> tuple[list[Cell], str]:
    """The points of the table, and what was left out: all of them, or the best ones."""
    if view.steps == "all" or len(cells) <= LONGEST:
        return list(cells), ""
    shown = ranked(sweep, cells)[:SHORTEST]
    return (
        shown,
        f"the best {len(shown)} of {counted(len(cells), 'point')}; --steps all shows every one" if shown else "",
    )


def row(sweep: Sweep, cell: Cell, names: Sequence[str], view: View) -> list[str]:
    """The numbers of a point under `names`."""
    found = []
    for name in names:
        value: Number = cell.values[sweep.fields.index(name)] if cell.values else None
        found.append(numbers.share(value) if name == "gradient_share" else numbers.plain(value))
    return found


def columns(sweep: Sweep, view: View) -> list[str]:
    """Which numbers the table shows."""
    wanted = dict.fromkeys((*COLUMNS, *((view.shade,) if view.shade else ())))
    return [name for name in wanted if name in sweep.fields]


def best_point(sweep: Sweep, cells: Sequence[Cell]) -> tuple[str, str] | None:
    """The best point in words, and the command that analyses it; None where no run has a result."""
    order = ranked(sweep, cells)
    if not order:
        return None
    cell = order[0]
    where = ", ".join(f"{axis.name}={text}" for axis, text in zip(sweep.axes, sweep.at(cell.point), strict=True))
    said = [f"{cell.status}" + (f" for {cell.agreeing} of {cell.runs} seeds" if cell.runs > 1 else "")]
    said += [
        f"{name} {numbers.plain(cell.values[sweep.fields.index(name)])}"
        for name in ("reach", "gain")
        if name in sweep.fields
    ]
    return f"{where}: {', '.join(said)}", reproduced(sweep, cell)


def failures(sweep: Sweep) -> list[str]:
    """Why runs failed, most frequent first, with a point of each."""
    failed = [run for run in sweep.runs if run.state == "failed"]
    count = Counter(run.reason for run in failed)
    told = []
    for reason, times in count.most_common(5):
        run = next(run for run in failed if run.reason == reason)
        where = ", ".join(f"{axis.name}={text}" for axis, text in zip(sweep.axes, sweep.at(run.point), strict=True))
        more = f" (first of {times})" if times > 1 else ""
        told.append(f"{where}{more}: {reason}")
    return told


def unfinished(sweep: Sweep) -> str:
    """What is still to be done."""
    count = Counter(run.state for run in sweep.runs)
    left = count["waiting"] + count["running"]
    return f"{left} of {len(sweep.runs)} runs are still to be done; the same command goes on" if left else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


MOST = 6
"""Sentences about one question."""
Span = tuple[str, str | None, str | None]
"""`all`, `none`, `mixed`, or `span` with the first and last value of a stretch that does not begin or end the axis."""


@dataclass(frozen=True)
class _Slice:
    """The cells along one axis, the other axes at fixed values."""

    others: dict[str, str]
    span: Span
    lags: frozenset[int]
    """The needed lags in it."""
    farthest: float


def sentences(sweep: Sweep, cells: Sequence[Cell]) -> list[str]:
    """What must hold for the needed reach, and for a healthy gradient where that says something else."""
    finished = [cell for cell in cells if cell.values]
    if not finished or "reach" not in sweep.fields or "needed_lag" not in sweep.fields:
        return []
    reach, needed = sweep.fields.index("reach"), sweep.fields.index("needed_lag")

    def reaches(cell: Cell) -> bool:
        far, lag = cell.values[reach], cell.values[needed]
        return far is not None and lag is not None and far >= lag

    told = _told(sweep, finished, reaches, "reach")
    healthy = _told(sweep, finished, lambda cell: cell.status == "healthy", "a healthy gradient")
    known = {_rest(sentence) for sentence in told}
    return [*told, *(sentence for sentence in healthy if _rest(sentence) not in known)]


def _rest(sentence: str) -> str:
    """What a sentence says, without what it says it of."""
    for verb in (" needs ", " holds ", " turns at "):
        if verb in sentence:
            return verb + sentence.partition(verb)[2]
    return sentence


def _told(sweep: Sweep, cells: Sequence[Cell], holds: Callable[[Cell], bool], what: str) -> list[str]:
    """Along the axis that takes the fewest sentences, of those along which something turns."""
    found = []
    for axis in sweep.axes:
        if axis.numbers and len(axis.values) > 1:
            slices = _slices(sweep, cells, axis, holds)
            if any(one.span[0] == "span" for one in slices):
                found.append(_along(axis, slices, what))
    listed = [sentences for sentences, whole in found if whole]
    return min(listed, key=len) if listed else found[0][0] if found else []


def _along(axis: Axis, slices: Sequence[_Slice], what: str) -> tuple[list[str], bool]:
    """The sentences for one axis, and whether they say all: by as few of the other axes as it depends on."""
    names = list(slices[0].others)
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            groups = _groups(slices, chosen)
            settled = all(len({one.span for one in group}) == 1 for group in groups.values())
            if settled and len(groups) <= MOST:
                return [_sentence(axis, group, chosen, key, what) for key, group in groups.items()], True
    return [_summed_up(axis, slices, names, what)], False


def _slices(sweep: Sweep, cells: Sequence[Cell], axis: Axis, holds: Callable[[Cell], bool]) -> list[_Slice]:
    place = sweep.axes.index(axis)
    reach, needed = sweep.fields.index("reach"), sweep.fields.index("needed_lag")
    order = sorted(axis.values, key=float)
    found: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell in cells:
        texts = sweep.at(cell.point)
        found.setdefault((*texts[:place], *texts[place + 1 :]), {})[texts[place]] = cell
    names = [other.name for other in sweep.axes if other is not axis]
    return [
        _Slice(
            dict(zip(names, key, strict=True)),
            _span([value for value in order if value in row], [holds(row[value]) for value in order if value in row]),
            frozenset(int(lag) for cell in row.values() if (lag := cell.values[needed]) is not None),
            max((far for cell in row.values() if (far := cell.values[reach]) is not None), default=0.0),
        )
        for key, row in found.items()
    ]


def _span(values: list[str], held: list[bool]) -> Span:
    if all(held) or not any(held):
        return ("all" if all(held) else "none", None, None)
    first, last = held.index(True), len(held) - 1 - held[::-1].index(True)
    if not all(held[first : last + 1]):
        return ("mixed", None, None)
    return ("span", values[first] if first else None, values[last] if last < len(values) - 1 else None)


def _groups(slices: Sequence[_Slice], names: Sequence[str]) -> dict[tuple[str, ...], list[_Slice]]:
    found: dict[tuple[str, ...], list[_Slice]] = {}
    for one in slices:
        found.setdefault(tuple(one.others[name] for name in names), []).append(one)
    return found


def _sentence(axis: Axis, group: Sequence[_Slice], names: Sequence[str], key: Sequence[str], what: str) -> str:
    word, *_ = span = group[0].span
    goal = _goal(group, what)
    at = ", ".join(f"{name}={value}" for name, value in zip(names, key, strict=True))
    where = f" at {at}" if at else ""
    if word == "span":
        return f"{goal} needs {_condition(axis, span)}{where}"
    if word == "all":
        return f"{goal} holds for every {axis.name}{where}"
    if word == "mixed":
        return f"{goal} comes and goes along {axis.name}{where}"
    far = f"; the farthest is {max(one.farthest for one in group):.4g}" if what == "reach" else ""
    return f"no {axis.name} up to {max(axis.values, key=float)} gives {goal}{where}{far}"


def _goal(slices: Sequence[_Slice], what: str) -> str:
    lags = sorted(frozenset[int]().union(*(one.lags for one in slices)))
    return (f"reach {lags[0]}" if len(lags) == 1 else "the full reach") if what == "reach" else what


def _condition(axis: Axis, span: Span) -> str:
    _, low, high = span
    if low is not None and high is not None:
        return f"{axis.name} = {low}" if low == high else f"{axis.name} from {low} to {high}"
    return f"{axis.name} >= {low}" if low is not None else f"{axis.name} <= {high}"


def _summed_up(axis: Axis, slices: Sequence[_Slice], names: Sequence[str], what: str) -> str:
    """One sentence for what depends on too much to be listed."""
    goal = _goal(slices, what)
    ends = [float(value) for one in slices for value in _ends(one.span)]
    without = sum(one.span[0] == "none" for one in slices)
    mixed = sum(one.span[0] == "mixed" for one in slices)
    rest = f"; no value of it is enough in {without} of {len(slices)} cases" if without else ""
    rest += f"; it comes and goes in {mixed} of {len(slices)}" + ("" if without else " cases") if mixed else ""
    where = f"{min(ends):g}" if min(ends) == max(ends) else f"{min(ends):g} to {max(ends):g}"
    return f"{goal} turns at {axis.name} {where}, depending on {' and '.join(names)}{rest}"


def _ends(span: Span) -> Iterator[str]:
    yield from (value for value in span[1:] if value is not None)
