"""From a preset and overrides to an algorithm whose fields go together, and what it needs of the batch.

Imports no torch for plain algorithms; only hooks with options, or that are not in BASE, are looked up in their
registries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.core import library
from mmrl.core.algorithm import Algorithm
from mmrl.core.presets import PRESETS
from mmrl.core.registry import Hook
from mmrl.near import near, short

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

# Estimators that do not compare inside a group; all others give a group of a single sample 0.
ALONE = frozenset({"none", "zero", "whiten", "whiten_tokens", "outlier_filter", "outlier_filter_tokens"})

# Estimators that do not change when all rewards are shifted; and those that do not when they are scaled either.
SHIFT_FREE = frozenset(
    {"group_mean", "leave_one_out", "group_std", "batch_std", "global_std", "whiten", "whiten_baseline", "rank"}
    | {
        "stratified",
        "step_episode",
        "step_rows",
        "macro",
        "outlier_filter",
        "whiten_tokens",
        "outlier_filter_tokens",
        "zero",
    }
)
SCALE_FREE = frozenset(
    {"group_std", "batch_std", "global_std", "whiten", "whiten_baseline", "rank"}
    | {"stratified", "step_episode", "step_rows", "outlier_filter", "zero"}
)

# Estimators that divide by no standard deviation, and those of them that do not read std_floor, nor ddof with it,
# either. One of a user's own may read all of them.
UNDIVIDED = frozenset({"group_mean", "leave_one_out", "rank", "none", "zero"})
UNFLOORED = frozenset({"none", "zero"})

# Fields of the policy's part of the loss, which advantages of 0 take out.
POLICY = ("clip_low", "clip_high", "gate", "ratio", "ddof", "std_eps", "std_floor", "clamp", "action_weights")

# Shapers that make a reward without a look at the incoming one, and those that add to it without a look at it.
REPLACED = frozenset({"majority_vote", "co_reward", "staged"})
ADDED = frozenset({"soft_overlong", "selective"})

# Gates that are defined for one level of the ratio, and those that read clip_low and clip_high.
GATE_RATIO = {"topr": "product", "topr_token": "token", "bapo": "token"}
CLIPPED = frozenset({"ppo", "two_sided", "dual_clip", "preclip"})


def resolve(preset: str, overrides: Mapping[str, Any]) -> Algorithm:
    """The preset's algorithm with some fields changed.

    Raises ValueError for an unknown preset or field, naming the nearest known one, and where an override has no effect
    or does not go with the rest.
    """
    if preset not in list(PRESETS):
        raise ValueError(f"unknown preset {short(preset)}; {near(str(preset), PRESETS)}")
    fields = [field.name for field in dataclasses.fields(Algorithm)]
    for name in overrides:
        if name not in fields:
            raise ValueError(f"unknown field {short(name)} of the algorithm; {near(str(name), fields)}")
    try:
        algorithm = checked(Algorithm(**{**PRESETS[preset], **overrides}))
        _refuse_idle(algorithm, {name for name, value in overrides.items() if value is not None})
    except ValueError as error:
        raise ValueError(f"algorithm (preset {preset}): {error}") from None
    return algorithm


def checked(algorithm: Algorithm) -> Algorithm:
    """The algorithm itself. Raises ValueError, naming the fix, where its hooks or its fields do not go together."""
    if not _plain(algorithm) or any(hook.options for _, hook in algorithm.hooks):
        library.check_hooks(algorithm)
    _check_loss(algorithm)
    _check_rewards(algorithm)
    _check_noise(algorithm)
    return algorithm


def needs(algorithm: Algorithm) -> set[str]:
    """Names of the features and columns that some hook reads from the batch."""
    return set() if _plain(algorithm) else library.needs(algorithm)


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the reference policy is asked for anything: by the KL, or by a hook."""
    return algorithm.kl_coef > 0 or "logp_reference" in needs(algorithm)


def _plain(algorithm: Algorithm) -> bool:
    return all(hook.name in BASE.get(field, ()) for field, hook in algorithm.hooks)


def _check_loss(algorithm: Algorithm) -> None:
    if algorithm.aggregate == "constant" and algorithm.constant_length is None:
        raise ValueError(
            "aggregate='constant' divides by a fixed length; "
            "set constant_length to the largest number of actions of a sequence"
        )
    gate, ratio = algorithm.gate, algorithm.ratio
    wanted = GATE_RATIO.get(gate.name, ratio)
    if ratio != wanted:
        raise ValueError(f"gate={gate.name!r} is defined for ratio={wanted!r}, not {ratio!r}; set ratio={wanted!r}")
    if ratio == "product" and algorithm.aggregate != "sequence_mean":
        # Each of n actions carries the gradient of all n: divided by anything but n, 8 actions weigh 16 times 2.
        raise ValueError(
            f"ratio='product' is a sequence's ratio at each of its actions, so aggregate={algorithm.aggregate!r} would "
            "count a sequence as often as it has actions; set aggregate='sequence_mean'"
        )
    algorithm.check_clip_bound()


def _check_rewards(algorithm: Algorithm) -> None:
    combine, name = algorithm.combine, algorithm.advantage.name
    if combine == "gdpo" and algorithm.advantage != Hook("group_std"):
        raise ValueError(
            f"combine='gdpo' normalises each reward by its group's std, so advantage={name!r} "
            "would have no effect; set advantage='group_std' or combine='advantage_sum'"
        )
    if combine != "reward_sum" and algorithm.shape:
        raise ValueError(
            f"combine={combine!r} never forms the summed reward that shape={algorithm.shape[0].name!r} works on; "
            "set combine='reward_sum' or take `shape` out"
        )
    if algorithm.kl_coef > 0 and (algorithm.kl_estimator == "k1") != (algorithm.kl_place == "reward"):
        raise ValueError(
            "kl_estimator='k1' has no gradient in the loss on average; set kl_place='reward', or kl_estimator='k3'"
            if algorithm.kl_estimator == "k1"
            else f"kl_place='reward' takes k1 off the rewards, so kl_estimator={algorithm.kl_estimator!r} would have "
            "no effect; set kl_estimator='k1', or kl_place='loss'"
        )
    if algorithm.kl_coef > 0 and algorithm.kl_place == "reward" and combine != "reward_sum":
        # Off each reward it would be normalised with it, and kl_coef lose its meaning; off the advantage it has no
        # baseline.
        raise ValueError(
            f"kl_place='reward' takes k1 off the summed reward, which combine={combine!r} never forms; "
            "set kl_place='loss' with kl_estimator='k3', or combine='reward_sum'"
        )
    if name == "zero" and algorithm.drop_zero_variance:
        raise ValueError("drop_zero_variance drops every group under advantage='zero'; leave it out")


def _check_noise(algorithm: Algorithm) -> None:
    """A correction that is the same affine map of every reward is undone by an estimator that normalises."""
    for place, hook in enumerate(algorithm.shape):
        if hook.name in ("noise_backward", "noise_forward"):
            _check_correction(hook, algorithm.shape[place + 1 :], algorithm.advantage)


def _check_correction(hook: Hook, later: Sequence[Hook], advantage: Hook) -> None:
    replaced = next((other.name for other in later if other.name in REPLACED), None)
    if replaced is not None:
        raise ValueError(
            f"shape={hook.name!r} has no effect before {replaced!r}, which makes the reward anew; put it behind, or "
            "leave it out"
        )
    free = _free_of(hook.name, advantage)
    kept = hook.name == "noise_forward" and all(_keeps_shifts(other) for other in later)
    if free and (kept or not later) and not any(isinstance(rate, str) for rate in hook.options.values()):
        instead = "group_mean" if hook.name == "noise_backward" else "none"
        raise ValueError(
            f"shape={hook.name!r} with constant rates has no effect under advantage={advantage.name!r}, which "
            f"normalises it away; set advantage={instead!r}, or name columns with a rate per sample"
        )


def _free_of(correction: str, advantage: Hook) -> bool:
    """Whether the estimator does not change under the correction's map of all rewards."""
    if correction == "noise_forward":
        return advantage.name in SHIFT_FREE
    # The rewards of macro actions are added to the outcome, and are measured on its scale.
    alone = advantage.name == "macro" and advantage.options.get("reward_feature") is None
    return alone or advantage.name in SCALE_FREE


def _keeps_shifts(shaper: Hook) -> bool:
    """Whether a shaper adds to the reward, without a look at it."""
    options = shaper.options
    if shaper.name in ("gated_sum", "plan_value"):
        return options.get("outcome") is not None or options.get("ungated", False) is True
    return shaper.name in ADDED


def _refuse_idle(algorithm: Algorithm, given: set[str]) -> None:
    """Raise ValueError for a field in `given` that nothing reads."""
    gate, estimator = algorithm.gate.name, algorithm.advantage.name
    idle = {
        **dict.fromkeys(_unread(estimator, given), f"advantage={estimator!r}"),
        **({} if gate in CLIPPED else dict.fromkeys(("clip_low", "clip_high"), f"gate={gate!r}")),
        **({} if algorithm.aggregate == "constant" else {"constant_length": f"aggregate={algorithm.aggregate!r}"}),
        **({} if algorithm.kl_coef > 0 else dict.fromkeys(("kl_estimator", "kl_place"), "kl_coef=0")),
    }
    for name in sorted(given & set(idle)):
        raise ValueError(f"{name} has no effect with {idle[name]}; leave {name} out")


def _unread(estimator: str, given: set[str]) -> set[str]:
    """Fields that an estimator leaves without an effect. ddof is read beside a floor of one's own."""
    if estimator == "zero":
        return set(POLICY)
    if estimator in UNFLOORED:
        return {"std_eps", "std_floor", "ddof"}
    if estimator in UNDIVIDED:
        return {"std_eps"} if "std_floor" in given else {"std_eps", "ddof"}
    return set()


__all__ = ["ALONE", "BASE", "PRESETS", "checked", "needs", "needs_reference", "resolve"]
