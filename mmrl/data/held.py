"""Long sequences that take little memory: values, prompts, and the ids that tell them apart.

A few are held as they are. Of more, what is read lies in a file without a name, in the folder for temporary files
(TMPDIR), and each value is made anew when it is asked for; in memory there are eight bytes a value, and of an id its
letters and sixteen bytes.
"""

from __future__ import annotations

import errno
import marshal
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Generic, TypeVar, cast, overload

import numpy as np

from mmrl.config import ConfigError
from mmrl.types import Prompt

FEW = 20_000  # values that stay in memory as they are
_AT_ONCE = 1 << 20  # bytes of the file that are read in one go
_EXACT = frozenset({str, int, float, bool, type(None), bytes})  # what comes out of the file as it went in
_NAMES = frozenset({str})

T = TypeVar("T")


class Made(Sequence[T], Generic[T]):
    """A sequence whose values are made when they are asked for, by `_at` of a place from 0."""

    def _at(self, i: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        there = range(len(self))[place]
        return [self._at(i) for i in there] if isinstance(there, range) else self._at(there)


class Held(Made[T]):
    """Values in the order in which they were added. Each is a tuple of what JSON may hold, tuples and bytes; one that
    has anything else in it (a picture, a function) stays in memory.

    Raises ConfigError where the temporary files have no room.
    """

    def __init__(self) -> None:
        self._few: list[T] | None = []
        self._odd: dict[int, T] = {}
        self._file: BinaryIO | None = None
        self._ends = array("q", [0])
        self._unwritten: list[bytes] = []

    def add(self, value: T) -> None:
        if self._few is not None:
            self._few.append(value)
            if len(self._few) > FEW:
                few, self._few = self._few, None
                for one in few:
                    self._write(one)
            return
        self._write(value)

    @property
    def in_memory(self) -> bool:
        """Whether they are few, and stay what they are."""
        return self._few is not None

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._few is None else len(self._few)

    def _at(self, i: int) -> T:
        if self._few is not None:
            return self._few[i]
        if i in self._odd:
            return self._odd[i]
        return marshal.loads(self._read(self._ends[i], self._ends[i + 1]))

    def __iter__(self) -> Iterator[T]:
        if self._few is not None:
            yield from self._few
            return
        first, count = 0, len(self)
        while first < count:
            last = first + 1
            while last < count and self._ends[last + 1] - self._ends[first] <= _AT_ONCE:
                last += 1
            start = self._ends[first]
            raw = memoryview(self._read(start, self._ends[last]))
            for i in range(first, last):
                odd = i in self._odd
                yield self._odd[i] if odd else marshal.loads(raw[self._ends[i] - start : self._ends[i + 1] - start])
            first = last

    # ---------------------------------------------------------------- the file

    def _write(self, value: T) -> None:
        if _is_held(value):
            raw = marshal.dumps(cast(Any, value))
        else:
            raw, self._odd[len(self)] = b"", value
        self._unwritten.append(raw)
        self._ends.append(self._ends[-1] + len(raw))
        if len(self._unwritten) >= 1024:
            self._flush()

    def flush(self) -> None:
        """Write what waits, before several threads read. Raises ConfigError where there is no room."""
        if self._unwritten:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._unwritten)
        place = self._ends[-1] - len(data)  # said, so that a write that was cut short is done again in its place
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="mmrl-", buffering=0)  # noqa: SIM115
            while data:
                written = os.pwrite(self._file.fileno(), data, place)
                data, place = data[written:], place + written
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise ConfigError(f"data: no temporary file in {tempfile.gettempdir()}: {error.strerror}") from None
            raise ConfigError(
                f"data: {tempfile.gettempdir()} is full with {self._ends[-1] / 1e6:,.0f} MB of records; free some "
                "space, or set TMPDIR to a folder that has it"
            ) from None
        self._unwritten = []

    def _read(self, start: int, end: int) -> bytes:
        self.flush()
        if start == end:
            return b""
        assert self._file is not None
        found = os.pread(self._file.fileno(), end - start, start)
        while len(found) < end - start:
            more = os.pread(self._file.fileno(), end - start - len(found), start + len(found))
            if not more:
                raise OSError(errno.EIO, "a temporary file of records is shorter than it was written")
            found += more
        return found


def _is_held(value: Any) -> bool:
    try:
        return _is_exact(value)
    except RecursionError:
        return False


def _is_exact(value: Any) -> bool:
    """Whether the file gives it back as it is: subclasses and arrays it would not."""
    kind = type(value)
    if kind in _EXACT:
        return True
    if kind is dict:
        kinds = set(map(type, value.values()))
        return _NAMES.issuperset(map(type, value)) and (kinds <= _EXACT or all(map(_is_exact, value.values())))
    return kind in (list, tuple) and all(map(_is_exact, value))


class Names(Made[str]):
    """Ids in their order, and the place of each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text, self._ends, self._marks = bytearray(), array("q", [0]), array("q")
        self._order: tuple[np.ndarray, np.ndarray] | None = None
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self._text += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))
        self._marks.append(hash(name))
        self._order = None

    def __len__(self) -> int:
        return len(self._marks)

    def _at(self, i: int) -> str:
        return self._text[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogatepass")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._sought(name) is not None

    def place(self, name: str) -> int:
        """The first place of an id. Raises KeyError for one that is not there."""
        found = self._sought(name)
        if found is None:
            raise KeyError(name)
        return found

    @property
    def differ(self) -> bool:
        """Whether no two are the same."""
        marks, places = self._sorted
        again = np.flatnonzero(marks[1:] == marks[:-1])  # nearly always none: those may still be different
        return all(self._sought(self[i]) == i for near in again.tolist() for i in places[near : near + 2].tolist())

    @property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(marks, rising; their places, those of equal marks rising)."""
        if self._order is None:
            marks = np.array(self._marks, dtype=np.int64)
            places = np.argsort(marks, kind="stable")
            self._order = marks[places], places
        return self._order

    def _sought(self, name: str) -> int | None:
        marks, places = self._sorted
        mark = hash(name)
        at = int(np.searchsorted(marks, mark))
        while at < len(marks) and marks[at] == mark:
            if self[int(places[at])] == name:
                return int(places[at])
            at += 1
        return None


class Prompts(Made[Prompt]):
    """Prompts that are made when they are asked for.

    records: (where it stands, record) of each, the record with its `prompt`. names: their ids. root: see Prompt.
    places: which of the records, rising; None: all. later: looks at what reading left for later of all records from
    number `read` on, such as their pictures; raises ValueError. None: nothing was left.
    """

    def __init__(
        self,
        records: Sequence[tuple[str, Mapping[str, Any]]],
        names: Names,
        root: str | None,
        places: np.ndarray | None = None,
        *,
        read: int = 0,
        later: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._records, self._root, self._read, self._later = records, root, read, later
        self._places = np.arange(len(records)) if places is None else places
        self.names = names

    def __len__(self) -> int:
        return len(self._places)

    def _at(self, i: int) -> Prompt:
        return self._made(self.names[i], self._records[int(self._places[i])])

    def __iter__(self) -> Iterator[Prompt]:
        number, wanted = 0, len(self)
        for place, record in enumerate(self._records):
            if number < wanted and self._places[number] == place:
                yield self._made(self.names[number], record)
                number += 1

    def only(self, keep: np.ndarray) -> Prompts:
        """Those whose entry in `keep`, [n] bool, is True."""
        names = Names(self.names[i] for i in np.flatnonzero(keep).tolist())
        return Prompts(self._records, names, self._root, self._places[keep], read=self._read, later=self._later)

    def where(self, i: int) -> str:
        """Where the record of a prompt stands."""
        return self._records[int(self._places[i])][0]

    def look(self, i: int) -> None:
        """Look at what reading a prompt left for later. Raises ValueError."""
        place = int(self._places[i])
        if self._later is not None and place >= self._read:
            self._later(self._records[place][1])

    def _made(self, name: str, record: tuple[str, Mapping[str, Any]]) -> Prompt:
        return Prompt(name, record[1]["prompt"], record[1], self._root)


class ById(Mapping[str, Prompt]):
    """Prompts by their ids."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._prompts, self._names = prompts, names_of(prompts)

    def __getitem__(self, name: str) -> Prompt:
        return self._prompts[self._names.place(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def names_of(prompts: Sequence[Prompt]) -> Names:
    """Their ids."""
    return prompts.names if isinstance(prompts, Prompts) else Names(prompt.id for prompt in prompts)


def only(prompts: Sequence[Prompt], keep: np.ndarray) -> Sequence[Prompt]:
    """Those whose entry in `keep`, [n] bool, is True; all as they are where all are."""
    if keep.all():
        return prompts
    return prompts.only(keep) if isinstance(prompts, Prompts) else [p for p, kept in zip(prompts, keep) if kept]
