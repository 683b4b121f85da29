"""Two stages of a kind are given the same things in orders of their own, with noise of their own."""

from __future__ import annotations

import json

import pytest
from able import Able, able, values
from answers import AnswersConfig

from mmrl.config import DataConfig
from mmrl.data.records import Records

# Stages that go once over six records or pairs, or over the twelve prompts.
STAGES = {
    "sft": {"kind": "sft", "steps": 3, "batch": 2},
    "preference": {"kind": "preference", "steps": 3, "batch": 2},
    "filter": {"kind": "filter", "steps": 3, "groups": 4, "samples": 3, "rule": "difficulty", "low": 0, "high": 1},
    "expert": {"steps": 3, "expert": {"batch": 2}},
}


class Watched(Able):
    """Notes what it is given: (id, the random numbers that go with it, where there are any)."""

    def __init__(self):
        super().__init__(AnswersConfig())
        self.seen: dict[str, list[tuple[str, object]]] = {"records": [], "pairs": [], "prompts": []}

    def supervised_loss(self, records, objective, seed):
        self.seen["records"] += [(record["id"], seed) for record in records]
        return super().supervised_loss(records, objective, seed)

    def given(self, prompt, completions):
        if len(completions) == 2:
            self.seen["pairs"].append((prompt.id, None))
        return super().given(prompt, completions)

    def rollout(self, groups, n, step, seed):
        self.seen["prompts"] += [(group.prompt.id, (step, seed)) for group in groups]
        return super().rollout(groups, n, step, seed)


@pytest.mark.parametrize(
    ("kind", "given"), [("sft", "records"), ("preference", "pairs"), ("filter", "prompts"), ("expert", "records")]
)
def test_a_second_stage_does_not_repeat_the_first(tmp_path, kind, given):
    path = tmp_path / "given.jsonl"
    lines = [
        {"id": str(i), "prompt": "x" * (1 + i), "completion": "ab", "chosen": "ab", "rejected": "b"} for i in range(6)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = {"pairs": str(path)} if kind == "preference" else {}
    stages = [{**STAGES[kind], **pairs, "name": name} for name in ("one", "two")]
    data = {"prompts": "unused.txt", **({"records": str(path)} if given == "records" else {})}
    records = Records(DataConfig(records=str(path)), ("completion",))
    loop = able(values(tmp_path, *stages, data=data), adapter=Watched(), records=records)
    loop.train()
    seen = loop.adapter.seen[given]
    if given == "pairs":  # a stage looks at its first pair when it is made, and learns nothing from it
        seen = [entry for n, entry in enumerate(seen) if n not in (0, 1 + len(seen) // 2 - 1)]
    one, two = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    ids = [[name for name, _ in part] for part in (one, two)]
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(set(ids[0]), key=str)
    assert ids[0] != ids[1]
    if given != "pairs":
        assert not [entry for entry in one if entry in two]
