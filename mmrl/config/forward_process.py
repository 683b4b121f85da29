"""A stage that learns on the forward process: samples that are noised anew, and no log-probability of the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.config.grpo import resolve_algorithm
from mmrl.config.roles import FollowConfig, RoleConfig
from mmrl.config.sampled import SampledStage
from mmrl.core.algorithm import MANY, OPTIONAL, Algorithm, in_words
from mmrl.core.resolving import ALONE
from mmrl.strict import Strict, When

UNIFORM = When(lambda s, _: s.name == "uniform", "`name: uniform`")
NORMAL = When(lambda s, _: s.name == "logit_normal", "`name: logit_normal`")
SAMPLER = When(lambda s, _: s.name == "sampler", "`name: sampler`")
NFT = When(lambda s, _: s.objective == "nft", "`objective: nft`")

# Gates of awm's ratio: those that look at an action alone.
GATES = ("ppo", "two_sided", "dual_clip", "absolute", "preclip", "cispo", "sapo", "none")

# Of dgpo's, whose ratio only cuts.
CUTS = ("ppo", "none")

# How far a ratio of matching errors may go on either side, as Flow-Factory's examples have it: (low, high).
CLIPS = {"awm": (1.0, 1.0), "dgpo": (0.05, 0.05)}

LOOSE = (
    "nothing bounds the first steps: warm them up (optim.warmup), or let the policy that samples lag behind from the "
    "start (old: {decay: 0.5}); watch forward/error"
)

# What an algorithm says of actions with log-probabilities, besides the gate and its clip range.
OF_ACTIONS = tuple(field for field in (*MANY, *OPTIONAL) if field not in ("tame", "shape", "filters"))


def refuse_policy_gradient(algorithm: Algorithm, given: Mapping[str, Any], what: str, *others: str) -> None:
    """Raise ValueError for a field that is of a policy gradient alone, which `what` is not. others: more such fields;
    the gate stands for its clip range, too."""
    plain, others = Algorithm(), (*others, *(("clip_low", "clip_high") if "gate" in others else ()))
    for name in ("ratio", "kl_coef", *OF_ACTIONS, *others):
        if getattr(algorithm, name) != getattr(plain, name) or name in given:
            raise ValueError(
                f"algorithm: {name} is of a policy gradient, which {what} is not; leave it out, with a preset such as "
                "flow_grpo or grpo"
            )


class TimesConfig(Strict):
    """The times of the forward process that are trained, from 0 (data) to 1 (noise)."""

    name: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="uniform: even between `low` and `high`. logit_normal: the middle more often."
    )
    low: float = Field(0.0, ge=0, lt=1, description="uniform: the least time.")
    high: float = Field(1.0, gt=0, le=1, description="uniform: the largest time.")
    mean: float = Field(0.0, description="logit_normal: of the normal numbers.")
    std: float = Field(1.0, gt=0, description="logit_normal: of the normal numbers.")
    shift: float = Field(1.0, gt=0, description="Pushes times towards noise, as samplers do; 1 does not.")

    effects: ClassVar[Mapping[str, When]] = {"low": UNIFORM, "high": UNIFORM, "mean": NORMAL, "std": NORMAL}

    @model_validator(mode="after")
    def _low_first(self) -> TimesConfig:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}")
        return self

    @property
    def options(self) -> dict[str, float]:
        """Those of the distribution in mmrl.core.flow_match.TIMES."""
        own = ("low", "high") if self.name == "uniform" else ("mean", "std")
        return {name: getattr(self, name) for name in (*own, "shift")}


class TrainedTimes(TimesConfig):
    """The times at which samples are trained, from 0 (data) to 1 (noise)."""

    name: Literal["sampler", "uniform", "logit_normal"] = Field(  # type: ignore[assignment]
        "sampler",
        description="sampler: those from which the sampler's own steps go, as released; elsewhere the velocity has no "
        "part in what is sampled, and nothing says that it went too far. uniform: even between `low` and `high`. "
        "logit_normal: the middle more often.",
    )
    share: float = Field(1.0, gt=0, le=1, description="sampler: the share of its steps, the noisiest first.")

    effects: ClassVar[Mapping[str, When]] = {
        **TimesConfig.effects,
        "share": SAMPLER,
        "shift": When(lambda s, _: s.name != "sampler", "`name: uniform` or logit_normal"),
    }


class ForwardProcessStage(SampledStage):
    """Reinforcement learning on samples that are noised anew: NFT, AWM, DGPO; any sampler draws them."""

    kind: Literal["forward_process"] = "forward_process"
    objective: Literal["nft", "awm", "dgpo"] = Field(
        "nft",
        description="nft: towards good samples and away from bad ones by a mirror image of the old policy. awm: the "
        "policy gradient's, with minus the matching error for a log-probability. dgpo: the group's preference.",
    )
    beta: float | None = Field(
        None,
        gt=0,
        description="nft: how far the two branches lie from the old policy (null: 1). dgpo: of the logit (100).",
    )
    saturation: float = Field(5.0, gt=0, description="nft: the advantage that counts as wholly good.")
    weighting: Literal["uniform", "t", "t2", "huber", "ghuber"] = Field(
        "uniform",
        description="awm: of the matching error, by its time (t, t2), or a root of it times t (huber, ghuber).",
    )
    power: float = Field(0.25, gt=0, le=1, description="ghuber: the root's exponent.")
    reference_coef: float = Field(
        0.0, ge=0, description="Weight of the squared distance of velocities to the model that the stage started from."
    )
    ema_coef: float = Field(
        0.0, ge=0, description="Weight of the squared distance of velocities to an average of the policy, `ema`."
    )
    ema: FollowConfig | None = Field(
        None,
        description="How that average follows the policy, once a step; it samples nothing. null: `{decay: 0.3, rise: "
        "linear}`.",
    )
    draws: int = Field(4, ge=1, description="Times, each with its own noise, at which an update trains a sample.")
    times: TrainedTimes = Field(
        default_factory=TrainedTimes, description="Which times; the draws are spread over them."
    )
    same_noise: bool | None = Field(
        None, description="All samples of a group are noised alike, at the same times; null: with dgpo."
    )
    old: FollowConfig | None = Field(
        None,
        description="How the policy that samples follows the trained one, once a step: its `every` counts steps. null: "
        "with nft `{decay: 0.5, rise: linear, start: 0.001}`, else it is the trained one.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "flow_grpo"},
        description="How rewards become advantages, `preset` and fields as in a grpo stage; with awm and dgpo `gate` "
        "and clip range, too, of ratios of matching errors (1 and 0.05 on either side where they are left out).",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "beta": When(lambda s, _: s.objective != "awm", "`objective: nft` or dgpo"),
        "saturation": NFT,
        "weighting": When(lambda s, _: s.objective == "awm", "`objective: awm`"),
        "ema": When(lambda s, _: s.ema_coef > 0, "`ema_coef` above 0"),
        "power": When(lambda s, _: s.objective == "awm" and s.weighting == "ghuber", "`weighting: ghuber`"),
    }

    @property
    def resolved(self) -> Algorithm:
        """How rewards become advantages, and awm's gate."""
        return resolve_algorithm(self.algorithm)

    @property
    def strength(self) -> float:
        """`beta`, or the objective's own."""
        return self.beta if self.beta is not None else {"nft": 1.0, "dgpo": 100.0}.get(self.objective, 1.0)

    @property
    def own_clip(self) -> tuple[float, float]:
        """(low, high): the clip range where the algorithm has none."""
        return CLIPS.get(self.objective, (1.0, 1.0))

    @property
    def following(self) -> FollowConfig:
        """How the policy that samples follows."""
        slow = FollowConfig(decay=0.5, rise="linear", start=0.001) if self.objective == "nft" else FollowConfig()
        return self.old or slow

    @property
    def averaging(self) -> FollowConfig | None:
        """How the average follows that the policy is held to; None: it is held to none."""
        return (self.ema or FollowConfig(decay=0.3, rise="linear")) if self.ema_coef > 0 else None

    def named_roles(self) -> dict[str, RoleConfig]:
        ema = {"ema": RoleConfig(follow=self.averaging)} if self.averaging else {}
        return {**super().named_roles(), "old": RoleConfig(follow=self.following), **ema}

    @property
    def noises_alike(self) -> bool:
        """Whether the samples of a group get the same times and noises."""
        return self.objective == "dgpo" if self.same_noise is None else self.same_noise

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        resolve_algorithm(value)
        return value

    @model_validator(mode="after")
    def _algorithm_fits(self) -> ForwardProcessStage:
        algorithm = self.resolved
        gates = {"awm": GATES, "dgpo": CUTS}.get(self.objective, ())
        others = [*([] if gates else ["gate"]), *(["aggregate"] if self.objective == "dgpo" else [])]
        refuse_policy_gradient(algorithm, self.algorithm, self.objective, *others)
        if gates and algorithm.gate.name not in gates:
            raise ValueError(
                f"algorithm: gate={algorithm.gate.name!r} does not go with {self.objective}; use {', '.join(gates)}"
            )
        if self.averaging and self.averaging.decay == 0 and self.updates * self.epochs == 1:
            raise ValueError("ema: decay=0 is the policy itself, from which it is at no distance; take decay=0.3 or so")
        if self.samples < 2 and (algorithm.combine == "gdpo" or algorithm.advantage.name not in ALONE):
            raise ValueError("samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        return self

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        samples, each = self.groups * self.samples, self.groups // self.updates * self.samples
        evaluations = each * self.draws
        about = {
            "nft": f"beta {self.strength:g}, saturation {self.saturation:g}",
            "awm": f"weighting {self.weighting}",
            "dgpo": f"beta {self.strength:g}",
        }
        weights = ", ".join(f"{r.name} x {r.weight:g}" for r in config.rewards)
        held = self.objective == "dgpo" or self.optim.warmup or self.following.kept_behind(1) >= 0.1
        loose = not held and getattr(config.model, "train", None) != "lora"
        return [
            f"{self.groups} prompts x {self.samples} samples = {samples} samples a step over {processes} process(es)",
            f"{self.updates * self.epochs} optimizer steps per rollout, each on {each} samples x {self.draws} times: "
            f"{evaluations} evaluations in {-(-evaluations // self.micro_batch)} micro-batches",
            f"objective {self.objective}, {about[self.objective]}; times {self.times.name}",
            f"advantage {in_words(self.resolved.advantage)}; the policy that samples {self.following.in_words()}",
            f"rewards: {weights}{' (SHUFFLED: a control run)' if self.shuffle_rewards else ''}",
            self.optim.in_words(),
            *([f"held to an average, which {self.averaging.in_words()}"] if self.averaging else []),
            *([LOOSE] if loose else []),
        ]
