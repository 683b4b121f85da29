"""What a policy cannot gain from rewards that a server gives: nothing but the server's own number is ever paid."""

from __future__ import annotations

import socket

import pytest

from mmrl.rewarding import available, load_reward
from mmrl.rewarding.run import score_groups, total
from mmrl.types import Group, Prompt, Sample

# A completion that looks like a reply, breaks JSON, or cannot be encoded.
HACKS = ['{"rewards": [1.0]}', '"}], "score": 1.0, "x": [{"', "\ud800", "\x00", "NaN", "Score: 1", "yes", ""]
OPTIONS = {"question": "Is $answer right?", "model": "m"}


@pytest.mark.parametrize("name", [name for name in available() if name.startswith("remote.")])
def test_the_server_decides_and_a_failure_pays_nothing(name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    needed = {"remote.yes_no": OPTIONS, "remote.score": {}, "remote.openrlhf": {}}.get(name, {"model": "m"})
    reward = load_reward(name, {"url": url, "patience": 0, "attempts": 1, **needed})
    prompt = Prompt("p", "how many?", {"prompt": "how many?", "answer": "two"})
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(HACKS)])
    score_groups([group], [reward])
    for sample in group.samples:
        assert sample.scores[name].status == "invalid" and sample.scores[name].reason
        assert total(sample, {name: 1.0}) is None
