"""vLLM's scoring routes, and chat completions that answer with one token, as protocols of mmrl.rewarding.remote."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from mmrl.media import IMAGE
from mmrl.near import short
from mmrl.rewarding.parts import content
from mmrl.rewarding.remote import Asked
from mmrl.rewarding.replies import entries, fingerprint, number
from mmrl.rewarding.servers import Servers, Unanswered
from mmrl.types import Score


class Classify:
    """vLLM's /classify: the logit of a class.

    model: its name. label: which class, from 0; -1 is the last. activation: False for logits, as reward models are
    trained; True for what softmax or sigmoid makes of them.
    """

    route, talks = "/classify", True
    version: str | None = None  # vLLM tells none

    def __init__(self, model: str, label: int, activation: bool) -> None:
        self.model, self.label, self.activation = model, label, activation

    def identity(self, servers: Servers) -> str:
        return fingerprint(self.route, servers.urls, self.model, self.label, self.activation)

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        return _each(group, lambda asked: self._score(servers.ask(self.route, self._body(asked))))

    def _body(self, asked: Asked) -> dict[str, Any]:
        return {"model": self.model, "messages": messages(asked), "use_activation": self.activation}

    def _score(self, said: Any) -> Score:
        [entry] = entries(said, 1)
        return entry if isinstance(entry, Score) else self._number(entry.get("probs"))

    def _number(self, values: Any) -> Score:
        if not isinstance(values, list) or not -len(values) <= self.label < len(values):
            return Score.invalid(f"the reply has no class {self.label}: {short(values)}")
        return number(values[self.label])


class Pooling(Classify):
    """vLLM's /pooling: a number of the pooled vector; where there is one for each token, of the last token's."""

    route = "/pooling"

    def _score(self, said: Any) -> Score:
        [entry] = entries(said, 1)
        if isinstance(entry, Score):
            return entry
        values = entry.get("data")
        if isinstance(values, list) and values and isinstance(values[-1], list):
            values = values[-1]
        return self._number(values)


class Relevance:
    """vLLM's /score: of an answer (a document) to a prompt (a query), as rerankers give it."""

    talks = False
    version: str | None = None

    def __init__(self, model: str, activation: bool) -> None:
        self.model, self.activation = model, activation

    def identity(self, servers: Servers) -> str:
        return fingerprint("relevance", servers.urls, self.model, self.activation)

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        said = servers.ask(
            "/score",
            {
                "model": self.model,
                "queries": [_side(asked.text, asked.pictures) for asked in group],
                "documents": [_side(asked.answer or "", [asked.picture] if asked.picture else []) for asked in group],
                "use_activation": self.activation,
            },
        )
        return [e if isinstance(e, Score) else number(e.get("score")) for e in entries(said, len(group))]


class YesNo:
    """PaCo-Reward's score by chat completions: p(yes) / (p(yes) + p(no)) of the first token of the answer.

    question: put behind the prompt's pictures and the drawn one; "$prompt" and "$answer" stand for the words. yes, no:
    words that count, white space and case aside; their tokens have to be among the `top` that the server tells.
    Raises ValueError for words that are the same, and a top below 2.
    """

    talks = False
    version: str | None = None

    def __init__(self, model: str, question: str, yes: str = "yes", no: str = "no", top: int = 20) -> None:
        self.model, self.question, self.top = model, question, top
        self.yes, self.no = (word.strip().casefold() for word in (yes, no))
        if self.yes == self.no or not (self.yes and self.no):
            raise ValueError(f"yes={yes!r} and no={no!r} must differ, case and white space aside")
        if top < 2:
            raise ValueError(f"top={top} must be 2 or more, for two answers to be among them")

    def identity(self, servers: Servers) -> str:
        return fingerprint("yes_no", servers.urls, self.model, self.question, self.yes, self.no, self.top)

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        return _each(group, lambda asked: self._asked(servers, asked))

    def _asked(self, servers: Servers, asked: Asked) -> Score:
        if asked.answer is not None and "$answer" not in self.question:
            return Score.invalid("`question` has no $answer: all texts would get the same score")
        return self._score(servers.ask("/chat/completions", self._body(asked)))

    def _body(self, asked: Asked) -> dict[str, Any]:
        text = asked.text.replace(IMAGE, "").strip() if asked.pictures else asked.text
        filled = {"$prompt": text, "$answer": asked.answer or ""}
        words = re.sub(r"\$(?:prompt|answer)", lambda name: filled[name[0]], self.question)
        shown = [*asked.pictures, *([asked.picture] if asked.picture is not None else [])]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content(words, shown)}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self.top,
        }

    def _score(self, said: Any) -> Score:
        try:
            told = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            logs = [(str(each["token"]).strip().casefold(), float(each["logprob"])) for each in told]
        except (LookupError, TypeError, ValueError):
            return Score.invalid(f"the reply has no log-probs of a first token: {short(said)}")
        if any(math.isnan(log) or log > 0.01 for _, log in logs):
            return Score.invalid(f"the reply has what is no log-prob: {short(logs)}")
        sides = {word: sum(math.exp(log) for token, log in logs if token == word) for word in (self.yes, self.no)}
        if not sum(sides.values()) > 0:
            return Score.invalid(
                f"neither {self.yes!r} nor {self.no!r} is among the {len(logs)} likeliest first tokens"
            )
        return Score.of(sides[self.yes] / sum(sides.values()), yes=sides[self.yes], no=sides[self.no])


def messages(asked: Asked) -> list[dict[str, Any]]:
    """The prompt and what answers it, as a chat; a drawn picture is the answer's."""
    told = asked.messages or (("user", asked.text),)
    marks = [words.count(IMAGE) for _, words in told]
    if sum(marks) != len(asked.pictures):  # nothing marks them: they stand before what the user says first
        first = next((place for place, (role, _) in enumerate(told) if role == "user"), 0)
        marks = [len(asked.pictures) if place == first else 0 for place in range(len(told))]
    left = iter(asked.pictures)
    made = [
        {"role": role, "content": content(words, [next(left) for _ in range(count)])}
        for (role, words), count in zip(told, marks)
    ]
    drawn = [asked.picture] if asked.picture is not None else []
    return [*made, {"role": "assistant", "content": content(asked.answer or "", drawn)}]


def _each(group: Sequence[Asked], score: Callable[[Asked], Score]) -> list[Score]:
    """The score of each sample, which is asked about alone: one that the server refuses fails by itself. Raises
    Unanswered where there is no answer."""
    found = []
    for asked in group:
        try:
            found.append(score(asked))
        except Unanswered as error:
            if not error.lasting:
                raise
            found.append(Score.invalid(str(error)))
    return found


def _side(text: str, pictures: Sequence[bytes]) -> Any:
    return {"content": content(text, pictures)} if pictures else text
