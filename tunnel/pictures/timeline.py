"""A run as a timeline: states, attempts, queue and round trips over the same axis of time."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.attempts import Attempt, add_attempts, attempts_of
from tunnel.pictures.axis import LEFT, PLOT, ROW, TOP, WIDTH, Axis, add_grid, name_row
from tunnel.pictures.crowds import Crowds, crowds_of
from tunnel.pictures.curves import HEIGHT, Curve, add_curve, curves_of
from tunnel.pictures.failures import Failure, add_failures, failures_of
from tunnel.pictures.legend import add_legend, legend_height
from tunnel.pictures.stays import Stay, add_row, stays_of
from tunnel.pictures.svg import FAINT, FILLS, add, canvas, to_text, write
from tunnel.pictures.title import add_title
from tunnel.pictures.words import changes, duration, moment, percent

_GAP = 26.0  # between panels
_CHANGES = 10  # of state that can be drawn in a bin: a loss and the way back are three
_ATTEMPTS = 4  # that can be drawn in a bin


@dataclass(frozen=True)
class _Part:
    """What is shown of a history, how long all of it is, in seconds, and whether it is cut."""

    axis: Axis
    whole: float
    is_cut: bool
    stays: list[Stay]
    attempts: list[Attempt]
    failures: list[Failure]
    curves: list[Curve]
    losses: int
    crowds: Crowds
    crowds_of_attempts: Crowds

    @property
    def states(self) -> list[str]:
        """Those that the tunnel was in."""
        return [s for s in LIFECYCLE.states if any(stay.state == s for stay in self.stays)]

    @property
    def notes(self) -> list[str]:
        """What is to be said below the legend."""
        notes = []
        if self.crowds_of_attempts.numbers:
            shares = "the height of a bar is the share of time" if self.crowds.numbers else ""
            counts = "numbers say how many"
            notes.append("where much happens, " + ", and ".join(filter(None, (shares, counts))))
        if not self.curves:
            notes.append("queue and round trips were not recorded: see tunnel.recording")
        return notes


def draw_timeline(
    history: History,
    *,
    now: float | None = None,
    begin: float | None = None,
    end: float | None = None,
) -> str:
    """Draw what a tunnel went through, from left to right.

    Where too much happens to be told apart it is counted; `begin` and `end` look closer.

    Args:
        history: What it went through. Queue and round trips are shown if they were measured.
        now: The present time in seconds since the Unix epoch, up to which the last state has
            lasted; None: the time of the last thing known.
        begin: What was before is left out; in seconds since the Unix epoch. None: nothing.
        end: What was after is left out, likewise.

    Returns:
        SVG, as a file's text.

    Raises:
        ValueError: `begin` is not before `end`, or nothing is known of the time between them.
    """
    if begin is not None and end is not None and not begin < end:
        raise ValueError(f"begin must be before end, not {begin} with an end of {end}")
    known = _known(history, now)
    if known is None:
        return _draw_nothing(history)
    part = _part(history, known, _cut(known, begin, end))
    below = TOP + ROW * (len(part.states) + 1) + (_GAP + HEIGHT) * len(part.curves)
    root = canvas(WIDTH, below + 56 + legend_height(part.notes))
    _add_head(root, history, part)
    add_grid(root, part.axis, below)
    _add_panels(root, part)
    add_failures(root, part.crowds, part.failures, below)
    has_unmade = not all(attempt.is_made for attempt in part.attempts)
    add_legend(root, below + 44, has_unmade=has_unmade, notes=part.notes)
    return to_text(root)


def _known(history: History, now: float | None) -> Axis | None:
    """The time of which something is known; None: there is none."""
    times = [*(history.period or ()), *(() if now is None else (now,))]
    return Axis(min(times), max(times)) if times else None


def _draw_nothing(history: History) -> str:
    """The state of a tunnel without any times."""
    root = canvas(WIDTH, TOP + ROW + 12)
    add_title(root, history, 26, size=15, width=WIDTH)
    said = changes(history) if history.is_cut else "nothing has happened yet"
    write(root, 16, 46, said, size=12, fill=FAINT)
    state = history.tracker.state.value
    name_row(root, state, TOP)
    fill, border = FILLS[state]
    add(root, "rect", x=LEFT, y=TOP + 3, width=PLOT, height=ROW - 6, rx=2, fill=fill, stroke=border)
    return to_text(root)


def _cut(known: Axis, begin: float | None, end: float | None) -> Axis:
    """The part that is to be shown.

    Raises:
        ValueError: Nothing is known of it.
    """
    left = known.begin if begin is None else max(begin, known.begin)
    right = known.end if end is None else min(end, known.end)
    if left > right:
        raise ValueError(
            f"nothing is known of that time: the history is from {moment(known.begin)} "
            f"to {moment(known.end)}"
        )
    return Axis(left, right)


def _part(history: History, known: Axis, axis: Axis) -> _Part:
    stays = stays_of(history, known.begin, known.end)
    attempts = attempts_of(history, stays)
    crowds = crowds_of(axis, (step.time for step in history.steps), _CHANGES)
    crowded = crowds_of(axis, (attempt.end for attempt in attempts), _ATTEMPTS)
    return _Part(
        axis,
        known.length,
        history.is_cut and axis.begin == known.begin,
        [stay for stay in stays if stay.begin <= axis.end and stay.end >= axis.begin],
        [a for a in attempts if a.begin <= axis.end and a.end >= axis.begin],
        [failure for failure in failures_of(history) if axis.shows(failure.time)],
        curves_of(history, axis),
        sum(
            step.source == "connected" and step.trigger == "lost" and axis.shows(step.time)
            for step in history.steps
        ),
        crowds,
        Crowds(axis, crowds.numbers | crowded.numbers),
    )


def _add_head(root: Element, history: History, part: _Part) -> None:
    add_title(root, history, 26, size=15, width=WIDTH)
    axis = part.axis
    up = sum(
        min(stay.end, axis.end) - max(stay.begin, axis.begin)
        for stay in part.stays
        if stay.state == "connected"
    )
    length = duration(axis.length)
    is_all = axis.length == part.whole
    facts = [f"at {moment(axis.begin)}, a single moment"]
    if axis.length:
        facts = [
            f"from {moment(axis.begin)}",
            f"{length} long" if is_all else f"{length} of {duration(part.whole)}",
            f"connected {percent(up / axis.length)} of it",
            "1 loss" if part.losses == 1 else f"{part.losses} losses",
        ]
    if part.is_cut:
        facts.append(changes(history))
    write(root, 16, 46, " · ".join(facts), size=12, fill=FAINT)


def _add_panels(root: Element, part: _Part) -> None:
    """The rows of the states and of the attempts, and the curves."""
    y = TOP
    for state in part.states:
        name_row(root, state, y)
        add_row(root, part.crowds, [stay for stay in part.stays if stay.state == state], y)
        y += ROW
    name_row(root, "attempts", y)
    add_attempts(root, part.crowds_of_attempts, part.attempts, y)
    y += ROW
    for curve in part.curves:
        y += _GAP
        add_curve(root, part.axis, curve, y)
        y += HEIGHT
