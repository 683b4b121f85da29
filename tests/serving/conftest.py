"""What the tests of the service share: a client without a socket, and servers on loopback."""

from __future__ import annotations

import contextlib

import pytest
from served_models import Loopback, client_of

from mmrl.serving.model import Served


@pytest.fixture
def service():
    """service(served, **limits) -> a client of it."""
    with contextlib.ExitStack() as stack:
        yield lambda served, **limits: stack.enter_context(client_of(served, **limits))


@pytest.fixture
def loopback():
    """loopback(served, **limits) -> Loopback."""
    running: list[Loopback] = []

    def start(served: Served, **limits) -> Loopback:
        running.append(Loopback(served, **limits))
        return running[-1]

    yield start
    for each in running:
        each.close()
