"""GS9xx: what `gradscope check` itself says of a target; judged in `gate`, where targets are run and compared."""

from __future__ import annotations

from gradscope.rules.rule import RuleDoc

UNMEASURED = RuleDoc(code="GS901")
LIMIT = RuleDoc(code="GS902")
WORSE = RuleDoc(code="GS903")
