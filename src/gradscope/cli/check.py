"""`gradscope check`: a gate for CI."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from gradscope.cli.gate_flags import GateFlags
from gradscope.cli.options import spread


@spread(GateFlags)
def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Targets of pyproject.toml, or models. Default: all targets.", metavar="TARGET..."),
    ] = None,
    **flags: Unpack[GateFlags],
) -> int:
    """Did this commit break gradient flow? Exit code 1 if so."""
    from gradscope.cli.gate import check_targets

    return check_targets(targets or [], flags)
