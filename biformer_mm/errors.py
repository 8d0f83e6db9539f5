"""Errors that are the user's to mend."""


class UsageError(Exception):
    """Wrong input to a tool. Its text, one line, says what rule is broken, by
    what value, and how to mend it; the tools print it without a traceback."""
