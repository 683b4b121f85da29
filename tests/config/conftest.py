"""Configs as mappings: nothing here is run, so that no file they name need be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STAGES: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "grpo", "steps": 2, "groups": 4, "samples": 4, "updates": 2},
    "forward_process": {"kind": "forward_process", "steps": 2, "groups": 4, "samples": 4},
    "distill": {"kind": "distill", "steps": 2, "groups": 4},
    "roles": {"kind": f"{Path(__file__).parents[1] / 'training' / 'three_roles.py'}:Novelty", "steps": 2},
    "sft": {"kind": "sft", "steps": 2},
    "preference": {"kind": "preference", "steps": 2, "pairs": "pairs.jsonl"},
    "forward_preference": {"kind": "forward_preference", "steps": 2, "pairs": "pairs.jsonl"},
    "reward_model": {"kind": "reward_model", "steps": 2, "pairs": "pairs.jsonl"},
    "filter": {"kind": "filter", "steps": 2, "rule": "pairs"},
}


def made(modality: str = "text", stages: tuple[str, ...] = ("grpo",), **keys: Any) -> dict[str, Any]:
    """A config that loads. keys: what to put in place of its own at the top."""
    config: dict[str, Any] = {
        "modality": modality,
        "model": {"path": "somebody/model"},
        "data": {"prompts": "prompts.jsonl", "records": "records.jsonl"},
        "rewards": [{"name": "length.short"}],
        "stages": [dict(STAGES[kind]) for kind in stages],
    }
    if set(stages) == {"reward_model"}:  # which scores the answers of its pairs, and has no use for these
        del config["data"]["prompts"], config["rewards"]
    return config | keys


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    """See `made`."""
    return made


@pytest.fixture
def calls(monkeypatch, tmp_path) -> list[tuple[str, Any, dict[str, Any]]]:
    """(function, config, options) of what the command line asked of mmrl.api, which does nothing."""
    from mmrl import api

    seen: list[tuple[str, Any, dict[str, Any]]] = []
    answers: dict[str, Any] = {"evaluate": {}, "sample": []}
    answers["train"] = {"before": {}, "after": {}, "steps": 0, "wall_s": 0.0}
    for name, answer in answers.items():

        def fake(config, *_, name=name, answer=answer, **options):
            seen.append((name, config, options))
            return answer

        monkeypatch.setattr(api, name, fake)
    monkeypatch.chdir(tmp_path)
    return seen
