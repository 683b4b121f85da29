"""What nobody looked at before a run is looked at when it is drawn: by the same rules, with the same words."""

import json
import re
import warnings

import pytest
from PIL import Image
from small_runs import grpo, outcome, train

from mmrl.config import ConfigError, DataConfig, load
from mmrl.config.data import LOOKED_AT
from mmrl.data.held import Prompts
from mmrl.data.prompts import load_prompts, training_prompts
from mmrl.data.records import Records
from mmrl.rewarding.load import LoadedReward
from mmrl.training.fitting import Fitting, Look, check_prompts, usable
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError


class Taking:
    """An adapter that takes every prompt but those with an x."""

    def usable(self, prompt):
        return "has an x" if "x" in prompt.text else None


def pictured(folder, names):
    """A file of prompts, each with the picture of its name, of which those with `bad` in it are none."""
    for name in names:
        if "bad" in name:
            (folder / name).write_bytes(b"no picture")
        else:
            Image.new("RGB", (4, 4)).save(folder / name)
    path = folder / "prompts.jsonl"
    rows = [{"id": f"p{n}", "prompt": f"what is {n}?", "images": [name]} for n, name in enumerate(names)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_bad_picture_is_told_at_the_start_or_when_it_is_drawn_in_the_same_words(tmp_path):
    path = pictured(tmp_path, ["a.png", "b.png", "bad.png", "c.png"])
    with pytest.raises(ConfigError) as early:
        load_prompts(path, {}, "stop")
    prompts = load_prompts(path, {}, "stop", looked_at=2)
    assert isinstance(prompts, Prompts) and len(prompts) == 4
    fitting = Fitting(Look(Taking(), prompts, "stop"), 2)
    assert fitting.fit([1, 3, 1, 0]) == [1, 3, 1, 0]
    with pytest.raises(ConfigError) as late:
        fitting.fit([2])
    assert str(late.value) == str(early.value)
    assert f"{path}:3: " in str(late.value) and "set data.on_bad_record: skip" in str(late.value)
    passing = Fitting(Look(Taking(), load_prompts(path, {}, "skip", looked_at=2), "skip"), 2)
    with pytest.warns(UserWarning, match=r"prompt 'p2' cannot be used: .*; passed over, 1 so far"):
        assert passing.fit([2, 3]) == [3]


def test_a_bad_picture_among_the_first_still_ends_it_at_the_start(tmp_path):
    path = pictured(tmp_path, ["a.png", "bad.png", "c.png"])
    with pytest.raises(ConfigError, match=r"prompts.jsonl:2: "):
        training_prompts(DataConfig(prompts=path), looked_at=2)
    assert len(training_prompts(DataConfig(prompts=path), looked_at=1)) == 3


def test_a_record_that_is_wrong_ends_it_at_the_start_wherever_it_stands(tmp_path):
    path = tmp_path / "x.jsonl"
    for bad in ('{"prompt": ""}', '{"prompt": "b", "id": "p0"}', "[]", '{"prompt": "a", "prompt": "b"}', "no"):
        rows = [json.dumps({"id": f"p{n}", "prompt": f"q {n}"}) for n in range(5)]
        path.write_text("\n".join([*rows, bad]) + "\n")
        with pytest.raises(ConfigError, match=r"x.jsonl:6: "):
            load_prompts(str(path), {}, "stop", looked_at=2)


def test_pictures_of_later_records_are_looked_at_when_they_are_asked_for(tmp_path):
    path = pictured(tmp_path, ["a.png", "b.png", "bad.png"])
    with pytest.raises(ConfigError) as early:
        Records(DataConfig(records=path))
    records = Records(DataConfig(records=path, looked_at=2))
    assert records.count == 3 and records.get(1)["id"] == "p1"
    with pytest.raises(ConfigError) as late:
        records.get(2)
    assert str(late.value) == str(early.value)
    skipping = Records(DataConfig(records=path, looked_at=2, on_bad_record="skip"))
    with pytest.warns(UserWarning, match="skipped"):
        assert skipping.get(2)["id"] == "p0"


def test_the_first_prompt_that_is_kept_is_one_that_was_looked_at(tmp_path):
    path = tmp_path / "x.txt"
    for texts, known in (("x a b c d", 1), ("x x x b d", 2), ("a x b x c", 1), ("a b c d e", 2)):
        path.write_text("\n".join(texts.split()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept, count = usable(Taking(), load_prompts(str(path), {}, "stop"), "stop", first=2)
        assert count == known and all("x" not in prompt.text for prompt in kept[:count])


def test_a_reward_that_cannot_score_a_later_prompt_says_so_as_at_the_start(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a\nb\nodd\nc")
    prompts = load_prompts(str(path), {}, "stop")
    reward = LoadedReward("even", lambda _: [], check_prompt=lambda p: "is odd" if p.text == "odd" else None)
    with pytest.raises(ConfigError) as early:
        check_prompts(prompts, [reward], "stop", 4)
    check_prompts(prompts, [reward], "stop", 2)
    with pytest.raises(ConfigError) as late:
        Fitting(Look(Taking(), prompts, "stop", [reward]), 2).fit([2])
    assert str(late.value) == str(early.value)
    assert str(late.value).startswith(
        "reward even: 1 prompts do not suit it, first '3': is odd; mend them, or set data."
    )
    with pytest.warns(UserWarning, match="reward even: 1 prompts do not suit it"):
        assert Fitting(Look(Taking(), prompts, "skip", [reward]), 2).fit([2, 1]) == [2, 1]


def test_how_many_are_looked_at(tiny):
    def looked(stages, **data):
        return load({**tiny(data={"records": None, **data}), "stages": stages}).prompts_looked_at

    sampling, filtering = grpo(algorithm={"preset": "grpo"}), {"kind": "filter", "steps": 1, "rule": "pairs"}
    text = {"modality": "text", "model": {"path": "share://assets/text-tiny"}}
    assert looked([sampling]) == LOOKED_AT
    assert looked([sampling], looked_at=3) == 3 and looked([sampling], looked_at=0) is None
    made = {**tiny(data={"records": None}), **text, "stages": [sampling, filtering]}
    assert load(made).prompts_looked_at is None


@pytest.mark.parametrize("skipped", [0, 2])
def test_a_run_that_passes_prompts_over_goes_on_bit_for_bit_and_counts_them(tiny, tmp_path, monkeypatch, skipped):
    """skipped: prompts whose pictures are none, which the tiny model does not read and the run looks at."""
    names = [f"{'bad' if n < skipped else 'good'}{n}.png" for n in range(5)]
    path = pictured(tmp_path, [names[4], *names[:4]])
    data = {"prompts": path, "on_bad_record": "skip", "looked_at": 1}
    runs = {name: tiny(name=name, stages=[grpo(steps=4)], data=data) for name in ("straight", "stopped")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(runs["straight"])
        with pytest.raises(Stopped):
            train(runs["stopped"], should_stop=lambda place: place == "update")
        train(runs["stopped"], resume=True)
    found, wanted = outcome(runs["stopped"]), outcome(runs["straight"])
    assert found == wanted
    rows = [json.loads(line) for line in (tmp_path / "runs" / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("rollout/passed_over", 0) for row in rows) == skipped


@pytest.mark.parametrize("stage", [{}, {"staleness": 1}, {"refill": 3}], ids=["plain", "ahead", "refilled"])
def test_a_stage_ends_where_those_that_are_left_cannot_be_used(tiny, tmp_path, stage):
    """One picture is good; it is drawn first (seed 4), and retires at once: the others are met behind it."""
    path = pictured(tmp_path, ["good0.png", *(f"bad{n}.png" for n in range(1, 5))])
    (tmp_path / "same.py").write_text("def same(samples):\n    return [1.0] * len(samples)\n")
    rewards = [{"name": f"{tmp_path}/same.py:same"}] if "refill" in stage else tiny()["rewards"]
    retiring = grpo(steps=4, groups=1, updates=1, curriculum={"retire_at": 1.0, "correct_at": 0.0}, **stage)
    behind = grpo(steps=1, groups=1, updates=1, name="behind")
    found = []
    for looked_at in (0, 1):
        config = tiny(
            name=f"run{looked_at}",
            seed=4,
            rewards=rewards,
            stages=[retiring, behind],
            data={"prompts": path, "on_bad_record": "skip", "looked_at": looked_at, "records": None},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if looked_at:
                with pytest.raises(Stopped):
                    train(config, should_stop=lambda place: place == "update")
            train(config, resume=bool(looked_at))
        found.append(outcome(config))
    for one in found:
        assert [row["stage"] for row in one["rows"]] == ["grpo", "behind"]
    assert found[1]["policy"] == found[0]["policy"]


def test_a_resume_knows_other_data_by_its_file_where_there_are_more_than_were_looked_at(tiny, tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"dot {number}" for number in range(6)) + "\n")
    config = tiny(stages=[grpo(steps=3)], data={"prompts": str(path), "looked_at": 2})
    with pytest.raises(Stopped):
        train(config, should_stop=lambda place: place == "step")
    (state,) = (tmp_path / "runs" / "run" / "checkpoints").glob("step_*/state.json")
    told = json.loads(state.read_text())
    assert re.fullmatch(r"6 prompts, hash \w{12} of files", told["made_with"]["content"]["data.prompts"])
    path.write_text(path.read_text().replace("dot 5", "dot 7"))
    with pytest.raises(CheckpointError, match=r"data\.prompts: .*6 prompts, hash"):
        train(config, resume=True)
    # As an earlier mmrl, which compared prompts, has written it: the numbers are compared.
    told["made_with"]["content"]["data.prompts"] = "6 prompts, hash 0123456789ab"
    state.write_text(json.dumps(told))
    train(config, resume=True)


JOBS = """
import json, os, sys, warnings
from pathlib import Path

import torch
import mmrl
from mmrl.config import ConfigError

torch.set_num_threads(1)
warnings.simplefilter("ignore")
passing, stopping = json.loads(Path(sys.argv[1]).read_text())
mmrl.train(passing, quiet=True)
try:
    mmrl.train(stopping, quiet=True)
except ConfigError as error:
    print(os.environ["RANK"], error, flush=True)
"""


def test_two_processes_pass_over_the_same_and_stop_alike(tiny, helpers, tmp_path):
    """Each looks at its share of what is drawn: one alone meets the bad picture, and both go the same way."""
    names = ["good0.png", "bad1.png", "good2.png", "bad3.png", "good4.png"]
    data = {"prompts": pictured(tmp_path, names), "looked_at": 1, "records": None}
    stages = [grpo(steps=2, optim={"lr": 1e-3, "eps": 1e-3})]
    one, two, ending = (
        tiny(name=name, stages=stages, data=data | {"on_bad_record": on_bad})
        for name, on_bad in (("one", "skip"), ("two", "skip"), ("ending", "stop"))
    )
    (tmp_path / "jobs.json").write_text(json.dumps([two, ending]), encoding="utf-8")
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    process = helpers.two_processes(str(tmp_path / "jobs.py"), str(tmp_path / "jobs.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(one)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]
    wanted, found = outcome(one)["rows"], outcome(two)["rows"]
    assert [row.get("rollout/passed_over") for row in found] == [row.get("rollout/passed_over") for row in wanted]
    assert sum(row.get("rollout/passed_over", 0) for row in found) == 2
    assert [row["reward/mean"] for row in found] == pytest.approx([row["reward/mean"] for row in wanted], rel=1e-4)
    told = sorted(line for line in out.splitlines() if ": " in line)
    assert [line[:1] for line in told] == ["0", "1"] and len({line[1:] for line in told}) == 1
    assert "prompts.jsonl:" in told[0] and told[0].endswith("set data.on_bad_record: skip")
