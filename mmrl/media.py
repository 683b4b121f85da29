"""Pictures and sounds as a policy met them, films as it drew them, and the only two ways for a box to change its space.

A box is (x1, y1, x2, y2), its left, top, right and bottom edge, as floats. Its space is one of SPACES:

original: pixels of the picture as it was opened.
seen: pixels of what the model's processor made of the view (crop and resize included); Qwen2.5-VL writes these.
norm1000: thousandths of the view's width and height; Qwen2-VL, Qwen3-VL and InternVL write these.
loc1024: 1024ths of the view's width and height; PaliGemma writes these.
norm1: shares of the view's width and height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height

# Marks the place of a picture in a text; there are as many as pictures. And that of a sound.
IMAGE, AUDIO = "<image>", "<audio>"

# Columns that hold a record's sounds, of which the first that is there counts, and types of a message's parts.
SOUND_COLUMNS = ("sounds", "audios", "audio", "audio_path", "sound")
SOUND_PARTS = ("audio", "audio_url", "input_audio")

SPACES = ("original", "seen", "norm1000", "loc1024", "norm1")


class MediaError(ValueError):
    """A picture or a sound that cannot be used; the message names it and says why.

    prompt: the id of the prompt that has it, where that is known. reason: in one word, which is counted; "" for none.
    """

    def __init__(self, message: str, prompt: str | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.prompt, self.reason = prompt, reason


@dataclass(frozen=True)
class View:
    """A picture, or a part of it, that is to be shown.

    picture: which of the prompt's pictures, from 0. crop: the part that is shown, in its original pixels; None is all
    of it. size: (width, height) that the part is resized to before the model's processor has it; None leaves it.
    """

    picture: int = 0
    crop: Box | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Media:
    """A view that was shown.

    original: size of the picture as it was opened. seen: size of what the processor makes of the view, by its own
    rule. space: the coordinates that the policy writes boxes in. tokens: visual tokens that it cost. boxes: the form
    that it writes them in, a key of mmrl.boxes.SYNTAXES.
    """

    view: View
    original: Size
    seen: Size
    space: str = "seen"
    tokens: int = 0
    boxes: str = "json"

    @property
    def window(self) -> Box:
        """What the view shows, in original pixels."""
        return self.view.crop or (0.0, 0.0, float(self.original[0]), float(self.original[1]))


@dataclass(frozen=True)
class Excerpt:
    """A sound, or a part of it, that is to be heard.

    sound: which of the prompt's sounds, from 0. start, end: the part, in samples at 16 kHz; None is to the end.
    """

    sound: int = 0
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Heard:
    """An excerpt that was heard. seconds: how long it is. tokens: those that it cost."""

    view: Excerpt
    seconds: float
    tokens: int = 0


Place = View | Excerpt
Perceived = Media | Heard


def sound_column(record: Mapping[str, Any]) -> str | None:
    """Which of SOUND_COLUMNS holds the record's sounds; None: it has none. An empty name is a (bad) sound."""
    return next((name for name in SOUND_COLUMNS if not _nothing(record.get(name))), None)


def own_sounds(record: Mapping[str, Any]) -> list[Any]:
    """A record's sounds as it names them, alone or as a list; what mmrl.sounds.load opens."""
    column = sound_column(record)
    if column is None:
        return []
    given = record[column]
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int) and not isinstance(given[0], str)
    return list(given) if isinstance(given, list | tuple) and not pair else [given]  # (array, rate) is one


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and not value)


def pictures_of(media: Sequence[Perceived]) -> list[Media]:
    """What of it was seen, in order."""
    return [one for one in media if isinstance(one, Media)]


def sounds_of(media: Sequence[Perceived]) -> list[Heard]:
    """What of it was heard, in order."""
    return [one for one in media if isinstance(one, Heard)]


@dataclass(frozen=True)
class Clip:
    """A film that a policy drew: pictures of one size and mode, in the order of time.

    `numpy.asarray` of it is [frames, height, width, channels]. What treats it as one picture is told so.
    """

    frames: tuple[Image, ...]

    def __post_init__(self) -> None:
        kinds = {(frame.size, frame.mode) for frame in self.frames}
        if len(kinds) != 1:
            raise ValueError(f"a clip of {len(self.frames)} frames of {len(kinds)} sizes and modes; it has one")

    @property
    def size(self) -> Size:
        return self.frames[0].size

    def __len__(self) -> int:
        return len(self.frames)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.stack([np.asarray(frame, dtype=dtype) for frame in self.frames])

    def tobytes(self) -> bytes:
        return b"".join(frame.tobytes() for frame in self.frames)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of a protocol that it does not have
            raise AttributeError(name)
        raise AttributeError(
            f"a clip has no `{name}`: it is a film, not a picture; a reward of pictures scores its frames through "
            "frames.mean, frames.least, frames.first or frames.last (docs/video.md)"
        )


def to_original(box: Sequence[float], media: Media, space: str | None = None) -> Box:
    """A box that the policy wrote (in `space`; None is media.space) in pixels of the original picture.

    Nothing is clipped or checked. Raises ValueError for an unknown space.
    """
    offset_x, offset_y, scale_x, scale_y = _scale(media, space or media.space)
    x1, y1, x2, y2 = box
    return (offset_x + x1 * scale_x, offset_y + y1 * scale_y, offset_x + x2 * scale_x, offset_y + y2 * scale_y)


def from_original(box: Sequence[float], media: Media, space: str | None = None) -> Box:
    """The inverse of `to_original`: a box in original pixels as the policy would write it."""
    offset_x, offset_y, scale_x, scale_y = _scale(media, space or media.space)
    x1, y1, x2, y2 = box
    return ((x1 - offset_x) / scale_x, (y1 - offset_y) / scale_y, (x2 - offset_x) / scale_x, (y2 - offset_y) / scale_y)


def _scale(media: Media, space: str) -> Box:
    """(left, top, width, height) in original pixels of the space's origin and of its unit."""
    if space == "original":
        return (0.0, 0.0, 1.0, 1.0)
    left, top, right, bottom = media.window
    units = {"seen": media.seen, "norm1000": (1000, 1000), "loc1024": (1024, 1024), "norm1": (1, 1)}
    if space not in units:
        raise ValueError(f"coordinate space {space!r} is not known; there are {', '.join(SPACES)}")
    width, height = units[space]
    return (left, top, (right - left) / width, (bottom - top) / height)


def box_problem(box: Sequence[float], size: Size, smallest: float = 0.0, aspect: float = math.inf) -> str | None:
    """Why a box in original pixels is no part of a picture of `size`, as one word, or None.

    "not_finite", "reversed" (or empty), "outside" (by more than half a pixel), "small" (a side of `smallest` pixels
    or less), "thin" (sides in a ratio of `aspect` or more).
    """
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        return "not_finite"
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return "reversed"
    if x1 < -0.5 or y1 < -0.5 or x2 > size[0] + 0.5 or y2 > size[1] + 0.5:
        return "outside"
    width, height = x2 - x1, y2 - y1
    if min(width, height) <= smallest:
        return "small"
    if max(width, height) / min(width, height) >= aspect:
        return "thin"
    return None


def clipped(box: Sequence[float], size: Size) -> Box:
    """The part of a box in original pixels that lies in a picture of `size`."""
    x1, y1, x2, y2 = box
    return (max(0.0, x1), max(0.0, y1), min(float(size[0]), x2), min(float(size[1]), y2))


def area(box: Sequence[float]) -> float:
    """Area of a box; 0 for a reversed or empty one."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes of one space, in [0, 1]; 0 where both are empty. No pixel is added."""
    common = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    total = area(a) + area(b) - common
    return common / total if total > 0 else 0.0


def union_area(boxes: Sequence[Sequence[float]]) -> float:
    """Area that is covered by at least one of the boxes; empty and reversed ones cover nothing."""
    solid = [b for b in boxes if area(b) > 0]
    edges = sorted({x for b in solid for x in (b[0], b[2])})
    total = 0.0
    for left, right in pairwise(edges):
        top = -math.inf
        for y1, y2 in sorted((b[1], b[3]) for b in solid if b[0] <= left and b[2] >= right):
            total += max(0.0, y2 - max(y1, top)) * (right - left)
            top = max(top, y2)
    return total


def union_iou(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Intersection over union of what two lists of boxes cover: no matching is needed. 0 where both cover nothing."""
    covered_a, covered_b, either = union_area(a), union_area(b), union_area([*a, *b])
    return (covered_a + covered_b - either) / either if either > 0 else 0.0
