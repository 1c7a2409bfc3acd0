"""The codes of `gradscope check` itself: GS901 and up say what a gate found, not what a model did."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.records import Severity


@dataclass(frozen=True)
class GateRule:
    """What one code of the gate means; it is judged where targets are run and compared, not by `judge`."""

    code: str
    title: str
    what: str
    how: str
    setting: str
    """What decides, and how to change it."""
    remedies: tuple[str, ...]
    severity: Severity = "error"


UNMEASURED = GateRule(
    code="GS901",
    title="not measured",
    what=(
        "Nothing is known about the gradient of a target of `gradscope check`, or of a model in a test, so it is red; "
        "the other targets are judged as usual. Either there is no result at all: its code failed or ended its "
        "process, it took longer than its time, or the system took its memory away. Or no rule about the gradient "
        "could be judged: the module reads the future at every step, its forward pass could not be followed, or a "
        "training run holds no point."
    ),
    how=(
        "Every target runs in a process of its own. The message says how that process ended: the error of the code, "
        "the signal that killed it (SIGKILL: often the system, out of memory), or the time after which it was stopped; "
        "of a process that finished, why the rate and the reach could not be measured."
    ),
    setting="`timeout` (seconds, default 600) in the target's table or for all of them, or `--timeout`.",
    remedies=(
        "Run the target alone, `gradscope analyze MODEL --debug`, and see the traceback.",
        "For want of memory or time: a shorter `length`, a smaller `batch`, fewer `--jobs`, a longer `timeout`.",
    ),
)
LIMIT = GateRule(
    code="GS902",
    title="limit missed",
    what=(
        "A number lies outside what the target's own table allows: the reach is shorter than `min_reach`, the rate "
        "outside `rate`, or the gradient does not survive to the lag that `precision_horizon` asks for; or, of a "
        "target that is a sweep (`over`), a smaller part of the points is healthy than `min_healthy` asks for. Where "
        "the number could not be measured, the limit counts as missed."
    ),
    how=(
        "The rate is compared with its 95 % interval: it misses a limit when the whole interval lies outside, and is "
        "inconclusive when the interval straddles it; with one sequence and one seed, the point decides."
    ),
    setting="`min_reach`, `rate = [smallest, largest]`, `precision_horizon = {float32 = 50}`, "
    "`min_healthy` in the target's table.",
    remedies=(
        "See what ends the reach: `gradscope analyze MODEL --needs-lag K`, with the target's model and lag.",
        "If the new number is right, move the limit; remove it to stop judging.",
    ),
)
WORSE = GateRule(
    code="GS903",
    title="worse than the baseline",
    what=(
        "A target does worse than the baseline file says it did: it was healthy and is not, or it fails in another "
        "way, or its reach or coverage shrank, or its rate moved away from zero, by more than `max_drop`."
    ),
    how=(
        "Reach and coverage may lose the part `max_drop`. The rate is worse when the two 95 % intervals do not "
        "overlap and its size grew by more than `max_drop` of itself, or of 1/K nats per step where that is more (K is "
        "the needed lag: the signal there changes by about that part). Only equal set-ups are compared: model word, "
        "sequence, loss, seed, number type and device must be those of the baseline. A finding that the baseline "
        "already held, and that did not get worse, is accepted: shown, and never failing. A limit that allows more "
        "than when the baseline was written is worse too; of one that asks for more, a miss is not accepted."
    ),
    setting="`max_drop` (default 10%) in the target's table or for all of them, or `--max-drop`.",
    remedies=(
        "Find the commit: the same command on the one before it shows what changed.",
        "If the change is meant, write the baseline again: `gradscope check --update-baseline`, and commit the file.",
    ),
)
