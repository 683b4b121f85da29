"""Wall time of a judge that takes a tenth of a second a call: of one call, of a group of pictures, beside a rollout."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmrl.rewarding import RewardRunner, load_reward
from mmrl.types import Group, Prompt, Sample

CALL, MEMBERS, SIDE = 0.1, 8, 64
BAR = 1.1  # calls that a group may cost


class Slow:
    """In the place of an endpoint: every call waits, and none computes."""

    identity = "slow"

    def complete(self, messages: Sequence[Mapping[str, Any]], temperature: float, seed: int) -> str:
        time.sleep(CALL)
        return f"<answer>Image {1 + seed % 2} is better</answer>"


def reward(threads: int, **options: Any) -> Any:
    """Pref-GRPO's reward with that judge, so many calls at a time."""
    judge = {"url": "http://localhost/v1", "model": "slow", "threads": threads}
    loaded = load_reward("unified_reward.think", {"judge": judge, **options})
    loaded.call.judge.chat = Slow()
    return loaded


def pictures(number: int, members: int = MEMBERS) -> Group:
    """A group of noise that no round before this one had: known answers are not asked for again."""
    draw = np.random.default_rng(number)
    prompt = Prompt(f"{number}", f"picture {number}")
    noise = draw.integers(0, 256, (members, SIDE, SIDE, 3), dtype=np.uint8)
    return Group(prompt, 0, [Sample(prompt, n, Image.fromarray(pixels)) for n, pixels in enumerate(noise)])


def seconds(work: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def rows(rounds: int, rollout: Callable[[int], list[Group]]) -> list[str]:
    """Markdown. rollout: samples one chunk of groups, for the rows in which the judge runs beside the next one."""
    single, unlimited, narrow = reward(1, both_orders=False), reward(1000), reward(16)
    quiet = [load_reward("jpeg.incompressible")]
    found: dict[str, list[float]] = {}

    def chunks(rewards: list[Any], number: int) -> None:
        with RewardRunner(rewards) as runner:
            for chunk in range(3):
                runner.submit(rollout(3 * number + chunk))
            while runner.pending:
                runner.gather()

    for number in range(rounds + 1):
        two, group, other = pictures(3 * number, 2), pictures(3 * number + 1), pictures(3 * number + 2)
        row = {
            "one call": seconds(single.call, two),
            f"a group of {MEMBERS}, {MEMBERS * (MEMBERS - 1)} calls": seconds(unlimited.call, group),
            "the same, 16 calls at a time": seconds(narrow.call, other),
            "three rollouts of a chunk": seconds(chunks, quiet, 2 * number),
            "three rollouts, each judged beside the next": seconds(chunks, [unlimited], 2 * number + 1),
        }
        if number:  # the first round starts threads and loads what is loaded late
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    lines = ["| wall time | ms, median (min-max) | calls |", "|---|---|---|"]
    for name, values in found.items():
        spread = f"{1000 * min(values):.0f}-{1000 * max(values):.0f}"
        lines.append(f"| {name} | {1000 * medians[name]:.0f} ({spread}) | {medians[name] / CALL:.2f} |")
    group_cost = medians[f"a group of {MEMBERS}, {MEMBERS * (MEMBERS - 1)} calls"] / medians["one call"]
    told = "reached" if group_cost <= BAR else "NOT reached"
    return [*lines, "", f"a group costs at most {BAR} calls: {told} ({group_cost:.2f})"]
