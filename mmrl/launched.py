"""What a launcher (torchrun, accelerate, Slurm's own) has set for this process."""

from __future__ import annotations

import os


def is_main() -> bool:
    """Whether this is the process that prints: rank 0."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes it started; 1 without one."""
    number = os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() and int(number) else 1
