"""Reads the rows of a damaged queue file without SQLite, page by page. Pure.

SQLite gives up at the first page that makes no sense, and a wrong pointer in one page hides whole
healthy ones from it. Here a row proves itself, by its checksum (`tunnel.queue_rows`), wherever it
is found. So the structure is needed for one question only: which pages are in use? A free one holds
rows that were deleted long ago, and those must not rise again.

Both the trees and the list of free pages answer that. What the trees reach is in use. What neither
knows belonged to a tree until the damage hid it, if the list of free pages is whole; if it is not,
and the trees are, nothing is hidden. Only when both are damaged can a deleted row come back.

On a page that contradicts itself, every byte where no row was found may be where one begins. (Rows
that were deleted from it are not there any more: see ``secure_delete`` in `tunnel.queue_file`.)

The format: https://www.sqlite.org/fileformat2.html, sections 1.3, 1.5, 1.6 and 2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tunnel.queue_rows import TABLES, Row, is_fact, is_number, read_message

PAGE_SIZE = 4096
"""Of every file that this package makes."""

ROOTS = (2, 3, 4)
"""The root pages of the tables: they were made first, in this order, and a root never moves."""

_INTERIOR, _LEAF = 0x05, 0x0D
_MAX_LOCAL = PAGE_SIZE - 35
_MIN_LOCAL = (PAGE_SIZE - 12) * 32 // 255 - 23
_OVERFLOW_SIZE = PAGE_SIZE - 4
_HEADERS = {_INTERIOR: 12, _LEAF: 8}
_INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FIRST_LINE = b"SQLite format 3\0"
_CONSTANTS = struct.pack(">HBBBBBB", PAGE_SIZE, 2, 2, 0, 64, 32, 32)  # 2: write-ahead log


class Bytes(Protocol):
    """What can be sliced into bytes: bytes, or a file mapped into memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> bytes: ...


class Salvage(NamedTuple):
    """What could be read.

    Attributes:
        rows: The healthy rows of each table.
        damaged: How many records were not healthy, as far as they could be told apart.
    """

    rows: dict[str, list[Row]]
    damaged: int


class _Cell(NamedTuple):
    """A record in a leaf page, and the pages that its end flows over to."""

    key: int
    values: list[Any]
    end: int
    overflow: list[int]


class _NotACellError(ValueError):
    """There is no record at this place."""


def mended_header(header: bytes, size: int) -> bytes:
    """The first 100 bytes of a file, with what must be there in all files of ours.

    Args:
        header: As they are.
        size: Of the file, in bytes.
    """
    return (
        _FIRST_LINE
        + _CONSTANTS
        + header[24:28]
        + struct.pack(">I", size // PAGE_SIZE)
        + header[32:56]
        + struct.pack(">I", 1)  # UTF-8
        + header[60:]
    )


def salvage(file: Bytes, newer: Mapping[int, bytes]) -> Salvage:
    """Read what is healthy in a file.

    Args:
        file: The whole file.
        newer: Pages, by their numbers, that are newer than those in the file, or more.
    """
    reader = _Reader(file, newer)
    for page in sorted(reader.pages_to_read()):
        reader.read_listed(page)
    for page in sorted(reader.unsound):
        if page not in reader.overflow:
            reader.search(page)
    return Salvage(
        {name: list(rows.values()) for name, rows in reader.rows.items()}, reader.damaged
    )


class _Reader:
    """Reads one file, and collects what it finds."""

    def __init__(self, file: Bytes, newer: Mapping[int, bytes]) -> None:
        self._file = file
        self._newer = newer
        self._last_page = max(len(file) // PAGE_SIZE, *newer, 0)
        self.rows: dict[str, dict[int, Row]] = {name: {} for name in TABLES}
        self.damaged = 0
        self.overflow: set[int] = set()  # the pages that healthy rows flow over to
        self.unsound: set[int] = set()  # pages that contradict themselves
        self._healthy: dict[int, list[tuple[int, int]]] = {}  # by page: where healthy rows lie

    # Which pages to read

    def pages_to_read(self) -> set[int]:
        """The pages that may be leaves in use."""
        reached, is_tree_whole = self._reached()
        free, is_list_whole = self._free()
        everything = set(range(2, self._last_page + 1))
        if is_list_whole:
            return everything - free
        return reached if is_tree_whole else everything

    def _reached(self) -> tuple[set[int], bool]:
        """The pages of the trees, and whether the trees make sense."""
        reached: set[int] = set()
        is_whole = True
        left = list(ROOTS)
        while left:
            number = left.pop()
            if number in reached or not 2 <= number <= self._last_page:
                is_whole = False
                continue
            reached.add(number)
            page = self._page(number)
            if page[0] == _INTERIOR and _is_sound(page):
                left.append(_uint32(page, 8))
                left += [_uint32(page, pointer) for pointer in _pointers(page)]
            elif page[0] != _LEAF:
                is_whole = False
        return reached, is_whole

    def _free(self) -> tuple[set[int], bool]:
        """The pages in the list of free ones, and whether the list makes sense."""
        header = self._page(1)
        trunk, count = _uint32(header, 32), _uint32(header, 36)
        free: list[int] = []
        while trunk:
            if not 2 <= trunk <= self._last_page or trunk in free or len(free) > count:
                return set(), False
            page = self._page(trunk)
            leaves = _uint32(page, 4)
            if leaves > PAGE_SIZE // 4 - 2:
                return set(), False
            free += [trunk, *struct.unpack_from(f">{leaves}I", page, 8)]
            trunk = _uint32(page, 0)
        return set(free), len(free) == count == len(set(free))

    def _page(self, number: int) -> bytes:
        page = self._newer.get(number)
        if page is None:
            page = self._file[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return page.ljust(PAGE_SIZE, b"\0")

    # Reading

    def read_listed(self, number: int) -> None:
        """Take the healthy rows that a leaf says it has."""
        page = self._page(number)
        if page[0] == _INTERIOR and _is_sound(page):
            return
        if page[0] != _LEAF:
            self.unsound.add(number)  # or part of a long row
            return
        is_sound = _is_sound(page)
        for pointer in _pointers(page):
            if not self._take(number, page, pointer):
                self.damaged += 1
                is_sound = False
        if not is_sound:
            self.unsound.add(number)

    def search(self, number: int) -> None:
        """Take the healthy rows that are in a page, whatever it says."""
        page = self._page(number)
        offset = 0
        while offset < PAGE_SIZE:
            inside = [end for start, end in self._healthy.get(number, ()) if start <= offset < end]
            if inside:
                offset = inside[0]
            else:
                self._take(number, page, offset)
                offset += 1

    def _take(self, number: int, page: bytes, offset: int) -> bool:
        """Take the row that begins here, if there is one and it is healthy."""
        try:
            cell = self._cell(page, offset)
        except (_NotACellError, IndexError, struct.error):
            return False
        table = _table_of(cell)
        if table is None:
            return False
        self.rows[table][cell.key] = (cell.key, *cell.values[1:])
        self.overflow.update(cell.overflow)
        self._healthy.setdefault(number, []).append((offset, cell.end))
        return True

    def _cell(self, page: bytes, offset: int) -> _Cell:
        size, offset = _varint(page, offset)
        key, offset = _varint(page, offset)
        if not 4 <= size <= self._last_page * PAGE_SIZE:
            raise _NotACellError
        local = size
        if size > _MAX_LOCAL:
            local = _MIN_LOCAL + (size - _MIN_LOCAL) % _OVERFLOW_SIZE
            local = local if local <= _MAX_LOCAL else _MIN_LOCAL
        end = offset + local
        record = page[offset:end]
        if len(record) < local:
            raise _NotACellError
        columns, _ = _columns(record)
        if columns not in _COLUMNS:
            raise _NotACellError  # before anything long is put together
        overflow: list[int] = []
        if size > local:
            overflow, rest = self._overflow(_uint32(page, end), size - local)
            record, end = record + rest, end + 4
        return _Cell(key, _values(record), end, overflow)

    def _overflow(self, number: int, size: int) -> tuple[list[int], bytes]:
        pages: list[int] = []
        parts: list[bytes] = []
        while size > 0:
            if not 2 <= number <= self._last_page or len(pages) > self._last_page:
                raise _NotACellError
            page = self._page(number)
            pages.append(number)
            parts.append(page[4 : 4 + size])
            size -= _OVERFLOW_SIZE
            number = _uint32(page, 0)
        return pages, b"".join(parts)


_COLUMNS = {len(columns) for columns in TABLES.values()}


def _table_of(cell: _Cell) -> str | None:
    """Where a record belongs, by its checksum, which knows its table; None: it is not healthy."""
    row = (cell.key, *cell.values[1:])
    if len(row) == len(TABLES["messages"]):
        return "messages" if read_message(row) is not None else None
    if is_number(row):
        return "numbers"
    return "facts" if is_fact(row) else None


def _is_sound(page: bytes) -> bool:
    """Whether a page's parts fill it exactly: header, pointers, cells, free blocks, fragments."""
    header = _HEADERS[page[0]]
    count, start = _uint16(page, 3), _uint16(page, 5)
    try:
        if start < header + 2 * count:
            return False
        used = page[7] + sum(
            _cell_end(page, pointer) - pointer for pointer in _pointers(page) if pointer >= start
        )
        block = _uint16(page, 1)
        while block:
            following = _uint16(page, block)
            used += _uint16(page, block + 2)
            if following and following <= block:
                return False
            block = following
    except (IndexError, struct.error, _NotACellError):
        return False
    return start + used == PAGE_SIZE


def _cell_end(page: bytes, offset: int) -> int:
    """Where a cell ends that begins here; cells take four bytes at least."""
    if page[0] == _INTERIOR:
        return _varint(page, offset + 4)[1]
    size, start = _varint(page, offset)
    _, start = _varint(page, start)
    if size <= _MAX_LOCAL:
        return max(offset + 4, start + size)
    local = _MIN_LOCAL + (size - _MIN_LOCAL) % _OVERFLOW_SIZE
    return start + (local if local <= _MAX_LOCAL else _MIN_LOCAL) + 4


def _pointers(page: bytes) -> Sequence[int]:
    """Where the cells of a page begin, as far as that can be true."""
    header = _HEADERS[page[0]]
    count = min(_uint16(page, 3), (PAGE_SIZE - header) // 2)
    return struct.unpack_from(f">{count}H", page, header)


def _columns(record: bytes) -> tuple[int, list[int]]:
    """How many columns a record has, and the types of their values."""
    end, offset = _varint(record, 0)
    types = []
    if end > 100:
        raise _NotACellError
    while offset < end:
        kind, offset = _varint(record, offset)
        types.append(kind)
    return len(types), types


def _values(record: bytes) -> list[Any]:
    """The values of a record; a text's are its bytes, as SQLite is told to give them, too."""
    offset, _ = _varint(record, 0)
    return list(_decoded(record, offset, _columns(record)[1]))


def _decoded(record: bytes, offset: int, types: Sequence[int]) -> Iterator[Any]:
    for kind in types:
        if kind in _INTEGER_SIZES:
            size = _INTEGER_SIZES[kind]
            yield int.from_bytes(record[offset : offset + size], "big", signed=True)
        elif kind == 7:
            size = 8
            yield struct.unpack_from(">d", record, offset)[0]
        elif kind >= 12:
            size = (kind - 12) // 2
            yield record[offset : offset + size]
        else:
            size = 0
            yield {8: 0, 9: 1}.get(kind)
        offset += size


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for index in range(offset, offset + 8):
        byte = data[index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, index + 1
    return value << 8 | data[offset + 8], offset + 9


def _uint16(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from(">H", data, offset)[0]
    return value


def _uint32(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from(">I", data, offset)[0]
    return value
