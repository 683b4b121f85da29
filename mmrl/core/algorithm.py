"""An algorithm is a choice per line of the loss formula: the Algorithm record, and the published presets.

Imports no torch, so that configurations are read and explained quickly.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Field -> the names it accepts. Each name is one function in the registry of the module beside it.
CHOICES: dict[str, tuple[str, ...]] = {
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
    "ratio": ("token", "sequence", "sequence_token"),
    "gate": ("ppo", "two_sided", "dual_clip", "cispo", "sapo", "none"),
    "aggregate": ("token_mean", "sequence_mean", "constant", "prompt_mean"),
    "kl_estimator": ("k1", "k2", "k3", "exact"),
    "kl_place": ("loss", "reward"),
    "combine": ("reward_sum", "advantage_sum", "gdpo"),
}


@dataclass(frozen=True)
class Algorithm:
    """Every choice of the core; the defaults are GRPO.

    advantage: estimator (mmrl.core.advantage).
    ddof: 1 for the sample standard deviation, 0 for the population's.
    std_eps: added to a standard deviation before dividing by it.
    std_floor: a group whose standard deviation is not above it has zero variance: its advantages are 0.
    clamp: advantages are limited to [-clamp, clamp]; None leaves them.
    ratio: level of the importance ratio (mmrl.core.ratio).
    gate: how the ratio scales and cuts the gradient (mmrl.core.gate).
    clip_low, clip_high: the clip range is [1 - clip_low, 1 + clip_high]; None is the adapter's default, to be
        filled in by `with_defaults` before use.
    clip_bound: the third bound, on the ratio of actions with A < 0, of two_sided and dual_clip.
    cap: largest coefficient of cispo.
    tau_pos, tau_neg: temperatures of sapo for A > 0 and for the rest.
    aggregate: how actions are weighted in the loss (mmrl.core.aggregate).
    constant_length: actions per sequence that `constant` divides by (the generation budget).
    kl_coef: weight of the KL to the reference; 0 leaves it out.
    kl_estimator: mmrl.core.kl. The expected gradient of k1 in the loss is 0: k1 is meant for the reward.
    kl_place: "loss" adds the KL to the loss; "reward" leaves it to the caller, who takes it off the rewards.
    combine: how several rewards become one advantage (mmrl.core.advantage.estimate).
    skip_zero_variance: groups without signal leave the batch, and with it the denominators of the loss.

    Raises ValueError, naming the field and the fix.
    """

    advantage: str = "group_std"
    ddof: int = 1
    std_eps: float = 1e-6
    std_floor: float = 1e-6
    clamp: float | None = None
    ratio: str = "token"
    gate: str = "ppo"
    clip_low: float | None = None
    clip_high: float | None = None
    clip_bound: float = 3.0
    cap: float = 5.0
    tau_pos: float = 1.0
    tau_neg: float = 1.05
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
                raise ValueError(f"{name}={value!r} is not known; {_near(str(value), known)}")
        self._check_numbers()
        self._check_pairs()

    def _check_numbers(self) -> None:
        if type(self.skip_zero_variance) is not bool:
            raise ValueError(f"skip_zero_variance={self.skip_zero_variance!r}: write true or false")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof={self.ddof!r}: use 1 (sample standard deviation) or 0 (population)")
        for name in ("std_eps", "std_floor", "kl_coef"):
            _number(name, getattr(self, name), "0 or more", lambda v: v >= 0)
        for name in ("tau_pos", "tau_neg"):
            _number(name, getattr(self, name), "above 0", lambda v: v > 0)
        if self.clamp is not None:
            _number("clamp", self.clamp, "above 0, or null for no limit", lambda v: v > 0)
        if self.clip_low is not None:
            _number("clip_low", self.clip_low, "in (0, 1]; the lower bound is 1 - clip_low", lambda v: 0 < v <= 1)
        if self.clip_high is not None:
            _number("clip_high", self.clip_high, "above 0; the upper bound is 1 + clip_high", lambda v: v > 0)
        _number("clip_bound", self.clip_bound, "above 1; it bounds the ratio itself", lambda v: v > 1)
        _number("cap", self.cap, "1 or more; it caps the ratio itself, so 1 + 0.28 is 1.28", lambda v: v >= 1)
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
        if self.combine == "gdpo" and self.advantage != "group_std":
            raise ValueError(
                f"combine='gdpo' normalises each reward by its group's std, so advantage={self.advantage!r} "
                "would have no effect; set advantage='group_std' or combine='advantage_sum'"
            )
        if self.gate in ("two_sided", "dual_clip") and self.clip_high is not None:
            _number(
                "clip_bound",
                self.clip_bound,
                f"above 1 + clip_high = {1 + self.clip_high:g} with gate={self.gate!r}",
                lambda v: v > 1 + (self.clip_high or 0),
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


# What each published algorithm changes in the defaults. KL coefficients stay 0: their size depends on the
# modality; the estimator and the place are the published ones, so setting kl_coef is enough.
PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {},
    # constant_length, the generation budget, has to be given with it.
    "dr_grpo": {"advantage": "group_mean", "aggregate": "constant"},
    # token_mean is the released code; the paper's formula averages per prompt (prompt_mean).
    "dapo": {"clip_low": 0.2, "clip_high": 0.28, "aggregate": "token_mean"},
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"gate": "cispo", "cap": 5.0, "aggregate": "token_mean"},
    "rloo": {
        "advantage": "leave_one_out",
        "aggregate": "token_mean",
        "kl_estimator": "k1",
        "kl_place": "reward",
    },
    "reinforce_pp": {
        "advantage": "whiten",
        "aggregate": "token_mean",
        "kl_estimator": "k1",
        "kl_place": "reward",
    },
    "reinforce_pp_baseline": {
        "advantage": "whiten_baseline",
        "aggregate": "token_mean",
        "kl_estimator": "k2",
    },
    "sapo": {"gate": "sapo", "tau_pos": 1.0, "tau_neg": 1.05},
    "scalerl": {"advantage": "batch_std", "gate": "cispo", "cap": 5.0, "aggregate": "prompt_mean"},
    "flow_grpo": {
        "advantage": "global_std",
        "ddof": 0,
        "std_eps": 1e-4,
        "clamp": 5.0,
        "kl_estimator": "exact",
        "combine": "reward_sum",
    },
}


def resolve(preset: str, overrides: Mapping[str, Any]) -> Algorithm:
    """The preset's algorithm with some fields changed.

    Raises ValueError for an unknown preset or field, naming the nearest known one.
    """
    if preset not in list(PRESETS):
        raise ValueError(f"unknown preset {preset!r}; {_near(str(preset), PRESETS)}")
    fields = [field.name for field in dataclasses.fields(Algorithm)]
    for name in overrides:
        if name not in fields:
            raise ValueError(f"unknown field {name!r} of the algorithm; {_near(str(name), fields)}")
    try:
        return Algorithm(**{**PRESETS[preset], **overrides})
    except ValueError as error:
        raise ValueError(f"algorithm (preset {preset}): {error}") from None


def _number(name: str, value: Any, wanted: str, fits: Any) -> None:
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r} is text, not a number; in YAML write 1.0e-4, for 1e-4 is read as text")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not fits(value):
        raise ValueError(f"{name}={value!r}: must be a number {wanted}")


def _near(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
