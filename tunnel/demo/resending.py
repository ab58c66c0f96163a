"""What a lost session hands back, and whether the demo may send it again.

A message that was handed back may have arrived or not, and the tunnel cannot know which. An
application that knows more may decide. The demo knows what its gateway has taken before its end,
and that all of that has come back; so a message that was handed back, and has not come back, never
arrived. It is sent again on the new link before all else, and the order is kept.
"""

from __future__ import annotations

from tunnel.demo.recorder import Recorder
from tunnel.errors import SessionLostError
from tunnel.outbox import Message
from tunnel.service import TunnelService


class Resending:
    """Sends again what cannot have arrived. For the tunnel's thread, but for `vouch`.

    Args:
        recorder: Keeps the books.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._returned: list[Message] = []
        self._is_vouched_for = False  # a flag, set while there is no link and no server for one

    def vouch(self) -> None:
        """Whatever the last gateway took has come back. From any thread, before the next starts."""
        self._is_vouched_for = True

    def on_session_lost(self, error: SessionLostError) -> None:
        """A session could not be resumed."""
        self._returned += error.unacknowledged
        self._recorder.lose_session(len(error.unacknowledged))

    def on_connected(self, service: TunnelService, resumed: bool) -> None:
        """There is a link; what is sent here goes before all that is queued."""
        self._recorder.greet(resumed)
        returned, self._returned = self._returned, []
        is_vouched_for, self._is_vouched_for = self._is_vouched_for, False
        if not returned:
            return
        if not is_vouched_for:
            self._recorder.note("they may have arrived, so they are not sent again")
            return
        missing = self._recorder.send_again(returned)
        self._recorder.note(f"{len(missing)} cannot have arrived, and are sent again, first")
        for message in missing:
            service.send(message)
