"""An algorithm is a choice per line of the loss formula: the record of them, checked field by field.

What needs the functions behind the names, or compares fields, is in mmrl.core.resolving. Imports no torch, so that
configurations are read and explained quickly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmrl.core.registry import Hook
from mmrl.near import near, short

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
OPTIONAL = ("tame", "correction")
MANY = ("shape", "filters", "action_weights", "action_masks", "terms")

# The bound of two_sided and dual_clip, from dual clip's paper (arXiv 1912.09729).
CLIP_BOUND = 3.0


@dataclass(frozen=True)
class Algorithm:
    """Every choice of the core; the defaults are GRPO.

    A hook is a name, or a mapping of `name` and the function's options; see the tables of hooks.

    advantage: estimator (mmrl.core.advantage).
    tame: what becomes of each reward before they are summed (mmrl.core.tame); None leaves them.
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
    action_masks: actions that leave the loss and its denominators, in order: each chooses among those that the ones
        before it left (mmrl.core.weight.MASKS).
    correction: weight for the gap between the engine that sampled and the policy (mmrl.core.correction).
    terms: what is added to the loss (mmrl.core.terms).
    aggregate: how actions are weighted in the loss (mmrl.core.aggregate).
    constant_length: actions per sequence that `constant` divides by (the generation budget).
    kl_coef: weight of the KL to the reference; 0 leaves it out.
    kl_estimator: mmrl.core.kl. The expected gradient of k1 in the loss is 0: k1 is for the reward.
    kl_place: "loss" adds the KL to the loss; "reward" takes k1, summed over a sample's actions, off its summed reward.
    combine: how several rewards become one advantage (mmrl.core.advantage.estimate).
    drop_zero_variance: groups in which every advantage is 0 leave the batch, and with it the denominators of the loss
        and of its KL and terms: dynamic sampling. False keeps them there, as most published code does.

    Raises ValueError, naming the field and the fix, for a field that is wrong by itself;
    mmrl.core.resolving.checked says whether the fields go together.
    """

    advantage: Hook = Hook("group_std")  # noqa: RUF009, a frozen record
    tame: Hook | None = None
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
    drop_zero_variance: bool = False

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={short(value)} is not known; {near(str(value), known)}")
        self._read_hooks()
        self._check_numbers()

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

    def with_defaults(self, clip_low: float, clip_high: float) -> Algorithm:
        """The same algorithm with the clip range filled in where it is None.

        clip_low, clip_high: the defaults of the adapter's kernel: 0.2 for tokens, about 1e-4 for diffusion
        steps whose log-probability is a mean over latent elements.
        """
        filled = dataclasses.replace(
            self,
            clip_low=clip_low if self.clip_low is None else self.clip_low,
            clip_high=clip_high if self.clip_high is None else self.clip_high,
        )
        filled.check_clip_bound()
        return filled

    def check_clip_bound(self) -> None:
        """Raise ValueError where the gate's `clip_bound` lies inside the clip range, as far as that is known."""
        high, gate = self.clip_high, self.gate
        if gate.name in ("two_sided", "dual_clip") and high is not None:
            check_number(
                "clip_bound",
                gate.options.get("clip_bound", CLIP_BOUND),
                f"above 1 + clip_high = {1 + high:g} with gate={gate.name!r}",
                lambda v: v > 1 + high,
            )

    def _read_hooks(self) -> None:
        for field in (*ONE, *OPTIONAL, *MANY):
            value = getattr(self, field)
            try:
                if field in MANY:
                    if isinstance(value, str | Mapping | Hook) or not isinstance(value, list | tuple):
                        raise ValueError(f"{short(value)}: expected a list of names or mappings")
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
        if type(self.drop_zero_variance) is not bool:
            raise ValueError(f"drop_zero_variance={short(self.drop_zero_variance)}: write true or false")
        if type(self.ddof) is not int or self.ddof not in (0, 1):
            raise ValueError(f"ddof={short(self.ddof)}: use 1 (sample standard deviation) or 0 (population)")
        for name in ("std_eps", "std_floor", "kl_coef"):
            check_number(name, getattr(self, name), "0 or more", lambda v: v >= 0)
        if self.clamp is not None:
            check_number("clamp", self.clamp, "above 0, or null for no limit", lambda v: v > 0)
        if self.clip_low is not None:
            check_number("clip_low", self.clip_low, "in (0, 1]; the lower bound is 1 - clip_low", lambda v: 0 < v <= 1)
        if self.clip_high is not None:
            check_number("clip_high", self.clip_high, "above 0; the upper bound is 1 + clip_high", lambda v: v > 0)
        length = self.constant_length
        if length is not None and (type(length) is not int or length < 1 or not _finite(length)):
            raise ValueError(f"constant_length={short(length)}: must be a whole number, 1 or more")


def in_words(hook: Hook) -> str:
    """The hook on one line: "cispo", or "cispo (cap 5.0)"."""
    options = ", ".join(f"{name} {value}" for name, value in hook.options.items())
    return f"{hook.name} ({options})" if options else hook.name


def check_number(name: str, value: Any, wanted: str, fits: Callable[[Any], bool]) -> None:
    """Raise ValueError, naming the field, where the value is no finite number that fits."""
    if isinstance(value, str):
        raise ValueError(f"{name}={short(value)} is text, not a number; write it without quotes")
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value) or not fits(value):
        raise ValueError(f"{name}={short(value)}: must be a number {wanted}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


__all__ = ["CHOICES", "CLIP_BOUND", "MANY", "ONE", "OPTIONAL", "Algorithm", "check_number", "in_words"]
