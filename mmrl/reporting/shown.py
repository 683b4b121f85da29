"""Held-out samples of an evaluation as pictures and texts, for those who show them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mmrl.reporting.cards import MOST_TEXT_BYTES
from mmrl.reporting.filmstrip import first_samples, shown_prompt
from mmrl.reporting.folder import RunFolder, Unreadable
from mmrl.reporting.pictures import picture_of
from mmrl.reporting.reading import RunReader
from mmrl.reporting.words import clip

MOST_TEXT = 4_000


@dataclass(frozen=True)
class Shown:
    """The first sample of a prompt. picture: what it drew, else what it was shown; either may be missing."""

    id: str
    prompt: str
    text: str
    picture: Image | None
    score: float | None


def shown_samples(run_dir: Path, tag: str, main: str | None = None) -> list[Shown]:
    """Those that are stored of an evaluation, in its order; main: the reward whose score is told, or the first one."""
    reader = RunReader(run_dir)
    samples = first_samples(reader.index(tag), main)
    return [_shown(reader.folder, tag, id_, text, record) for id_, (text, record) in samples.items()]


def markdown(samples: Sequence[Shown]) -> str:
    """A table of prompts, texts and scores."""
    rows = [f"| {_cell(s.prompt)} | {_cell(s.text)} | {'' if s.score is None else f'{s.score:.3f}'} |" for s in samples]
    return "\n".join(["| prompt | sample | score |", "|---|---|---|", *rows])


def _shown(folder: RunFolder, tag: str, id_: str, prompt: str, record: Mapping[str, Any]) -> Shown:
    names = [record["file"], *(media.get("file") for media in record["media"])]
    text, picture = "", None
    for name in (f"samples/{tag}/{name}" for name in names if name):
        try:
            if name.endswith(".txt"):
                text = clip(folder.text(name, MOST_TEXT_BYTES), MOST_TEXT)
            elif name.endswith(".png") and picture is None:
                picture = picture_of(folder, name)
        except Unreadable as error:
            text = text or str(error)
    return Shown(id_, shown_prompt(prompt), text, picture, record["reward"])


def _cell(text: str) -> str:
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", "<br>")):
        text = text.replace(mark, written)
    return text
