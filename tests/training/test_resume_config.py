"""Resuming with another config: what is refused, with its keys; what goes on; what config.yaml says then."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from answers import make

from mmrl.config import DataConfig, load
from mmrl.data.records import Records
from mmrl.training.loop import Loop
from mmrl.training.provenance import _code, _mark_of_source
from mmrl.training.run_folder import describe
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]
FIRST, SECOND, LAST = "first", "second", "third"


@pytest.fixture
def base(tmp_path):
    """A config of three stages of 2 steps, each of 2 updates."""
    (tmp_path / "letters.py").write_text(
        "def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n\n"
        "def b(samples):\n    return [s.artifact.count('b') / 5 for s in samples]\n"
    )
    stage = {"kind": "grpo", "steps": 2, "groups": 4, "samples": 4, "updates": 2, "micro_batch": 20}
    return {
        "name": "run",
        "out": str(tmp_path),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:{name}"} for name in "ab"],
        "stages": [{**stage, "name": name, "optim": {"lr": 0.05}} for name in (FIRST, SECOND, LAST)],
        "report": {"samples_every": 0},
    }


def changed(values: dict, path: str, value) -> dict:
    """A copy with the value at a path such as "stages.0.optim.lr"."""
    made = json.loads(json.dumps(values))
    place = made
    *parts, last = (int(p) if p.isdecimal() else p for p in path.split("."))
    for part in parts:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[last] = value
    return made


def stopped(values: dict, at: int, prompts=PROMPTS) -> Loop:
    """The run, stopped at its `at`-th point (from 1), with its folder described."""
    seen: list[str] = []
    loop = make(values, prompts, should_stop=lambda point: len(seen.append(point) or seen) == at)
    loop.run.folder.mkdir(parents=True, exist_ok=True)
    describe(loop.run.config)
    with pytest.raises(Stopped):
        loop.train()
    return loop


def files(folder) -> dict[str, bytes]:
    """What the folder holds; the plan and the lock do not matter."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


IN_SECOND = 19  # a step has 8 points: rollout, twice (two micro-batches, update), step


MATTERS = {
    "seed": ("seed", 1),
    "learning rate": ("stages.1.optim.lr", 0.1),
    "of a stage that is done": ("stages.0.optim.lr", 0.1),
    "steps of a stage that is done": ("stages.0.steps", 3),
    "algorithm": ("stages.1.algorithm.preset", "dapo"),
    "samples": ("stages.1.samples", 2),
    "groups": ("stages.1.groups", 2),
    "updates": ("stages.1.updates", 1),
    "optimizer": ("stages.1.optim.name", "spam"),
    "average": ("stages.1.optim.ema", 0.9),
    "model": ("model.by_columns", True),
    "data": ("data.prompts", "others.txt"),
    "weight of a reward": ("rewards.1.weight", 0.5),
    "reward": ("rewards.1.alias", "other"),
}


@pytest.mark.parametrize("path, value", MATTERS.values(), ids=MATTERS)
def test_what_matters_is_refused_by_its_key_and_nothing_is_written(base, tmp_path, path, value):
    stopped(base, IN_SECOND)
    before = files(tmp_path / "run")
    key = path.replace("stages.0", "stages.first").replace("stages.1", "stages.second")
    with pytest.raises(CheckpointError, match=rf"began with another config(?s:.*)\n  {key}: .* -> .*"):
        make(changed(base, path, value), PROMPTS).train(resume=True)
    assert files(tmp_path / "run") == before


ORDERS = {
    "other order": ([1, 0, 2], "stages.first.number: 0 -> 1"),
    "first is gone": ([1, 2], "stages.first.kind: 'grpo' -> .not there."),
    "one before": ([None, 0, 1, 2], "stages.new.kind: .not there. -> 'grpo'"),
}


@pytest.mark.parametrize("order, said", ORDERS.values(), ids=ORDERS)
def test_other_stages_are_refused(base, order, said):
    stopped(base, IN_SECOND)
    stages = [{**base["stages"][0], "name": "new"} if i is None else base["stages"][i] for i in order]
    with pytest.raises(CheckpointError, match=said):
        make({**base, "stages": stages}, PROMPTS).train(resume=True)


def test_a_renamed_stage_and_a_modality_are_refused(base, tmp_path):
    stopped(base, IN_SECOND)
    with pytest.raises(CheckpointError, match=r"stages.second.kind: 'grpo' -> .not there."):
        make(changed(base, "stages.1.name", "renamed"), PROMPTS).train(resume=True)
    own = tmp_path / "own.py"
    own.write_text("from answers import Answers as Mine\n")
    with pytest.raises(CheckpointError, match=r"  modality: '.*answers.py:Answers' -> '/"):
        make({**base, "modality": f"{own}:Mine"}, PROMPTS).train(resume=True)


NEWER = {
    "data.where": {"level": 1},
    "stages.1.optim.ema": 0.5,
    "rewards.1.weight": 0.5,
}


@pytest.mark.parametrize("path", NEWER)
def test_an_option_that_an_earlier_mmrl_did_not_know_matters_where_it_is_given(base, tmp_path, path):
    """The checkpoint's config without the option: at its default the run goes on, with another value it is refused."""
    *sections, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    state = stopped(base, IN_SECOND).checkpoints.latest / "state.json"
    saved = json.loads(state.read_text())
    section = saved["made_with"]["config"]
    for part in sections:
        section = section[part]
    del section[last]
    state.write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match=rf"{last}\S*: .not there. -> "):
        make(changed(base, path, NEWER[path]), PROMPTS).train(resume=True)
    make(base, PROMPTS).train(resume=True)


@pytest.mark.parametrize("section", ["sharding", "trackers", "environment"])
def test_a_section_that_an_earlier_mmrl_did_not_know_is_no_difference(base, section):
    state = stopped(base, IN_SECOND).checkpoints.latest / "state.json"
    saved = json.loads(state.read_text())
    del saved["made_with"]["config"][section]
    state.write_text(json.dumps(saved))
    make(base, PROMPTS).train(resume=True)


FREE = {
    "micro_batch": ("stages.1.micro_batch", 7),
    "rollout_chunk": ("stages.1.rollout_chunk", 1),
    "eval": ("eval.every", 3),
    "report": ("report.samples_every", 2),
    "checkpoint": ("checkpoint.every", 1),
    "about": ("about", "more words"),
    "threads": ("threads", 1),
    "time-out of a reward": ("rewards.0.timeout", 50),
    "steps of the stage that is on": ("stages.1.steps", 3),
    "anything of a stage to come": ("stages.2.optim.lr", 0.5),
    "a stage to come goes": ("stages", slice(0, 2)),
    "a stage more": ("stages", slice(0, 4)),
}


@pytest.mark.parametrize("path, value", FREE.values(), ids=FREE)
def test_what_changes_no_number_goes_on_and_is_recorded(base, tmp_path, path, value):
    more = [*base["stages"], {**base["stages"][0], "name": "fourth"}]
    if path == "eval.every":  # without held-out prompts it would have no effect, and be refused
        base["data"]["eval_prompts"] = "held.txt"
    stopped(base, IN_SECOND)
    now = {**base, "stages": more[value]} if path == "stages" else changed(base, path, value)
    loop = make(now, PROMPTS)
    loop.train(resume=True)
    steps = sum(stage["steps"] for stage in now["stages"])
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, steps + 1))
    assert load(tmp_path / "run" / "config.yaml") == loop.run.config  # what a resume of the folder would take


def test_fewer_steps_than_are_begun_are_refused_even_where_allowed(base):
    one = {**base, "stages": [{**base["stages"][0], "steps": 4}]}
    stopped(one, IN_SECOND)  # in the third step
    for allow in ((), ("stages.first.steps",)):
        with pytest.raises(CheckpointError, match=r"stages.first.steps: 2 are fewer than the 3 that the run has begun"):
            make(changed(one, "stages.0.steps", 2), PROMPTS, allow=allow).train(resume=True)
    make(changed(one, "stages.0.steps", 3), PROMPTS).train(resume=True)


def test_allowed_differences_are_taken_and_recorded_twice(base, tmp_path):
    path = tmp_path / "run" / "config.yaml"
    stopped(base, IN_SECOND)
    path.write_text("# a word of the user's\n" + path.read_text())
    once = changed(base, "stages.1.optim.lr", 0.1)
    with pytest.raises(Stopped):
        make(once, PROMPTS, allow=("stages.second.optim.lr",), should_stop=lambda point: True).train(resume=True)
    assert load(path).stages[1].optim.lr == 0.1
    twice = changed(changed(once, "seed", 5), "rewards.0.weight", 2.0)
    with pytest.raises(CheckpointError, match=r"--allow rewards.1: this does not differ .*seed, rewards.0.weight"):
        make(twice, PROMPTS, allow=("seed", "rewards.0", "rewards.1")).train(resume=True)
    loop = make(twice, PROMPTS, allow=("seed", "rewards"))
    loop.train(resume=True)
    assert load(path) == loop.run.config
    said = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert said[0] == "# a word of the user's"
    assert [line.partition(", ")[2] for line in said[1:]] == [
        "stages.second.optim.lr: 0.05 -> 0.1",
        "seed: 0 -> 5",
        "rewards.0.weight: 1.0 -> 2.0",
    ]
    make(twice, PROMPTS).train(resume=True)  # the checkpoint knows it, too
    assert yaml.safe_load(path.read_text())["seed"] == 5


ALLOWED = {
    "another optimizer": ("stages.1.optim.name", "spam"),
    "an average": ("stages.1.optim.ema", 0.9),
    "a reference": ("stages.1.algorithm", {"preset": "grpo", "kl_coef": 0.1}),
    "a reward more": ("rewards", None),
    "fewer samples": ("stages.1.samples", 2),
}


@pytest.mark.parametrize("path, value", ALLOWED.values(), ids=ALLOWED)
@pytest.mark.parametrize("at", range(IN_SECOND, IN_SECOND + 3))
def test_allowed_differences_work_at_every_point_of_a_step(base, path, value, at):
    if path == "rewards":
        value = base["rewards"]
        base["rewards"] = value[:1]
    stopped(base, at)
    loop = make(changed(base, path, value), PROMPTS, allow=(path.replace("stages.1", "stages.second"),))
    loop.train(resume=True)
    assert torch.isfinite(loop.adapter.table).all()


def test_prompts_that_were_edited_under_the_same_name_are_refused(base):
    stopped(base, IN_SECOND)
    for edited in (PROMPTS[:-1], [*PROMPTS[:-1], Prompt("p11", "y")], PROMPTS[::-1]):
        with pytest.raises(CheckpointError, match=r"\n  data.prompts: '12 prompts, hash .*' -> '1[12] prompts, hash"):
            make(base, edited).train(resume=True)
    make(base, [*PROMPTS[:-1], Prompt("p11", "y")], allow=("data.prompts",)).train(resume=True)


def test_records_and_pairs_that_were_edited_are_refused(base, tmp_path):
    records = tmp_path / "records.jsonl"
    lines = [json.dumps({"prompt": "x" * n, "completion": "ab", "chosen": "ab", "rejected": "ba"}) for n in range(1, 7)]
    records.write_text("\n".join(lines) + "\n")
    config = {
        **base,
        "rewards": [],
        "data": {"records": str(records)},
        "stages": [
            {"kind": "sft", "steps": 1, "batch": 2},
            {"kind": "preference", "steps": 2, "batch": 2, "pairs": str(records)},
        ],
    }

    def loop(**options):
        return make(config, records=Records(DataConfig(records=str(records)), ("completion",)), **options)

    with pytest.raises(Stopped):
        loop(should_stop=lambda point: point == "step").train()
    records.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(CheckpointError, match=r"\n  data.records: '6 records, hash .*' -> '5 records, hash"):
        loop().train(resume=True)
    loop(allow=("data.records",)).train(resume=True)  # the preference stage had not begun
    records.write_text("\n".join(lines) + "\n")
    with pytest.raises(CheckpointError, match=r"\n  stages.preference.pairs: 'hash .*' -> 'hash"):
        loop(allow=("data.records",)).train(resume=True)


def test_a_reward_whose_code_changed_is_told_and_goes_on(base, tmp_path, capsys):
    stopped(base, IN_SECOND)
    (tmp_path / "letters.py").write_text((tmp_path / "letters.py").read_text() + "\n# nothing\n")
    make(base, PROMPTS).train(resume=True)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert told == [
        f"warning: {tmp_path / 'letters.py'} is not as it was when the run began; what it computes now may differ"
    ]


@pytest.mark.parametrize("source", ["", "/*.jsonl", "/train-0.jsonl"])
def test_records_in_several_files_are_marked_by_what_all_of_them_hold(tmp_path, source):
    for name in ("train-0", "train-1", "test-0"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "1", "completion": "2"}\n')
    before = _mark_of_source(f"{tmp_path}{source}", "train")
    assert before is not None and before == _mark_of_source(f"{tmp_path}{source}", "train")
    (tmp_path / "train-1.jsonl").write_text('{"prompt": "1", "completion": "3"}\n')
    assert (_mark_of_source(f"{tmp_path}{source}", "train") == before) == source.endswith("0.jsonl")
    assert _mark_of_source("hub:owner/name", "train") is None


def test_a_function_that_says_which_tokens_are_exact_is_code_of_the_run():
    """Changed between two parts of a run it changes the loss, so that going on tells of it."""
    assert "share://rewards/cad_spans.py" in dict(_code(load("cad/cad_rl_tiny")))
