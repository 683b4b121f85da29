"""The numbers of a service, which bound it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a service takes, and how it batches.

    max_batch: rows of a batch. max_wait: seconds a row waits for others. queue: rows that may wait or run. body: bytes
    of a request; bodies: of all that are in memory; body_seconds: that one may take. batch_seconds: that the model may
    take for a batch. max_pixels: of a picture.
    answers: that are kept by idempotency key. token: that a request has to bring; "" for none. open_health: whether
    /health tells without it. ends: texts that are cut from the end of answers at /get_reward. hosts: names by which a
    request may call the server; () for any.
    """

    max_batch: int = 32
    max_wait: float = 0.005
    queue: int = 1024
    body: int = 32 << 20
    bodies: int = 256 << 20
    body_seconds: float = 30.0
    batch_seconds: float = 600.0
    max_pixels: int = 50_000_000
    answers: int = 10_000
    token: str = ""
    open_health: bool = True
    ends: Sequence[str] = ()
    hosts: Sequence[str] = ()
