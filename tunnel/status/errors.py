"""What can go wrong between a process and those who ask for its status."""

from __future__ import annotations


class StatusError(OSError):
    """A status cannot be served or asked for; the text is a sentence that says why."""


class StatusEndedError(StatusError):
    """The program that was asked has ended the connection, most likely because it has ended."""
