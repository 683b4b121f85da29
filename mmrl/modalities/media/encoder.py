"""Messages with media as token ids, one placeholder a medium (or for each part of a picture)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.media import AUDIO, IMAGE
from mmrl.modalities.media.family import Family
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.prompts import PromptEncoder

_CODE = re.compile("\x01(\\w+)\x01")  # behind a mark: how many places the picture has, or v for a video
# The processor's names of what stands for a medium.
_TOKENS = {IMAGE: "image_token", AUDIO: "audio_token"}


class MediaEncoder(PromptEncoder):
    """Renders messages by the processor's chat template, in which each of `marks` stands for a medium.

    family: its way with rendered pictures; None: they stay as the template writes them. Without a template a prompt of
    a model that sees is its pictures, then the start token, its text and a line's end, as PaliGemma reads it; that of
    one that hears is its text with the sounds in their places.
    """

    def __init__(
        self,
        processor: Any,
        config: TokenModelConfig,
        limit: int,
        marks: Sequence[str],
        stops: Sequence[int] = (),
        family: Family | None = None,
    ) -> None:
        self.processor, self.family = processor, family
        self.marks = tuple(marks)
        self._mark = re.compile("|".join(map(re.escape, marks)))
        super().__init__(processor.tokenizer, config, limit, stops)

    def places(self, text: str) -> list[str]:
        """The marks of a text, in order."""
        return self._mark.findall(text)

    def pieces(self, text: str) -> list[str]:
        """What stands between the marks of a text, before the first and behind the last, too."""
        return self._mark.split(text)

    @property
    def template(self) -> str | None:
        return getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template

    def apply(self, chat: Sequence[Mapping[str, Any]], answer: bool, arguments: Mapping[str, Any]) -> str:
        # The tokenizer's own rendering: some processors have another, which wants files.
        render = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        text = render.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=answer, chat_template=self.template, **arguments
        )
        if self.family is None:
            return text
        parts = [part for message in chat for part in message["content"] if part["type"] == "image"]
        return self.family.framed(text, [part["parts"] for part in parts])

    def content(self, text: str) -> list[dict[str, Any]]:
        """The parts of a message: texts, and media between them."""
        parts: list[dict[str, Any]] = []
        for mark, piece in zip(["", *self.places(text)], self.pieces(text)):
            told = _CODE.match(piece) if mark else None
            piece = piece[told.end() :] if told else piece
            parts += [_part(mark, told[1] if told else "1")] if mark else []
            parts += [{"type": "text", "text": piece}] if piece else []
        return parts or [{"type": "text", "text": ""}]

    def alone(self, text: str) -> str:
        if AUDIO in self.marks:
            return text.replace(AUDIO, self.family.sound_alone if self.family else self.processor.audio_token)
        pictures = text.count(IMAGE)
        start = self.tokenizer.bos_token or ""
        return self.processor.image_token * pictures + start + text.replace(IMAGE, "").strip() + "\n"

    def harmless(self, text: str) -> str:
        """Words that read like a placeholder stay words; marks stay marks."""
        holders = (self.processor, self.tokenizer)
        names = {getattr(holder, _TOKENS[mark], None) for mark in self.marks for holder in holders}
        for token in sorted(name for name in names if isinstance(name, str)):
            pieces = [piece.replace(token, f"{token[0]} {token[1:]}") for piece in self.pieces(text)]
            marks = self.places(text)
            text = "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""]))
        return text

    def _as_it_is(self, text: str) -> str:
        if self._mark.search(text):
            what = "sound" if AUDIO in text and AUDIO in self.marks else "picture"
            raise ValueError(f"is templated already, so that no {what} can be put into it: give the words alone")
        return super()._as_it_is(text)

    def with_codes(self, text: str, codes: Sequence[str]) -> str:
        """A text whose marks tell the codes of their media (see Eyes.code), where any is not 1."""
        if all(code == "1" for code in codes):
            return text
        first, *pieces = self.pieces(text)
        told = zip(self.places(text), codes, pieces)
        return first + "".join(f"{mark}\x01{code}\x01{piece}" for mark, code, piece in told)


def _part(mark: str, code: str) -> dict[str, Any]:
    if mark == AUDIO:
        return {"type": "audio", "audio": "sound"}  # older templates look for the key, not for the type
    return {"type": "video"} if code == "v" else {"type": "image", "parts": int(code)}
