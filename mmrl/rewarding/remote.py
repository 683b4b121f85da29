"""Protocols of servers that score: what is sent for the samples of a group, and what is made of the reply.

A reply that is longer, shorter, of another request or another version, or holds what is no finite number, gives no
number: its samples are invalid, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmrl.near import short
from mmrl.rewarding.parts import base64_of, content
from mmrl.rewarding.servers import Servers
from mmrl.types import Score


@dataclass(frozen=True)
class Asked:
    """One sample as it is sent.

    text: the prompt's words. pictures: those of the prompt, as PNG. answer: the sample's words, or None; picture: what
    it drew, as PNG, or None. columns: those of the record that JSON holds.
    """

    id: str
    group: str
    text: str
    pictures: tuple[bytes, ...] = ()
    answer: str | None = None
    picture: bytes | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Equal for what has to get the same score; the ids are no part of it."""
        digest = hashlib.sha256()
        for part in (*self.pictures, b"", self.picture or b"", json.dumps([self.text, self.answer]).encode()):
            digest.update(hashlib.sha256(part).digest())
        digest.update(json.dumps(self.columns, sort_keys=True).encode())
        return digest.hexdigest()


class Remote(Protocol):
    """A protocol. identity: what the scores depend on besides the samples. together: whether one request has all samples
    of a group; else each has its own."""

    identity: str
    together: bool

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        """Ask, and read. Raises Unanswered."""


class GetReward:
    """OpenRLHF's /get_reward; a query is the prompt's words with the answer behind them."""

    together, identity = True, "get_reward"

    def __init__(self, label: str = "answer") -> None:
        self.label = label

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        if any(asked.answer is None or asked.pictures for asked in group):
            return [Score.invalid("OpenRLHF's protocol takes no pictures; use remote.score")] * len(group)
        said = servers.ask(
            "/get_reward",
            {
                "query": [f"{asked.text}{asked.answer}" for asked in group],
                "prompts": [asked.text for asked in group],
                "labels": [asked.columns.get(self.label) for asked in group],
            },
        )
        values = rows(said, "rewards", len(group))
        if isinstance(values, str):
            return [Score.invalid(values)] * len(group)
        reasons = said.get("errors")
        if not isinstance(reasons, list) or len(reasons) != len(group):
            reasons = [None] * len(group)
        return [_with_reason(value, reason) for value, reason in zip(values, reasons)]


class ScoreV1:
    """Protocol 1 of /score. reward: which of the server's; None: the only one. version: of the scorer, which another one
    may not replace; None: the one that answers first. sub: which number of a reward's; None: the only one."""

    together = True

    def __init__(self, reward: str | None, version: str | None, sub: str | None) -> None:
        self.reward, self.version, self.sub = reward, version, sub
        self.pinned = version
        self.identity = json.dumps(["score", reward, version, sub])

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        if self.reward is None:
            served = servers.ask("/health")
            names = list(served["rewards"]) if isinstance(served, dict) and _dict(served.get("rewards")) else []
            if len(names) != 1:
                return [Score.invalid(f"/health names the rewards {short(names)}: set `reward`")] * len(group)
            self.reward = str(names[0])
        sent = [self._row(asked, group) for asked in group]
        said = servers.ask("/score", {"protocol_version": "1", "requests": sent})
        fault = self._fault(said, sent)
        if fault:
            return [Score.invalid(fault)] * len(group)
        return [self._read(result, error) for result, error in zip(said["results"], said["errors"])]

    def _row(self, asked: Asked, group: Sequence[Asked]) -> dict[str, Any]:
        history: list[dict[str, Any]] = [{"image_b64": base64_of(data)} for data in asked.pictures]
        if asked.picture is not None:
            history = [{"text": asked.text, **entry} for entry in history]
            history.append({"text": asked.text, "image_b64": base64_of(asked.picture)})
        else:
            if not history:
                history = [{}]
            history[-1]["text"] = asked.text
            history.append({"text": asked.answer or ""})
        row = {
            "history": history,
            "required_rewards": [self.reward],
            "metadata": dict(asked.columns) or None,
            "request_id": f"{asked.group}/{asked.id}",
            "sample_id": asked.id,
            "group_id": asked.group,
            "source_rank": None,
            "policy_version": None,
            "scorer_version": self.pinned,
        }
        everything = [asked.fingerprint, self.reward, self.pinned, *(other.fingerprint for other in group)]
        return {**row, "idempotency_key": hashlib.sha256(json.dumps(everything).encode()).hexdigest()}

    def _fault(self, said: Any, sent: Sequence[Mapping[str, Any]]) -> str:
        """What is wrong with the reply as a whole; "" where it is the one to this request."""
        if not _dict(said) or said.get("protocol_version") != "1":
            return f"the reply is none of protocol 1: {short(said)}"
        for name in ("results", "errors", "identities"):
            given = said.get(name)
            if not isinstance(given, list) or len(given) != len(sent) or not all(map(_dict, given)):
                length = f"{len(given)} entries" if isinstance(given, list) else short(given)
                return f"the reply has {length} of {name} for {len(sent)} samples"
        for row, echo in zip(sent, said["identities"]):
            for key in ("request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key"):
                if echo.get(key) != row[key]:
                    return (
                        f"the reply is to another request: its {key} is {short(echo.get(key))}, not {short(row[key])}"
                    )
        versions = {json.dumps(echo.get("scorer_version")) for echo in said["identities"]}
        version = said["identities"][0].get("scorer_version")
        if len(versions) > 1 or not (version is None or isinstance(version, str)):
            return f"the reply is of several versions of the scorer: {short(sorted(versions))}"
        if self.version is None:
            self.version = version
        if version != self.version:
            return f"the scorer's version is {short(version)}, and was {short(self.version)}"
        return ""

    def _read(self, result: Mapping[str, Any], error: Mapping[str, Any]) -> Score:
        subs = result.get(str(self.reward))
        reason = error.get(str(self.reward))
        if not _dict(subs) or not subs:
            return Score.invalid(_told(reason) if reason else f"the reply has no score and no reason: {short(result)}")
        sub = self.sub if self.sub is not None else next(iter(subs))
        if sub not in subs or (self.sub is None and len(subs) > 1):
            return Score.invalid(f"the reward has the numbers {short(sorted(subs))}: set `sub`")
        return _with_reason(subs[sub], reason)


class Classify:
    """vLLM's /classify: the logit of a class. model: its name. label: which class, from 0; -1 is the last.
    activation: False for logits, as reward models are trained; True for what softmax or sigmoid makes of them."""

    together, route = False, "/classify"

    def __init__(self, model: str, label: int, activation: bool) -> None:
        self.model, self.label, self.activation = model, label, activation
        self.identity = json.dumps([self.route, model, label, activation])

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        return [self._score(servers.ask(self.route, self._body(asked))) for asked in group]

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
        return self._number(
            values[-1] if isinstance(values, list) and values and isinstance(values[-1], list) else values
        )


class Relevance:
    """vLLM's /score: of an answer (a document) to a prompt (a query), as rerankers give it."""

    together = True

    def __init__(self, model: str, activation: bool) -> None:
        self.model, self.activation = model, activation
        self.identity = json.dumps(["/score", model, activation])

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
    """

    together = False

    def __init__(self, model: str, question: str, yes: str = "yes", no: str = "no", top: int = 20) -> None:
        self.model, self.question, self.yes, self.no, self.top = model, question, yes.casefold(), no.casefold(), top
        self.identity = json.dumps(["yes_no", model, question, yes, no, top])

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        return [self._score(servers.ask("/chat/completions", self._body(asked))) for asked in group]

    def _body(self, asked: Asked) -> dict[str, Any]:
        words = self.question.replace("$prompt", asked.text).replace("$answer", asked.answer or "")
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
    drawn = [asked.picture] if asked.picture is not None else []
    return [
        {"role": "user", "content": content(asked.text, asked.pictures)},
        {"role": "assistant", "content": content(asked.answer or "", drawn)},
    ]


def rows(said: Any, name: str, count: int) -> list[Any] | str:
    """The list of that name in a reply, of just so many entries; or what there is instead."""
    given = said.get(name) if _dict(said) else None
    if not isinstance(given, list):
        return f"the reply has no list of {name}: {short(said)}"
    return given if len(given) == count else f"the reply has {len(given)} {name} for {count} samples"


def entries(said: Any, count: int) -> list[Mapping[str, Any] | Score]:
    """The entries of `data`, in the order of their index, which has to name each sample once; or the same invalid score
    for all."""
    given = rows(said, "data", count)
    if isinstance(given, str):
        return [Score.invalid(given)] * count
    order = [entry.get("index") if _dict(entry) else None for entry in given]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in order) or sorted(order) != list(range(count)):
        return [Score.invalid(f"the reply's data have the index {short(order)} for {count} samples")] * count
    return [given[order.index(place)] for place in range(count)]


def number(value: Any) -> Score:
    """A finite number of a reply; anything else is invalid, a text and a truth too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Score.invalid(f"the reply has {short(value)} in the place of a number")
    return Score.of(value)


def _with_reason(value: Any, reason: Any) -> Score:
    """A value with what the server says of it: null is invalid, or does not apply where it says so."""
    if value is not None:
        return number(value)
    told = _told(reason) if reason else "the reply has null, and no reason"
    if told.startswith("not applicable"):
        return Score(None, told, "na")
    return Score.invalid(told)


def _side(text: str, pictures: Sequence[bytes]) -> Any:
    return {"content": content(text, pictures)} if pictures else text


def _told(reason: Any) -> str:
    return " ".join(str(reason).split())[:300]


def _dict(value: Any) -> bool:
    return isinstance(value, dict)
