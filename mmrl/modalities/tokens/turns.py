"""How a chat template writes turns, learned from what it writes: where a turn of the policy ends, what comes behind."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from mmrl.modalities.tokens.templates import PROBE

# Stands for words where the template shows what it writes around them, and for those that do not matter.
MARK, WORDS = "\x00", "0"
# Keys of a message that hold thoughts, by the names that templates have for them.
THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "thought"})
_THOUGHTS_TAG = re.compile(r"(<|\[|◁)(/?)((?:\w+:)?(?:think|thought|reason)\w*)(>|\]|▷)", re.IGNORECASE)
BREAK = "\n\n"  # between thoughts and an answer

Messages = Sequence[Mapping[str, Any]]
# (messages, whether the assistant's turn is opened behind them, arguments of the template) -> text
Render = Callable[[Messages, bool, Mapping[str, Any]], str]


@dataclass(frozen=True)
class Ends:
    """How the policy's turn ends.

    closing: ids that a given answer ends with, the last of which is `end`. between: the id with which the template
    closes a turn that others follow, where it writes one. opens: `end` is the first id of the following turn (GLM-4).
    """

    closing: tuple[int, ...]
    between: int | None
    opens: bool = False

    @property
    def end(self) -> int:
        """The id that ends a turn."""
        return self.closing[-1]


class Turns:
    """What a template writes around the policy's words; every answer is read off a small conversation.

    render, encode: the template's text, and the ids of a text whose special tokens are its own. stops: ids that are
    known to end a completion, of which `eos` is the tokenizer's.
    """

    def __init__(self, tokenizer: Any, render: Render, stops: Sequence[int]) -> None:
        self.tokenizer, self.render = tokenizer, render
        eos = tokenizer.eos_token_id
        self.stops = (*stops, *(() if eos is None or eos in stops else (eos,)))
        self._first = next(iter(self.stops if eos is None else (eos,)), None)
        self._around: dict[str, tuple[str, str, str]] = {}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of control tokens, which no words become."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The control tokens as texts."""
        return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self.special)))

    def _controls(self, text: str) -> bool:
        """Whether control tokens stand in a text."""
        return any(token in text for token in self.tokens)

    # ---------------------------------------------------------------- where a turn ends

    @cached_property
    def ends(self) -> Ends:
        """How turns end. Raises ValueError where neither the template nor the tokenizer says."""
        try:
            last = self.encode(self.behind([]))
            inner = self.encode(self.behind([_user(WORDS)], answer=True))
        except ValueError:  # a template of single turns: it takes no answer at all
            return Ends((self.eos,), None)
        common = [i for i, _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, inner))]
        found = [i for i in common if i in self.special] or [i for i in last if i in self.special][:1]
        if not found:
            opens = bool(inner) and inner[0] in self.special and inner[0] in self.stops
            return Ends((inner[0],), inner[0], opens=True) if opens else Ends((self.eos,), None)
        end = next((i for i in found if i in self.stops), found[-1])
        closing = tuple(last[: last.index(end) + 1])
        return Ends(closing, end if end in common else self._inner_end(inner))

    @cached_property
    def drops_calls(self) -> bool:
        """Whether the template takes a message that calls a tool, and leaves the call out."""
        written: tuple[Any, ...] = ({}, "{}")
        for arguments in written:
            call = {"type": "function", "id": "call00000", "function": {"name": PROBE, "arguments": arguments}}
            try:
                text = self.render([_user(WORDS), _assistant("") | {"tool_calls": [call]}], False, {})
            except ValueError:
                continue
            return PROBE not in text
        return False  # it refuses these, and says why where it refuses others

    @property
    def eos(self) -> int:
        """The tokenizer's EOS, or else the model's. Raises ValueError without any."""
        if self._first is None:
            raise ValueError("neither the tokenizer nor the model names an EOS token: an answer has no end")
        return self._first

    def _inner_end(self, inner: Sequence[int]) -> int | None:
        """The id that closes a turn which is not the last, where that is another: it closes the user's turns, too."""
        first = next((i for i in inner if i in self.special), None)
        asked = self.render([_user(MARK), _assistant(WORDS)], False, {}).rpartition(MARK)[2]
        after = next((i for i in self.encode(asked) if i in self.special), None)
        return first if first == after else None

    @property
    def _of_tokenizer(self) -> set[int]:
        """Ids that are written behind an answer, in any chat, and say nothing of it."""
        return {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id} & self.special

    # ---------------------------------------------------------------- what comes before and behind

    def reply(self, messages: Messages, end: int | None, arguments: Mapping[str, Any], before: str = "") -> list[int]:
        """Ids of what others say behind a turn of the policy, up to where it speaks again.

        end: the id that ended the turn, and stands there already; None: it was cut, and is closed first. before: marks
        of what was heard before, which some templates count. Encoded with the closing in front, so that the ids are
        those of the whole conversation.
        """
        ends = self.ends
        ids = self.encode(self.behind(messages, True, arguments, before))
        if ends.opens:
            return ids[1:] if end is not None and ids[:1] == [end] else ids
        if ends.between is None or ends.between not in ids:
            return ids if end is not None else [ends.end, *ids]
        return ids if end is None else ids[ids.index(ends.between) + 1 :]

    def answer(self, words: str, arguments: Mapping[str, Any], continued: bool = False) -> list[int]:
        """Ids of a given answer with its end, which stands there once even where the words bring it.

        continued: the turn was begun, so that nothing comes before the words.
        """
        return self.ended(self.encode(words if continued else self.begun(words, arguments)), self.ends.closing)

    def ended(self, ids: Sequence[int], closing: Sequence[int]) -> list[int]:
        """Ids of an answer with `closing` once, in place of the EOS, padding or end that its text brings.

        Another id that is known to end a completion stays: it says something of its own (gpt-oss's call).
        """
        ends = {*self._of_tokenizer, closing[-1]}
        length = last = len(ids)
        while last and (ids[last - 1] in ends or not self.tokenizer.decode([ids[last - 1]]).strip()):
            last -= 1
            length = last if ids[last] in ends else length
        said, before = list(ids[:length]), list(closing[:-1])
        if said and said[-1] in self.stops and said[-1] not in ends:
            return said
        return [*(said[: -len(before)] if before and said[-len(before) :] == before else said), *closing]

    def written(self, message: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[int]:
        """Ids of what the template writes of a whole message of the assistant, behind the opening of its turn.

        Raises ValueError for thoughts in a key of their own that it leaves out, and where it opens the turn in another
        way.
        """
        whole = self.render([_user(WORDS), message], False, arguments)
        if whole == self.render([_user(WORDS), _assistant(message["content"])], False, arguments) and not (
            THOUGHTS & set(message)
        ):
            return self.answer(message["content"], arguments)  # its other keys are none of the template's
        for key in sorted(THOUGHTS & set(message)):
            if whole == self.render([_user(WORDS), {k: v for k, v in message.items() if k != key}], False, arguments):
                raise ValueError(
                    f"an answer has `{key}`, which the chat template leaves out; write it into the content"
                )
        opening = self.render([_user(WORDS)], True, arguments)
        head = opening.removesuffix(self._lead(arguments)[1])
        if not whole.startswith(head):
            raise ValueError(
                f"the chat template opens an answer with {', '.join(message)} otherwise than the turn that the policy "
                "is given; change the messages"
            )
        ids = self.encode(self.begun(whole[len(head) :], arguments))
        end = next((place for place, i in enumerate(ids) if i in self.stops or i == self.ends.end), None)
        return [*ids, *self.ends.closing] if end is None else ids[: end + 1]

    def begun(self, words: str, arguments: Mapping[str, Any]) -> str:
        """The beginning of the policy's turn as it stands behind the opening of that turn.

        Control tokens (a channel) and white space that the template writes before an answer come first, words (empty
        thoughts) do not: those are the policy's. What the opening says already is not said again (a `<think>`);
        thoughts that it opens are closed before words that are none, lest the answer be a thought.
        """
        lead, opened, closes = self._lead(arguments)
        if opened:
            rest = words.removeprefix(opened)
            rest = rest if rest != words else words.removeprefix(opened.strip())
            if closes and rest == words and closes.strip() not in words:
                return closes + words
            words = rest
        bare = words
        for end in self.tokenizer.convert_ids_to_tokens(sorted({*self._of_tokenizer, self.ends.end})):
            bare = bare.replace(end, "")
        there = self._controls(bare) or (lead.isspace() and words[:1].isspace())
        return words if there else lead + words

    def opened(self, arguments: Mapping[str, Any]) -> str:
        """What the opening of a turn says of the answer already: an open tag of thoughts, or empty ones."""
        return self._lead(arguments)[1]

    def _lead(self, arguments: Mapping[str, Any]) -> tuple[str, str, str]:
        key = json.dumps(arguments, sort_keys=True, default=repr)
        if key not in self._around:
            self._around[key] = self._learn_lead(arguments)
        return self._around[key]

    def _learn_lead(self, arguments: Mapping[str, Any]) -> tuple[str, str, str]:
        """(control tokens or white space before an answer, what the opening says of one already, what closes its
        thoughts)."""
        opening = self.render([_user(WORDS)], True, arguments)
        try:
            whole = self.render([_user(WORDS), _assistant(MARK)], False, arguments).rpartition(MARK)[0]
            past = self.render([_user(WORDS), _assistant(MARK), _user(WORDS)], False, arguments).partition(MARK)[0]
        except ValueError:
            return "", "", ""
        opened = opening[len(past) :] if opening.startswith(past) else ""
        lead = whole[len(opening) :] if whole.startswith(opening) else ""
        tag, close = open_thoughts(opening)
        thoughts = opening[opening.rfind(tag) :] if tag else ""
        if not tag or thoughts.strip() != tag:  # the words of a system message may name tags
            return lead if self._controls(lead) or lead.isspace() else "", opened, ""
        if close in lead:
            return "", thoughts, lead
        _, found, behind = whole.rpartition(close)
        return "", thoughts, f"\n{close}{behind if found else BREAK}"

    def behind(
        self,
        messages: Messages,
        answer: bool = False,
        arguments: Mapping[str, Any] | None = None,
        before: str = "",
    ) -> str:
        """What the template writes behind an answer that `messages` follow. Raises ValueError where it refuses them."""
        text = self.render([_user(before + WORDS), _assistant(MARK), *messages], answer, arguments or {})
        _, found, behind = text.partition(MARK)
        if not found:
            raise ValueError("the chat template does not write what the assistant says")
        return behind

    @cached_property
    def header(self) -> str:
        """What stands right before the user's words, from its control token on; "" where nothing is."""
        before = self.render([_user(MARK)], True, {}).partition(MARK)[0].removeprefix(self.tokenizer.bos_token or "")
        return before[max((before.rfind(token) for token in self.tokens if token in before), default=0) :].strip()

    def templated(self, text: str) -> bool:
        """Whether a text is what the template would make of one: it has the words that open the user's turn."""
        header = self.header
        if not header or header not in text:
            return False
        if self._controls(header):
            return True
        closing = self.render([_user(MARK)], True, {}).rpartition(MARK)[2].strip()
        return text.lstrip().removeprefix(self.tokenizer.bos_token or "").startswith(header) and closing in text


def open_thoughts(text: str) -> tuple[str, str]:
    """(tag, closing tag) of the thoughts that a text opens last and does not close; ("", "") without any."""
    last = next(iter(deque(_THOUGHTS_TAG.finditer(text), maxlen=1)), None)
    return ("", "") if last is None or last[2] else (last[0], f"{last[1]}/{last[3]}{last[4]}")


def _user(words: str) -> dict[str, str]:
    return {"role": "user", "content": words}


def _assistant(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": words}
