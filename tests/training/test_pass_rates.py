"""Pass rates in a file that tells what they are of, and taken from there only where they would be the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Answers, AnswersConfig, make, ranks
from every import every

from mmrl.config import ConfigError
from mmrl.modalities.marks import mark_of_weights
from mmrl.training.stages.pass_rates import Known, Rate, rate_of
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "word" + "!" * i, {"prompt": "word" + "!" * i, "level": i}) for i in range(7)]
STAGE = {"kind": "filter", "name": "m", "steps": 3, "groups": 3, "samples": 4, "rule": "difficulty", "low": 0.01}


@pytest.fixture
def values(tmp_path: Path):
    """values(run's name, options of the stage, sections of the config)"""
    (tmp_path / "score.py").write_text("def a(samples):\n    return [float(s.artifact[:1] == 'a') for s in samples]\n")

    def of(name: str, **options: Any) -> dict[str, Any]:
        sections = {key: options.pop(key) for key in ("modality", "model", "environment") if key in options}
        reward = {"name": f"{tmp_path / 'score.py'}:a", "weight": options.pop("weight", 1.0)}
        stage = {**STAGE, "high": 1, **options}
        return {
            "name": name,
            "out": str(tmp_path),
            "data": {"prompts": "given"},
            "rewards": [reward],
            "stages": [stage],
        } | sections

    return of


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def never(*_: Any) -> None:
    raise AssertionError("sampled a prompt whose rate is known")


@every(
    ("rewards", "rate"),
    [
        ([0, 1, 1, 0], Rate(0.5, 2, 4)),
        ([0, 0], Rate(0.0, 3, 2)),
        ([1], Rate(1.0, 1, 1)),
        ([None, 0, 1], Rate(0.5, 2, 2)),  # what failed is no answer
        ([0.49, 0.5], Rate(0.5, 2, 2)),
        ([None, None], None),
        ([], None),
    ],
)
def test_rates_by_hand(rewards, rate):
    assert rate_of(rewards, 0.5) == rate


def test_every_prompt_that_was_measured_is_in_the_file_with_what_it_is_of(tmp_path, values):
    loop = make(values("run"), PROMPTS)
    loop.train()
    head, *rates = lines(tmp_path / "run/data/m.pass_rates.jsonl")
    assert head["model"] == mark_of_weights(loop.adapter)
    assert (head["seed"], head["how"]["samples"], head["how"]["correct_at"]) == (0, 4, 0.5)
    assert sorted(rate["id"] for rate in rates) == [p.id for p in PROMPTS]
    kept = {record["id"]: record["pass_rate"] for record in lines(tmp_path / "run/data/m.jsonl")}
    assert kept == {rate["id"]: rate["pass_rate"] for rate in rates if rate["pass_rate"] > 0}
    assert 0 < len(kept) < 7  # SARI: what is never right is left out


def test_rates_that_are_known_are_not_measured_again(tmp_path, values):
    make(values("first"), PROMPTS).train()
    known = str(tmp_path / "first/data/m.pass_rates.jsonl")
    again = make(values("again", pass_rates=known), PROMPTS)
    again.adapter.rollout = never
    assert again.train()["samples"] == 0
    for name in ("m.jsonl", "m.pass_rates.jsonl"):
        assert (tmp_path / "again/data" / name).read_bytes() == (tmp_path / "first/data" / name).read_bytes()
    rows = lines(tmp_path / "again/metrics.jsonl")
    assert [(row["filter/prompts"], row["filter/known"]) for row in rows] == [(3, 3), (3, 3), (1, 1)]
    # Other bounds are no other way of measuring.
    make(values("high", pass_rates=known, low=0.4), PROMPTS).train()
    assert {r["id"] for r in lines(tmp_path / "high/data/m.jsonl")} == {
        r["id"] for r in lines(tmp_path / "first/data/m.jsonl") if r["pass_rate"] >= 0.4
    }


def other_weights() -> Answers:
    adapter = Answers(AnswersConfig())
    adapter.table.data[0, 0, 0] += 1e-9
    return adapter


OTHERS = {
    "weights": ({}, {"adapter": other_weights()}, "model [0-9a-f]{16} -> [0-9a-f]{16}"),
    "samples": ({"samples": 5}, {}, "samples: 4 -> 5"),
    "correct_at": ({"correct_at": 0.7}, {}, "correct_at: 0.5 -> 0.7"),
    "reward's weight": ({"weight": 2.0}, {}, r"rewards\.0\.weight: 1.0 -> 2.0"),
    "how it is sampled": ({"model": {"by_columns": True}}, {}, r"model\.by_columns: False -> True"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_rates_of_another_policy_or_way_are_refused_unless_they_are_asked_for(tmp_path, values, other):
    options, given, told = OTHERS[other]
    make(values("first"), PROMPTS).train()
    known = str(tmp_path / "first/data/m.pass_rates.jsonl")
    with pytest.raises(ConfigError, match=f"was measured in another way: {told}.* pass_rates_of: any"):
        make(values("same", pass_rates=known, **options), PROMPTS, **given).train()
    loop = make(values("any", pass_rates=known, pass_rates_of="any", **options), PROMPTS, **given)
    loop.adapter.rollout = never
    loop.train()
    assert (tmp_path / "any/data/m.jsonl").read_bytes() == (tmp_path / "first/data/m.jsonl").read_bytes()


def test_a_prompt_that_is_new_or_has_changed_is_measured(tmp_path, values):
    make(values("first", steps=2), PROMPTS[:5]).train()
    known = str(tmp_path / "first/data/m.pass_rates.jsonl")
    changed = [Prompt("p0", "word", {"prompt": "word", "level": 99}), *PROMPTS[1:]]
    loop = make(values("again", pass_rates=known, low=0), changed)
    asked, rollout = [], loop.adapter.rollout

    def noted(groups, *rest):
        asked.extend(group.prompt.id for group in groups)
        return rollout(groups, *rest)

    loop.adapter.rollout = noted
    loop.train()
    assert sorted(asked) == ["p0", "p5", "p6"]
    assert sorted(r["id"] for r in lines(tmp_path / "again/data/m.jsonl")) == [p.id for p in PROMPTS]


def test_rates_of_none_of_the_prompts_are_refused(tmp_path, values):
    """Nothing of them would be used, and everything measured anew."""
    make(values("first", steps=1), PROMPTS[:3]).train()
    known = str(tmp_path / "first/data/m.pass_rates.jsonl")
    with pytest.raises(ConfigError, match="has none of the 4 prompts of stage 'm' as they are now, first 'p3'"):
        make(values("again", pass_rates=known, steps=2), PROMPTS[3:]).train()


def test_a_stopped_measurement_and_one_of_two_processes_write_the_same_files(tmp_path, values):
    """Half of the rates known, half measured."""
    make(values("first", steps=1), PROMPTS).train()
    known = str(tmp_path / "first/data/m.pass_rates.jsonl")
    make(values("straight", pass_rates=known), PROMPTS).train()
    stops = 0
    while True:
        passed: list[str] = []

        def at(place: str, passed=passed) -> bool:
            passed.append(place)
            return place in ("rollout", "step")

        try:
            make(values("cut", pass_rates=known), PROMPTS, should_stop=at).train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
            assert stops < 20
    assert stops >= 4
    ranks(lambda processes: make(values("two", pass_rates=known), PROMPTS, processes=processes).train())
    for name in ("m.jsonl", "m.pass_rates.jsonl"):
        assert {(tmp_path / run / "data" / name).read_bytes() for run in ("straight", "cut", "two")} == {
            (tmp_path / "straight/data" / name).read_bytes()
        }


def test_a_hash_is_of_every_bit_of_every_tensor():
    class Held:
        def __init__(self, *tensors):
            self.weights = lambda: tensors

    tensors = [torch.arange(4.0), torch.tensor(2), torch.ones(2, 2, dtype=torch.bfloat16)[:, :1]]
    one = mark_of_weights(Held(*tensors))
    assert one == mark_of_weights(Held(*(t.clone() for t in tensors)))
    others = [
        [tensors[0].view(2, 2), *tensors[1:]],
        [tensors[0].int(), *tensors[1:]],
        [torch.nextafter(tensors[0], torch.tensor(9.0)), *tensors[1:]],
        [tensors[0], torch.tensor(3), tensors[2]],
        tensors[:2],
    ]
    assert len({one, *(mark_of_weights(Held(*other)) for other in others)}) == 6


@pytest.mark.parametrize(
    "text", ["", "{}\n", '{"model": "x", "how": {}}\n{"id": "a"}\n', "[1]\n", "no JSON\n", None], ids=range(6)
)
def test_a_file_that_holds_no_rates_is_told(tmp_path, text):
    path = tmp_path / "rates.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"pass_rates: .*rates\.jsonl (is no file of pass rates|cannot be read)"):
        Known(str(path))
