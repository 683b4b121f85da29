"""The number guessing game of the environment rounds: found, and how soon."""

from __future__ import annotations

from mmrl.types import Prompt, Sample, Score


def found(samples: list[Sample], discount: float = 0.9) -> list[Score]:
    """discount^(turns before the right guess), 0 where it was never made.

    Reads `found` and `rounds` of the sample's info, from the environment (feedback: guess).
    """
    return [_score(sample, discount) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why there is nothing to guess in this prompt, or None; to be asked before training."""
    numbers = [v for name in ("low", "secret", "high") if type(v := prompt.record.get(name)) is int]
    if len(numbers) < 3 or numbers != sorted(numbers):
        return f"prompt {prompt.id!r} needs whole numbers `low` <= `secret` <= `high`"
    return None


def _score(sample: Sample, discount: float) -> Score:
    if "found" not in sample.info:
        return Score(None, "the sample's info has no `found`; it comes from the environment rounds", "na")
    return Score.of(sample.info["found"] * discount ** (sample.info["rounds"] - 1))
