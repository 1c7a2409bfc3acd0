"""`gradscope schema`: the JSON Schema of a report."""

from __future__ import annotations

import json

from gradscope.cli.output import emit


def schema() -> int:
    """Print the JSON Schema of the report format."""
    from gradscope.saved import json_schema

    emit(json.dumps(json_schema(), indent=2) + "\n", text=False)
    return 0
