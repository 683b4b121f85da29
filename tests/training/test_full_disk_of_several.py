"""A disk that is full for one of several processes: all end with the reason, and with a checkpoint where it can be
written. Ranks are threads; tests/training/test_failing_process.py has the same of two real processes.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from answers import make, ranks

from mmrl.reporting import metrics, samples
from mmrl.reporting.disk import WriteError
from mmrl.training import loop as loop_module
from mmrl.training.notes import is_told
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.stages import filtered, filtering
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"prompt": "x" * (1 + i)}) for i in range(12)]
GRPO = {"kind": "grpo", "steps": 3, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
FILTER = {"kind": "filter", "name": "keep", "steps": 3, "groups": 4, "samples": 2, "low": 0.0, "high": 1.0}
REWARDS = """
def a(samples):
    return [s.artifact.count("a") / 5 for s in samples]

def fails(samples):
    raise OSError("no judge")
"""


@pytest.fixture
def values(tmp_path):
    (tmp_path / "letters.py").write_text(REWARDS, encoding="utf-8")

    def config(name, stages, reward="a"):
        return {
            "name": name,
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt", "eval_prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:{reward}"}],
            "eval": {"every": 2, "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}]},
            "stages": stages,
            "report": {"samples_every": 1, "eval_prompts": 4},
        }

    return config


def run(config, resume=False):
    """The loops of two ranks."""

    def work(processes):
        loop = make(config, PROMPTS, eval_prompts=PROMPTS[:3], processes=processes)
        loop.train(resume=resume)
        return loop

    return ranks(work)


def errors_of(config):
    """What each of two ranks ends with; one that waits for the other ends with a broken barrier."""

    def work(processes):
        try:
            make(config, PROMPTS, eval_prompts=PROMPTS[:3], processes=processes).train()
        except BaseException as error:
            return error

    return ranks(work)


def full(monkeypatch, owner, name, when):
    """Calls of owner.name for which `when` is true meet a full disk."""
    action = getattr(owner, name)

    def call(*arguments, **options):
        if when(*arguments):
            raise WriteError(f"cannot write {name}: the disk is full", errno.ENOSPC)
        return action(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


def of(path, word):
    return word in Path(path).name


TRAINING = [{**GRPO}]
FILTERING = [{**FILTER, "rule": "difficulty"}, {**GRPO, "data_from": "keep"}]
Store, Metrics = samples.SampleStore, metrics.MetricsWriter
# Name -> (stages, owner and name of what writes, which of its calls meet a full disk).
PLACES = {
    "rows": (TRAINING, Metrics, "write", lambda writer, row: row["step"] == 2),
    "samples of the main one": (TRAINING, Store, "write", lambda s, tag, *_: s.part == 0 and tag == "step_000002"),
    "samples of the other": (TRAINING, Store, "write", lambda s, tag, *_: s.part == 1 and tag == "step_000002"),
    "samples of both": (TRAINING, Store, "write", lambda s, tag, *_: tag == "step_000002"),
    "an evaluation": (TRAINING, Store, "write", lambda s, tag, *_: s.part == 1 and tag == "eval_000002"),
    "the last evaluation": (TRAINING, Store, "write", lambda s, tag, *_: s.part == 1 and tag == "eval_after"),
    "what a filter kept, of one": (FILTERING, filtered, "write_atomic", lambda path, _: of(path, "process_1")),
    "what a filter kept": (FILTERING, filtered, "write_atomic", lambda path, _: of(path, "step_000001")),
    "a filter's result": (FILTERING, filtered, "write_atomic", lambda path, _: path.name == "keep.jsonl"),
    "pass rates": (FILTERING, filtered, "write_atomic", lambda path, _: path.name == "keep.pass_rates.jsonl"),
    "pictures of a filter": (FILTERING, filtering, "stored_images", lambda *_: len(SEEN.append(1) or SEEN) == 5),
}
SEEN: list[int] = []


@pytest.mark.parametrize("place", PLACES)
def test_all_end_with_the_reason_and_a_checkpoint_and_go_on(values, monkeypatch, place):
    stages, owner, name, when = PLACES[place]
    straight = run(values("straight", stages))
    SEEN.clear()
    with monkeypatch.context() as patch:
        full(patch, owner, name, when)
        errors = errors_of(values("full", stages))
    for rank, error in enumerate(errors):
        assert isinstance(error, WriteError) and f"cannot write {name}: the disk is full" in str(error)
        assert is_told(error) == (rank > 0)
    resumed = run(values("full", stages), resume=True)
    for loop, wanted in zip(resumed, straight):
        assert torch.equal(loop.adapter.table, wanted.adapter.table)
    assert left(resumed[0]) == left(straight[0])


def left(loop):
    """Rows without times, and the files that are stored."""
    folder = loop.run.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    stored = {
        p.relative_to(folder): p.read_bytes() for part in ("samples", "data") for p in (folder / part).rglob("*.*")
    }
    return rows, {name: held for name, held in stored.items() if not name.name.startswith(".")}


def test_a_raw_error_of_the_disk_in_a_filter_s_pictures_is_told_as_one_of_the_disk(values, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filtering, "stored_images", fails)
    with pytest.raises(WriteError, match=r"cannot write .*/data: the disk or its quota is full"):
        make(values("run", FILTERING), PROMPTS, eval_prompts=PROMPTS[:3]).train()


BEGINNINGS = {
    "metrics": (loop_module, "MetricsWriter", lambda path: True),
    "summary": (loop_module, "write_summary", lambda *_: True),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_where_only_the_main_process_writes_the_others_do_not_wait_for_it(values, monkeypatch, name):
    owner, function, when = BEGINNINGS[name]
    with monkeypatch.context() as patch:
        full(patch, owner, function, when)
        errors = errors_of(values("full", TRAINING))
    assert isinstance(errors[0], WriteError) and is_told(errors[1])
    assert "the main process failed" in str(errors[1])


@pytest.mark.parametrize("one", [0, 1])
def test_samples_that_cannot_be_kept_hide_no_failure_of_a_reward(values, monkeypatch, one):
    full(monkeypatch, Store, "offending", lambda store, *_: store.part == one)
    for error in errors_of(values("run", TRAINING, reward="fails")):
        assert isinstance(error, RewardFailure)
        assert "OSError: no judge" in str(error)
        assert "not stored (cannot write offending: the disk is full)" in str(error)
        assert "offending_000001" in str(error)  # of the other
