"""The options of `gradscope check`: those of every run, and how targets are run and judged."""

from __future__ import annotations

from typing import Annotated

from gradscope.cli.options import RunFlags, option

_GATE = "Gate"


class GateFlags(RunFlags, total=False):
    """How targets are run and judged."""

    jobs: Annotated[
        int | None,
        option(_GATE, "Targets at the same time. Default: the cores.", "--jobs", "-j"),
    ]
    timeout: Annotated[float | None, option(_GATE, "Seconds for one target. Default 600.", "--timeout")]
    min_reach: Annotated[int | None, option(_GATE, "Lags that every target must reach.", "--min-reach")]
    baseline: Annotated[str | None, option(_GATE, "File of what was measured before.", "--baseline")]
    max_drop: Annotated[str | None, option(_GATE, "How much worse than it. Default 10%.", "--max-drop")]
    update_baseline: Annotated[
        bool, option(_GATE, "Write the baseline anew; its findings are accepted.", "--update-baseline")
    ]
    exit_zero: Annotated[bool, option(_GATE, "Findings do not fail the run.", "--exit-zero")]
    junit_xml: Annotated[str | None, option(_GATE, "Also write JUnit XML.", "--junit-xml")]
    summary: Annotated[
        bool | None, option(_GATE, "Append to GITHUB_STEP_SUMMARY where that is set.", "--summary/--no-summary")
    ]
