"""Protocols of servers that score: what is sent for the samples of a group, and what is made of the reply.

A reply that is longer, shorter, of another request or another version, or holds what is no finite number, gives no
number: its samples are invalid, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmrl.near import short
from mmrl.rewarding.parts import base64_of
from mmrl.rewarding.replies import fingerprint, rows, told, with_reason
from mmrl.rewarding.servers import Servers, Unanswered
from mmrl.types import Score


@dataclass(frozen=True)
class Asked:
    """One sample as it is sent.

    text: the prompt's words, in which `<image>` may mark where a picture stands. pictures: those of the prompt, as PNG.
    answer: the sample's words, or None; picture: what it drew, as PNG, or None. columns: those of the record that JSON
    holds. messages: (role, content) of the prompt where it is a conversation; the text is then its last question.
    """

    id: str
    group: str
    text: str
    pictures: tuple[bytes, ...] = ()
    answer: str | None = None
    picture: bytes | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Equal for what has to get the same score; the ids are no part of it."""
        digest, words = hashlib.sha256(), [self.text, self.answer, self.messages]
        for part in (*self.pictures, b"", self.picture or b"", json.dumps(words).encode()):
            digest.update(hashlib.sha256(part).digest())
        digest.update(json.dumps(self.columns, sort_keys=True).encode())
        return digest.hexdigest()


class Remote(Protocol):
    """A protocol. talks: whether it sends a conversation as one. version: of the scorer, where the server told it."""

    talks: bool
    version: str | None

    def identity(self, servers: Servers) -> str:
        """What scores depend on besides the samples. Raises Unanswered where a server has to tell it."""

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
        """Ask, and read. Raises Unanswered."""


def other_version(version: Any, before: str | None) -> str:
    return f"the scorer's version is {short(version)}, and was {short(before)}"


class GetReward:
    """OpenRLHF's /get_reward; a query is the prompt's words with the answer behind them.

    version: of the scorer, where the server tells it (mmrl's does, OpenRLHF's does not): that of the first answer.
    """

    talks = False

    def __init__(self, label: str = "answer") -> None:
        self.label = label
        self.version: str | None = None

    def identity(self, servers: Servers) -> str:
        return fingerprint("get_reward", servers.urls, self.label, self.version)

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
        version = said.get("scorer_version")
        self.version = version if self.version is None else self.version
        if version != self.version:
            return [Score.invalid(other_version(version, self.version))] * len(group)
        reasons = said.get("errors")
        if not isinstance(reasons, list) or len(reasons) != len(group):
            reasons = [None] * len(group)
        return [with_reason(value, reason) for value, reason in zip(values, reasons)]


class ScoreV1:
    """Protocol 1 of /score.

    reward: which of the server's; None: the only one. version: of the scorer, which another one may not replace; None:
    the one that is there first. sub: which number of a reward's; None: the only one.
    """

    talks = False

    def __init__(self, reward: str | None, version: str | None, sub: str | None) -> None:
        self.reward, self.version, self.sub = reward, version, sub
        self.pinned = version
        self._asked_for = threading.Lock()
        self._met = False

    def identity(self, servers: Servers) -> str:
        with self._asked_for:
            if not self._met:
                self._meet(servers.ask("/health"))
                self._met = True
        return fingerprint("score", servers.urls, self.reward, self.version, self.sub)

    def _meet(self, served: Any) -> None:
        """Take the reward and the version that a server has, where none is set."""
        rewards = served.get("rewards") if isinstance(served, dict) else None
        names = list(rewards) if isinstance(rewards, dict | list) else []
        if self.reward is None:
            if len(names) != 1:
                raise Unanswered(f"/health names the rewards {short(names)}: set `reward`", lasting=True)
            self.reward = str(names[0])
        if self.reward not in names:
            raise Unanswered(f"/health names the rewards {short(names)}, and not {self.reward!r}", lasting=True)
        if self.version is None and isinstance(served.get("scorer_version"), str):
            self.version = served["scorer_version"]

    def scores(self, servers: Servers, group: Sequence[Asked]) -> list[Score]:
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
        return {**row, "idempotency_key": fingerprint(everything)}

    def _fault(self, said: Any, sent: Sequence[Mapping[str, Any]]) -> str:
        """What is wrong with the reply as a whole; "" where it is the one to this request."""
        if not isinstance(said, dict) or said.get("protocol_version") != "1":
            return f"the reply is none of protocol 1: {short(said)}"
        for name in ("results", "errors", "identities"):
            given = said.get(name)
            if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
                return f"the reply's {name} are no list of objects: {short(given)}"
            if len(given) != len(sent):
                return f"the reply has {len(given)} {name} for {len(sent)} samples"
        for row, echo in zip(sent, said["identities"]):
            for key in ("request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key"):
                if echo.get(key) != row[key]:
                    got, wanted = short(echo.get(key)), short(row[key])
                    return f"the reply is to another request: its {key} is {got}, not {wanted}"
        versions = {json.dumps(echo.get("scorer_version")) for echo in said["identities"]}
        version = said["identities"][0].get("scorer_version")
        if len(versions) > 1 or not (version is None or isinstance(version, str)):
            return f"the reply is of several versions of the scorer: {short(sorted(versions))}"
        if self.version is None:
            self.version = version
        if version != self.version:
            return f"{other_version(version, self.version)} (see the option `version`)"
        return ""

    def _read(self, result: Mapping[str, Any], error: Mapping[str, Any]) -> Score:
        subs = result.get(str(self.reward))
        reason = error.get(str(self.reward))
        if not isinstance(subs, dict) or not subs:
            return Score.invalid(told(reason) if reason else f"the reply has no score and no reason: {short(result)}")
        sub = self.sub if self.sub is not None else next(iter(subs))
        if sub not in subs or (self.sub is None and len(subs) > 1):
            return Score.invalid(f"the reward has the numbers {short(sorted(subs))}: set `sub`")
        return with_reason(subs[sub], reason)
