"""The two ways in which things go wrong that a user must hear about in words."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong; the message names it and says what to do."""


class TrialFailed(RuntimeError):
    """A trial that must not count: black image, NaN, a scorer that failed; the message is the reason."""
