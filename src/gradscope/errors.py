"""The errors a user can cause. Anything else that escapes is a bug in gradscope."""


class GradscopeError(Exception):
    """Base of every expected failure; `exit_code` is what the process returns."""

    exit_code = 2


class UsageError(GradscopeError):
    """The request cannot be carried out: wrong words, unreadable input, or not enough memory.

    The message is one line that names the value received, what was expected, and the remedy.
    """
