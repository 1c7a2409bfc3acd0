"""The page of a rule, `texts/CODE.md`: read strictly, and shown by `explain` with its limits filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, cast, get_args

from gradscope.errors import UsageError
from gradscope.records import Severity
from gradscope.registry import GATE_RULES, RULES, TRAINING_RULES, load, resolve, unknown

if TYPE_CHECKING:
    from gradscope.rules.rule import RuleDoc

PAGES: Traversable = files(__package__) / "texts"
"""The folder of the pages."""
MEANING, REMEDIES = "", "What to try"
SECTIONS = (
    (MEANING, "The maths", "How it is measured", REMEDIES),
    (MEANING, "How it is judged", "What decides", REMEDIES),
)
"""The sections of a page in order: of a rule that has limits, and of one of `gradscope check`."""
KEYS = ("code", "title", "severity", "papers")
"""The keys of a page, one `key: value` a line; papers are a list, one `- "citation"` a line, and may be none."""
USUAL = "These are the usual remedies, not measurements on your model: run the command and see."


@dataclass(frozen=True)
class RulePage:
    """What the page of a rule says."""

    code: str
    title: str
    severity: Severity
    """`error`: a finding fails; `warning`: a finding warns at most."""
    papers: tuple[str, ...]
    """Authors, year, title and place of each."""
    sections: Mapping[str, tuple[str, ...]]
    """Heading -> paragraphs, lists and formulas, each one string of Markdown; `MEANING` is what comes first."""


def read_page(file: Traversable) -> RulePage:
    """The page of one rule, whose file is named after its code.

    Raises:
        UsageError: a key or section is missing, unknown or out of place; the message names file and key.
    """
    parts = file.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise UsageError(f"{file.name}: a page begins with a line `---`, its keys, and another line `---`")
    keys, papers = _front_matter(file.name, parts[1].splitlines())
    if f"{keys['code']}.md" != file.name:
        raise UsageError(f"{file.name}: its code is {keys['code']}; a page is named after its code")
    if keys["severity"] not in get_args(Severity):
        raise UsageError(f"{file.name}: {unknown('severity', keys['severity'], get_args(Severity))}")
    sections = _sections(parts[2])
    if tuple(sections) not in SECTIONS or not all(sections.values()):
        orders = " or ".join(", ".join(order[1:]) for order in SECTIONS)
        given = ", ".join([*sections][1:])
        raise UsageError(f"{file.name}: sections {given}; expected text, then {orders}, and none of them empty")
    return RulePage(keys["code"], keys["title"], cast(Severity, keys["severity"]), papers, sections)


def _front_matter(name: str, lines: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The keys of a page and their values, and the papers."""
    keys: dict[str, str] = {}
    papers = []
    for line in lines:
        key, _, value = line.partition(":")
        if "papers" in keys and line.startswith('- "') and line.endswith('"'):
            papers.append(line[3:-1])
        elif key not in KEYS:
            raise UsageError(f"{name}: {unknown('key', key, KEYS)}")
        else:
            keys[key] = value.strip()
    for key in KEYS[:3]:
        if not keys.get(key):
            raise UsageError(f"{name}: {key} is missing; give `{key}: ...` between the lines `---`")
    return keys, tuple(papers)


def _sections(body: str) -> dict[str, tuple[str, ...]]:
    """Heading -> blocks; the lines of a wrapped paragraph or list entry are joined, those of a formula are not."""
    sections: dict[str, tuple[str, ...]] = {MEANING: ()}
    heading = MEANING
    for block in body.strip("\n").split("\n\n"):
        if block.startswith("#"):
            heading = block.removeprefix("## ")
            sections[heading] = ()
        else:
            sections[heading] += (block if block.startswith("    ") else re.sub(r"\n(?!- )\s*", " ", block),)
    return sections


def every_rule() -> dict[str, str]:
    """Every code, in order, and where its rule is."""
    return {**RULES, **TRAINING_RULES, **GATE_RULES}


def explain(code: str) -> str:
    """The lesson of one rule, as Markdown: its page, with its limits and papers.

    Raises:
        UsageError: no rule has this code; the message names the nearest one.
    """
    rule: RuleDoc = resolve(every_rule(), code.strip().upper(), "rule")
    has_limits = "What decides" not in rule.page.sections
    parts = [f"# {rule.code} {rule.title} ({_force(rule)})"]
    for heading, blocks in rule.page.sections.items():
        if heading == REMEDIES and has_limits:
            parts += ["## Threshold", _thresholds(rule)]
        parts += [f"## {heading}"] * bool(heading) + [*blocks]
    if has_limits:
        parts += [USUAL, "## Read more", _bullets(rule.page.papers)]
    return "\n\n".join(parts) + "\n"


def explain_all() -> list[tuple[str, Severity, str]]:
    """(code, severity, title) of every rule, in order."""
    rules: list[RuleDoc] = [load(reference) for reference in every_rule().values()]
    return [(rule.code, rule.severity, rule.title) for rule in rules]


def _force(rule: RuleDoc) -> str:
    """How hard a finding counts."""
    return "error with --needs-lag, warning without" if rule.needs_stated_lag else rule.severity


def _thresholds(rule: RuleDoc) -> str:
    """Names, defaults and meanings, and how to change them."""
    if not rule.thresholds:
        return f"None: any one is a finding. `--ignore {rule.code}` turns the rule off."
    lines = [f"`{name} = {limit.default:g}` ({limit.unit}): {limit.meaning}" for name, limit in rule.thresholds.items()]
    name, limit = next(iter(rule.thresholds.items()))
    return (
        f"{_bullets(lines)}\n\n"
        f"To change it for one run: `--threshold {name}={limit.default:g}`. For a project, in `gradscope.toml` "
        f"(in `pyproject.toml` the table is `[tool.gradscope.thresholds]`):\n\n"
        f"    [thresholds]\n    {name} = {limit.default:g}\n\n"
        f"`--ignore {rule.code}` turns the rule off."
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
