"""Messages and given answers as token ids. A sampled completion never comes back here: its ids are kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.environments.base import Context
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.rendering import Renderer
from mmrl.modalities.tokens.templates import dated, names, refuse_unsaid, unknown_argument
from mmrl.modalities.tokens.turns import Turns, open_thoughts
from mmrl.types import Prompt

# Contexts whose ids are kept; environments that open new rows make ones that never come again.
KEPT = 20_000
KWARGS = "chat_template_kwargs"


class Unfit(ValueError):
    """A prompt that cannot be used. reason: in words that follow "prompt ..."."""

    def __init__(self, prompt: Prompt, reason: str) -> None:
        super().__init__(f"prompt {prompt.text[:60]!r} {reason}")
        self.reason = reason


class TooLong(Unfit):
    """A prompt that is empty, or has no room for an answer."""


class PromptEncoder(Renderer):
    """Token ids of prompts, made once for each and kept, and of what an environment adds to a conversation.

    limit: tokens that a prompt may have. stops: ids that the model and the tokenizer say end a completion.

    A record's `chat_template_kwargs` (over those of the config) and `tools` are handed to the template.
    """

    def __init__(self, tokenizer: Any, config: TokenModelConfig, limit: int, stops: Sequence[int] = ()) -> None:
        super().__init__(tokenizer, config)
        self.limit = limit
        self.chat = config.chat == "auto" and bool(self.template)
        self.turns = Turns(tokenizer, self.render, stops)
        self._ids: dict[str, Tensor] = {}
        self._told = False
        self._heard: set[str] = set()  # roles whose words the template is known to write
        if config.system is not None and not self.chat:
            raise ValueError("model.system needs a chat template, and this tokenizer has none; leave it out")
        if self.arguments and not self.chat:
            raise ValueError(f"model.{KWARGS} needs a chat template, and this tokenizer has none; leave it out")
        if reason := unknown_argument(self.arguments, self.template or ""):
            raise ValueError(f"model.{KWARGS} {reason}")
        if self.chat and (told := dated(self.template or "", self.arguments)):
            warnings.warn(told, stacklevel=2)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends a completion, the template's own end of a turn included."""
        return tuple(sorted({*self.turns.stops, *((self.turns.ends.end,) if self.chat else ())}))

    # ---------------------------------------------------------------- prompts

    def opening(self, prompt: Prompt) -> Context:
        """The messages of a prompt: its `messages` where the record has them, otherwise its text."""
        messages = prompt.record.get("messages")
        return Context(messages if messages is not None else [{"role": "user", "content": prompt.text}])

    def unfit(self, context: Context, record: Mapping[str, Any] = {}) -> str | None:
        """Why messages cannot be rendered, in words that follow "prompt ...", or None."""
        if not _are_messages(context.messages):
            return "has `messages` that are not a list of {role, content} texts"
        if not self.chat:
            if len(context.messages) != 1 or context.messages[0]["role"] != "user":
                return "is a list of messages, and there is no chat template (or chat is off)"
            shown = KWARGS if record.get(KWARGS) else "tools" if _tools(record) else None
            return shown and f"has `{shown}`, and there is no chat template (or chat is off)"
        if record.get(KWARGS) and (reason := unknown_argument(record[KWARGS], self.template or "")):
            return f"has a column `{KWARGS}` that {reason}"
        if _tools(record) and not names("tools", self.template or ""):
            return "has `tools`, and the chat template writes none; leave the column out, or take another model"
        return None

    def refusal(self, prompt: Prompt, messages: Sequence[Mapping[str, Any]] | None = None) -> str | None:
        """Why a prompt's messages (None: those of its record) cannot be rendered, its length apart, or None."""
        context = self.opening(prompt) if messages is None else Context(messages)
        reason = self.unfit(context, prompt.record)
        try:
            if reason is None:
                self.ids(context, prompt.record)
        except ValueError as error:
            return str(error)
        return reason

    def arguments_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What a record's chat is rendered with."""
        tools = _tools(record)
        return {**self.arguments, **(record.get(KWARGS) or {}), **({"tools": tools} if tools else {})}

    def ids(self, context: Context, record: Mapping[str, Any] = {}) -> Tensor:
        """[p] int64 of messages that the policy is to answer, or whose last, the assistant's, it continues."""
        arguments = self.arguments_of(record)
        key = json.dumps([context.messages, arguments], sort_keys=True, default=str)
        if key not in self._ids:
            if self.chat:
                ids = self.turns.encode(self._opened(context.messages, arguments))  # the template writes special tokens
            else:
                ids = self._started(self.alone(context.messages[0]["content"]))
            if len(self._ids) >= KEPT:
                self._ids.pop(next(iter(self._ids)))
            self._ids[key] = torch.tensor(ids, dtype=torch.int64)
        return self._ids[key]

    def _started(self, text: str) -> list[int]:
        """Ids of a text with the tokenizer's start, and without the end that some put behind each: it goes on."""
        ids, bare = self.tokenizer(text).input_ids, self.turns.encode(text)
        added = len(ids) - len(bare)
        while added and ids[-len(bare) :] != bare and ids[-1] in self.turns.special:
            ids, added = ids[:-1], added - 1
        return ids

    def _opened(self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
        """The text of a chat up to where the policy speaks. Raises ValueError for words that the template drops."""
        self._refuse_unwritten_calls(messages)
        *before, last = messages
        if continues(messages) and before:
            return self.render(before, True, arguments) + self.turns.begun(last["content"], arguments)
        if not before and last["role"] == "user" and self.turns.templated(last["content"]):
            return self._as_it_is(last["content"])
        text = self.render(messages, True, arguments)
        refuse_unsaid(messages, lambda told: self.render(told, True, arguments), self._heard)
        return text

    def _refuse_unwritten_calls(self, messages: Sequence[Mapping[str, Any]]) -> None:
        if any(message.get("tool_calls") for message in messages) and self.turns.drops_calls:
            raise ValueError(
                "the chat template leaves `tool_calls` out: leave such records out (data.where), or take another model"
            )

    def _as_it_is(self, text: str) -> str:
        """A prompt that is templated already, with the template's start token."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"prompts are templated already, e.g. {text[:60]!r}: they are taken as they are, without model.system; "
                "give the words alone, or set model.chat: off",
                stacklevel=2,
            )
        start = self.tokenizer.bos_token or ""
        written = self.render([{"role": "user", "content": ""}], True, {}).startswith(start)
        return text if not start or not written or text.startswith(start) else start + text

    def thoughts(self, prompt: Prompt) -> tuple[str, str]:
        """(the tag of thoughts that the policy's turn begins within, what closes them); ("", "") without any."""
        messages, arguments = prompt.record.get("messages"), self.arguments_of(prompt.record)
        if not self.chat:
            return open_thoughts(_last_word(prompt.text))
        begun = self.turns.opened(arguments)
        if messages and continues(messages):
            begun += self.turns.begun(messages[-1]["content"], arguments)
        elif not messages and self.turns.templated(prompt.text):
            begun = _last_word(prompt.text)
        return open_thoughts(begun)

    def check_length(self, prompt: Prompt, count: int) -> None:
        """Raises TooLong for a prompt of `count` tokens that leaves no room; nothing is ever cut."""
        if count == 0:
            raise TooLong(prompt, "has no token")
        if count > self.limit:
            most = f"{self.limit} is the most (model.max_prompt_tokens, or what the context leaves)"
            raise TooLong(prompt, f"has {count} tokens, {most}")

    # ---------------------------------------------------------------- what an environment says

    def reply_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        end: int | None,
        record: Mapping[str, Any] = {},
        before: str = "",
    ) -> Tensor:
        """[r] int64 of the messages that follow a turn of the policy, up to where it speaks again.

        end: the id that ended the turn; None: a budget did, and the end comes first. before: marks of what was heard
        before. Raises ValueError without a chat template, and for a role that it does not write.
        """
        if not self.chat:
            raise ValueError("a conversation needs a chat template, to tell its turns apart; set chat: auto")
        told = [{**message, "content": self.harmless(message["content"])} for message in messages]
        arguments = self.arguments_of(record)
        ids = self.turns.reply(told, end, arguments, before)
        refuse_unsaid(told, lambda others: self.turns.behind(others, answer=True, arguments=arguments), self._heard)
        return torch.tensor(ids, dtype=torch.int64)

    # ---------------------------------------------------------------- given answers

    def answer_ids(
        self,
        completion: str | Sequence[int] | Mapping[str, Any],
        record: Mapping[str, Any] = {},
        continued: bool = False,
    ) -> Tensor:
        """[t] int64 of a given answer, with the end of a turn: a text, a message of the assistant, or ids, which are
        taken as they are.

        Encoded apart from its prompt, so that the tokens meet where they meet when it is sampled. A message that has
        more than its content (tool calls, a `reasoning_content`) is what the template writes of it. continued: it goes
        on where the prompt's last message stops.
        """
        if isinstance(completion, Mapping):
            message = {key: value for key, value in completion.items() if key != "loss"}
            if set(message) - {"role", "content"}:
                if not self.chat:
                    raise ValueError(f"an answer has {', '.join(message)}, and there is no chat template to write them")
                self._refuse_unwritten_calls([message])
                return torch.tensor(self.turns.written(message, self.arguments_of(record)), dtype=torch.int64)
            completion = str(message["content"])
        if not isinstance(completion, str):
            return torch.tensor(list(completion), dtype=torch.int64)
        if self.chat:
            ids = self.turns.answer(completion, self.arguments_of(record), continued)
        else:
            ids = self.turns.ended(self.turns.encode(completion), (self.turns.eos,))
        return torch.tensor(ids, dtype=torch.int64)


def _last_word(text: str) -> str:
    """What a prompt ends in: a tag that is named before ("use <think> and </think>") opens nothing."""
    return text.split()[-1] if text.split() else ""


def continues(messages: Any) -> bool:
    """Whether the last message is the beginning of the policy's own turn; False for what are no messages."""
    last = messages[-1] if isinstance(messages, list | tuple) and messages else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def _tools(record: Mapping[str, Any]) -> list[Any] | None:
    """The schemas of functions in a record's `tools`; a list of anything else is the record's own affair."""
    tools = record.get("tools")
    return tools if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools) else None


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value)
    )
