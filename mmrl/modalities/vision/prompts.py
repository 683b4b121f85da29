"""Messages with pictures as token ids, one placeholder a picture (or for each of its parts)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmrl.media import IMAGE
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.prompts import PromptEncoder

_CODE = re.compile("\x01(\\w+)\x01")  # behind an IMAGE: how many places the picture has, or v for a video

# (rendered text, parts of each of its pictures) -> the text that the tokenizer reads
Framed = Callable[[str, Sequence[int]], str]


class VisionEncoder(PromptEncoder):
    """Renders messages by the processor's chat template, in which IMAGE stands for a picture.

    framed: the family's way with rendered pictures. Without a template a prompt is its pictures, then the start token,
    its text and a line's end, as PaliGemma reads it.
    """

    def __init__(
        self,
        processor: Any,
        config: TokenModelConfig,
        limit: int,
        stops: Sequence[int] = (),
        framed: Framed | None = None,
    ) -> None:
        self.processor, self.framed = processor, framed or (lambda text, _: text)
        super().__init__(processor.tokenizer, config, limit, stops)

    @property
    def template(self) -> str | None:
        return getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template

    def apply(self, chat: Sequence[Mapping[str, Any]], answer: bool, arguments: Mapping[str, Any]) -> str:
        text = self.processor.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=answer, chat_template=self.template, **arguments
        )
        parts = [part for message in chat for part in message["content"] if part["type"] == "image"]
        return self.framed(text, [part["parts"] for part in parts])

    def content(self, text: str) -> list[dict[str, Any]]:
        """The parts of a message: texts, and pictures between them."""
        parts: list[dict[str, Any]] = []
        for number, piece in enumerate(text.split(IMAGE)):
            told = _CODE.match(piece) if number else None
            piece = piece[told.end() :] if told else piece
            code = told[1] if told else "1"
            shown = {"type": "video"} if code == "v" else {"type": "image", "parts": int(code)}
            parts += [shown] if number else []
            parts += [{"type": "text", "text": piece}] if piece else []
        return parts or [{"type": "text", "text": ""}]

    def alone(self, text: str) -> str:
        pictures = text.count(IMAGE)
        start = self.tokenizer.bos_token or ""
        return self.processor.image_token * pictures + start + text.replace(IMAGE, "").strip() + "\n"

    def harmless(self, text: str) -> str:
        """Words that read like a placeholder stay words; IMAGE stays a picture."""
        names = {self.processor.image_token, getattr(self.tokenizer, "image_token", None)}
        for token in sorted(name for name in names if isinstance(name, str)):
            text = IMAGE.join(piece.replace(token, f"{token[0]} {token[1:]}") for piece in text.split(IMAGE))
        return text

    def _as_it_is(self, text: str) -> str:
        if IMAGE in text:
            raise ValueError("is templated already, so that no picture can be put into it: give the words alone")
        return super()._as_it_is(text)


def with_codes(text: str, codes: Sequence[str]) -> str:
    """A text whose IMAGE marks tell the codes of their pictures (see Family.code), where any is not 1."""
    if all(code == "1" for code in codes):
        return text
    pieces = text.split(IMAGE)
    return pieces[0] + "".join(f"{IMAGE}\x01{code}\x01{piece}" for code, piece in zip(codes, pieces[1:]))
