"""A stored conversation as the report shows it: its turns in order, and every picture that the policy saw.

Boxes are drawn where they lie on the original: the crops that were shown, and what the policy wrote by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmrl.media import AUDIO, Box, Heard, Media, Perceived, area, pictures_of
from mmrl.reporting.conversations import read_media
from mmrl.reporting.sounds import Player, caption_of
from mmrl.reporting.tokens import Token

PLACE = "<image>"  # where a turn's text shows a picture
SIGN, HEARD = "▣", "♪"
MOST_TURN_TEXT = 2_000
_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of candidates
MOST_PIXELS = 1e9  # farthest from 0 that a coordinate may be
MOST_BOXES = 40  # of what the policy wrote


@dataclass(frozen=True)
class Drawn:
    """A box on a frame, in pixels of the original. kind: "crop" or "wrote"; name: what stands beside it."""

    kind: str
    box: Box
    name: str
    title: str

    @property
    def rect(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        x1, y1, x2, y2 = self.box
        return (x1, y1, x2 - x1, y2 - y1)


@dataclass(frozen=True)
class Frame:
    """A picture that was shown. window: what it shows of the original, whose pixels are the units of its boxes.

    picture: the page's id of it, or "" with the reason in `note`.
    """

    picture: str
    window: Box
    seen: tuple[int, int]
    caption: str
    boxes: tuple[Drawn, ...] = ()
    note: str = ""

    @property
    def view(self) -> tuple[float, float, float, float]:
        """x, y, width, height of the window."""
        x1, y1, x2, y2 = self.window
        return (x1, y1, x2 - x1, y2 - y1)

    @property
    def small(self) -> bool:
        """Whether it is shown larger than it was seen."""
        return max(self.seen) < 128


@dataclass(frozen=True)
class TurnView:
    """A turn: who speaks, the text (or its tokens, with what each was worth), the pictures, the sounds.

    trained: whether the policy said it and learns from it.
    """

    speaker: str
    text: str
    trained: bool
    tokens: tuple[Token, ...] = ()
    frames: tuple[Frame, ...] = ()
    players: tuple[Player, ...] = ()


class Gallery:
    """Pictures of the page: equal ones are inlined once, as long as there is room.

    inline: (name in the run's folder, data URIs that are there already) -> (data URI, ""), or ("", why there is none).
    name: what the ids begin with. play: (name in the run's folder, caption) -> the player of a sound.
    """

    def __init__(
        self,
        inline: Callable[[str, Container[str]], tuple[str, str]],
        name: str = "seen",
        play: Callable[[str, str], Player] | None = None,
    ) -> None:
        self.inline, self.name, self.play = inline, name, play
        self.pictures: dict[str, str] = {}  # data URI -> id
        self._asked: dict[str, tuple[str, str]] = {}

    def add(self, tag: str, name: str) -> tuple[str, str]:
        """(id, "") of the picture, or ("", why it is not there)."""
        place = f"samples/{tag}/{name}"
        if place not in self._asked:
            uri, note = self.inline(place, self.pictures)
            id_ = self.pictures.setdefault(uri, f"{self.name}-{len(self.pictures)}") if uri else ""
            self._asked[place] = (id_, note)
        return self._asked[place]


def is_talk(record: Mapping[str, Any]) -> bool:
    """Whether a sample is more than one answer to a text: it was shown pictures, spoke several times, or was shown
    candidates in an order of its own."""
    several = sum(turn["trained"] for turn in record.get("turns", ())) > 1
    return bool(record.get("media")) or several or bool(record.get("turns") and _order(record))


def shared_opening(records: Sequence[Mapping[str, Any]]) -> int:
    """How many turns all samples begin with before the policy speaks, pictures included; 0 where they differ."""
    openings = [_opening(record) for record in records if is_talk(record)]
    if len(openings) < len(records) or not openings or any(opening != openings[0] for opening in openings):
        return 0
    return len(openings[0][0])


def turn_views(
    record: Mapping[str, Any],
    tag: str,
    gallery: Gallery,
    tokens: Sequence[Token],
    first: int = 0,
    last: int | None = None,
) -> tuple[TurnView, ...]:
    """The turns of a sample from number `first` up to `last`; with a `last`, boxes of later turns are not drawn."""
    media = list(map(read_media, record["media"]))
    said = iter(_spoken(record, tokens))
    views = []
    for number, turn in enumerate(record["turns"]):
        own = next(said, ()) if turn["trained"] else ()
        if number < first or (last is not None and number >= last):
            continue
        frames = [frame(record, tag, gallery, media, p, boxes=last is None) for p in _seen(turn["media"], media)]
        players = [player_of(record, tag, gallery, p) for p in turn["media"] if isinstance(media[p], Heard)]
        seen, heard = tuple(frames), tuple(players)
        views.append(TurnView(_speaker(turn), _signed(turn), turn["trained"], tuple(own), seen, heard))
    return tuple(views)


def overview(record: Mapping[str, Any], tag: str, gallery: Gallery, opening: int) -> tuple[Frame, ...]:
    """The pictures of the opening on which there is a box to draw."""
    media = list(map(read_media, record["media"]))
    places = _seen([place for turn in record["turns"][:opening] for place in turn["media"]], media)
    frames = (frame(record, tag, gallery, media, place) for place in places)
    return tuple(frame for frame in frames if frame.boxes)


def frame(
    record: Mapping[str, Any], tag: str, gallery: Gallery, media: Sequence[Perceived], place: int, boxes: bool = True
) -> Frame:
    """One of a sample's pictures."""
    shown, stored = media[place], record["media"][place]
    assert isinstance(shown, Media)
    picture, note = (
        gallery.add(tag, stored["file"]) if stored.get("file") else ("", stored.get("problem", "not stored"))
    )
    drawn = (*_crops(media, place), *_written(record, media, place)) if boxes else ()
    return Frame(picture, shown.window, shown.seen, _caption(media, place), drawn, note)


def player_of(record: Mapping[str, Any], tag: str, gallery: Gallery, place: int) -> Player:
    """One of a sample's sounds."""
    stored = record["media"][place]
    caption = caption_of(stored, place, HEARD)
    if not stored.get("file") or gallery.play is None:
        return Player(caption, note=stored.get("problem", "not stored"))
    return gallery.play(f"samples/{tag}/{stored['file']}", caption)


def facts(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the environment says of the sample, and what its pictures cost."""
    info = record.get("info", {})
    found = [("candidates as shown", order)] if (order := _order(record)) else []
    found += [("verdict", f"prefers {chosen}")] if order and (chosen := _chosen(record, order)) else []
    found += [(name, _word(value)) for name, value in info.items() if not (order and name == "order")]
    for name, of_sounds in (("visual tokens", False), ("sound tokens", True)):
        tokens = sum(met["tokens"] for met in record.get("media", ()) if ("sound" in met) == of_sounds)
        found += [(name, str(tokens))] if tokens else []
    return tuple(found)


def _order(record: Mapping[str, Any]) -> str:
    """The candidates of a pair, A being the record's first, as the sample was shown them; "" for another sample."""
    order = record.get("info", {}).get("order")
    numbers = isinstance(order, list) and all(type(number) is int for number in order)
    if not numbers or not 1 < len(order) <= len(_NAMES) or sorted(order) != list(range(len(order))):
        return ""
    return " ".join(_NAMES[number] for number in order)


def _chosen(record: Mapping[str, Any], order: str) -> str:
    """The candidate that the sample's verdict chose, as a reward read it; "" where none did."""
    told = (score["details"].get("chosen") for score in record["scores"].values())
    found = next((number for number in told if type(number) is int and 0 <= number < len(order.split())), None)
    return "" if found is None else _NAMES[found]


# -------------------------------------------------------------------- turns


def _opening(record: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """(turns before the policy speaks, the pictures in them)."""
    turns = record["turns"]
    count = next((number for number, turn in enumerate(turns) if turn["trained"]), len(turns))
    places = [place for turn in turns[:count] for place in turn["media"]]
    return turns[:count], [record["media"][place] for place in places]


def _spoken(record: Mapping[str, Any], tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of each turn of the policy, none of any where they cannot be told apart."""
    runs = [list(run) for trained, run in groupby(tokens, key=lambda token: token.trained) if trained]
    return runs if len(runs) == sum(turn["trained"] for turn in record["turns"]) else []


def _speaker(turn: Mapping[str, Any]) -> str:
    if turn["trained"]:
        return "policy"
    return "assistant, not trained" if turn["role"] == "assistant" else turn["role"]


def _signed(turn: Mapping[str, Any]) -> str:
    """The text with the number of the picture, or of the sound, at each of its places."""
    numbers, signs = iter(turn["media"]), {PLACE: SIGN, AUDIO: HEARD}

    def signed(mark: re.Match[str]) -> str:
        place = next(numbers, None)
        return mark[0] if place is None else f"{signs[mark[0]]}{place + 1} "

    text = re.sub("|".join(signs), signed, turn["text"]) if turn["media"] else turn["text"]
    cut = text if len(text) <= MOST_TURN_TEXT else f"{text[:MOST_TURN_TEXT]}… ({len(text) - MOST_TURN_TEXT} more)"
    return cut.strip()


# -------------------------------------------------------------------- pictures and boxes


def _seen(places: Sequence[int], media: Sequence[Perceived]) -> list[int]:
    """The places of pictures."""
    return [place for place in places if isinstance(media[place], Media)]


def _caption(media: Sequence[Perceived], place: int) -> str:
    shown = media[place]
    assert isinstance(shown, Media)
    several = len({m.view.picture for m in pictures_of(media)}) > 1
    of = f" of picture {shown.view.picture + 1}" if several else ""
    left, top, right, bottom = (round(v) for v in shown.window)
    what = f"all{of}" if shown.view.crop is None else f"{left}, {top} to {right}, {bottom}{of}"
    return f"{SIGN}{place + 1} {what} · {shown.seen[0]} × {shown.seen[1]} · {shown.tokens} tokens"


def _crops(media: Sequence[Perceived], place: int) -> list[Drawn]:
    """Parts of a picture that were shown after it."""
    base, found = media[place], []
    assert isinstance(base, Media)
    for number, shown in enumerate(media):
        if not isinstance(shown, Media):
            continue
        inside = number > place and shown.view.picture == base.view.picture and shown.view.crop is not None
        if inside and shown.window != base.window and _common(shown.window, base.window) > 0:
            title = f"shown as picture {number + 1}"
            found.append(Drawn("crop", shown.window, f"{SIGN}{number + 1}", title))
    return found


def _written(record: Mapping[str, Any], media: Sequence[Perceived], place: int) -> list[Drawn]:
    """Boxes that the policy wrote, on the first whole view of the first picture, which they are taken to be of."""
    seen = [(n, m.view) for n, m in enumerate(media) if isinstance(m, Media)]
    whole = next((n for n, view in seen if view.crop is None and view.picture == seen[0][1].picture), -1)
    if place != whole:
        return []
    named = [(name, box) for name, score in record["scores"].items() for box in _boxes(score["details"].get("boxes"))]
    named += [("the environment", box) for box in _boxes([record["info"].get("box")])]
    found: dict[tuple[int, ...], Drawn] = {}
    for name, (box, label) in named[:MOST_BOXES]:
        title = f"written by the policy, read by {name}{f': {label}' if label else ''}"
        found.setdefault(tuple(map(round, box)), Drawn("wrote", box, label, title))
    return list(found.values())


def _boxes(value: Any) -> list[tuple[Box, str]]:
    """(box, label) of what can be drawn of a list of boxes, or of objects with `bbox_2d` and `label`."""
    found = []
    for item in value if isinstance(value, list) else ():
        box, label = (item.get("bbox_2d"), str(item.get("label", ""))) if isinstance(item, Mapping) else (item, "")
        if not isinstance(box, list) or len(box) != 4 or not all(_drawable(v) for v in box):
            continue
        x1, y1, x2, y2 = box
        if x1 <= x2 and y1 <= y2:
            found.append(((x1, y1, x2, y2), label[:40]))
    return found


def _drawable(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MOST_PIXELS  # NaN is not


def _common(a: Box, b: Box) -> float:
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(_word, value[:8])) + (" …" if len(value) > 8 else "")
    return "–" if value is None else str(value)[:200]
