"""One stored sample as the report shows it: picture, text or conversation, its scores, and why it may not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from mmrl.reporting.artifacts import FILM, frames_of_sheet, sheet_of
from mmrl.reporting.files import dumps
from mmrl.reporting.folder import RunFolder, Unreadable
from mmrl.reporting.pictures import MAX_SIDE, data_uri, picture_of
from mmrl.reporting.programs import Bit, bits
from mmrl.reporting.solids import Shelf, SolidsView, is_drawn, solids_view
from mmrl.reporting.sounds import player
from mmrl.reporting.talks import Frame, Gallery, TurnView, facts, is_talk, overview, turn_views
from mmrl.reporting.tokens import Token, token_views
from mmrl.reporting.words import clip, number

SMALL = 128  # a picture below this side is enlarged without smoothing
FRAMES_SIDE = 960  # likewise, of a film, whose frames stand side by side
FACE = 48  # the side of a picture that stands for its sample in a table
MAX_TEXT = 2_000
MAX_PROGRAM = 8_000
MOST_TEXT_BYTES = 16_000_000


@dataclass(frozen=True)
class ScoreLine:
    """One component: its number as text, or its status with the reason."""

    name: str
    value: str
    status: str
    reason: str
    details: str


@dataclass(frozen=True)
class Card:
    """A sample ready for the template. `picture` is a PNG data URI or "", `text` shown when there is none.

    A conversation has `turns`, those behind what all samples of its group begin with; `overview` are pictures from
    there with boxes on them. facts: what the environment says. solids: of a program that builds some, or was to; its
    text is `program`, too, in colour.
    """

    index: int
    stop: str
    reward: float | None
    advantage: float | None
    scores: tuple[ScoreLine, ...]
    picture: str = ""
    size: str = ""  # of the stored picture, or of the frames of a film, in pixels
    small: bool = False
    film: bool = False  # whether the picture is one of frames side by side
    text: str = ""
    tokens: tuple[Token, ...] = ()
    note: str = ""
    turns: tuple[TurnView, ...] = ()
    overview: tuple[Frame, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    solids: SolidsView | None = None
    program: tuple[Bit, ...] = ()
    change: float | None = field(default=None)  # of the reward, against the same sample before training
    count: int = 1  # samples that are alike, of which this is the first

    @property
    def invalid(self) -> list[ScoreLine]:
        return [line for line in self.scores if line.status == "invalid"]


class CardMaker:
    """Turns index records into cards and keeps the inlined pictures and sounds below a number of bytes.

    name: what ids of its pictures begin with, on a page with pictures of several folders. shelf: of the page's solids,
    where it has those of several.
    """

    def __init__(self, folder: RunFolder, max_bytes: int, name: str = "seen", shelf: Shelf | None = None) -> None:
        self.folder = folder
        self.left = max_bytes
        self.gallery = Gallery(self._inlined, name, partial(player, folder, charged=self._charged))
        self.shelf = shelf or Shelf(self._charged)

    def card(
        self, tag: str, record: Mapping[str, Any], change: float | None = None, opening: int = 0, goal: Any = None
    ) -> Card:
        """record: one of records.readable_index. opening: turns that are shown once for all samples of the group. goal:
        the solid that they were to build, see solids.goal_of."""
        view = solids_view(self.shelf, record, goal, f"samples/{tag}, sample {record['index']}")
        return Card(
            index=record["index"],
            stop=record["stop"],
            reward=record["reward"],
            advantage=record["advantage"],
            scores=tuple(_score_line(name, score) for name, score in record["scores"].items()),
            change=change,
            facts=facts(record),
            solids=view,
            **(self._talk(tag, record, opening) if is_talk(record) else self._artifact(tag, record, view is not None)),
        )

    def opening(self, tag: str, record: Mapping[str, Any], count: int) -> tuple[TurnView, ...]:
        """The first `count` turns."""
        return turn_views(record, tag, self.gallery, (), last=count)

    def face(self, tag: str, record: Mapping[str, Any]) -> str:
        """A small picture of the sample, of a film its first frame, as a data URI; "" where it is none, cannot be read,
        or there is no room."""
        name = f"samples/{tag}/{record['file']}"
        if not name.endswith(".png"):
            return ""
        try:
            image = picture_of(self.folder, name)
            uri = data_uri(frames_of_sheet(image)[0] if name.endswith(FILM) else image, FACE)
        except (Unreadable, ValueError):  # the card says why
            return ""
        return self._charged(uri, name)[0]

    def _artifact(self, tag: str, record: Mapping[str, Any], program: bool) -> dict[str, Any]:
        content = self._content(tag, record["file"], MAX_PROGRAM if program else MAX_TEXT)
        told = {"program": bits(content["text"])} if program and content.get("text") else {}
        return {"tokens": token_views(record), **told, **content}

    def _talk(self, tag: str, record: Mapping[str, Any], opening: int) -> dict[str, Any]:
        return {
            "turns": turn_views(record, tag, self.gallery, token_views(record), first=opening),
            "overview": overview(record, tag, self.gallery, opening),
        }

    def _content(self, tag: str, file: str | None, most: int) -> dict[str, Any]:
        if file is None:
            return {"note": "no artifact"}
        name = f"samples/{tag}/{file}"
        try:
            if name.endswith(".txt"):
                return {"text": clip(self.folder.text(name, MOST_TEXT_BYTES), most)}
            if name.endswith(".npy"):
                return {"note": f"array {_array_kind(self.folder, name)}, in {name}"}
            if name.endswith(".png"):
                return self._picture(name)
            self.folder.file(name)
        except Unreadable as error:
            return {"note": str(error)}
        return {"note": f"in {name}"}

    def _picture(self, name: str) -> dict[str, Any]:
        image, film = picture_of(self.folder, name), name.endswith(FILM)
        size = f"{image.width} × {image.height}"
        if film:
            frames = _frames(image, name)
            size = f"{len(frames)} frames of {frames[0].width} × {frames[0].height}"
            image = sheet_of(frames, gap=max(1, frames[0].width // 16))
        side = FRAMES_SIDE if film else MAX_SIDE
        uri, note = self._charged(data_uri(image, side), name)
        small = max(image.size) < side * SMALL // MAX_SIDE
        return {"picture": uri, "small": small, "film": film, "size": size} if uri else {"note": note}

    def _inlined(self, name: str, known: Container[str]) -> tuple[str, str]:
        """(data URI, ""), or ("", why not); those that are known already take no room."""
        try:
            uri = data_uri(picture_of(self.folder, name))
        except Unreadable as error:
            return "", str(error)
        return (uri, "") if uri in known else self._charged(uri, name)

    def _charged(self, uri: str, name: str) -> tuple[str, str]:
        if len(uri) > self.left:
            return "", f"left out to keep this file small: {name}"
        self.left -= len(uri)
        return uri, ""


def _frames(sheet: Image.Image, name: str) -> list[Image.Image]:
    """The frames of a stored film. Raises Unreadable for another picture."""
    try:
        return frames_of_sheet(sheet)
    except ValueError as error:
        raise Unreadable(f"{name}: {error}") from None


def _array_kind(folder: RunFolder, name: str) -> str:
    """Type and shape of a stored array. Raises Unreadable."""
    path = folder.file(name)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return f"{array.dtype} {list(array.shape)}"[:200]
    except Exception as error:  # as above
        raise Unreadable(f"{name} is no array that can be shown ({str(error)[:100]})") from None


def by_advantage(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Best first; samples without an advantage (invalid, or not trained) last, in their own order."""
    return sorted(records, key=lambda r: (r["advantage"] is None, -(r["advantage"] or 0.0)))


def alike(card: Card) -> Card:
    """The same for samples that say, show and earn the same; rounding of their log-probs is not looked at."""
    turns = tuple(replace(turn, tokens=_same(turn.tokens)) for turn in card.turns)
    return replace(card, index=0, change=None, count=1, tokens=_same(card.tokens), turns=turns)


def folded(cards: Sequence[Card]) -> list[Card]:
    """Each different card once, where its first one stands, with how many there are."""
    counts = Counter(map(alike, cards))
    first = {alike(card): card for card in reversed(cards)}
    return [replace(first[key], count=counts[key]) for key in dict.fromkeys(map(alike, cards))]


def _same(tokens: Sequence[Token]) -> tuple[Token, ...]:
    return tuple(replace(token, title="") for token in tokens)


def _score_line(name: str, score: Mapping[str, Any]) -> ScoreLine:
    value = score["value"]
    told = {key: detail for key, detail in score["details"].items() if not is_drawn(key, detail)}
    details = clip(dumps(told, indent=1), MAX_TEXT) if told else ""
    return ScoreLine(
        name=name,
        value=number(value) if value is not None else {"na": "n/a"}.get(score["status"], score["status"]),
        status=score["status"],
        reason=clip(score["reason"], 300),
        details=details,
    )
