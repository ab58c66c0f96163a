"""A gateway's handler that writes down what it gets: ``tunnel gateway --handler recording:record``.

One line for each message, into the file that the environment variable RECORDING names. A line is
one write, so that a killed gateway leaves no half of it.
"""

from __future__ import annotations

import os

_file = os.open(os.environ["RECORDING"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(session: object, message: str | bytes) -> str | bytes:
    """Write the message down, and send it back."""
    text = message if isinstance(message, str) else message.decode()
    os.write(_file, f"{text}\n".encode())
    return message
