"""Rewards that a server gives: mmrl's own service (docs/serving.md), OpenRLHF's, UniRL's, and vLLM's scoring routes.

Options that all have: url (one, or a list of servers of the same thing, asked in turn), key_env (the variable with the
bearer token), timeout (seconds of a try, as a whole), attempts, patience (seconds that a server which does not answer
is waited for; the run pauses), when_down (after that: `invalid` samples, or `stop` the run with one message), rest
(seconds in which a server that failed is left alone), groups_at_once, cache (a .jsonl file that keeps scores between
runs), version (a word of your own for what is served: but for `score`, a `cache` needs it).
Nothing is ever scored 0 because a server fails. As a monitor (weight 0) none of them waits or stops; after a request
that failed the server is left alone for `rest` seconds, and longer each time, up to 10 minutes.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from mmrl.near import near, short
from mmrl.pictures import PictureError, is_video, open_image
from mmrl.rewarding import StopRun
from mmrl.rewarding.known import Known
from mmrl.rewarding.parts import png
from mmrl.rewarding.remote import Asked, GetReward, Remote, ScoreV1
from mmrl.rewarding.remote_vllm import Classify, Pooling, Relevance, YesNo
from mmrl.rewarding.replies import fingerprint
from mmrl.rewarding.servers import Servers, Unanswered
from mmrl.types import Prompt, Sample, Score

# Columns of the record that are sent as what is shown, or are no business of the server.
_SENT_APART = ("prompt", "messages", "image", "images", "candidates", "shares")
_MAX_PIXELS = 50_000_000
_CONNECTION = MappingProxyType(
    {
        "key_env": "",
        "timeout": 180.0,
        "attempts": 3,
        "patience": 600.0,
        "when_down": "invalid",
        "rest": 30.0,
        "groups_at_once": 16,
        "cache": None,
        "version": "",
    }
)


class _Remote:
    """What these rewards share: what is sent of a sample, what is known already, and servers that fail."""

    _tells_version = False  # always, and before it scores
    _all_or_none = False  # whether a score may depend on the other samples of the group

    def __init__(self, remote: Remote, url: str | list[str], key_env: str, connection: Mapping[str, Any]) -> None:
        if unknown := sorted(set(connection) - set(_CONNECTION)):
            raise ValueError(f"no option {unknown[0]!r}; {near(unknown[0], _CONNECTION)}")
        options = {**_CONNECTION, "key_env": key_env, **connection}
        if options["when_down"] not in ("invalid", "stop"):
            raise ValueError(f"when_down={short(options['when_down'])}: expected invalid or stop")
        if options["groups_at_once"] < 1:
            raise ValueError(f"groups_at_once={options['groups_at_once']} must be 1 or more")
        of_servers = {name: options[name] for name in ("timeout", "attempts", "patience", "rest")}
        self.remote, self.servers = remote, Servers(url, options["key_env"], **of_servers)
        self.when_down, self.groups_at_once = options["when_down"], options["groups_at_once"]
        if options["cache"] and not (options["version"] or self._tells_version):
            raise ValueError(
                "cache: this server tells no version, and a file would give the scores of a model that was replaced; "
                "set `version`, a word of your own that is another for another model"
            )
        self._version = str(options["version"])
        self._known = Known(Path(options["cache"]).expanduser() if options["cache"] else None)
        self._lock, self._left_out = threading.Lock(), set[str]()

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: it keeps nobody waiting, and stops nothing."""
        self.when_down = "invalid"
        self.servers.as_monitor()

    def _ask(self, samples: Sequence[Sample]) -> list[Score]:
        made = self._asked(samples)
        asked = [one for one in made if isinstance(one, Asked)]
        try:
            scores = iter(self._scores(asked) if asked else ())
        except Unanswered as error:
            if self.when_down == "stop" and not error.lasting:
                raise StopRun(str(error)) from None
            scores = iter([Score.invalid(str(error))] * len(asked))
        return [next(scores) if isinstance(one, Asked) else one for one in made]

    def _scores(self, asked: Sequence[Asked]) -> list[Score]:
        """What is known, and what the server says of the others."""
        keys = self._keys(asked)
        known = [self._known.get(key) for key in keys]
        wanted = [place for place, told in enumerate(known) if told is None]
        if self._all_or_none and wanted:
            wanted = list(range(len(asked)))
        fresh = self.remote.scores(self.servers, [asked[place] for place in wanted]) if wanted else []
        keys = self._keys(asked) if wanted else keys  # some servers tell their version with the first answer only
        for place, score in zip(wanted, fresh, strict=True):
            if score.ok:
                self._known.put(keys[place], json.dumps(score.value))
        found = dict(zip(wanted, fresh))
        return [
            found[place] if place in found else Score.of(json.loads(told or "null"), known=True)
            for place, told in enumerate(known)
        ]

    def _keys(self, asked: Sequence[Asked]) -> list[str]:
        """What the samples' scores are kept under."""
        identity = self.remote.identity(self.servers)
        company = [one.fingerprint for one in asked] if self._all_or_none else []
        return [fingerprint(identity, self._version, one.fingerprint, company) for one in asked]

    def _asked(self, samples: Sequence[Sample]) -> list[Asked | Score]:
        """What is sent of each sample, or why nothing is."""
        prompt = samples[0].prompt
        refs = prompt.record.get("images") or ()
        if any(map(is_video, refs)):
            return [Score.invalid("the prompt shows a video, which is not sent")] * len(samples)
        try:
            pictures = tuple(png(open_image(ref, prompt.root, _MAX_PIXELS)) for ref in refs)
        except PictureError as error:
            return [Score.invalid(str(error))] * len(samples)
        shown = Asked("", prompt.id, prompt.text, pictures, columns=self._columns(prompt), messages=self._talk(prompt))
        return [self._with_answer(shown, sample) for sample in samples]

    def _with_answer(self, shown: Asked, sample: Sample) -> Asked | Score:
        if isinstance(sample.artifact, str):
            return replace(shown, id=str(sample.index), answer=sample.artifact)
        try:
            return replace(shown, id=str(sample.index), picture=png(open_image(sample.artifact, None, _MAX_PIXELS)))
        except PictureError as error:
            return Score.invalid(str(error))

    def _talk(self, prompt: Prompt) -> tuple[tuple[str, str], ...]:
        """The prompt's messages where they are more than its text; () where the protocol has no place for them."""
        messages = prompt.record.get("messages") or ()
        talk = [(message.get("role"), message.get("content")) for message in messages if isinstance(message, Mapping)]
        if talk in ([], [("user", prompt.text)]):
            return ()
        if self.remote.talks and all(isinstance(part, str) for said in talk for part in said):
            return tuple((str(role), str(words)) for role, words in talk)
        self._tell("messages", "prompts are conversations: the server gets what the user says last, and nothing else")
        return ()

    def _tell(self, name: str, words: str) -> None:
        """Warn of what the server does not get, once."""
        with self._lock:
            new = name not in self._left_out
            self._left_out.add(name)
        if new:
            warnings.warn(words, stacklevel=2)

    def _columns(self, prompt: Prompt) -> Mapping[str, Any]:
        """The record's columns that JSON holds; others are told of once."""
        sent: dict[str, Any] = {}
        if prompt.record.get("image") is not None and "images" not in prompt.record:
            self._tell("image", "the column 'image' is a picture that no prompt shows: the server does not get it")
        if "candidates" in prompt.record:
            self._tell("candidates", "the candidates of pairs and their shares are not sent")
        for name, value in prompt.record.items():
            if name in _SENT_APART:
                continue
            try:
                json.dumps(value, allow_nan=False, sort_keys=True)
            except (TypeError, ValueError, RecursionError):
                self._tell(name, f"the column {name!r} is no JSON: the server does not get it")
                continue
            sent[name] = value
        return sent


class score(_Remote):
    """A reward of a server that speaks /score: `mmrl serve-reward`, or UniRL's.

    reward: which of the server's; null is the only one. version: of the scorer; null is the one that answers first, and
    a reply of another one is invalid. sub: which of a reward's numbers.
    """

    _tells_version = True
    _all_or_none = True  # a comparer's win rate in the group

    def __init__(
        self,
        url: str | list[str],
        reward: str | None = None,
        version: str | None = None,
        sub: str | None = None,
        **connection: Any,
    ) -> None:
        super().__init__(ScoreV1(reward, version, sub), url, "MMRL_SERVE_TOKEN", connection)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)


class openrlhf(_Remote):
    """A reward of a server that speaks OpenRLHF's /get_reward: texts only. label: the column that is sent as label."""

    def __init__(
        self,
        url: str | list[str],
        label: str = "answer",
        **connection: Any,
    ) -> None:
        super().__init__(GetReward(label), url, "MMRL_SERVE_TOKEN", connection)
        self.label = label

    def check_prompt(self, prompt: Prompt) -> str | None:
        if self.label == "answer" or self.label in prompt.record:
            return None
        return f"prompt {prompt.id!r} has no column {self.label!r}, which is to be sent as its label"

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)


class classify(_Remote):
    """A reward model behind vLLM's /classify. label: which class, from 0; -1 is the last. activation: whether what is
    read is a probability, not a logit."""

    protocol: ClassVar[type[Classify]] = Classify

    def __init__(
        self,
        url: str | list[str],
        model: str,
        label: int = -1,
        activation: bool = False,
        **connection: Any,
    ) -> None:
        super().__init__(self.protocol(model, label, activation), url, "VLLM_API_KEY", connection)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)


class pooling(classify):
    """A reward model behind vLLM's /pooling: the entry `label` of its vector, of the last token where each has one."""

    protocol = Pooling

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)


class relevance(_Remote):
    """A reranker behind vLLM's /score: the answer as a document, the prompt as the query."""

    def __init__(
        self,
        url: str | list[str],
        model: str,
        activation: bool = False,
        **connection: Any,
    ) -> None:
        super().__init__(Relevance(model, activation), url, "VLLM_API_KEY", connection)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)


class yes_no(_Remote):
    """p(yes) / (p(yes) + p(no)) of a chat model's first token, as PaCo-Reward scores: url is up to and with /v1.

    question: `$prompt` and `$answer` stand for the words; the pictures stand before it. yes, no: the words that count.
    """

    def __init__(
        self,
        url: str | list[str],
        model: str,
        question: str,
        yes: str = "yes",
        no: str = "no",
        top: int = 20,
        **connection: Any,
    ) -> None:
        super().__init__(YesNo(model, question, yes, no, top), url, "VLLM_API_KEY", connection)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._ask(samples)
