"""A run that was stopped anywhere and resumed is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from mmrl.training.stopping import Stopped


class Crash(BaseException):
    """Stands for a power cut: nothing is saved on the way out."""


def kinds(helpers) -> dict[str, dict]:
    """Name -> config overrides of every kind of run that keeps a state of its own."""
    ema = {"lr": 1e-3, "ema": 0.9, "warmup": 2, "schedule": "cosine"}
    kl = {"preset": "flow_grpo", "kl_coef": 0.05}
    return {
        "grpo": {},
        "two_epochs_chunks": {"stages": [helpers.grpo(epochs=2, rollout_chunk=1)]},
        "stale": {
            "stages": [
                helpers.grpo(steps=3, updates=1, staleness=2),
                helpers.grpo(name="next", steps=2, updates=1, staleness=1),
            ]
        },
        "ema": {"stages": [helpers.grpo(optim=ema)]},
        "kl": {"stages": [helpers.grpo(algorithm=kl)]},
        "kl_reward": {"stages": [helpers.grpo(algorithm={**kl, "kl_place": "reward", "kl_estimator": "k1"})]},
        "lora": {
            "model": {"train": "lora", "lora": {"rank": 2, "alpha": 4}},
            "stages": [helpers.grpo(algorithm=kl, optim=ema)],
        },
        "random_window": {"model": {"sampling": {"steps": 4, "plan": {"name": "random_window", "size": 2}}}},
        "sft": {"stages": [helpers.sft(optim=ema)]},
        "stages": {
            "stages": [
                helpers.sft(name="autoencoder", objective="autoencoder", components=["vae"], optim=ema),
                helpers.sft(name="sft", steps=1, components=["denoiser", "text_encoders"]),
                helpers.grpo(algorithm=kl, optim=ema),
            ]
        },
        "two_references": {
            "stages": [
                helpers.grpo(name="first", algorithm=kl),
                helpers.sft(name="between", steps=1),
                helpers.grpo(name="second", algorithm=kl),
            ]
        },
    }


SLOW = pytest.mark.slow
# The others are beside them in interruptions.py, and `slow` here.
KINDS = [
    "grpo",
    "stale",
    "lora",
    "stages",
    *(pytest.param(kind, marks=SLOW) for kind in ("two_epochs_chunks", "ema", "kl", "kl_reward", "random_window")),
    *(pytest.param(kind, marks=SLOW) for kind in ("sft", "two_references")),
]


def assert_same_run(helpers, config: dict, straight: dict) -> None:
    left, right = helpers.outcome(config), helpers.outcome(straight)
    steps = [row["step"] for row in left["rows"]]
    assert steps == list(range(1, len(steps) + 1))
    assert left["rows"] == right["rows"]
    assert left["counts"] == right["counts"]
    assert left["trainer"] == right["trainer"]
    assert left["policy"] == right["policy"]


@pytest.mark.parametrize("kind", KINDS)
def test_stopping_at_every_point_changes_nothing(tiny, helpers, kind):
    overrides = {"eval": {"every": 1, "prompts": 2}, **kinds(helpers)[kind]}
    data = {"eval_prompts": tiny()["data"]["prompts"]}
    straight, config = (tiny(name=name, data=data, **overrides) for name in ("straight", "stopped"))
    passed: list[str] = []
    helpers.train(straight, should_stop=lambda point: bool(passed.append(point)))

    stopped: list[str] = []
    while True:
        try:
            helpers.train(config, resume=bool(stopped), should_stop=lambda point: not stopped.append(point))
        except Stopped as stop:
            assert (stop.checkpoint / "state.json").is_file()
        else:
            break
    # Each resume ran into the next point of the straight run: nothing was done twice, and nothing left out.
    assert stopped == passed
    assert {"micro", "step"} <= set(passed)
    assert_same_run(helpers, config, straight)


@pytest.mark.parametrize(
    "kind", ["ema", "stages", *(pytest.param(kind, marks=SLOW) for kind in ("stale", "lora", "two_references"))]
)
def test_a_crash_goes_back_to_the_last_checkpoint(tiny, helpers, kind):
    overrides = {"checkpoint": {"every": 1}, **kinds(helpers)[kind]}
    straight, config = (tiny(name=name, **overrides) for name in ("straight", "crashed"))
    passed: list[str] = []
    helpers.train(straight, should_stop=lambda point: bool(passed.append(point)))
    first_save = passed.index("step") + 1  # the point after the first checkpoint
    resume = False
    for place in range(first_save, len(passed), 3):
        seen = [0]

        def cut(point: str, seen=seen, place=place if not resume else 2) -> bool:
            seen[0] += 1
            if seen[0] > place:
                raise Crash
            return False

        try:
            helpers.train(config, resume=resume, should_stop=cut)
        except Crash:
            resume = True
        else:
            break
    assert resume
    helpers.train(config, resume=True)
    assert_same_run(helpers, config, straight)


@pytest.mark.parametrize("ended", [2, 3])
def test_a_crash_right_after_a_stage_keeps_the_reference(tiny, helpers, ended):
    """The frozen reference is state: after the last step of a stage, too."""
    stages = kinds(helpers)["two_references"]["stages"]
    straight, config = (tiny(name=name, stages=stages) for name in ("straight", "crashed"))
    helpers.train(straight)
    points: list[str] = []

    def crash(point: str) -> bool:
        points.append(point)
        if points.count("step") == ended and point != "step":  # the first point of the next stage
            raise Crash
        return False

    with pytest.raises(Crash):
        helpers.train(config, should_stop=crash)
    helpers.train(config, resume=True)
    assert_same_run(helpers, config, straight)


def test_resuming_a_finished_run_changes_nothing(tiny, helpers):
    config = tiny()
    helpers.train(config)
    before = helpers.outcome(config)
    helpers.train(config, resume=True)
    assert helpers.outcome(config) == before


def test_sigterm_saves_and_exits_with_3_and_resume_ends_equal(tiny, helpers, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nimport numpy as np\n\ndef slow(samples):\n    time.sleep(0.05)\n"
        "    return [float(np.asarray(s.artifact, dtype=float).mean()) for s in samples]\n",
        encoding="utf-8",
    )
    rewards, stages = [{"name": f"{slow}:slow"}], [helpers.grpo(steps=8, algorithm={"kl_coef": 0.05})]
    straight, config = (tiny(name=name, rewards=rewards, stages=stages) for name in ("straight", "terminated"))
    path, run = helpers.written(config, tmp_path), Path(config["out"]) / "terminated"
    process = helpers.command("-m", "mmrl", "train", str(path), "--quiet")
    deadline = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 3, err
    assert "go on with --resume" in out
    assert "Traceback" not in err
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 8
    assert (run / "checkpoints" / "latest" / "trainer.safetensors").is_file()

    helpers.train(straight)
    helpers.train(config, resume=True)
    assert_same_run(helpers, config, straight)


# Forks a child per attempt, so that each of many kills costs a second and not a start of Python.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path

import accelerate, torch, torch._dynamo

import mmrl
import mmrl.training.loop
from mmrl.config import load
from mmrl.training.assemble import load_adapter

torch.set_num_threads(1)
straight, config, kills = json.loads(Path(sys.argv[1]).read_text())
load_adapter(load(config))  # so that its libraries are loaded once, before the forks

def child(config, resume):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            mmrl.train(config, resume=resume, quiet=True)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def finished(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert finished(child(straight, False)) == 0
latest = Path(config["out"]) / config["name"] / "checkpoints" / "latest"
rng = random.Random(7)
killed, broken = 0, []
pid = child(config, False)
while not latest.exists():
    time.sleep(0.005)
for _ in range(kills):
    time.sleep(rng.uniform(0.0, 0.5))
    os.kill(pid, signal.SIGKILL)
    code = finished(pid)
    killed += code == -signal.SIGKILL
    if not (latest / "state.json").is_file() or not (latest / "trainer.safetensors").is_file():
        broken.append(str(latest.resolve()))
    if code == 0:
        break
    start = latest.resolve()
    pid = child(config, True)
    deadline = time.monotonic() + 1.2
    while latest.resolve() == start and time.monotonic() < deadline:  # somewhere in or after its first step
        time.sleep(0.005)
else:
    finished(pid)
print(json.dumps({"killed": killed, "broken": broken, "end": finished(child(config, True))}))
"""


def test_sigkill_at_random_moments_leaves_a_whole_checkpoint(tiny, helpers, tmp_path):
    """A checkpoint after every step: most of the time is spent writing, so most kills hit a write."""
    options = {"stages": [helpers.grpo(steps=6, groups=2, samples=2, updates=1)], "checkpoint": {"every": 1}}
    straight, config = (tiny(name=name, **options) for name in ("straight", "killed"))
    (tmp_path / "job.json").write_text(json.dumps([straight, config, 3]), encoding="utf-8")
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    process = helpers.command(str(tmp_path / "killer.py"), str(tmp_path / "job.json"), start_new_session=True)
    try:
        out, err = process.communicate(timeout=280)
    finally:  # its children, too, where it did not end by itself
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["broken"] == []
    assert found["killed"] >= 2
    assert found["end"] == 0, err
    assert_same_run(helpers, config, straight)
