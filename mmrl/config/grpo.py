"""A stage of reinforcement learning, and the algorithm that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.config.grpo_sections import AsynchronousConfig, ExpertConfig, TreeConfig
from mmrl.config.sampled import SampledStage
from mmrl.core.algorithm import MANY, OPTIONAL, Algorithm, in_words
from mmrl.core.resolving import ALONE, resolve
from mmrl.strict import When

WHOLE = When(lambda s, _: s.tree is None, "whole answers (`tree: null`)")


def resolve_algorithm(section: Mapping[str, Any]) -> Algorithm:
    """The Algorithm of an `algorithm:` section."""
    options = dict(section)
    return resolve(options.pop("preset", "grpo"), options)


class GrpoStage(SampledStage):
    """Reinforcement learning with groups of samples per prompt."""

    counts_tokens: ClassVar[bool] = True

    kind: Literal["grpo"] = "grpo"
    staleness: int = Field(
        0,
        ge=0,
        description="Every rollout is used so many steps after it was sampled (PipelineRL-k), ratios being measured "
        "against the weights that sampled it; the first step fills the queue. 0 samples for each step anew.",
    )
    asynchronous: AsynchronousConfig | None = Field(
        None,
        description="Servers sample in the background while the policy is trained, which needs an engine in mode "
        "server; null: a step's groups are sampled before it.",
    )
    old_logp: Literal["auto", "sampler", "replay"] = Field(
        "auto",
        description="What ratios are measured against. sampler: the log-probs noted while sampling. replay: those of "
        "the trainer's own forward before the first update, the same forward that the ratio's other side comes from. "
        "auto: replay where the forward is 16-bit and ratios are of whole sequences, whose clip range is often below "
        "what 16 bits round; else sampler.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "grpo"},
        description="`preset`, a published algorithm, and any field to change in it (`stages.*.algorithm`, below).",
    )
    tree: TreeConfig | None = Field(
        None,
        description="Search a tree for every prompt, whose branchings are the groups (PROPA); null: whole answers.",
    )
    branches: int | None = Field(
        None,
        ge=2,
        description="Samples that leave a way without noise at each trained step of the plan, and are finished without "
        "noise (TempFlow-GRPO: 6): `samples` is their number of a prompt at a step, and they are a group with a reward "
        "of that step. null: whole samples are compared.",
    )
    expert: ExpertConfig | None = Field(None, description="Expert mixing (CHORD); null: none.")
    effects: ClassVar[Mapping[str, When]] = {
        "samples": When(lambda s, _: s.tree is None, "whole answers (`tree: null`); a tree has `children`"),
        "rollout_chunk": When(
            lambda s, _: s.tree is None and s.asynchronous is None,
            "whole answers (`tree: null`) that are not sampled in the background (`asynchronous: null`)",
        ),
        "max_invalid": WHOLE,
        "curriculum.retire_at": WHOLE,
        "curriculum.reward": WHOLE,
        "curriculum.correct_at": WHOLE,
        "curriculum.reestimate": WHOLE,
        "curriculum.advance_at": WHOLE,
        "curriculum.window": WHOLE,
    }

    @property
    def searched(self) -> TreeConfig | None:
        return self.tree

    @property
    def parted(self) -> int | None:
        return self.branches

    @property
    def ahead(self) -> int:
        return self.asynchronous.staleness if self.asynchronous else self.staleness

    @property
    def flowing(self) -> AsynchronousConfig | None:
        return self.asynchronous

    @property
    def resolved(self) -> Algorithm:
        """The algorithm of the stage."""
        return resolve_algorithm(self.algorithm)

    def replays_old(self, sixteen_bit: bool) -> bool:
        """Whether ratios are measured against the trainer's own replay; sixteen_bit: what the forward computes in."""
        return self.old_logp == "replay" or (self.old_logp == "auto" and sixteen_bit and self.resolved.ratio != "token")

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        resolve_algorithm(value)
        return value

    @model_validator(mode="after")
    def _trees_stand_alone(self) -> GrpoStage:
        others = {"hints": self.hints is not None, "refill": self.refill > 1, "staleness": self.staleness > 0}
        if self.tree and any(others.values()):
            raise ValueError(f"tree goes without {', '.join(name for name, on in others.items() if on)}; leave one out")
        return self

    @model_validator(mode="after")
    def _branches_fit(self) -> GrpoStage:
        others = {"tree": self.tree is not None, "hints": self.hints is not None, "refill": self.refill > 1}
        if self.branches and any(others.values()):
            names = ", ".join(name for name, on in others.items() if on)
            raise ValueError(f"branches goes without {names}; leave one out")
        if self.branches and self.samples % self.branches:
            raise ValueError(
                f"samples={self.samples} are no whole number of ways with branches={self.branches} each; take "
                f"samples={-(-self.samples // self.branches) * self.branches}"
            )
        return self

    @model_validator(mode="after")
    def _background_stands_alone(self) -> GrpoStage:
        others = {"tree": self.tree is not None, "branches": self.branches is not None, "hints": self.hints is not None}
        others |= {"refill": self.refill > 1, "staleness": self.staleness > 0}
        if self.asynchronous and any(others.values()):
            names = ", ".join(name for name, on in others.items() if on)
            raise ValueError(f"asynchronous goes without {names} (it has a staleness of its own); leave one out")
        return self

    @model_validator(mode="after")
    def _staleness_is_kept(self) -> GrpoStage:
        for hook in (h for h in self.resolved.filters if h.name == "staleness"):
            from mmrl.core.filter import FILTERS  # loaded already, to check the hook's options

            most = hook.options.get("most", FILTERS["staleness"].options["most"].default)
            if self.ahead > most:
                raise ValueError(
                    f"staleness={self.ahead} makes rollouts that the filter staleness (most {most}) drops; take "
                    f"staleness={most} or less, or most={self.ahead}"
                )
        return self

    @model_validator(mode="after")
    def _algorithm_fits(self) -> GrpoStage:
        algorithm = self.resolved
        compares = algorithm.combine == "gdpo" or algorithm.advantage.name not in ALONE
        if self.samples < 2 and self.tree is None and compares:
            raise ValueError("samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        if self.tree and algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
            raise ValueError("kl_place='reward' goes with whole answers, not with a tree's steps; set kl_place='loss'")
        return self

    def record_objectives(self) -> list[str]:
        return [self.expert.objective] if self.expert else []

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        algorithm = resolve_algorithm(self.algorithm)
        lines = self._tree_lines(processes) if self.tree else self._batch_lines(config, processes)
        if self.staleness:
            lines.append(
                f"rollouts are used {self.staleness} steps after they were sampled; the first step fills the queue"
            )
        if self.asynchronous:
            lines.append(
                f"servers sample in the background, at most {self.asynchronous.staleness} steps behind; weights are "
                f"sent every {self.asynchronous.push_every} steps"
            )
        lines.append(
            f"advantage {in_words(algorithm.advantage)}, gate {in_words(algorithm.gate)}, "
            f"aggregation {algorithm.aggregate}, KL {algorithm.kl_coef:g}"
        )
        if algorithm.drop_zero_variance:
            lines.append("groups without signal leave the batch (drop_zero_variance)")
        chosen = [(field, hook) for field, hook in algorithm.hooks if field in (*MANY, *OPTIONAL)]
        lines += [f"{field.removesuffix('s').replace('_', ' ')}: {in_words(hook)}" for field, hook in chosen]
        weights = ", ".join(f"{r.name} x {r.weight:g}" for r in config.rewards)
        lines.append(f"rewards: {weights}{' (SHUFFLED: a control run)' if self.shuffle_rewards else ''}")
        return [*lines, self.optim.in_words()]

    def _batch_lines(self, config: Any, processes: int) -> list[str]:
        if self.branches:
            return self._branch_lines(config, processes)
        samples = self.groups * self.samples
        each = f"{self.groups // self.updates} groups = {samples // self.updates} samples"
        lines = [
            f"{self.groups} prompts x {self.samples} samples = {samples} samples a step over {processes} process(es)",
            f"{self.updates * self.epochs} optimizer steps per rollout, each on {each}",
        ]
        actions = getattr(config.model, "actions_per_sample", None)
        per_sample = actions() if actions else None
        if per_sample and (unit := getattr(config.model, "budget", None)):
            lines.append(
                f"at most {per_sample} trained actions a sample: {samples * per_sample} a step; micro-batches of "
                f"{self.micro_batch} {unit}"
            )
        elif per_sample:
            rows = max(1, self.micro_batch // per_sample)
            share = -(-(samples // self.updates) // processes)
            size = min(self.micro_batch, rows * per_sample)
            lines.append(
                f"{per_sample} trained actions a sample: {samples * per_sample} a step; micro-batches of {size} "
                f"evaluations ({rows} samples), {-(-share // rows)} per update"
            )
        return lines

    def _branch_lines(self, config: Any, processes: int) -> list[str]:
        ways, actions = self.samples // (self.branches or 1), getattr(config.model, "actions_per_sample", None)
        steps = actions() if actions else None
        told = f"each of {steps} steps" if steps else "each trained step"
        each = (
            f"{self.groups * steps} groups of {self.samples} samples" if steps else f"groups of {self.samples} samples"
        )
        return [
            f"{self.groups} prompts x {ways} ways, which {self.branches} samples leave at {told}: {each}, an action "
            f"each, over {processes} process(es)",
            f"{self.updates * self.epochs} optimizer steps per rollout, micro-batches of {self.micro_batch} samples",
        ]

    def _tree_lines(self, processes: int) -> list[str]:
        tree = self.tree
        assert tree is not None
        return [
            f"{self.groups} prompts, each a tree of {tree.iterations} iterations x {tree.children} steps of at most "
            f"{tree.step_tokens} tokens, {tree.depth} deep, over {processes} process(es)",
            f"{self.updates * self.epochs} optimizer steps per rollout, together on at most "
            f"{self.groups * tree.iterations} groups of {tree.children} steps, the branchings",
        ]
