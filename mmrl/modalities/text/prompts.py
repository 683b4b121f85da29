"""Prompts and given answers as token ids. A sampled completion never comes back here: its ids are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.text.config import ModelConfig


class PromptEncoder:
    """Token ids of prompts, made once for each and kept.

    limit: tokens that a prompt may have.
    """

    def __init__(self, tokenizer: Any, config: ModelConfig, limit: int) -> None:
        self.tokenizer = tokenizer
        self.system = config.system
        self.limit = limit
        self.chat = config.chat == "auto" and bool(tokenizer.chat_template)
        self._ids: dict[str, Tensor] = {}
        if config.system is not None and not self.chat:
            raise ValueError("model.system needs a chat template, and this tokenizer has none; leave it out")

    def ids(self, text: str, record: Mapping[str, Any]) -> Tensor:
        """[p] int64 of a prompt: its `messages` where the record has them, otherwise its text.

        Raises ValueError, with the reason, for a prompt that is not `usable`.
        """
        reason = self.usable(text, record)
        if reason:
            raise ValueError(f"prompt {text[:60]!r} {reason}")
        return self._encoded(text, record)

    def usable(self, text: str, record: Mapping[str, Any]) -> str | None:
        """Why the prompt cannot be used, in words that follow "prompt ...", or None."""
        messages = record.get("messages")
        if messages is not None and not self.chat:
            return "is a list of messages, and there is no chat template (or chat is off)"
        if messages is not None and not _are_messages(messages):
            return "has `messages` that are not a list of {role, content} texts"
        count = len(self._encoded(text, record))
        if count == 0:
            return "has no token"
        if count > self.limit:
            return f"has {count} tokens, {self.limit} is the most (model.max_prompt_tokens, or what the context leaves)"
        return None

    def _encoded(self, text: str, record: Mapping[str, Any]) -> Tensor:
        messages = record.get("messages")
        key = text if messages is None else json.dumps(messages, sort_keys=True)
        if key not in self._ids:
            if self.chat:
                rendered = self.render(messages or [{"role": "user", "content": text}])
                ids = self.tokenizer(rendered, add_special_tokens=False).input_ids  # the template writes them
            else:
                ids = self.tokenizer(text).input_ids
            self._ids[key] = torch.tensor(ids, dtype=torch.int64)
        return self._ids[key]

    def render(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> str:
        """The chat as the template writes it; `answer`: with the opening of the assistant's turn."""
        chat = [dict(m) for m in messages]
        if self.system is not None and chat[0]["role"] != "system":
            chat = [{"role": "system", "content": self.system}, *chat]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=answer)

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
        words that it never sampled; turns must then be appended as ids.
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
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value)
    )
