"""Processes that see other files than the first are refused at the start, all of them, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import make, ranks

from mmrl.config import ConfigError
from mmrl.training.agreement import refuse_unlike
from mmrl.training.notes import is_told
from mmrl.types import Prompt

REWARD = "def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n"
ONE = {"config": {"seed": 1}, "content": {"data.prompts": "hash abc"}, "code": {"own.py": "1"}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"config": {"seed": 2}}, "the config is"),
        (
            {"content": {"data.prompts": "hash abd"}},
            "data.prompts is hash abc for process 0, and hash abd for process 2",
        ),
        ({"content": {}}, "data.prompts is hash abc for process 0, and not there for process 2"),
        ({"content": {**ONE["content"], "data.records": "x"}}, "data.records is not there for process 0"),
        ({"code": {"own.py": "2"}}, "code of own.py is 1 for process 0"),
    ],
)
def test_what_one_process_reads_otherwise_stops_all_and_the_first_tells(change, told):
    def work(processes):
        made = {**ONE, **change} if processes.rank == 2 else ONE
        try:
            refuse_unlike(processes, made)
        except ConfigError as error:
            return str(error), is_told(error)
        return None

    found = ranks(work, 3)
    if told is None:
        assert found == [None] * 3
    else:
        assert all(told in text for text, _ in found)
        assert [silent for _, silent in found] == [False, True, True]


def test_a_training_on_other_prompts_stops_before_it_writes_anything(tmp_path: Path):
    (tmp_path / "letters.py").write_text(REWARD, encoding="utf-8")
    stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "micro_batch": 20}
    values = {
        "out": str(tmp_path / "runs"),
        "data": {"prompts": "given"},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [stage],
    }

    def work(processes):
        texts = ["x", "xx"] if processes.rank == 0 else ["x", "y"]
        loop = make(values, [Prompt(text, text, {"prompt": text}) for text in texts], processes=processes)
        with pytest.raises(ConfigError, match=r"processes see different files: data\.prompts"):
            loop.train()

    ranks(work)
    assert not (tmp_path / "runs").exists()
