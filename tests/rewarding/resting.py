"""How a monitor's server that is down is asked, by the clock of its breaker."""

from __future__ import annotations

import warnings
from collections.abc import Callable


def asked_and_left_alone(asked: Callable[[str], int], clock: list[float], rest: int) -> None:
    """Six steps of a server that is down: three requests, then one when `rest` seconds are over, then one after twice
    as long; and it is told once. asked(word): requests that a step makes."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        counts = [asked("one"), asked("two")]
        clock[0] += rest
        counts += [asked("three"), asked("four")]
        clock[0] += 2 * rest - 1
        counts.append(asked("five"))
        clock[0] += 1
        counts.append(asked("six"))
    assert counts == [3, 0, 1, 0, 0, 1]
    assert len([1 for one in told if f"left alone for {rest} s" in str(one.message)]) == 1
