"""What a launcher (torchrun, accelerate, Slurm's own) has set for this process."""

from __future__ import annotations

import os

# What processes that are several have to know, besides how many, to come together.
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_main() -> bool:
    """Whether this is the process that prints: rank 0, or the only one, whatever rank an environment is left with."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes it started; 1 without one."""
    number = os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() and int(number) else 1


def lacking() -> list[str]:
    """Of NEEDED what is not set where there are several processes."""
    return [name for name in NEEDED if not os.environ.get(name)] if processes() > 1 else []
