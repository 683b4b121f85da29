"""An algorithm is a choice per line of the loss formula: the Algorithm record, and how a preset becomes one.

Imports no torch, so that configurations are read and explained quickly; only hooks with options, or that are
not in BASE, are looked up in their registries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmrl.core.presets import PRESETS
from mmrl.core.registry import Hook, near

# Field -> the names it accepts. Each name is one function in the registry of the module beside it.
CHOICES: dict[str, tuple[str, ...]] = {
    "ratio": ("token", "sequence", "sequence_token", "product"),
    "aggregate": ("token_mean", "sequence_mean", "constant", "prompt_mean"),
    "kl_estimator": ("k1", "k2", "k3", "exact"),
    "kl_place": ("loss", "reward"),
    "combine": ("reward_sum", "advantage_sum", "gdpo"),
}

# Fields that hold hooks: exactly one, one or none, a list.
ONE = ("advantage", "gate")
OPTIONAL = ("correction",)
MANY = ("shape", "filters", "action_weights", "action_masks", "terms")

# Hooks that are known to be there, and to need nothing of the batch, without asking their registry.
BASE: dict[str, tuple[str, ...]] = {
    "advantage": (
        "group_std",
        "group_mean",
        "leave_one_out",
        "batch_std",
        "global_std",
        "whiten",
        "whiten_baseline",
        "rank",
        "none",
    ),
    "gate": ("ppo", "two_sided", "dual_clip", "cispo", "sapo", "none"),
}

# Estimators that do not change when all rewards are shifted; and those that do not when they are scaled either.
SHIFT_FREE = frozenset(
    {"group_mean", "leave_one_out", "group_std", "batch_std", "global_std", "whiten", "whiten_baseline", "rank"}
    | {"stratified", "step_episode", "step_rows", "macro", "outlier_filter", "whiten_tokens", "zero"}
)
SCALE_FREE = frozenset(
    {"group_std", "batch_std", "global_std", "whiten", "whiten_baseline", "rank"}
    | {"stratified", "step_episode", "step_rows", "outlier_filter", "zero"}
)

# Gates that are defined for one level of the ratio.
GATE_RATIO = {"topr": "product", "topr_token": "token", "bapo": "token"}

# The bound of two_sided and dual_clip, from dual clip's paper (arXiv 1912.09729).
CLIP_BOUND = 3.0


@dataclass(frozen=True)
class Algorithm:
    """Every choice of the core; the defaults are GRPO.

    A hook is a name, or a mapping of `name` and the function's options; see the tables of hooks.

    advantage: estimator (mmrl.core.advantage).
    shape: shapers, in order, of the summed reward (mmrl.core.shape).
    filters: which samples count at all (mmrl.core.filter).
    ddof: 1 for the sample standard deviation, 0 for the population's.
    std_eps: added to a standard deviation before dividing by it.
    std_floor: a group whose standard deviation is not above it has zero variance: its advantages are 0.
    clamp: advantages are limited to [-clamp, clamp]; None leaves them.
    ratio: level of the importance ratio (mmrl.core.ratio).
    gate: how the ratio scales and cuts the gradient (mmrl.core.gate).
    clip_low, clip_high: the clip range is [1 - clip_low, 1 + clip_high]; None is the adapter's default, to be
        filled in by `with_defaults` before use.
    action_weights: weights of actions in the policy term, multiplied (mmrl.core.weight.WEIGHTS).
    action_masks: actions that leave the loss and its denominators (mmrl.core.weight.MASKS).
    correction: weight for the gap between the engine that sampled and the policy (mmrl.core.correction).
    terms: what is added to the loss (mmrl.core.terms).
    aggregate: how actions are weighted in the loss (mmrl.core.aggregate).
    constant_length: actions per sequence that `constant` divides by (the generation budget).
    kl_coef: weight of the KL to the reference; 0 leaves it out.
    kl_estimator: mmrl.core.kl. The expected gradient of k1 in the loss is 0: k1 is for the reward.
    kl_place: "loss" adds the KL to the loss; "reward" leaves it to the caller, who takes k1 off the rewards.
    combine: how several rewards become one advantage (mmrl.core.advantage.estimate).
    skip_zero_variance: groups without signal leave the batch, and with it the denominators of the loss.

    Raises ValueError, naming the field and the fix.
    """

    advantage: Hook = Hook("group_std")  # noqa: RUF009, a frozen record
    shape: tuple[Hook, ...] = ()
    filters: tuple[Hook, ...] = ()
    ddof: int = 1
    std_eps: float = 1e-6
    std_floor: float = 1e-6
    clamp: float | None = None
    ratio: str = "token"
    gate: Hook = Hook("ppo")  # noqa: RUF009, a frozen record
    clip_low: float | None = None
    clip_high: float | None = None
    action_weights: tuple[Hook, ...] = ()
    action_masks: tuple[Hook, ...] = ()
    correction: Hook | None = None
    terms: tuple[Hook, ...] = ()
    aggregate: str = "sequence_mean"
    constant_length: int | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_place: str = "loss"
    combine: str = "reward_sum"
    skip_zero_variance: bool = True

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; {near(str(value), known)}")
        self._read_hooks()
        self._check_numbers()
        if any(hook.options or hook.name not in BASE.get(field, ()) for field, hook in self.hooks):
            from mmrl.core.library import check_hooks

            check_hooks(self)
        self._check_pairs()
        self._check_noise()

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """(field, hook) of every hook, in the order in which a step uses the fields."""
        found: list[tuple[str, Hook]] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Hook):
                found.append((field.name, value))
            elif field.name in MANY:
                found += [(field.name, hook) for hook in value]
        return found

    @property
    def needs(self) -> set[str]:
        """Names of the features and columns that some hook reads from the batch."""
        if all(hook.name in BASE.get(field, ()) for field, hook in self.hooks):
            return set()
        from mmrl.core.library import needs

        return needs(self)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference policy is asked for anything: by the KL, or by a hook."""
        return self.kl_coef > 0 or "logp_reference" in self.needs

    def _read_hooks(self) -> None:
        for field in (*ONE, *OPTIONAL, *MANY):
            value = getattr(self, field)
            try:
                if field in MANY:
                    if isinstance(value, str | Mapping | Hook) or not isinstance(value, list | tuple):
                        raise ValueError(f"{value!r}: expected a list of names or mappings")
                    read: Any = tuple(Hook.of(entry) for entry in value)
                elif field in OPTIONAL and value is None:
                    read = None
                else:
                    read = Hook.of(value)
            except ValueError as error:
                raise ValueError(f"{field}={error}") from None
            object.__setattr__(self, field, read)
        for field in MANY:
            names = [hook.name for hook in getattr(self, field)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field} names {', '.join(twice)} more than once; keep one of each")

    def _check_numbers(self) -> None:
        if type(self.skip_zero_variance) is not bool:
            raise ValueError(f"skip_zero_variance={self.skip_zero_variance!r}: write true or false")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof={self.ddof!r}: use 1 (sample standard deviation) or 0 (population)")
        for name in ("std_eps", "std_floor", "kl_coef"):
            _number(name, getattr(self, name), "0 or more", lambda v: v >= 0)
        if self.clamp is not None:
            _number("clamp", self.clamp, "above 0, or null for no limit", lambda v: v > 0)
        if self.clip_low is not None:
            _number("clip_low", self.clip_low, "in (0, 1]; the lower bound is 1 - clip_low", lambda v: 0 < v <= 1)
        if self.clip_high is not None:
            _number("clip_high", self.clip_high, "above 0; the upper bound is 1 + clip_high", lambda v: v > 0)
        if self.constant_length is not None and not (
            isinstance(self.constant_length, int) and self.constant_length >= 1
        ):
            raise ValueError(f"constant_length={self.constant_length!r}: must be a whole number, 1 or more")

    def _check_pairs(self) -> None:
        if self.aggregate == "constant" and self.constant_length is None:
            raise ValueError(
                "aggregate='constant' divides by a fixed length; "
                "set constant_length to the largest number of actions of a sequence"
            )
        if self.combine == "gdpo" and self.advantage != Hook("group_std"):
            raise ValueError(
                f"combine='gdpo' normalises each reward by its group's std, so advantage={self.advantage.name!r} "
                "would have no effect; set advantage='group_std' or combine='advantage_sum'"
            )
        if self.combine != "reward_sum" and self.shape:
            raise ValueError(
                f"combine={self.combine!r} never forms the summed reward that shape={self.shape[0].name!r} works on; "
                "set combine='reward_sum' or take `shape` out"
            )
        wanted = GATE_RATIO.get(self.gate.name, self.ratio)
        if self.ratio != wanted:
            raise ValueError(
                f"gate={self.gate.name!r} is defined for ratio={wanted!r}, not {self.ratio!r}; set ratio={wanted!r}"
            )
        if self.kl_coef > 0 and (self.kl_estimator == "k1") != (self.kl_place == "reward"):
            raise ValueError(
                "kl_estimator='k1' has no gradient in the loss on average; set kl_place='reward', or kl_estimator='k3'"
                if self.kl_estimator == "k1"
                else f"kl_place='reward' takes k1 off the rewards, so kl_estimator={self.kl_estimator!r} would have no "
                "effect; set kl_estimator='k1', or kl_place='loss'"
            )
        if self.gate.name in ("two_sided", "dual_clip") and self.clip_high is not None:
            _number(
                "clip_bound",
                self.gate.options.get("clip_bound", CLIP_BOUND),
                f"above 1 + clip_high = {1 + self.clip_high:g} with gate={self.gate.name!r}",
                lambda v: v > 1 + (self.clip_high or 0),
            )

    def _check_noise(self) -> None:
        """A correction that is the same affine map of every reward is undone by an estimator that normalises."""
        last = self.shape[-1] if self.shape else Hook("")
        undone = {"noise_backward": SCALE_FREE, "noise_forward": SHIFT_FREE}.get(last.name, frozenset())
        if self.advantage.name in undone and not any(isinstance(rate, str) for rate in last.options.values()):
            other = "group_mean" if last.name == "noise_backward" else "none"
            raise ValueError(
                f"shape={last.name!r} with constant rates has no effect under advantage={self.advantage.name!r}, which "
                f"normalises it away; set advantage={other!r}, or name columns with a rate per sample"
            )

    def with_defaults(self, clip_low: float, clip_high: float) -> Algorithm:
        """The same algorithm with the clip range filled in where it is None.

        clip_low, clip_high: the defaults of the adapter's kernel: 0.2 for tokens, about 1e-4 for diffusion
        steps whose log-probability is a mean over latent elements.
        """
        return dataclasses.replace(
            self,
            clip_low=clip_low if self.clip_low is None else self.clip_low,
            clip_high=clip_high if self.clip_high is None else self.clip_high,
        )


def resolve(preset: str, overrides: Mapping[str, Any]) -> Algorithm:
    """The preset's algorithm with some fields changed.

    Raises ValueError for an unknown preset or field, naming the nearest known one.
    """
    if preset not in list(PRESETS):
        raise ValueError(f"unknown preset {preset!r}; {near(str(preset), PRESETS)}")
    fields = [field.name for field in dataclasses.fields(Algorithm)]
    for name in overrides:
        if name not in fields:
            raise ValueError(f"unknown field {name!r} of the algorithm; {near(str(name), fields)}")
    try:
        return Algorithm(**{**PRESETS[preset], **overrides})
    except ValueError as error:
        raise ValueError(f"algorithm (preset {preset}): {error}") from None


def in_words(hook: Hook) -> str:
    """The hook on one line: "cispo", or "cispo (cap 5.0)"."""
    options = ", ".join(f"{name} {value}" for name, value in hook.options.items())
    return f"{hook.name} ({options})" if options else hook.name


def _number(name: str, value: Any, wanted: str, fits: Callable[[Any], bool]) -> None:
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r} is text, not a number; in YAML write 1.0e-4, for 1e-4 is read as text")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not fits(value):
        raise ValueError(f"{name}={value!r}: must be a number {wanted}")


__all__ = ["BASE", "CHOICES", "CLIP_BOUND", "MANY", "ONE", "OPTIONAL", "PRESETS", "Algorithm", "in_words", "resolve"]
