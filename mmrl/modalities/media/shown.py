"""A medium as it stands in a row: one view of a picture or of a sound, planned before it is opened."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.media import Perceived
from mmrl.modalities.kept import Kept, Sized
from mmrl.modalities.media.features import Tower

# Bytes of what is known about media apart from their numbers: some hundred thousand of them.
FACTS = 256 << 20


class Processed(Sized, Protocol):
    """What a medium came to. inputs: what the tower takes. image: what an engine's own processor is given."""

    @property
    def inputs(self) -> Mapping[str, Tensor]: ...

    @property
    def image(self) -> Any: ...


@dataclass(frozen=True)
class Shown:
    """One view of a medium, ready for the model.

    key: equal for equal views of equal media. expansion: [e] int64, the ids that stand for it where the model reads,
    in each of its `parts` places (1 but for pictures of Gemma 3); placeholder: the one id that stands for it where an
    engine does. tokens: how many placeholders that is. media: the view in words. tower: makes its features. load: its
    numbers, read again where they were let go of; raises MediaError, which names the prompt, for those that turn out
    broken. code: how a rendered message tells of it, depth: layers in time; of pictures, see Eyes.
    """

    key: Hashable
    expansion: Tensor
    placeholder: int
    tokens: int
    media: Perceived
    tower: Tower
    load: Callable[[], Processed]
    parts: int = 1
    code: str = "1"
    depth: int = 1

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """What the tower takes."""
        return self.load().inputs

    @property
    def image(self) -> Any:
        """What the processor was given."""
        return self.load().image


F = TypeVar("F", bound=Sized)
P = TypeVar("P", bound=Processed)


class Shelf(Generic[F, P]):
    """Processed media of one kind by view: the numbers of some, and of all that were met what else there is to know.

    limit: bytes of numbers that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._kept: Kept[P] = Kept(limit)
        self._facts: Kept[F] = Kept(FACTS)
        self._keys: dict[int, tuple[weakref.ref, Hashable]] = {}
        self.processed = 0  # media that went through the processor so far

    def _known(self, key: Hashable, plan: Callable[[], F]) -> F:
        facts = self._facts.get(key)
        if facts is None:
            facts = plan()
            self._facts.put(key, facts)
        return facts

    def _loaded(self, key: Hashable, make: Callable[[], P]) -> P:
        found = self._kept.get(key)
        if found is None:
            with torch.autocast("cpu", enabled=False):  # a processor computes in float32, whatever the forward does
                found = make()
            self.processed += 1
            self._kept.put(key, found)
        return found

    def _lasting(self, held: Any, read: Callable[[], Hashable]) -> Hashable:
        """A key that reads all numbers of an object, known while the object lives."""
        known = self._keys.get(id(held))
        if known is None or known[0]() is not held:
            gone, key = functools.partial(self._keys.pop, id(held), None), read()
            try:
                known = self._keys[id(held)] = (weakref.ref(held, lambda _: gone()), key)
            except TypeError:  # a list, say
                return key
        return known[1]


def expand(ids: Tensor, media: Sequence[Shown], marks: Tensor, shows: str = "pictures") -> Tensor:
    """Ids with one of `marks` for each part of a medium -> ids with the expansions.

    shows: what the media are, for messages. Raises ValueError where counts differ.
    """
    places = torch.nonzero(torch.isin(ids, marks)).flatten().tolist()
    wanted = [shown.expansion for shown in media for _ in range(shown.parts)]
    if len(places) != len(wanted):
        raise ValueError(f"{len(places)} places for {shows} in the text, {len(media)} {shows}")
    pieces, last = [], 0
    for place, expansion in zip(places, wanted):
        pieces += [ids[last:place], expansion]
        last = place + 1
    return torch.cat([*pieces, ids[last:]])


def cut(row: Row, length: int, slots: Tensor, shows: str = "pictures") -> Row:
    """The first `length` ids of a row with the media whose `slots` are there.

    Raises ValueError where that is inside of one.
    """
    if length >= len(row):
        return row
    wanted = int(torch.isin(row.ids[:length], slots).sum())
    media, count = [], 0
    for shown in row.media:
        if count == wanted:
            break
        count += shown.tokens
        media.append(shown)
    if count != wanted:
        raise ValueError(f"a row cannot be cut at {length}: that is inside of one of its {shows}")
    return Row(row.ids[:length], tuple(media))
