"""What docs/reward_models.md shows runs as it is written, and learns what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reward_models.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*held-out prompts are also training prompts")
def test_its_programs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, use = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    exec(compile(train, str(PAGE), "exec"), {"__name__": "page"})
    before, after = map(float, capsys.readouterr().out.split())
    assert before == 0.5 and after > 0.8
    exec(compile(use, str(PAGE), "exec"), {"__name__": "page"})
    right, wrong = map(float, capsys.readouterr().out.split())
    assert right > wrong
