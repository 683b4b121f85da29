"""model.compile in whole runs, beside other options: the numbers of the run without it, and bit for bit on after a
stop."""

from __future__ import annotations

import pytest
import torch
from compared import agree, described, distance, exported, trained
from divided import Runs, merged, one
from sharded_cases import ALL
from torch._dynamo.utils import counters

# Case of sharded_cases.py -> what it is changed by. park: nothing is moved on a CPU, but everything goes through it.
BESIDE = {
    "full": {},
    "drawn_lora": {"device": "auto", "model": {"keep_graph": True, "park": True, "build": {"layers": 1}}},
    "flash": {},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", BESIDE)
def test_a_compiled_run_is_the_plain_one_and_goes_on_after_a_stop(case, tmp_path):
    """full: a reference and averages; drawn_lora: graphs of the rollout that are kept; flash: roles that act in turn,
    and heads that listen to blocks."""
    made = ALL[case](Runs(tmp_path))
    plain = merged(made[0] if isinstance(made, tuple) else made, BESIDE[case])
    stage = {**plain["stages"][0], **({"epochs": 2} if case != "flash" else {})}
    once, twice = ([{**stage, "steps": steps}] for steps in (1, 2))
    compiled = merged({**plain, "name": "compiled"}, {"model": {"compile": "aot_eager"}})
    counters.clear()
    one({**plain, "stages": once})
    assert not counters["frames"]["ok"]
    fresh()
    one({**compiled, "stages": once})
    assert counters["frames"]["ok"] > 0 and not counters["graph_break"]
    agree(plain, compiled, near=1e-4)
    straight = {**compiled, "name": "straight", "stages": twice}
    for run, resume in ((straight, False), ({**compiled, "stages": twice}, True)):
        fresh()
        one(run, resume)
    assert distance(trained(straight), trained(compiled)) == 0.0
    assert described(plain) == described(compiled) and exported(plain).keys() == exported(compiled).keys()


def fresh():
    """As in a process of its own."""
    torch._dynamo.reset()
