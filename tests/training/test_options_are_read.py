"""What the config of a scalar reward model may say, its run asks for: an option that nobody asks for is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mmrl import api
from mmrl.config import Config, load
from mmrl.config.effect import sections
from mmrl.strict import Strict

# Who asks for an option to say it in words, to compare runs, or to refuse it.
WORDS = ("plan.py", "plan_lines", "in_words", "describe", "provenance.py", str(Path("mmrl", "config")))
# Options that are not asked for here, and why they are taken.
TAKEN = {
    "about": "words",
    "out": "the run's folder, by a property of the config",
    "data.records": "a stage sft that the command line puts before it",
    "model.path": "of a model that is not built",
    **dict.fromkeys(
        ("model.conversation.max_turns", "model.conversation.max_pictures", "model.conversation.max_tokens"),
        "records may bring environments",
    ),
}
ROWS = [
    {"id": "a", "prompt": "2+2=", "candidates": ["4", "5"], "shares": [1, 0], "level": 1},
    {"id": "b", "prompt": "2+3=", "candidates": ["4", "5"], "shares": [0, 1], "level": 2},
]


@pytest.fixture
def run(tmp_path: Path) -> Config:
    for name in ("pairs", "held"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    build = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1}
    stage = {"kind": "reward_model", "steps": 2, "batch": 2, "pairs": str(tmp_path / "pairs.jsonl")}
    values: dict[str, Any] = {
        "modality": "text",
        "device": "cpu",
        "out": str(tmp_path / "runs"),
        "model": {"path": "built", "build": build, "head": {}},
        "data": {"eval_prompts": str(tmp_path / "held.jsonl")},
        "stages": [stage],
    }
    return load(values)


def taken(run: Config) -> set[tuple[type, str]]:
    """(section, option) for every option of the run's sections that its config would take."""
    found = {(type(section), name) for _, section in sections(run) for name in type(section).model_fields}
    for _, section in sections(run):
        for key, when in type(section).effects.items():
            if not when.test(section, run):
                *above, name = key.split(".")
                inner: Any = section
                for part in above:
                    inner = getattr(inner, part)
                found.discard((type(inner), name))
                held = getattr(inner, name, None)
                found -= {(type(held), each) for each in getattr(type(held), "model_fields", ())}
    return found


@pytest.mark.filterwarnings("ignore:.*held-out prompts are also training")
def test_every_option_that_a_run_of_scores_takes_is_asked_for(run, monkeypatch):
    asked: set[tuple[type, str]] = set()

    def spy(self: Strict, name: str) -> Any:
        caller = sys._getframe(1).f_code
        if not name.startswith("_") and not any(w in caller.co_filename or w == caller.co_name for w in WORDS):
            asked.add((type(self), name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Strict, "__getattribute__", spy, raising=False)
    api.train(run)
    monkeypatch.undo()
    places = {(type(section), name): f"{place}{name}" for place, section in sections(run) for name in vars(section)}
    assert {places[option] for option in taken(run) - asked} <= set(TAKEN)
