"""Candidates side by side, in an order of each sample's own: what a judge that reasons is shown."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening, read_messages, with_system
from mmrl.environments.parsing import plain
from mmrl.media import IMAGE, View
from mmrl.seeds import seed_of
from mmrl.strict import Strict
from mmrl.types import Candidate, Prompt

TEMPLATE = """You are an impartial evaluator. Below are a question and {count} responses to it; \
say which response is best.

First compare the responses side by side in <think></think>: is what they say true, of the pictures too; do they \
answer what was asked; are they complete, clear and safe? Neither the place of a response nor its length is a merit. \
There is no tie: one of them has to be chosen. Then give its number, and nothing else: {verdicts}, right behind \
</think>.

### Question
{question}

{responses}"""
RESPONSE = "### Response {number}\n{answer}"
_MARKS = re.compile(r"\{(\w+)\}")


class PairsOptions(Strict):
    system: str | None = Field(None, description="Text of the system message.")
    template: str = Field(
        TEMPLATE,
        description="What the judge is told, with {question} and {responses} once each, and where wanted {count} and "
        "{verdicts} (such as <answer>1</answer> or <answer>2</answer>).",
    )
    response: str = Field(RESPONSE, description="One of the responses, with {number}, from 1 by place, and {answer}.")

    @field_validator("template", "response")
    @classmethod
    def _has_its_marks(cls, text: str, info: Any) -> str:
        needed = {"template": ("question", "responses"), "response": ("answer",)}[info.field_name]
        known = {"template": ("count", "verdicts"), "response": ("number",)}[info.field_name]
        found = _MARKS.findall(text)
        for mark in needed:
            if found.count(mark) != 1:
                raise ValueError(f"has {{{mark}}} {found.count(mark)} times; it is needed once")
        unknown = next((mark for mark in found if mark not in (*needed, *known)), None)
        if unknown is not None:
            raise ValueError(f"has {{{unknown[:40]}}}; it may have {', '.join(f'{{{m}}}' for m in (*needed, *known))}")
        return text


class Pairs:
    """A record's question with its `candidates`, two or more, of which the policy chooses one; one turn.

    candidates: texts, or {"answer": a text or messages, "images": [...]}, whose pictures stand at their IMAGE marks, or
    before the text without any. The order is the record's column `order`, where it has one. Otherwise it is drawn for
    every sample in training, so that a preference for a place earns nothing. In evaluation the first sample of a prompt
    begins with a candidate that the prompt's id decides on, and each further sample moves all of them on by one place:
    two samples of a pair show both orders. Where nothing is sampled it is the order of the record.

    info: `order`, of which order[k] is the number, from 0, of the candidate in place k.
    """

    Options = PairsOptions
    answers_cut = False
    draws = ("order",)

    def __init__(self, options: PairsOptions | None = None) -> None:
        self.options = options or PairsOptions()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError, naming the record, for candidates or an order that are none, and where marks and pictures
        differ in number."""
        prompt = episode.prompt
        candidates = candidates_of(prompt)
        order = order_of(prompt, len(candidates), episode.seed, episode.index, training=episode.step is not None)
        episode.info["order"] = list(order)
        return showing(prompt, candidates, order, len(episode.sizes), self.options)

    def respond(self, episode: Episode) -> Reply | None:
        return None


def showing(
    prompt: Prompt,
    candidates: Sequence[Candidate],
    order: Sequence[int],
    pictures: int,
    options: PairsOptions | None = None,
) -> Context:
    """What a judge reads: candidate order[k] in place k, counted from 1 in the text.

    pictures: of the question itself; views count those first, then the candidates' in the candidates' own order.
    Raises ValueError, naming the record, where marks and pictures differ in number.
    """
    options = options or PairsOptions()
    firsts, total = [], pictures
    for candidate in candidates:
        firsts.append(total)
        total += len(candidate.images)
    told = [{"number": str(k + 1), "answer": _answer(prompt, candidates, i)} for k, i in enumerate(order)]
    parts = {
        "question": _dialogue(opening(prompt, pictures), alone="user"),
        "responses": "\n\n".join(_filled(options.response, marks) for marks in told),
        "count": str(len(order)),
        "verdicts": _either([f"<answer>{k + 1}</answer>" for k in range(len(order))]),
    }
    shown = [range(pictures)] + [range(firsts[i], firsts[i] + len(candidates[i].images)) for i in order]
    if options.template.index("{responses}") < options.template.index("{question}"):
        shown = [*shown[1:], shown[0]]
    messages = [{"role": "user", "content": _filled(options.template, parts)}]
    return Context(with_system(messages, options.system), [View(i) for views in shown for i in views])


def candidates_of(prompt: Prompt) -> tuple[Candidate, ...]:
    """The candidates of a pair's record. Raises ValueError, naming it, for fewer than two or what is none."""
    given = prompt.record.get("candidates")
    if not isinstance(given, list | tuple) or len(given) < 2:
        found = f"a list of {len(given)}" if isinstance(given, list | tuple) else type(given).__name__
        raise ValueError(f"prompt {prompt.id!r} needs `candidates`, a list of two or more; it is {found}")
    return tuple(_candidate(prompt, number, one) for number, one in enumerate(given))


def order_of(prompt: Prompt, count: int, seed: int | None, index: int | None, *, training: bool) -> tuple[int, ...]:
    """The order in which a sample of a prompt is shown its `count` candidates; see Pairs.

    seed, index: of the sample, None where there is none. Raises ValueError for a column `order` that is none.
    """
    fixed = prompt.record.get("order")
    if fixed is not None:
        numbers = list(fixed) if isinstance(fixed, list | tuple) else []
        if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers) or sorted(numbers) != list(range(count)):
            raise ValueError(
                f"prompt {prompt.id!r} has `order` {fixed!r:.60}; it must have each of 0 to {count - 1} once"
            )
        return tuple(numbers)
    if index is None:
        return tuple(range(count))
    if training:
        return tuple(random.Random(seed_of(seed, "order")).sample(range(count), count))
    first = (index + seed_of("order", prompt.id)) % count
    return tuple((first + k) % count for k in range(count))


def _candidate(prompt: Prompt, number: int, given: Any) -> Candidate:
    if isinstance(given, str):
        return Candidate(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("answer", ""), str | list | tuple):
        raise ValueError(
            f"prompt {prompt.id!r}: candidate {number} is {given!r:.60}; expected a text, or an object with `answer`"
        )
    images = given.get("images")
    if not isinstance(images, list | tuple | None):
        raise ValueError(f"prompt {prompt.id!r}: `images` of candidate {number} is {images!r:.60}, expected a list")
    if given.get("answer") is None and not images:
        raise ValueError(f"prompt {prompt.id!r}: candidate {number} has neither an answer nor a picture")
    return Candidate(given.get("answer") or "", tuple(images or ()))


def _answer(prompt: Prompt, candidates: Sequence[Candidate], number: int) -> str:
    """A candidate's text, with a mark for each of its pictures and for nothing else."""
    answer, pictures = candidates[number].answer, len(candidates[number].images)
    try:
        text = answer if isinstance(answer, str) else _dialogue(read_messages(answer, True), alone="assistant")
    except ValueError as error:
        raise ValueError(f"prompt {prompt.id!r}: candidate {number}: {error}") from None
    if not pictures:
        return plain(text)
    pieces = [plain(piece) for piece in text.split(IMAGE)]
    if len(pieces) == 1:
        return "\n".join(filter(None, [IMAGE * pictures, *pieces]))
    if len(pieces) != pictures + 1:
        raise ValueError(
            f"prompt {prompt.id!r}: candidate {number} has {len(pieces) - 1} {IMAGE} marks and {pictures} pictures; "
            "they must agree"
        )
    return IMAGE.join(pieces)


def _dialogue(messages: Sequence[Mapping[str, str]], alone: str) -> str:
    """Messages as one text: one message of the role `alone` is its words, others are told by who says them."""
    if len(messages) == 1 and messages[0]["role"] == alone:
        return messages[0]["content"]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """All marks at once: what is put in may hold braces of its own."""
    return _MARKS.sub(lambda mark: parts[mark[1]], template)


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
