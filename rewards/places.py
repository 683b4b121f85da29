"""Where things stand in a completion: its boxes and tags."""

from __future__ import annotations

import re
from collections.abc import Callable

from mmrl.thoughts import is_thought, outside

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BOX_OPENED = re.compile(r"\\(?:boxed|fbox)\s*\{$")
_JOINS = re.compile(r"[\s$*.]*(?:(?:,\s*)?(?:or|and|oder|und|ou|o)|[,;]|或|和)[\s$*]*")


def said_in_tag(text: str, name: str) -> str | None:
    """The inside of the last <name>...</name> outside of thoughts, or of a thought's own tag; None without one."""
    return tagged(text if is_thought(name) else "\n".join(outside(text)), name)


def reasoning(text: str) -> str | None:
    """The inside of the last whole <think>, which the model's template may have opened; None without one."""
    begun, ended = text.find("<think>"), text.find("</think>")
    opened = ended >= 0 and not 0 <= begun < ended
    return said_in_tag(f"<think>{text}" if opened else text, "think")


def boxes(text: str) -> list[slice]:
    """Where the insides of all whole \\boxed{...} are, in order; of nested ones the outer."""
    return _boxes(text)[0]


def without_open_box(text: str) -> str:
    """The text before a \\boxed{ that has no end: what stands in it was cut off."""
    return text[: _boxes(text)[1]]


def _boxes(text: str) -> tuple[list[slice], int]:
    """The boxes, and where one begins that has no end, or the text's end."""
    found: list[slice] = []
    for opening in _BOX.finditer(text):
        start, depth = opening.end(), 1
        if found and start < found[-1].stop:
            continue
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                found.append(slice(start, place))
                break
        else:
            return found, opening.start()  # it holds all that follows
    return found, len(text)


def joined_boxes(text: str) -> list[str]:
    """The insides of the last \\boxed{} that is not empty, and of those before that "or" or a comma joins to it."""
    return _joined(text, boxes(text), lambda between: _BOX_OPENED.sub("", between.removeprefix("}")))


def tagged(text: str, name: str) -> str | None:
    """The inside of the last <name>...</name> that holds no other <name>, as it stands; None without one."""
    found = _tags(text, name)
    return text[found[-1]] if found else None


def _tags(text: str, name: str) -> list[slice]:
    start = re.escape(f"<{name}>")
    found = re.finditer(rf"{start}((?:(?!{start}).)*?){re.escape(f'</{name}>')}", text, re.DOTALL)
    return [slice(*tag.span(1)) for tag in found]


def _joined(text: str, places: list[slice], bare: Callable[[str], str]) -> list[str]:
    """The last piece that is not empty, and the ones before it that are joined to it; each once, in order."""
    places = [place for place in places if text[place].strip()]
    first = len(places) - 1
    while first > 0 and _JOINS.fullmatch(bare(text[places[first - 1].stop : places[first].start])):
        first -= 1
    return list(dict.fromkeys(text[place].strip() for place in places[max(0, first) :]))


def boxed(text: str) -> tuple[int, str]:
    """(where, what) is boxed last; -1 without a box. Joined ones are one piece: "3 or 5"."""
    return _place(boxes(text), text), " or ".join(joined_boxes(text))


def in_tag(text: str, name: str) -> tuple[int, str]:
    """(where, what) the last <name> holds that is not empty, as `boxed`."""
    found = _tags(text, name)
    pieces = _joined(text, found, lambda between: between.removeprefix(f"</{name}>").removesuffix(f"<{name}>"))
    return _place(found, text), " or ".join(pieces)


def _place(places: list[slice], text: str) -> int:
    return next((place.start for place in reversed(places) if text[place].strip()), -1)
