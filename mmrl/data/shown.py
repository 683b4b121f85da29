"""What a record shows beside its words: the list of pictures, and the marks in the text that stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrl.data.messages import marks_in
from mmrl.media import IMAGE

# Marks of other media -> the columns that hold them. No modality shows these.
_OTHERS = {"<video>": ("video", "videos")}


def pictures(record: Mapping[str, Any], asked: bool) -> dict[str, Any]:
    """{"images"} as a list of references, {} for a record without pictures; the marks are counted.

    asked: whether a column `image` is what the question is about. Without a mark it is otherwise what the prompt
    describes, and stays.
    """
    marks = marks_in(record, IMAGE)
    given = record.get("images")
    if given is None and (marks or asked):
        given = record.get("image")
    if given is None:
        if marks:
            raise ValueError(f"{IMAGE} stands {marks} times in the text, and there are no `images`")
        return {}
    images = [reference(picture, f"{number} of `images`") for number, picture in enumerate(listed(given))]
    if marks and marks != len(images):
        raise ValueError(f"{IMAGE} stands {marks} times in the text, and there are {len(images)} pictures")
    return {"images": images}


def refuse_unknown_marks(record: Mapping[str, Any]) -> None:
    """Raise ValueError for a text with the mark of a medium that the record has, and that nobody would see."""
    for mark, columns in _OTHERS.items():
        column = next((column for column in columns if record.get(column)), None)
        if column and marks_in(record, mark):
            raise ValueError(
                f"{mark} stands in the text for `{column}`, which no modality shows; leave such records out"
            )


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def image_marks(answer: Any) -> int:
    """How many pictures an answer, a text or messages, has places for."""
    texts = [message.get("content") for message in answer] if isinstance(answer, list) else [answer]
    return sum(text.count(IMAGE) for text in texts if isinstance(text, str))


def reference(picture: Any, name: str) -> Any:
    """What mmrl.pictures opens: a name, a PIL picture, {"bytes"}, a function. name: of the picture, for messages."""
    if isinstance(picture, Mapping) and isinstance(picture.get("frames"), list):  # a video as a whole
        return {**picture, "frames": [reference(frame, name) for frame in picture["frames"]]}
    if isinstance(picture, Mapping) and picture.get("bytes") is None:
        picture = picture.get("path") or picture.get("url")
    held = isinstance(picture, Mapping) and isinstance(picture["bytes"], bytes)
    drawn = callable(picture) or (hasattr(picture, "convert") and hasattr(picture, "size"))
    if held or drawn or (isinstance(picture, str) and picture):
        return picture
    raise ValueError(f"picture {name}: expected a file name or a picture, got {type(picture).__name__}")
