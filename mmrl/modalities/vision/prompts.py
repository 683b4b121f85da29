"""Messages with pictures as token ids, one placeholder a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.media import IMAGE
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.prompts import PromptEncoder


class VisionEncoder(PromptEncoder):
    """Renders messages by the processor's chat template, in which IMAGE stands for a picture.

    Without a template a prompt is its pictures, then the start token, its text and a line's end, as PaliGemma reads it.
    """

    def __init__(self, processor: Any, config: TokenModelConfig, limit: int, stops: Sequence[int] = ()) -> None:
        self.processor = processor
        super().__init__(processor.tokenizer, config, limit, stops)

    @property
    def template(self) -> str | None:
        return getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template

    def apply(self, chat: Sequence[Mapping[str, Any]], answer: bool, arguments: Mapping[str, Any]) -> str:
        return self.processor.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=answer, chat_template=self.template, **arguments
        )

    def content(self, text: str) -> list[dict[str, str]]:
        """The parts of a message: texts, and pictures between them."""
        parts: list[dict[str, str]] = []
        for number, piece in enumerate(text.split(IMAGE)):
            parts += [{"type": "image"}] if number else []
            parts += [{"type": "text", "text": piece}] if piece else []
        return parts or [{"type": "text", "text": ""}]

    def alone(self, text: str) -> str:
        pictures = text.count(IMAGE)
        start = self.tokenizer.bos_token or ""
        return self.processor.image_token * pictures + start + text.replace(IMAGE, "").strip() + "\n"

    def harmless(self, text: str) -> str:
        """Words that read like a placeholder stay words; IMAGE stays a picture."""
        token = self.processor.image_token
        return IMAGE.join(piece.replace(token, f"{token[0]} {token[1:]}") for piece in text.split(IMAGE))

    def _as_it_is(self, text: str) -> str:
        if IMAGE in text:
            raise ValueError("is templated already, so that no picture can be put into it: give the words alone")
        return super()._as_it_is(text)
