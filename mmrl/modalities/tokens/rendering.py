"""Messages as text: what the chat template writes of them, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.templates import PROBE, advice


class Renderer:
    """Renders messages by the tokenizer's chat template; a kind of model overrides how it is applied and to what."""

    def __init__(self, tokenizer: Any, config: TokenModelConfig) -> None:
        self.tokenizer = tokenizer
        self.system, self.arguments = config.system, config.chat_template_kwargs

    @property
    def template(self) -> str | None:
        """The chat template, where there is one."""
        return self.tokenizer.chat_template

    def render(
        self, messages: Sequence[Mapping[str, Any]], answer: bool = True, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """The chat as the template writes it; `answer`: with the opening of the assistant's turn.

        Raises ValueError, in one line that says what to do, for messages that the template refuses.
        """
        arguments = self.arguments if arguments is None else {**self.arguments, **arguments}
        told = list(messages)
        if self.system is not None and told[0]["role"] != "system":
            told = [{"role": "system", "content": self.system}, *told]
        try:
            return self._applied(told, answer, arguments)
        except _refusals() as error:
            said = " ".join(str(error).split())[:200]
        hint = advice(told, self._takes)
        if len(told) > len(messages) and "role system" in hint:
            hint = "it has no place for role system: leave model.system out, and put its text into the prompts"
        raise ValueError(f"the chat template does not take these messages: {said}; {hint}")

    def _applied(self, messages: Sequence[Mapping[str, Any]], answer: bool, arguments: Mapping[str, Any]) -> str:
        return self.apply([{**m, "content": self.content(m["content"])} for m in messages], answer, arguments)

    def _takes(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        try:
            self._applied(messages, False, self.arguments)
        except _refusals():
            return False
        return True

    def apply(self, chat: Sequence[Mapping[str, Any]], answer: bool, arguments: Mapping[str, Any]) -> str:
        """The template's text of messages with rendered content."""
        return self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=answer, **arguments)

    def content(self, text: str) -> Any:
        """A message's text as the template wants it."""
        return [{"type": "text", "text": text}] if self._in_parts else text

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template writes texts as parts of a message only, as those of models with pictures do."""
        for content in (PROBE, [{"type": "text", "text": PROBE}]):
            with suppress(*_refusals()):
                if PROBE in self.apply([{"role": "user", "content": content}], True, self.arguments):
                    return content != PROBE
        return False

    def alone(self, text: str) -> str:
        """A prompt's text where there is no template."""
        return text

    def harmless(self, text: str) -> str:
        """An environment's text, which may repeat the policy's, without what would stand for something shown."""
        return text


def _refusals() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError  # the last two: of the template's own code, and of transformers
