"""Messages and given answers as token ids. A sampled completion never comes back here: its ids are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.environments.base import Context
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.types import Prompt

# Stands for an answer where the template shows what it writes around one.
ANSWER = "0"
# Contexts whose ids are kept; environments that open new rows make ones that never come again.
KEPT = 20_000


class Unfit(ValueError):
    """A prompt that cannot be used. reason: in words that follow "prompt ..."."""

    def __init__(self, prompt: Prompt, reason: str) -> None:
        super().__init__(f"prompt {prompt.text[:60]!r} {reason}")
        self.reason = reason


class TooLong(Unfit):
    """A prompt that is empty, or has no room for an answer."""


class PromptEncoder:
    """Token ids of prompts, made once for each and kept, and of what an environment adds to a conversation.

    limit: tokens that a prompt may have.
    """

    def __init__(self, tokenizer: Any, config: TokenModelConfig, limit: int) -> None:
        self.tokenizer = tokenizer
        self.system = config.system
        self.limit = limit
        self.chat = config.chat == "auto" and bool(self.template)
        self._ids: dict[str, Tensor] = {}
        self._around: dict[str, tuple[str, str]] = {}
        if config.system is not None and not self.chat:
            raise ValueError("model.system needs a chat template, and this tokenizer has none; leave it out")

    @property
    def template(self) -> str | None:
        """The chat template, where there is one."""
        return self.tokenizer.chat_template

    # ---------------------------------------------------------------- prompts

    def opening(self, prompt: Prompt) -> Context:
        """The messages of a prompt: its `messages` where the record has them, otherwise its text."""
        messages = prompt.record.get("messages")
        return Context(messages if messages is not None else [{"role": "user", "content": prompt.text}])

    def unfit(self, context: Context) -> str | None:
        """Why messages cannot be rendered, in words that follow "prompt ...", or None."""
        plain = isinstance(context.messages, Sequence) and len(context.messages) == 1
        if not _are_messages(context.messages):
            return "has `messages` that are not a list of {role, content} texts"
        if not self.chat and not (plain and context.messages[0]["role"] == "user"):
            return "is a list of messages, and there is no chat template (or chat is off)"
        return None

    def ids(self, context: Context) -> Tensor:
        """[p] int64 of messages that the policy is to answer."""
        key = json.dumps(context.messages, sort_keys=True, default=str)
        if key not in self._ids:
            if self.chat:
                rendered = self.render(context.messages)
                ids = self.tokenizer(rendered, add_special_tokens=False).input_ids  # the template writes them
            else:
                ids = self.tokenizer(self.alone(context.messages[0]["content"])).input_ids
            if len(self._ids) >= KEPT:
                self._ids.pop(next(iter(self._ids)))
            self._ids[key] = torch.tensor(ids, dtype=torch.int64)
        return self._ids[key]

    def check_length(self, prompt: Prompt, count: int) -> None:
        """Raises TooLong for a prompt of `count` tokens that leaves no room; nothing is ever cut."""
        if count == 0:
            raise TooLong(prompt, "has no token")
        if count > self.limit:
            most = f"{self.limit} is the most (model.max_prompt_tokens, or what the context leaves)"
            raise TooLong(prompt, f"has {count} tokens, {most}")

    def render(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> str:
        """The chat as the template writes it; `answer`: with the opening of the assistant's turn.

        Raises ValueError for messages that the template refuses.
        """
        from jinja2 import TemplateError

        chat = [{**m, "content": self.content(m["content"])} for m in messages]
        if self.system is not None and chat[0]["role"] != "system":
            chat = [{"role": "system", "content": self.content(self.system)}, *chat]
        try:
            return self.apply(chat, answer)
        except TemplateError as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"the chat template does not take these messages: {said}") from error

    def apply(self, chat: Sequence[Mapping[str, Any]], answer: bool) -> str:
        """The template's text of messages with rendered content."""
        return self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=answer)

    def content(self, text: str) -> Any:
        """A message's text as the template wants it."""
        return text

    def alone(self, text: str) -> str:
        """A prompt's text where there is no template."""
        return text

    # ---------------------------------------------------------------- what an environment says

    def reply_ids(self, text: str, role: str, ended: bool) -> Tensor:
        """[r] int64 of what follows a turn of the policy, up to where it speaks again.

        ended: the turn ended with an EOS; otherwise one comes first. Raises ValueError without a chat template.
        """
        if not self.chat:
            raise ValueError("a conversation needs a chat template, to tell its turns apart; set chat: auto")
        if role not in self._around:
            self._around[role] = self._learn(role)
        before, after = self._around[role]
        ids = self.tokenizer(before + self.inline(text) + after, add_special_tokens=False).input_ids
        return torch.tensor([*([] if ended else [self.tokenizer.eos_token_id]), *ids], dtype=torch.int64)

    def inline(self, text: str) -> str:
        """A text with the template's own words for what stands in it."""
        return text

    def _learn(self, role: str) -> tuple[str, str]:
        """(before, after) what `role` says behind an answer of the policy, from the template itself."""
        mark = "\x00"
        opening = [{"role": "user", "content": ANSWER}, {"role": "assistant", "content": ANSWER}]
        start = len(self.render(opening[:1])) + len(ANSWER)
        text = self.render([*opening, {"role": role, "content": mark}])[start:].removeprefix(
            self.tokenizer.eos_token or ""
        )
        before, found, after = text.partition(mark)
        if not found:
            raise ValueError(f"the chat template does not write what role {role!r} says; choose another role")
        return before, after

    # ---------------------------------------------------------------- given answers

    def answer_ids(self, completion: str | Sequence[int]) -> Tensor:
        """[t] int64 of a given answer, with EOS at its end: a text, or ids, which are taken as they are.

        Encoded apart from its prompt, so that the tokens meet where they meet when it is sampled.
        """
        if not isinstance(completion, str):
            return torch.tensor(list(completion), dtype=torch.int64)
        ids = self.tokenizer(completion, add_special_tokens=False).input_ids
        return torch.tensor([*ids, self.tokenizer.eos_token_id], dtype=torch.int64)

    def rewritten(self, answer: str = "<think>\nso\n</think>\n\nYes.") -> str | None:
        """Why a conversation cannot be continued by rendering it again, or None where it can.

        A template that drops or changes earlier answers (their thoughts, white space) would put the policy before
        words that it never sampled. Turns here are appended as ids, so that this is of interest to others only.
        """
        if not self.chat:
            return None
        messages = [{"role": "user", "content": "Sure?"}]
        before = self.render(messages) + answer
        after = self.render([*messages, {"role": "assistant", "content": answer}, *messages])
        if after.startswith(before):
            return None
        kept = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        return (
            f"the chat template rewrites earlier answers: {before[kept : kept + 30]!r} became "
            f"{after[kept : kept + 30]!r}; append turns as ids instead of rendering the conversation again"
        )


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value)
    )
