"""Answers that can be asked for everything: entropies, features, steps of a tree; and rewards for any hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from answers import LETTERS, Answers, AnswersConfig, make
from torch import Tensor

from mmrl.core.token_features import FEATURES
from mmrl.engines.base import Completion
from mmrl.modalities.adapter import Unsupported
from mmrl.training.learner import Learner
from mmrl.types import ActionLogProbs, Prompt, Sample, Trajectory

PROMPTS = [
    Prompt(f"p{i}", "x" * (1 + i), {"pair": f"p{i ^ 1}", "hard": i % 3, "solution": "abcabcab"}) for i in range(12)
]

REWARDS = """
from mmrl.types import Score

def right(samples):
    columns = ("stratum", "level", "round", "step")
    return [
        Score(1.0 if s.artifact[:1] in ("a", "b") else -1.0, details={
            "vote": s.artifact, "rounds": 4, "episode": s.index // 2, "expert": s.index == 3,
            "step_reward": len(s.artifact) / 5,
            **{name: 1 + s.index % 2 for name in columns},
        })
        for s in samples
    ]

def process(samples):
    return [len(s.artifact) / 5 for s in samples]

def vowels(samples):
    return [s.artifact.count("a") / 5 for s in samples]
"""


class Able(Answers):
    provides = frozenset({"reference", "entropy", "divergence"})
    objectives = ("sft", "sft_phi")

    def _logits(self, sample: Sample) -> Tensor:
        ids = sample.actions.tensors["ids"]
        return self.table[len(sample.prompt.text) % 3, torch.cat([torch.tensor([4]), ids[:-1]])]

    def _sample(self, prompt: Prompt, index: int, text: str) -> Sample:
        """With what hooks may find stored beside the actions."""
        sample = super()._sample(prompt, index, text)
        kept, place = sample.actions.tensors, torch.arange(len(text))
        kept["segment"], kept["decision"] = place // 2, (place == 1).long()
        kept["std"] = 0.5 / (1 + place)
        kept["logp_sampler"] = sample.actions.logp + 0.3 * (kept["ids"] - 1)
        sample.stop = "done" if text.endswith(".") else "length"
        return sample

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        found = super().logprobs(samples, columns, reference)
        found.divergence = (found.logp.detach() - self._by_column("sampled", samples, columns)) ** 2 / 2
        if entropy:
            found.entropy = self._by_column("entropy", samples, columns)
        return found

    @torch.no_grad()
    def features(self, samples: Sequence[Sample], columns: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self._by_column(name, samples, columns) for name in names}

    def _by_column(self, name: str, samples: Sequence[Sample], columns: Tensor) -> Tensor:
        def row(sample: Sample) -> Tensor:
            ids = sample.actions.tensors["ids"]
            if name == "sampled":
                every = sample.actions.logp.double()
            elif name == "token_class":
                every = (ids == 0).double()
            elif name == "logp_reference":
                with self.reference():
                    every = FEATURES["logp"](self._logits(sample), ids).double()
            elif name in FEATURES:
                every = FEATURES[name](self._logits(sample), ids).double()
            else:
                raise Unsupported(f"no feature {name!r}")
            return torch.cat([every, every.new_full((100,), torch.nan)])[columns]

        return torch.stack([row(s) for s in samples])

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        losses = [super(Able, self).supervised_loss([r], objective, seed) for r in records]
        return torch.stack([loss if objective == "sft" else loss * (-loss).exp() for loss in losses]).mean()

    # ---------------------------------------------------------------- steps of a tree

    @torch.no_grad()
    def next_steps(
        self,
        items: Sequence[tuple[Prompt, Sequence[Completion]]],
        seeds: Sequence[Sequence[int]],
        greedy: bool,
        end: str,
        max_tokens: int,
    ) -> list[list[Completion]]:
        return [
            [self._step(prompt, path, seed, greedy, end, max_tokens) for seed in some]
            for (prompt, path), some in zip(items, seeds)
        ]

    def _step(
        self, prompt: Prompt, path: Sequence[Completion], seed: int, greedy: bool, end: str, most: int
    ) -> Completion:
        generator = torch.Generator().manual_seed(seed)
        said, logp = [int(i) for step in path for i in step.ids][-1:], []
        ids: list[int] = []
        while len(ids) < most and not (ids and LETTERS[ids[-1]] in (end, ".")):
            chances = self.table[len(prompt.text) % 3, (said + ids)[-1] if said + ids else 4].softmax(0)
            ids.append(int(chances.argmax() if greedy else torch.multinomial(chances, 1, generator=generator)))
            logp.append(chances[ids[-1]].log())
        return Completion(torch.tensor(ids), torch.stack(logp).float(), "eos" if LETTERS[ids[-1]] == "." else "length")

    def stepped(self, prompt: Prompt, path: Sequence[Completion], steps: Sequence[Completion]) -> Sample:
        before, new = (
            torch.cat([torch.tensor([], dtype=torch.int64), *(c.ids for c in some)]) for some in (path, steps)
        )
        sample = Sample(prompt, 0, "".join(LETTERS[i] for i in new).removesuffix("."))
        ids = torch.cat([before, new])
        trained = torch.arange(len(ids)) >= len(before)
        sample.trajectory = Trajectory(torch.zeros(len(ids)), trained, {"ids": ids})
        with torch.no_grad():
            sample.trajectory.logp = self.logprobs([sample], torch.arange(len(ids))).logp[0].float()
        return sample


def rewards(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Reward sections of functions of REWARDS; the first has weight 1, the others are monitors."""
    (folder / "mine.py").write_text(REWARDS, encoding="utf-8")
    return [{"name": f"{folder / 'mine.py'}:{n}", "alias": n, "weight": float(n == names[0])} for n in names]


def values(folder: Path, *stages: Mapping[str, Any], name: str = "run", **options: Any) -> dict[str, Any]:
    """The config of a run whose grpo stages take 2 steps of 4 prompts x 4 answers, unless they say otherwise."""
    grpo = {"kind": "grpo", "steps": 2, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
    made = [{**(grpo if stage.get("kind", "grpo") == "grpo" else {}), **stage} for stage in stages]
    for stage in made:  # a tree has children
        stage.pop("samples" if stage.get("tree") else "", None)
    base: dict[str, Any] = {"name": name, "out": str(folder), "stages": made}
    sampled = {"data": {"prompts": "unused.txt"}, "report": {"samples_every": 0}}
    if any(stage.get("kind", "grpo") != "reward_model" for stage in made):
        base |= {**sampled, "rewards": rewards(folder, "right", "process")}
    return base | options


def able(config: Mapping[str, Any], prompts: Sequence[Prompt] = PROMPTS, **options: Any) -> Any:
    """The loop of a config on Able; `rows` are its rows of metrics."""
    adapter = options.pop("adapter", None) or Able(AnswersConfig(**config.get("model", {})))
    loop: Any = make(dict(config), prompts, adapter=adapter, **options)
    loop.rows = []
    log = loop._log
    loop._log = lambda row: (loop.rows.append(row), log(row))
    return loop


def gradients(monkeypatch: Any) -> list[Tensor]:
    """Filled with the table's gradient before each optimizer step."""
    seen: list[Tensor] = []
    original: Callable[[Learner], float] = Learner.step

    def spy(self: Learner) -> float:
        gradient = self.parameters["table"].grad
        seen.append(torch.zeros(3, 5, 4, dtype=torch.float64) if gradient is None else gradient.clone())
        return original(self)

    monkeypatch.setattr(Learner, "step", spy)
    return seen
