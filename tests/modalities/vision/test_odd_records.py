"""Whatever a record holds, `usable` gives one line and no traceback, in every environment."""

from __future__ import annotations

import pytest

from mmrl.environments.load import BUILT_IN, load_environment
from mmrl.types import Prompt

ODD = {
    "environment is a number": {"environment": 5},
    "environment is a list": {"environment": [1]},
    "environment is unknown": {"environment": {"name": "mpgo"}},
    "environment has no name": {"environment": {"min_side": 5}},
    "environment has an unknown option": {"environment": {"name": "mgpo", "min_sid": 5}},
    "environment has an odd key": {"environment": {1: 2}},
    "environment has an odd value": {"environment": {"name": "mgpo", "min_side": object()}},
    "environment names code": {"environment": "own.py:Echo"},
    "messages are a number": {"messages": 5},
    "messages are a text": {"messages": "Hi"},
    "messages are a mapping": {"messages": {"role": "user"}},
    "messages hold a number": {"messages": [5]},
    "messages are empty": {"messages": []},
    "messages have no content": {"messages": [{"role": "user"}]},
    "content is a number": {"messages": [{"role": "user", "content": 5}]},
    "content holds a number": {"messages": [{"role": "user", "content": [5]}]},
    "role is a number": {"messages": [{"role": 5, "content": "Hi"}]},
    "question is a number": {"question": 5},
    "goal is a number": {"goal": 5, "steps": [{}]},
    "steps are a number": {"goal": "g", "steps": 5},
    "steps hold a number": {"goal": "g", "steps": [5]},
    "action is a number": {"goal": "g", "steps": [{"action": 5}]},
    "info is a number": {"info": 5},
    "info holds a list": {"info": {"tgt_width": [1], "tgt_height": 5}},
    "info is negative": {"info": {"tgt_width": -1, "tgt_height": 5}},
    "info is not finite": {"info": {"tgt_width": float("inf"), "tgt_height": 5}},
    "secret is a list": {"secret": [1]},
}


@pytest.fixture(params=[None, *BUILT_IN])
def environment(request):
    options = {"feedback": "guess"} if request.param == "rounds" else {}
    return None if request.param is None else load_environment({"name": request.param, **options})


@pytest.mark.parametrize("pictures", [0, 1])
@pytest.mark.parametrize("record", ODD.values(), ids=ODD)
def test_usable_says_it_in_one_line(shared, drawn, environment, record, pictures, monkeypatch):
    policy = shared("qwen2_5_vl")
    monkeypatch.setattr(policy.reader, "environment", environment)
    prompt = Prompt("r1", "What?", {"images": [drawn(n) for n in range(pictures)], **record})
    reason = policy.usable(prompt)
    assert reason is None or ("\n" not in reason and 0 < len(reason) < 400)
    if "environment" in record:
        assert "environment" in reason
