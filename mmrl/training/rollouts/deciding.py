"""Which reward says that an answer is right: one by its name, or the weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmrl.config import ConfigError


def looked_at(weights: Mapping[str, float], reward: str | None) -> dict[str, float]:
    """Weights where one reward decides alone, all others being monitors; those of the run for None."""
    return {name: float(name == reward) if reward else weight for name, weight in weights.items()}


def check_known(reward: str | None, rewards: Iterable[str], key: str) -> None:
    """Raise ConfigError for a name under `key` that is none of the run's rewards."""
    names = list(rewards)
    if reward is not None and reward not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"{key}: no reward {reward!r} (there is {known}); name one of the configured rewards")
