"""The lesson: why attention replaced recurrences, measured on one sentence."""
