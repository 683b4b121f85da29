"""Completions from servers that sample while the policy is trained here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmrl.engines.base import Completion, Once, Sampling
from mmrl.engines.decoder import Row
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.conversation import Rules, converse
from mmrl.modalities.tokens.outside import OutsideEngine
from mmrl.seeds import seed_of
from mmrl.types import Group, Sample

NEEDS = "asynchronous: the policy cannot sample while it is trained; set "


class TokensApart:
    """See mmrl.modalities.apart.

    reader: of prompts and answers, Locked. rules: of a conversation, by the engine's room.
    engine: made where it is not there. send: sends it the weights. own: see Apart.own.
    """

    wanted: frozenset[str] = frozenset({"artifact"})  # texts are there anyway

    def __init__(
        self,
        config: TokenModelConfig,
        reader: Any,
        sampling: Sampling,
        rules: Callable[[int], Rules],
        engine: Callable[[], OutsideEngine],
        send: Callable[[Once], None],
        own: Callable[[Sequence[Sample]], None],
    ) -> None:
        refuse_unfit(config)
        self._reader, self._sampling, self._rules = reader, sampling, rules
        self._make, self._send, self._own = engine, send, own
        self._engine: OutsideEngine | None = None
        self._steps: dict[int, int] = {}  # training step by the number of a sync

    def push(self, step: int, once: Once) -> None:
        engine = self._engine = self._make()
        engine.flows = True
        self._steps[engine.version + 1] = step  # known before the first token comes back
        self._send(once)

    def rollout(self, group: Group, n: int, step: int, seed: int) -> Group:
        engine = self._engine
        assert engine is not None  # pushed to

        def generate(rows: Sequence[Row], count: int, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
            return engine.generate(rows, count, self._sampling, seeds)

        seeds = [[seed_of(seed, step, group.key, i) for i in range(n)]]
        rules, budget = self._rules(engine.max_model_len), self._sampling.max_tokens
        (filled,) = converse(self._reader, [group], n, seeds, generate, rules, per_turn=budget, step=step)
        for sample in filled.samples:
            versions = sample.actions.tensors["versions"]
            steps = torch.tensor([-1 if v < 0 else self._steps[v] for v in versions.tolist()])
            sample.actions.tensors["versions"] = steps
            sample.version = int(steps[steps >= 0].min())
        return filled

    def own(self, samples: Sequence[Sample]) -> None:
        self._own(samples)

    def returned(self) -> bool:
        return self._engine is not None and self._engine.returned()

    def counts(self) -> dict[str, float]:
        return {} if self._engine is None else self._engine.counts()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.flows = False


def refuse_unfit(config: TokenModelConfig) -> None:
    """Raise Unsupported where this model is not sampled by servers, or not in a way that goes without the policy."""
    options = config.engine.options
    if config.engine.name != "vllm" or options.get("mode") != "server":
        raise Unsupported(f"{NEEDS}model.engine to {{name: vllm, options: {{mode: server}}}} (docs/async_rollouts.md)")
    if options.get("lora"):
        raise Unsupported("asynchronous: adapters cannot be exchanged under requests; leave the engine's lora out")
    if config.sampling.top_p < 1 or config.sampling.top_k > 0:
        raise Unsupported(
            "asynchronous: with top_p or top_k a server's log-probs are of what they leave, and ratios would be off; "
            "leave both out"
        )
    if config.sampling.annealing:
        raise Unsupported("asynchronous: vLLM has one temperature for a request; leave sampling.annealing out")
