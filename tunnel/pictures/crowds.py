"""Where so much happens that it is counted, as it could not be told apart if it was drawn.

The picture is divided into bins of some pixels. A bin is crowded if more happens in it than can be
drawn there, and every bin is if that holds for the picture as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from tunnel.pictures.axis import PLOT, Axis

_BIN = 20.0  # pixels that a bin is wide, about: room for a mark and a number of three digits
_BINS = round(PLOT / _BIN)
_FULL = 0.6  # of all that can be drawn, or
_MANY = 0.2  # of all bins, make the whole picture crowded: it would be drawn in two ways by turns


@dataclass(frozen=True)
class Bin:
    """A part of the picture.

    Attributes:
        number: Which one, from the left, from 0.
        begin: Where its time begins, in seconds since the Unix epoch.
        end: Where it ends.
        x: Its left side, in pixels.
        width: How wide it is, in pixels.
    """

    number: int
    begin: float
    end: float
    x: float
    width: float

    @property
    def middle(self) -> float:
        """Its middle, in pixels."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Crowds:
    """The crowded bins of a picture."""

    axis: Axis
    numbers: frozenset[int]

    def bin(self, number: int) -> Bin:
        """The bin with this number."""
        axis = self.axis
        begin, end = (axis.begin + axis.extent * edge / _BINS for edge in (number, number + 1))
        return Bin(number, begin, end, axis.x(begin), PLOT / _BINS)

    def bin_at(self, time: float) -> Bin | None:
        """The crowded bin that this time is in; None: it is not crowded there, or not shown."""
        number = _number(self.axis, time)
        is_crowded = number in self.numbers and self.axis.shows(time)
        return self.bin(number) if is_crowded else None

    def bins_between(self, begin: float, end: float) -> Iterator[Bin]:
        """The crowded bins that a stretch of time has a part in."""
        for number in range(_number(self.axis, begin), _number(self.axis, end) + 1):
            if number in self.numbers:
                found = self.bin(number)
                if found.begin < end or begin == end:  # it does not only end there
                    yield found

    def gaps_between(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        """The parts of a stretch of time that lie in no crowded bin."""
        numbers = range(_number(self.axis, begin), _number(self.axis, end) + 1)
        for is_crowded, group in groupby(numbers, self.numbers.__contains__):
            if not is_crowded:
                run = list(group)
                first, last = self.bin(run[0]), self.bin(run[-1])
                yield max(begin, first.begin), min(end, last.end)


def crowds_of(axis: Axis, times: Iterable[float], most: int) -> Crowds:
    """Return the bins in which more happens than can be drawn.

    Args:
        axis: The axis.
        times: When something happens, in seconds since the Unix epoch.
        most: How much of it can be drawn in a bin.
    """
    found = Counter(_number(axis, time) for time in times if axis.shows(time))
    crowded = frozenset(number for number, count in found.items() if count > most)
    drawn = sum(min(count, most) for count in found.values())
    if drawn > _FULL * most * _BINS or len(crowded) > _MANY * _BINS:
        return Crowds(axis, frozenset(range(_BINS)))
    return Crowds(axis, crowded)


def _number(axis: Axis, time: float) -> int:
    share = (time - axis.begin) / axis.extent
    return min(max(int(share * _BINS), 0), _BINS - 1)
