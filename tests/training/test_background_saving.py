"""Checkpoints whose tensors are written while the training goes on: one at a time, each of its own moment, or none."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import saved
import torch
from answers import make

from mmrl.training import pieces
from mmrl.training.background import marked, wait_for_all
from mmrl.training.draft import Draft
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

HERE = Path(__file__).parent
PROMPTS = [Prompt(str(i), "x" * i, {"id": str(i), "prompt": "x" * i}) for i in range(1, 9)]
PATIENCE_S = 60


@pytest.fixture
def base(tmp_path):
    """base(name, every, background) -> a config of four steps with averaged weights and a reference."""
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    stage = {"kind": "grpo", "steps": 4, "groups": 4, "samples": 4, "micro_batch": 20, "updates": 2}
    stage |= {"optim": {"lr": 0.05, "ema": 0.5}, "algorithm": {"preset": "grpo", "kl_coef": 0.1}}

    def config(name="run", every=1, background=True):
        return {
            "name": name,
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
            "stages": [stage],
            "checkpoint": {"every": every, "background": background, "keep": 9},
        }

    return config


def left(loop) -> tuple:
    rows = [json.loads(line) for line in (loop.run.folder / "metrics.jsonl").read_text().splitlines()]
    folders = sorted(loop.checkpoints.root.glob("step_*"))
    return (
        {folder.name: saved.files(folder) for folder in folders},
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows],
    )


class Gate:
    """Holds what is written in the background until it is opened."""

    def __init__(self, monkeypatch, error: Exception | None = None, times: int = 10**6) -> None:
        self.open, self.there, self.error, self.times = threading.Event(), threading.Event(), error, times
        write = Draft.write_rest

        def held(draft):
            if threading.current_thread() is threading.main_thread() or self.times == 0:
                return write(draft)
            self.times -= 1
            self.there.set()
            assert self.open.wait(PATIENCE_S)
            if self.error:
                raise self.error
            return write(draft)

        monkeypatch.setattr(Draft, "write_rest", held)


def test_every_checkpoint_is_what_it_would_be_in_the_foreground(base):
    loops = [make(base(name, background=name == "behind"), PROMPTS) for name in ("behind", "before")]
    for loop in loops:
        loop.train()
    behind, before = map(left, loops)
    assert list(before[0]) == [f"step_00000{n}" for n in range(1, 5)]
    assert behind == before


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(base, monkeypatch):
    gate = Gate(monkeypatch)
    loop = make(base(every=2), PROMPTS)
    rows: list[int] = []
    log = loop._log

    def logged(row):
        log(row)
        rows.append(row["step"])
        if row["step"] == 3:  # a step later it is under way, and there is none yet
            assert gate.there.wait(PATIENCE_S) and loop.checkpoints.latest is None
            threading.Timer(0.5, gate.open.set).start()

    monkeypatch.setattr(loop, "_log", logged)
    straight = make(base("straight", every=2, background=False), PROMPTS)
    straight.train()
    loop.train()
    assert rows == [1, 2, 3, 4] and left(loop) == left(straight)


def test_a_stop_waits_for_the_one_under_way_and_goes_on_bit_for_bit(base, monkeypatch):
    gate = Gate(monkeypatch, times=1)
    points: list[str] = []

    def should_stop(point):
        points.append(point)
        if points.count("rollout") == 2 and point == "update":
            threading.Timer(0.2, gate.open.set).start()
            return True
        return False

    loop = make(base(), PROMPTS, should_stop=should_stop)
    with pytest.raises(Stopped) as stopped:
        loop.train()
    names = sorted(path.name for path in loop.checkpoints.root.iterdir())
    assert names == ["latest", "step_000001", "step_000001_u1_m0"]
    assert stopped.value.checkpoint.name == "step_000001_u1_m0"
    resumed, straight = make(base(), PROMPTS), make(base("straight", background=False), PROMPTS)
    resumed.train(resume=True)
    straight.train()
    assert left(resumed)[0]["step_000004"] == left(straight)[0]["step_000004"]


def test_what_breaks_in_the_thread_ends_the_run_with_its_message(base, monkeypatch):
    gate = Gate(monkeypatch, KeyError("no such tensor"), times=1)
    gate.open.set()
    loop = make(base(), PROMPTS)
    with pytest.raises(CheckpointError, match="in the background failed: KeyError: 'no such tensor'"):
        loop.train()
    assert loop.checkpoints.latest is None and not list(loop.checkpoints.root.glob(".writing*"))


def test_a_full_disk_is_told_and_tried_again_as_in_the_foreground(base, monkeypatch, capsys):
    gate = Gate(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), times=1)
    gate.open.set()
    loop, straight = make(base(), PROMPTS), make(base("straight", background=False), PROMPTS)
    loop.train()
    out = capsys.readouterr().out
    assert out.count("warning: checkpoint not written") == 1 and "saving is tried again" in out
    straight.train()
    found, wanted = left(loop), left(straight)
    assert found[1] == wanted[1] and set(wanted[0]) - set(found[0]) == {"step_000001"}
    assert all(wanted[0][name] == files for name, files in found[0].items())


def test_an_error_of_the_training_lets_the_one_under_way_be_finished(base, monkeypatch):
    gate = Gate(monkeypatch)
    loop = make(base(every=2), PROMPTS)
    log = loop._log

    def broken(row):
        log(row)
        if row["step"] == 3:
            assert gate.there.wait(PATIENCE_S)
            threading.Timer(0.3, gate.open.set).start()
            raise RuntimeError("of the training")

    monkeypatch.setattr(loop, "_log", broken)
    with pytest.raises(RuntimeError, match="of the training"):
        loop.train()
    assert loop.checkpoints.latest.name == "step_000002" and not list(loop.checkpoints.root.glob(".writing*"))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import json, threading
from pathlib import Path
import mmrl
from mmrl.training import pieces

count, save = [0], pieces.save_file

def half(tensors, path):
    count[0] += threading.current_thread() is not threading.main_thread()
    if count[0] == 2:
        Path(path).write_bytes(b"half of a file")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path)

pieces.save_file = half
mmrl.train(json.loads(Path(sys.argv[2]).read_text()), quiet=True)
"""


def test_a_kill_in_the_middle_of_a_file_leaves_the_former_checkpoint(tiny, helpers, tmp_path):
    config = tiny(checkpoint={"every": 1, "background": True}, stages=[helpers.grpo(steps=4)])
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "killed.py").write_text(KILLED)
    process = helpers.command(str(tmp_path / "killed.py"), str(HERE), str(tmp_path / "config.json"))
    _, err = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, err[-3000:]
    checkpoints = Path(config["out"]) / "run" / "checkpoints"
    assert (checkpoints / "latest").resolve().name == "step_000001"
    assert [path.name for path in checkpoints.glob(".writing*")] == [".writing_step_000002"]
    straight = {**config, "name": "straight", "checkpoint": {"every": 1}}
    helpers.train(config, resume=True)
    helpers.train(straight)
    assert helpers.outcome(config) == helpers.outcome(straight)
    assert not list(checkpoints.glob(".writing*"))


# -------------------------------------------------------------------- several processes


def test_nothing_has_its_name_before_all_have_done_their_part(tmp_path):
    """Told by files: one of three is late, then one fails, then one is given up."""
    with marked(tmp_path, 1):
        pass
    asked: list[set[int]] = []

    def not_yet(missing):
        asked.append(missing)
        with marked(tmp_path, 2):
            pass

    wait_for_all(tmp_path, 3, not_yet)
    assert asked == [{2}] and list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="mine"), marked(tmp_path, 2):
        raise ValueError("mine")
    with pytest.raises(OSError, match=r"^process 2: mine$"):
        wait_for_all(tmp_path, 3, lambda missing: None)
    (tmp_path / ".error_2").unlink()
    with pytest.raises(OSError, match="gone: 1, 2"):
        wait_for_all(tmp_path, 3, lambda missing: f"gone: {', '.join(map(str, sorted(missing)))}")


def test_a_copy_stays_as_it_was(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    held = pieces.copied({"a": weight, "rows": weight[:1], "turned": weight.T})
    with torch.no_grad():
        weight.mul_(-1)
    assert held["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and held["rows"].tolist() == [[0, 1, 2]]
    pieces.write(tmp_path / "x.safetensors", held)
    assert saved.load_file(tmp_path / "x.safetensors")["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


HELD_BACK = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import json
from pathlib import Path
import mmrl
from mmrl.training.draft import Draft
from mmrl.training.loop import Loop

config, go = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[2]).with_name("go")
latest = Path(config["out"]) / config["name"] / "checkpoints" / "latest"
write, log = Draft.write_rows, Loop._log

def held_back(draft):
    until = time.monotonic() + 60
    while threading.current_thread() is not threading.main_thread() and not go.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    write(draft)

def logged(loop, row):
    log(loop, row)
    if os.environ["RANK"] == "0" and row["step"] == 3:
        time.sleep(0.5)  # in which the main process could have given it its name
        print("THERE", latest.exists(), flush=True)
        go.touch()
    if os.environ["RANK"] == "0" and row["step"] == 4:
        until = time.monotonic() + 60
        while not latest.exists() and time.monotonic() < until:
            time.sleep(0.01)
        print("THERE", latest.resolve().name, flush=True)

Loop._log = logged
if os.environ["RANK"] == "1":
    Draft.write_rows = held_back
mmrl.train(config, quiet=True)
"""


def test_a_checkpoint_of_two_processes_waits_for_the_slower_one(base, helpers, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join("x" * n for n in range(1, 9)))
    both = {"modality": f"{HERE / 'answers.py'}:Answers", "device": "cpu", "threads": 1}
    config = {**base(every=2), **both, "data": {"prompts": str(tmp_path / "prompts.txt")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "slower.py").write_text(HELD_BACK)
    process = helpers.two_processes(str(tmp_path / "slower.py"), str(HERE), str(tmp_path / "config.json"))
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    assert [line for line in out.splitlines() if "THERE" in line] == ["THERE False", "THERE step_000002"]
    root = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step_000002", "step_000004"]
    assert not list(root.glob("step_*/.*")) and not list(root.glob("step_*/likely.json"))


LEAVES_NO_MARK = """
import errno, os, sys, threading
sys.path.insert(0, sys.argv[1])
import json
from contextlib import nullcontext
from pathlib import Path
import mmrl
from mmrl.training import background
from mmrl.training.checkpoint import Checkpoints
from mmrl.training.draft import Draft

full, elsewhere = json.loads(Path(sys.argv[2]).read_text())
write, marked, temporary, failed = Draft.write_rows, background.marked, Checkpoints.temporary, []

def first_fails(draft):
    if not failed:
        failed.append(1)
        background.marked = marked
        raise OSError(errno.ENOSPC, "no space")
    write(draft)

if os.environ["RANK"] == "1":
    Draft.write_rows, background.marked = first_fails, lambda *_: nullcontext()
mmrl.train(full, quiet=True)
if os.environ["RANK"] == "1":
    Draft.write_rows, background.marked = write, marked
    Checkpoints.temporary = lambda checkpoints, cursor: Path("/not/there")
mmrl.train(elsewhere, quiet=True)
"""


def test_a_process_that_can_leave_no_mark_is_not_waited_for(base, helpers, tmp_path):
    """On a disk that is full to the last byte its checkpoint is given up; where it does not see the folder, nothing is
    written in the background. Else the first process would wait until the run's timeout."""
    (tmp_path / "prompts.txt").write_text("\n".join("x" * n for n in range(1, 9)))
    both = {"modality": f"{HERE / 'answers.py'}:Answers", "device": "cpu", "threads": 1}
    both |= {"data": {"prompts": str(tmp_path / "prompts.txt")}}
    (tmp_path / "configs.json").write_text(json.dumps([base(name) | both for name in ("full", "elsewhere")]))
    (tmp_path / "no_mark.py").write_text(LEAVES_NO_MARK)
    process = helpers.two_processes(str(tmp_path / "no_mark.py"), str(HERE), str(tmp_path / "configs.json"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert out.count("another process could not write its part") == 1
    found = {name: {p.name for p in (tmp_path / name / "checkpoints").iterdir()} for name in ("full", "elsewhere")}
    steps = {f"step_00000{n}" for n in range(1, 5)}
    assert found == {"full": {*steps - {"step_000001"}, "latest"}, "elsewhere": {*steps, "latest"}}
