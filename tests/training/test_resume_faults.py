"""What must not be lost: signals at bad moments, full disks, prompts that ran out, weights that are not numbers."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import signal
import threading
import time

import pytest
import saved
import torch
from answers import make
from safetensors.torch import load_file, save_file

from mmrl.reporting.disk import WriteError
from mmrl.training.evaluation.scores import evaluate
from mmrl.training.learner import NonFiniteError
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]


@pytest.fixture
def base(tmp_path):
    """base(**sections) -> a config of 4 steps; the rewards `a`, and `late`, which is evaluated only."""
    (tmp_path / "letters.py").write_text(
        "import time\n\ndef a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n\n"
        "def late(samples):\n    time.sleep(60)\n    return [0.0 for s in samples]\n"
    )

    def config(name="run", stage=None, **sections):
        options = {"kind": "grpo", "steps": 4, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
        return {
            "name": name,
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
            "stages": [{**options, **(stage or {})}],
            **sections,
        }

    return config


def rows(loop) -> list[dict]:
    lines = (loop.run.folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def assert_same(found, wanted):
    assert torch.equal(found.adapter.table, wanted.adapter.table)
    assert rows(found) == rows(wanted)
    assert (found.cursor.samples, found.cursor.actions) == (wanted.cursor.samples, wanted.cursor.actions)
    stored = [sorted(p.name for p in (x.run.folder / "samples").glob("*")) for x in (found, wanted)]
    assert stored[0] == stored[1]


def at(number: int, *signals: tuple[float, int]):
    """A should_stop that at its `number`-th point sends signals to this process, each after some seconds."""
    seen: list[str] = []

    def ask(point: str) -> bool:
        seen.append(point)
        if len(seen) == number:
            for seconds, what in signals:
                time.sleep(seconds)
                os.kill(os.getpid(), what)
        return False

    return ask


TWICE = {
    "terminated twice": [(0.0, signal.SIGTERM), (0.05, signal.SIGTERM)],
    "terminated and interrupted": [(0.0, signal.SIGTERM), (0.05, signal.SIGINT)],
    "interrupted twice at once": [(0.0, signal.SIGINT), (0.05, signal.SIGINT)],
    "terminated for long": [(0.0, signal.SIGTERM), (2.1, signal.SIGTERM)],
}


@pytest.mark.parametrize("signals", TWICE.values(), ids=TWICE)
def test_the_same_wish_twice_saves_the_run(base, signals):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    straight = make(base("straight"), PROMPTS)
    straight.train()
    with pytest.raises(Stopped):
        make(base(), PROMPTS, should_stop=at(3, *signals)).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    loop = make(base(), PROMPTS)
    loop.train(resume=True)
    assert_same(loop, straight)


def test_ctrl_c_again_after_two_seconds_ends_at_once(base):
    with pytest.raises(KeyboardInterrupt):
        make(base(), PROMPTS, should_stop=at(3, (0.0, signal.SIGINT), (2.1, signal.SIGINT))).train()


@pytest.mark.parametrize("what", ["begin", "commit"])
def test_signals_while_a_checkpoint_is_written_leave_it_whole(base, monkeypatch, what):
    loop = make(base(checkpoint={"every": 1}), PROMPTS)
    action = getattr(loop.checkpoints, what)

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return action(*arguments)

    monkeypatch.setattr(loop.checkpoints, what, signalled)
    with pytest.raises(Stopped) as stopped:
        loop.train()
    assert load_file(stopped.value.checkpoint / "trainer.safetensors")
    straight, resumed = make(base("straight"), PROMPTS), make(base(checkpoint={"every": 1}), PROMPTS)
    straight.train()
    resumed.train(resume=True)
    assert_same(resumed, straight)


LOADING = {
    "read": "checkpoint.Checkpoints.read",
    "weights": "policy.Policy.load",
    "learner": "learner.Learner.load",
    "rollouts": "stages.grpo.Grpo.load_own",
    "resume is written down": "loop.record_resume",
}


@pytest.mark.parametrize("place", LOADING.values(), ids=LOADING)
def test_a_signal_while_a_run_is_loading_saves_it_as_it_was(base, monkeypatch, place):
    straight = make(base("straight"), PROMPTS)
    straight.train()
    with pytest.raises(Stopped):
        make(base(), PROMPTS, should_stop=at(5, (0.0, signal.SIGTERM))).train()
    loop = make(base(), PROMPTS)
    stood = json.loads((loop.checkpoints.latest / "state.json").read_text())["cursor"]
    owner, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(f"mmrl.training.{owner}")
    action = getattr(owner, name)

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return action(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signalled)
        with pytest.raises(Stopped):
            loop.train(resume=True)
    assert loop.cursor.total_steps == stood["total_steps"]
    resumed = make(base(), PROMPTS)
    resumed.train(resume=True)
    assert_same(resumed, straight)


HELD = {"data": {"prompts": "unused.txt", "eval_prompts": "held.txt"}}


def test_a_stop_before_an_evaluation_saves_first_and_evaluates_on_the_resume(base):
    options = {**HELD, "eval": {"every": 2}}
    straight = make(base("straight", **options), PROMPTS, eval_prompts=PROMPTS[:3])
    straight.train()
    points = []
    with pytest.raises(Stopped):
        make(
            base(**options),
            PROMPTS,
            eval_prompts=PROMPTS[:3],
            should_stop=lambda point: points.append(point) or point == "evaluation",
        ).train()
    assert points.count("step") == 1
    loop = make(base(**options), PROMPTS, eval_prompts=PROMPTS[:3], should_stop=lambda p: points.append(p) and False)
    assert len(rows(loop)) == 1
    loop.train(resume=True)
    assert_same(loop, straight)


def test_a_reward_that_hangs_in_an_evaluation_needs_one_signal(base, monkeypatch, tmp_path):
    monkeypatch.setattr("mmrl.training.stopping.PATIENCE_S", 0.3)
    slow = {"rewards": [{"name": f"{tmp_path / 'letters.py'}:late"}]}
    loop = make(base(**HELD, eval={"every": 2, **slow}), PROMPTS, eval_prompts=PROMPTS[:3])
    loop.cursor.evaluations["before"] = {}  # is not asked for
    kill = loop.run.adapter.evaluate

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return kill(*arguments)

    loop.run.adapter.evaluate = signalled
    began = time.monotonic()
    with pytest.raises(Stopped):
        loop.train()
    assert time.monotonic() - began < 20
    options = base(**HELD, eval={"every": 2, "rewards": base()["rewards"]})
    loop = make(options, PROMPTS, eval_prompts=PROMPTS[:3])
    loop.train(resume=True)
    assert [row["step"] for row in rows(loop)] == [1, 2, 3, 4]
    assert any(name.startswith("eval/") for name in rows(loop)[1])


def test_a_reward_that_hangs_without_a_time_out_needs_one_signal(base, monkeypatch, tmp_path):
    monkeypatch.setattr("mmrl.training.stopping.PATIENCE_S", 0.3)
    loop = make(base(rewards=[{"name": f"{tmp_path / 'letters.py'}:late"}]), PROMPTS)
    began, killer = time.monotonic(), threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    killer.start()
    with pytest.raises(Stopped):
        loop.train()
    assert time.monotonic() - began < 20
    assert loop.checkpoints.latest is not None


def test_a_signal_while_the_report_is_written_lets_it_end(base, monkeypatch):
    monkeypatch.setattr("mmrl.training.reports.write_report", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
    loop = make(base(), PROMPTS)
    assert loop.train()["steps"] == 4
    assert (loop.run.folder / "summary.json").is_file()


# -------------------------------------------------------------------- tensors


DAMAGES = {
    "missing weight": ("role.policy/param/table", None),
    "broadcast weight": ("role.policy/param/table", lambda t: t[:1]),
    "missing state": ("role.policy/optim/table/exp_avg", None),
    "broadcast state": ("role.policy/optim/table/exp_avg", lambda t: t[:1]),
    "missing average": ("role.policy/ema/table", None),
    "broadcast gradient": ("role.policy/grad/table", lambda t: t[:1]),
    "broadcast reference": ("policy/reference/table", lambda t: t[:1]),
    "foreign weight": ("role.policy/param/other", lambda t: torch.zeros(2)),
}


@pytest.mark.parametrize("name, change", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(base, name, change):
    stage = {"optim": {"lr": 0.05, "ema": 0.9}, "algorithm": {"preset": "grpo", "kl_coef": 0.1}, "updates": 2}
    values = base(stage=stage, checkpoint={"keep": 1})
    with pytest.raises(Stopped):
        make(values, PROMPTS, should_stop=at_micro_of_second_update()).train()
    loop = make({**values, "about": "a word that would be recorded"}, PROMPTS)
    file = loop.checkpoints.latest / "trainer.safetensors"
    saved.in_one_file(loop.checkpoints.latest)
    tensors = load_file(file)
    assert "role.policy/grad/table" in tensors
    tensors[name] = change(tensors.get(name)) if change else None
    save_file({k: v.contiguous().clone() for k, v in tensors.items() if v is not None}, file)
    before = {p: p.read_bytes() for p in loop.run.folder.rglob("*") if p.is_file()}
    start = loop.adapter.table.detach().clone()
    with pytest.raises(CheckpointError, match=r"does not fit \(.*\): .*(missing|are not the run's|expected)"):
        loop.train(resume=True)
    assert {p: p.read_bytes() for p in loop.run.folder.rglob("*") if p.is_file()} == before
    assert torch.equal(loop.adapter.table, start)


def at_micro_of_second_update():
    seen: list[str] = []
    return lambda point: bool(seen.append(point)) or (seen.count("update") == 1 and point == "micro")


def test_rotation_keeps_what_latest_named_though_the_folder_was_copied(base):
    loop = make(base(checkpoint={"every": 1, "keep": 2}), PROMPTS, should_stop=at(8, (0, signal.SIGTERM)))
    with pytest.raises(Stopped):
        loop.train()
    good = loop.checkpoints.latest
    os.utime(good, (1, 1))
    for other in loop.checkpoints.root.glob("step_*"):
        if other != good:
            os.utime(other, (10**9, 10**9))
    loop.checkpoints.begin(loop.cursor)
    loop.checkpoints.commit(loop.cursor)
    assert good.exists()
    assert len(list(loop.checkpoints.root.glob("step_*"))) == 2


# -------------------------------------------------------------------- prompts that run out


@pytest.mark.parametrize("options", [{}, {"refill": 4}, {"staleness": 2}])
def test_a_curriculum_that_retires_everything_ends_the_stage_whole(base, options, capsys):
    stage = {"curriculum": {"retire_at": 0.1, "correct_at": 0.0}, "steps": 9, **options}
    later = {"kind": "grpo", "name": "later", "steps": 1, "groups": 2, "samples": 2}
    values = base(stage=stage, **HELD)
    values["stages"].append(later)
    loop = make(values, PROMPTS[:8], eval_prompts=PROMPTS[:3])
    summary = loop.train()
    done = summary["steps"] - 1
    assert 1 <= done <= 2
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage")]
    why = "all 8 prompts have retired (curriculum.retire_at), or cannot be used"
    assert said == [f"stage 'grpo' ends after {done} of 9 steps: {why}"]
    assert any(name.startswith("eval/") for name in rows(loop)[-1])
    before = loop.adapter.table.detach().clone()
    again = make(values, PROMPTS[:8], eval_prompts=PROMPTS[:3])
    again.train(resume=True)
    assert torch.equal(again.adapter.table, before)
    assert rows(again) == rows(loop)


@pytest.mark.parametrize("options", [{}, {"refill": 4}, {"staleness": 2}])
def test_a_run_that_was_killed_behind_a_stage_without_prompts_left_goes_on(base, monkeypatch, options):
    """Its checkpoint holds the end of that stage, before the steps that it was to have."""
    stage = {"curriculum": {"retire_at": 0.1, "correct_at": 0.0}, "steps": 9, **options}
    loops = {}
    for name in ("straight", "killed"):
        values = base(name, stage=stage)
        values["stages"].append({"kind": "grpo", "name": "later", "steps": 1, "groups": 2, "samples": 2})
        loops[name] = make(values, PROMPTS[:8])
    loops["straight"].train()

    def killed(stage):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmrl.training.stages.sampled.Sampled.clean", killed)
        with pytest.raises(KeyboardInterrupt):
            loops["killed"].train()
    resumed = make(values, PROMPTS[:8])
    resumed.train(resume=True)
    assert_same(resumed, loops["straight"])


# -------------------------------------------------------------------- full disks


def test_a_disk_that_is_full_for_metrics_or_samples_loses_nothing(base, monkeypatch):
    straight = make(base("straight"), PROMPTS)
    straight.train()
    for number, what in enumerate(("metrics", "samples")):
        values = base(f"full_{what}")
        loop = make(values, PROMPTS)

        def full(*_, name=what):
            raise WriteError(f"cannot write {name}: the disk is full", errno.ENOSPC)

        with monkeypatch.context() as patch:
            if what == "metrics":
                patch.setattr("mmrl.reporting.metrics.MetricsWriter.write", full)
            else:
                patch.setattr("mmrl.reporting.samples.SampleStore.write", full)
            with pytest.raises(WriteError, match="the disk is full"):
                loop.train()
        assert loop.checkpoints.latest is not None, number
        resumed = make(values, PROMPTS)
        resumed.train(resume=True)
        assert_same(resumed, straight)


def test_rows_and_samples_are_on_the_disk_before_the_checkpoint_that_counts_on_them(base, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("mmrl.reporting.metrics.MetricsWriter.sync", lambda self: told.append("metrics"))
    monkeypatch.setattr("mmrl.reporting.samples.sync_step", lambda folder: told.append(folder.name))
    loop = make(base(stage={"steps": 1}, report={"samples_every": 1}), PROMPTS)
    commit = loop.checkpoints.commit
    monkeypatch.setattr(loop.checkpoints, "commit", lambda cursor: (told.append("commit"), commit(cursor))[1])
    loop.train()
    assert sorted(told[:2]) == ["metrics", "step_000001"]
    assert told[2] == "commit"


# -------------------------------------------------------------------- weights that are no numbers


@pytest.mark.parametrize("rate", [1e38])
def test_weights_that_are_not_finite_are_never_the_latest_nor_evaluated(base, rate):
    stage = {"optim": {"lr": 0.05}, "steps": 2}
    options = {"checkpoint": {"every": 1}, **HELD, "eval": {"every": 1}}
    good = make(base(stage=stage, **options), PROMPTS, eval_prompts=PROMPTS[:3])
    good.train()
    latest, table = good.checkpoints.latest, good.adapter.table.detach().clone()
    hot = {"optim": {"lr": rate, "weight_decay": 10.0}, "steps": 30}
    loop = make(base(stage=hot, **options), PROMPTS, eval_prompts=PROMPTS[:3], allow=("stages.grpo.optim",))
    with pytest.raises(NonFiniteError, match=r"\(step \d+\)"):
        loop.train(resume=True)
    for tensors in (load_file(p) for p in loop.checkpoints.root.glob("*/trainer.safetensors")):
        assert all(torch.isfinite(v).all() for v in tensors.values())
    for row in rows(loop):
        assert all(row[k] is not None for k in row if k.startswith("eval/"))
    if loop.checkpoints.latest == latest:
        assert torch.equal(load_file(latest / "policy" / "table.safetensors")["table"], table)


def test_a_run_whose_first_step_breaks_keeps_no_weights_that_are_no_numbers(base):
    loop = make(base(stage={"optim": {"lr": 1e38, "weight_decay": 10.0}, "steps": 30}), PROMPTS)
    with pytest.raises(NonFiniteError, match=r"\(step \d+\)"):
        loop.train()
    assert loop.checkpoints.latest is None


def test_a_stop_behind_the_update_that_broke_the_weights_saves_none_of_it(base):
    loop = make(
        base(stage={"optim": {"lr": 1e38, "weight_decay": 10.0}, "steps": 30}),
        PROMPTS,
        should_stop=lambda point: point == "update" and not torch.isfinite(loop.adapter.table).all(),
    )
    with pytest.raises(NonFiniteError, match="they are neither saved nor evaluated"):
        loop.train()
    assert loop.checkpoints.latest is None


def test_weights_that_are_no_numbers_have_no_scores(base):
    loop = make(base(**HELD), PROMPTS, eval_prompts=PROMPTS[:3])
    loop.train()
    with torch.no_grad():
        loop.adapter.table[0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="they are neither saved nor evaluated"):
        evaluate(loop.run, "now", list(loop.stage.learners.values()))
