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

from typing import Any, ClassVar

from mmrl.rewarding.remote import GetReward, ScoreV1
from mmrl.rewarding.remote_reward import RemoteReward
from mmrl.rewarding.remote_vllm import Classify, Pooling, Relevance, YesNo
from mmrl.types import Prompt, Sample, Score


class score(RemoteReward):
    """A reward of a server that speaks /score: `mmrl serve-reward`, or UniRL's.

    reward: which of the server's; null is the only one. version: of the scorer; null is the one that answers first, and
    a reply of another one is invalid. sub: which of a reward's numbers.
    """

    tells_version = True
    all_or_none = True  # a comparer's win rate in the group

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
        return self.ask(samples)


class openrlhf(RemoteReward):
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
        return self.ask(samples)


class classify(RemoteReward):
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
        return self.ask(samples)


class pooling(classify):
    """A reward model behind vLLM's /pooling: the entry `label` of its vector, of the last token where each has one."""

    protocol = Pooling

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.ask(samples)


class relevance(RemoteReward):
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
        return self.ask(samples)


class yes_no(RemoteReward):
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
        return self.ask(samples)
