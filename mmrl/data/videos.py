"""Videos of records as what they are made of: pictures in order, in the places of `<video>` in the texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.messages import is_sound
from mmrl.data.shown import listed
from mmrl.films import FilmError, frames_of
from mmrl.media import IMAGE
from mmrl.pictures import PictureError, path_of

VIDEO = "<video>"
_MARK = re.compile(f"{re.escape(IMAGE)}|{re.escape(VIDEO)}")
# Columns whose texts may hold marks, messages first: a record has one of them.
_TEXTS = ("messages", "conversations", "prompt", "problem", "question")
_PARTS = ("video", "video_url")  # types of a message's parts
_STILL = (".jpg", ".jpeg", ".png", ".bmp", ".ppm")


def with_frames(
    record: Mapping[str, Any], root: str | None, most: int, whole: bool = False, unmarked: bool = False
) -> dict[str, Any]:
    """The record with the frames of its `videos` (or `video`, where a text marks it) among its `images`.

    Each `<video>`, or part of a message of that type, becomes as many `<image>` as the video has frames; where nothing
    marks them, frames come first. most: frames of each video. whole: a video is one of the `images`, {"frames",
    "numbers", "total", "fps"}, for processors that take it. unmarked: `video` is one
    also where no text marks it. Raises ValueError that names the video.
    """
    marks = sum(text.count(VIDEO) for text in _texts(record))
    given = record.get("videos")
    given = record.get("video") if not given and (marks or unmarked) else given
    if not given:
        return dict(record)
    films = _films(given, marks)
    if marks and marks != len(films):
        raise ValueError(f"{VIDEO} stands {marks} times in the text, and there are {len(films)} videos")
    frames = [_frames(film, root, most, whole) for film in films]
    images = record.get("images")
    images = record.get("image") if images is None else images
    pictures = listed(images) if images is not None else []
    kept = {key: value for key, value in record.items() if key not in ("videos", "video", "images", "image")}
    if not marks:
        if any(IMAGE in text for text in _texts(record)):
            raise ValueError(f"{IMAGE} stands in the text, and nothing says where the videos are; write {VIDEO}, too")
        return {**kept, "images": [*(frame for film in frames for frame in film), *pictures]}
    order: list[Any] = []
    left, films_left = list(pictures), list(frames)

    def placed(mark: re.Match[str]) -> str:
        if mark[0] == IMAGE:
            if not left:
                raise ValueError(f"{IMAGE} stands more often in the text than there are pictures ({len(pictures)})")
            order.append(left.pop(0))
            return IMAGE
        film = films_left.pop(0)
        order.extend(film)
        return IMAGE * len(film)

    column = next(name for name in _TEXTS if any(VIDEO in text for text in _texts({name: record.get(name)})))
    made = {**kept, column: _replaced(record[column], placed)}
    return {**made, "images": [*order, *left]}


def film_refs(film: Any, root: str | None, most: int) -> list[Any]:
    """The frames of a film that a model is to draw, evenly spaced: what mmrl.pictures opens. Raises ValueError that
    names the video."""
    return _frames(film, root, most, False)


def _films(given: Any, marks: int) -> list[Any]:
    """A list of films; names of still pictures are the frames of one, unless more are marked."""
    if not isinstance(given, list | tuple):
        return [given]
    still = all(isinstance(film, str) and film.lower().endswith(_STILL) for film in given)
    return [list(given)] if still and marks < 2 else list(given)


def _frames(film: Any, root: str | None, most: int, whole: bool) -> list[Any]:
    name = film if isinstance(film, str) else None
    if isinstance(film, Mapping) and isinstance(film.get("path"), str):
        film = name = film["path"]
    shown = repr(name[:80]) if name else "of the record"
    try:
        found = frames_of(film, path_of(name, root) if name else None, most)
    except PictureError as error:
        raise ValueError(str(error).replace("picture ", "video ", 1)) from None
    except (FilmError, ImportError) as error:
        raise ValueError(f"video {shown}: {error}") from None
    if not whole:
        return found.refs
    return [{"frames": found.refs, "numbers": list(found.numbers), "total": found.total, "fps": found.fps}]


def _texts(record: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name in _TEXTS:
        value = record.get(name)
        found += [value] if isinstance(value, str) else []
        for message in value if isinstance(value, list) else []:
            content = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
            found += [content] if isinstance(content, str) else []
            for part in content if isinstance(content, list) else []:
                found += [_part_text(part)]
    return found


def _part_text(part: Any) -> str:
    if isinstance(part, Mapping):
        if part.get("type") in _PARTS:
            return VIDEO
        if part.get("type") == "image":
            return IMAGE
        part = part.get("text")
    return part if isinstance(part, str) else ""


def _replaced(value: Any, placed: Any) -> Any:
    """The texts of a column with marks of pictures alone, in their order."""
    if isinstance(value, str):
        return _MARK.sub(placed, value)
    made = []
    for message in value:
        key = "content" if "content" in message else "value"
        content = message.get(key)
        if isinstance(content, list):
            if any(map(is_sound, content)):
                raise ValueError("a message has a video and a sound among its parts; give the sound in `sounds`")
            content = "".join(map(_part_text, content))
        made.append({**message, key: _MARK.sub(placed, content)} if isinstance(content, str) else message)
    return made
