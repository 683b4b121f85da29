"""The filter stage keeps what its rule says, worked out by hand, and hands it on to the stages after it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from answers import Answers, AnswersConfig, make, ranks
from answers import __file__ as modality
from PIL import Image

from mmrl.config import ConfigError, DataConfig, FilterStage, load
from mmrl.data.records import KeptRecords
from mmrl.modalities.adapter import Unsupported
from mmrl.training.rollouts.deciding import looked_at
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.run_folder import prompts_of
from mmrl.training.stages.filter_rules import keep, set_rewards
from mmrl.training.stages.filtered import NothingKept
from mmrl.training.stages.preference import Preference
from mmrl.training.stages.sft import Sft
from mmrl.training.stopping import Stopped
from mmrl.types import Group, Prompt, Sample, Score

PROMPTS = [Prompt(f"p{i}", "word" + "!" * i, {"prompt": "word" + "!" * i, "level": i}) for i in range(7)]

REWARD = """
def wins(samples):
    return [float(s.artifact.startswith("a")) for s in samples]

def length(samples):
    return [len(s.artifact) / 10 for s in samples]

def broken(samples):
    return [float("nan") for s in samples]
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    (tmp_path / "score.py").write_text(REWARD, encoding="utf-8")
    return tmp_path / "score.py"


STEPS = {"kind": "filter", "steps": 1, "groups": 3, "rule": "steps", "tree": {"step_end": "b", "step_tokens": 3}}
OF_STEPS = {"kind": "reward_model", "steps": 1, "rows": "steps", "objective": "mse", "data_from": "filter"}


def stage(**options: Any) -> dict[str, Any]:
    return {"kind": "filter", "steps": 3, "groups": 3, "samples": 6, "rule": "difficulty", **options}


def config(tmp_path: Path, *stages: dict[str, Any], reward: str = "wins", name: str = "runs") -> dict[str, Any]:
    return {
        "out": str(tmp_path / name),
        "data": {"prompts": "given to the trainer"},
        "rewards": [{"name": f"{tmp_path / 'score.py'}:{reward}"}],
        "stages": list(stages),
    }


def group(*rewards: float | None, answers: str = "") -> Group:
    """Samples with these rewards; their answers are letters."""
    prompt = Prompt("p", "say", {"prompt": "say", "image": "x.png"})
    samples = [Sample(prompt, i, (answers or "abcdefgh")[i], reward=r) for i, r in enumerate(rewards)]
    return Group(prompt, 0, samples)


def kept(group: Group, rule: str, **options: Any) -> list[dict[str, Any]]:
    return keep(Answers(AnswersConfig()), FilterStage(steps=1, rule=rule, **options), group)


# -------------------------------------------------------------------- rules


def test_pairs_takes_the_best_and_the_worst():
    (record,) = kept(group(0.2, 0.9, None, 0.7, 0.1), "pairs")
    assert record == {
        "prompt": "say",
        "image": "x.png",
        "id": "p",
        "chosen": "b",
        "rejected": "e",
        "reward_chosen": 0.9,
        "reward_rejected": 0.1,
    }


@pytest.mark.parametrize(
    ("values", "options", "count"),
    [
        ((0.6, 0.9), {}, 0),  # both correct
        ((0.1, 0.4), {}, 0),  # both wrong
        ((0.1, 0.4), {"require_correct": False}, 1),
        ((0.1, 0.4), {"require_correct": False, "margin": 0.4}, 0),
        ((0.25, 0.75), {"margin": 0.5}, 0),  # more than the margin is asked for
        ((0.25, 0.75), {"margin": 0.49}, 1),
        ((0.3, 0.3), {"require_correct": False}, 0),
        ((0.9, None), {}, 0),  # a failed reward is not a wrong answer
        ((None, None), {}, 0),
    ],
)
def test_when_there_is_a_pair(values, options, count):
    assert len(kept(group(*values), "pairs", **options)) == count


def test_one_answer_with_two_rewards_is_no_pair():
    assert kept(group(0.1, 0.9, answers="aa"), "pairs") == []


def test_rejection_keeps_correct_answers_best_first_and_each_once():
    found = kept(group(0.6, 0.9, 0.1, None, 0.5, 0.9, answers="abcdea"), "rejection")
    assert [(r["id"], r["completion"], r["reward"]) for r in found] == [
        ("p/1", "b", 0.9),
        ("p/5", "a", 0.9),
        ("p/4", "e", 0.5),
    ]
    assert found[0]["image"] == "x.png"
    assert [r["id"] for r in kept(group(0.6, 0.9, 0.8), "rejection", keep=2)] == ["p/1", "p/2"]


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ((1, 0, 0, 0, 0), 0.2),
        ((1, 1, 1, 1, 0), 0.8),
        ((0, 0, 0, 0, 0), None),
        ((1, 1, 1, 1, 1), None),
        ((1, 0, None, None, None), 0.5),  # of two answers whose correctness is known
        ((None, None), None),
    ],
)
def test_difficulty_keeps_prompts_of_medium_pass_rate(values, share):
    found = kept(group(*values), "difficulty")
    assert [r["pass_rate"] for r in found] == ([] if share is None else [pytest.approx(share)])


@pytest.mark.parametrize(
    ("values", "attempts"),
    [
        ((1, 0, 0), None),  # answered at once: too easy
        ((0, 1, 1), 2),
        ((0, 0, 1), 3),
        ((0, 0, 0), 4),  # never
        ((None, 1, 0), None),  # an answer whose reward failed is no attempt
        ((0, None, 1), 2),
        ((None, None, None), None),
    ],
)
def test_prompts_are_kept_by_the_number_of_attempts(values, attempts):
    found = kept(group(*values), "difficulty", samples=3, low=0, high=1, min_attempts=2)
    assert [r["attempts"] for r in found] == ([] if attempts is None else [attempts])


def test_more_attempts_than_could_be_are_refused():
    FilterStage(steps=1, rule="difficulty", samples=3, min_attempts=4)
    with pytest.raises(ValueError, match=r"min_attempts=5 is more than samples \+ 1 = 4"):
        FilterStage(steps=1, rule="difficulty", samples=3, min_attempts=5)


def test_an_answer_that_no_record_holds_is_refused():
    odd = group(1.0, 0.0)
    for sample in odd.samples:
        sample.artifact = torch.zeros(2)
    with pytest.raises(Unsupported, match="makes Tensor, which a record cannot hold"):
        kept(odd, "pairs")
    assert len(kept(odd, "difficulty")) == 1


def test_the_adapter_may_have_its_own_form_of_an_answer():
    class Ids(Answers):
        def completion(self, sample):
            return [1, 2, sample.index]

    (record,) = keep(Ids(AnswersConfig()), FilterStage(steps=1, rule="pairs"), group(1.0, 0.0))
    assert (record["chosen"], record["rejected"]) == ([1, 2, 0], [1, 2, 1])


def test_the_reward_of_the_rule_is_the_weighted_sum_or_one_of_them(tmp_path, rewards):
    values = config(tmp_path, stage())
    values["rewards"] = [{"name": f"{rewards}:wins", "weight": 2.0}, {"name": f"{rewards}:length", "weight": -1.0}]
    trainer = make(values, PROMPTS)
    names = [r.name for r in trainer.run.rewards]
    odd = group(None, None, None)
    table = [(Score(1.0), Score(0.5)), (Score(1.0), Score(None, status="na")), (Score(1.0), Score.invalid("broke"))]
    for sample, scores in zip(odd.samples, table):
        sample.scores = dict(zip(names, scores))
    set_rewards(looked_at(trainer.run.weights, None), [odd])
    assert [s.reward for s in odd.samples] == [1.5, 2.0, None]
    set_rewards(looked_at(trainer.run.weights, names[1]), [odd])
    assert [s.reward for s in odd.samples] == [0.5, None, None]


# -------------------------------------------------------------------- the stage


def result(values: dict[str, Any], name: str = "filter") -> Path:
    return Path(values["out"]) / "run" / "data" / f"{name}.jsonl"


def records(values: dict[str, Any], name: str = "filter") -> list[dict[str, Any]]:
    return [json.loads(line) for line in result(values, name).read_text(encoding="utf-8").splitlines()]


def test_a_pass_looks_at_every_prompt_once(tmp_path, rewards):
    """Three steps of three prompts over seven, with bounds that keep them all; nothing is trained."""
    values = config(tmp_path, stage(low=0, high=1))
    trainer = make(values, PROMPTS)
    summary = trainer.train()
    found = records(values)
    assert sorted(r["id"] for r in found) == [p.id for p in PROMPTS]
    assert {r["id"]: r["level"] for r in found} == {p.id: p.record["level"] for p in PROMPTS}
    assert summary["samples"] == 7 * 6
    assert torch.equal(trainer.adapter.table, trainer.adapter.start)
    text = (Path(values["out"]) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [r["filter/prompts"] for r in rows] == [3, 3, 1]
    assert [r["filter/kept"] for r in rows] == [3, 3, 1]
    rates = sum(r["pass_rate"] for r in found) / 7
    assert sum(r["filter/correct"] * n for r, n in zip(rows, (3, 3, 1))) / 7 == pytest.approx(rates)


@pytest.mark.parametrize("rule", ["pairs", "rejection"])
def test_two_processes_write_the_file_of_one(tmp_path, rewards, rule):
    one, two = (config(tmp_path, stage(rule=rule), name=name) for name in ("one", "two"))
    make(one, PROMPTS).train()
    ranks(lambda processes: make(two, PROMPTS, processes=processes).train())
    assert len(records(one)) >= 4
    assert result(two).read_bytes() == result(one).read_bytes()


@pytest.mark.parametrize("point", ["rollout", "step"])
def test_a_stopped_filter_resumes_to_the_same_file(tmp_path, rewards, point):
    straight, cut = (config(tmp_path, stage(rule="rejection"), name=name) for name in ("straight", "cut"))
    make(straight, PROMPTS).train()
    stops = 0
    while True:
        passed: list[str] = []

        def at(place: str, passed=passed) -> bool:
            passed.append(place)
            return place == point

        try:
            make(cut, PROMPTS, should_stop=at).train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
            assert stops < 20
    assert stops == 3
    assert result(cut).read_bytes() == result(straight).read_bytes()


def test_a_crash_after_a_step_was_written_doubles_nothing(tmp_path, rewards, monkeypatch):
    """The part of step 2 is on disk, but the checkpoint is that of the rollout of step 1."""
    import mmrl.training.stages.filtering as filtering

    straight, cut = (config(tmp_path, stage(low=0, high=1), name=name) for name in ("straight", "cut"))
    make(straight, PROMPTS).train()
    with pytest.raises(Stopped):
        make(cut, PROMPTS, should_stop=lambda place: place == "rollout").train()
    original, written = filtering.write_part, []

    def crash(run, name, step, found):
        original(run, name, step, found)
        written.extend([step] if name == "filter" else [])  # the pass rates are a file of their own
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(filtering, "write_part", crash)
    with pytest.raises(KeyboardInterrupt):
        make(cut, PROMPTS).train(resume=True)
    monkeypatch.setattr(filtering, "write_part", original)
    make(cut, PROMPTS).train(resume=True)
    assert written == [0, 1]
    assert result(cut).read_bytes() == result(straight).read_bytes()


def test_pairs_go_to_a_preference_stage(tmp_path, rewards):
    optim = {"lr": 0.1, "weight_decay": 0.0}
    tune = {"kind": "preference", "steps": 30, "batch": 4, "data_from": "mine", "optim": optim}
    values = config(tmp_path, stage(name="mine", rule="pairs"), tune)
    trainer = make(values, PROMPTS)
    trainer.train()
    assert [(p.id, p.record["chosen"]) for p in trainer.stage.pairs] == [
        (r["id"], r["chosen"]) for r in records(values, "mine")
    ]
    # What wins starts with `a`: the policy says so more often, for the kinds of prompts of which there are pairs.
    now, before = (t[:, 4].softmax(-1)[:, 0] for t in (trainer.adapter.table.detach(), trainer.adapter.start))
    with_pairs = torch.tensor([any(len(p.text) % 3 == kind for p in trainer.stage.pairs) for kind in range(3)])
    assert with_pairs.sum() == 2
    assert bool((now > before + 0.1)[with_pairs].all())
    assert torch.equal(now[~with_pairs], before[~with_pairs])


def test_correct_answers_go_to_a_supervised_stage(tmp_path, rewards):
    tune = {"kind": "sft", "steps": 20, "batch": 8, "data_from": "filter", "optim": {"lr": 0.1}}
    values = config(tmp_path, stage(rule="rejection"), tune)
    trainer = make(values, PROMPTS)
    trainer.train()
    assert all(r["completion"].startswith("a") for r in records(values))
    now, before = (t[:, 4].softmax(-1)[:, 0] for t in (trainer.adapter.table.detach(), trainer.adapter.start))
    assert bool((now > before + 0.3).all())


def test_prompts_of_medium_difficulty_go_on_and_only_to_those_who_ask(tmp_path, rewards):
    """A filter of what a filter kept, then one on the run's own prompts."""
    first = stage(name="first", low=0.2, high=0.8)
    second = stage(name="second", data_from="first", steps=1, low=0, high=1)
    third = stage(name="third", low=0, high=1)
    values = config(tmp_path, first, second, third)
    make(values, PROMPTS).train()
    medium = {r["id"] for r in records(values, "first")}
    assert 0 < len(medium) < 7
    assert {r["id"] for r in records(values, "second")} <= medium
    assert len(records(values, "second")) == min(3, len(medium))
    assert len(records(values, "third")) == 7


def test_a_resume_in_a_later_stage_reads_what_the_filter_wrote(tmp_path, rewards):
    tune = {"kind": "preference", "steps": 4, "batch": 4, "data_from": "filter"}
    straight, cut = (config(tmp_path, stage(rule="pairs"), tune, name=name) for name in ("straight", "cut"))
    whole = make(straight, PROMPTS)
    whole.train()
    with pytest.raises(Stopped):
        make(cut, PROMPTS, should_stop=lambda place: place == "micro").train()
    resumed = make(cut, PROMPTS)
    resumed.train(resume=True)
    assert torch.equal(resumed.adapter.table, whole.adapter.table)


def test_kept_records_are_read_in_a_seeded_order_every_one_once_a_pass(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "prompt": "x"}) + "\n" for i in range(6)), encoding="utf-8")
    data = KeptRecords(path, 100, 600)
    first, second = data.batch(0, 3, seed=1), data.batch(1, 3, seed=1)
    assert sorted(r["id"] for r in first + second) == [f"r{i}" for i in range(6)]
    assert KeptRecords(path, 100, 600).batch(1, 3, seed=1) == second


@pytest.mark.parametrize("reader", ["records", "prompts", "pairs"])
def test_what_a_filter_kept_is_read_with_the_run_s_own_bound_of_pictures(tmp_path, reader):
    """A picture that the run's data.max_pixels lets in, and its default does not."""
    (tmp_path / "data").mkdir()
    Image.new("1", (8000, 6500)).save(tmp_path / "data/large.png")
    row = {"id": "r", "prompt": "x", "images": ["large.png"], "completion": "a", "chosen": "a", "rejected": "b"}
    (tmp_path / "data/first.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    run = SimpleNamespace(folder=tmp_path, config=SimpleNamespace(data=DataConfig(max_pixels=60_000_000)))
    stage = SimpleNamespace(run=run, options=SimpleNamespace(data_from="first"))
    found = {
        "records": lambda: Sft._records(stage).batch(0, 1, 0),
        "prompts": lambda: prompts_of(run, "first"),
        "pairs": lambda: Preference._pairs(stage),
    }[reader]()
    assert len(found) == 1


# -------------------------------------------------------------------- refusals


def test_more_than_one_pass_is_refused_with_the_right_number(tmp_path, rewards):
    with pytest.raises(ConfigError, match="more than one pass over the 7 prompts; take steps=3"):
        make(config(tmp_path, stage(steps=4)), PROMPTS).train()


def test_keeping_nothing_stops_the_run(tmp_path, rewards):
    with pytest.raises(NothingKept, match="kept nothing of 9 prompts with rule=difficulty"):
        make(config(tmp_path, stage(correct_at=5.0)), PROMPTS).train()


def test_broken_rewards_stop_the_run(tmp_path, rewards):
    with pytest.raises(RewardFailure, match="100% of the samples"):
        make(config(tmp_path, stage(), reward="broken"), PROMPTS).train()


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([stage(rule="pairs", samples=1)], "makes no pairs"),
        ([stage(low=0.9)], "above high"),
        ([stage(steps=0)], "filters nothing"),
        ([stage(name="a/b")], "names a file"),
        ([stage(rule="best")], "difficulty"),
        ([stage(), {"kind": "grpo", "steps": 1, "data_from": "filtr"}], "did you mean 'filter'"),
        ([{"kind": "grpo", "steps": 1, "data_from": "x"}], "put one with `kind: filter` first"),
        (
            [stage(), {"kind": "preference", "steps": 1, "data_from": "filter"}],
            "rule=pairs, but 'filter' has rule=diff",
        ),
        ([stage(rule="pairs"), {"kind": "sft", "steps": 1, "data_from": "filter"}], "rule=rejection"),
        ([stage(data_from="filter")], "no filter stage before it"),
        ([{**STEPS, "tree": None}], "rule=steps needs `tree: {}`"),
        ([stage(tree={})], "stages.0.tree: has no effect here"),
        ([STEPS, {**OF_STEPS, "rows": "candidates"}], "data_from keeps pairs"),
        ([STEPS, {**OF_STEPS, "rows": "candidates", "objective": "ties"}], "rule=pairs, but 'filter' has rule=steps"),
        ([stage(rule="pairs"), OF_STEPS], "rows=steps takes data from a filter with rule=steps, but 'filter' has"),
        ([STEPS, {"kind": "grpo", "steps": 1, "data_from": "filter"}], "rule=difficulty, but 'filter' has rule=steps"),
    ],
)
def test_stages_that_do_not_fit(tmp_path, rewards, stages, says):
    with pytest.raises(ConfigError, match=says):
        load({**config(tmp_path, *stages), "modality": f"{modality}:Answers"})


def test_a_filter_needs_rewards_and_prompts(tmp_path, rewards):
    values = {**config(tmp_path, stage()), "modality": f"{modality}:Answers"}
    with pytest.raises(ConfigError, match="needs `rewards:`"):
        load({**values, "rewards": []})
    with pytest.raises(ConfigError, match=r"needs `data.prompts:`"):
        load({**values, "data": {}})


def test_a_filter_leaves_its_result_and_no_other_file(tmp_path, rewards):
    """Parts are for resumes; pictures are named by what they show and belong to the result."""
    values = config(tmp_path, stage(low=0, high=1))
    make(values, PROMPTS).train()
    names = ["filter.jsonl", "filter.pass_rates.jsonl"]
    assert [p.name for p in sorted(result(values).parent.rglob("*"))] == names
    make(values, PROMPTS).train(resume=True)
    assert [p.name for p in sorted(result(values).parent.rglob("*"))] == names
