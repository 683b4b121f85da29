"""Where one process of a run fails, hangs or dies, all end, and one message says why."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmrl.training.notes import Failed, Notes
from mmrl.training.processes import Processes
from mmrl.training.run_folder import claim

# Pairs of processes, forked so that torch is imported once; each runs `mmrl train` with its own two streams.
PAIRS = """
import json, os, signal, socket, sys, time
from pathlib import Path

import accelerate, torch, torch._dynamo
import mmrl.training.loop, mmrl.training.assemble, mmrl.training.run_folder
from mmrl.training import presence, stopping
from mmrl.cli import main

torch.set_num_threads(1)
jobs, place = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])


def child(name, rank, port, words):
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / f"{name}.{rank}.{stream}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    sys.argv = ["mmrl", *words]
    stopping.GRACE_S = presence.GRACE_S = 1.0
    main()


for name, (words, ask) in jobs.items():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            child(name, rank, port, words)
            sys.exit(0)
        pids.append(pid)
    codes, began = {}, time.monotonic()
    while len(codes) < 2 and time.monotonic() - began < 60:
        for rank, pid in enumerate(pids):
            if rank not in codes:
                done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
                if done and os.WIFSTOPPED(status):
                    codes[rank] = "stopped"
                    if ask:
                        os.kill(pids[1 - rank], signal.SIGTERM)
                elif done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for rank, pid in enumerate(pids):
        if codes.get(rank, "stopped") == "stopped":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    print("RESULT", json.dumps([name, [codes.get(0), codes.get(1)]]), flush=True)
"""

REWARDS = """
import os

def letters(samples):
    return [s.artifact.count("a") / 5 for s in samples]

def leaving(samples):
    if os.environ["RANK"] == "1":
        raise SystemExit("enough")
    return letters(samples)
"""

HERE = Path(__file__).parent
WELL = [1, 1]
KILLED = "last at step 2, sampling): it was killed (out of memory?); the last checkpoint stands: go on with --resume"
LATE = "last at step 2, sampling): it kept the others waiting for longer than timeout=3 seconds; the last checkpoint"
# Name -> (what fails, on which process, exit codes, what the message says, its parts on both sides of ` ... `).
CASES = {
    "reward that leaves": ("", 1, WELL, "letters.leaving: SystemExit: enough"),
    "nan": ("nan", 1, WELL, "process 1 failed: loss is nan at step"),
    "nan on the main one": ("nan", 0, WELL, "error: loss is nan at step"),
    "bug in a rollout": ("rollout_bug", 1, WELL, "process 1 failed: KeyError: 'boom' (failing.py:"),
    "bug in a rollout, others are busy": ("rollout_bug", 1, WELL, "process 1 failed: KeyError: 'boom' (failing.py:"),
    "sys.exit in a rollout": ("rollout_exit", 1, WELL, "process 1 failed: SystemExit: 0 (failing.py:"),
    "memory": ("replay_memory", 1, WELL, "process 1 failed: MemoryError (failing.py:"),
    "record": ("loss_record", 1, WELL, "process 1 failed: records.jsonl, line 7: no picture"),
    "record of the main one": ("loss_record", 0, WELL, "error: records.jsonl, line 7: no picture"),
    "load": ("load_record", 1, WELL, "process 1 failed: model: records.jsonl, line 7"),
    "full disk": ("rollout_disk", 1, WELL, "process 1: cannot write"),
    "full disk of the main one": ("rollout_disk", 0, WELL, "the disk or its quota is full"),
    "save": ("save_record", 0, WELL, "error: records.jsonl, line 7"),
    "killed": ("rollout_kill", 1, [1, -9], f"process 0 lost process 1 (pid ... {KILLED}"),
    "killed, others are busy": ("rollout_kill", 1, [1, -9], f"process 0 lost process 1 (pid ... {KILLED}"),
    "killed in the middle of an update": ("replay_kill", 1, [1, -9], "process 1 (pid ... step 2, training)"),
    "main one killed": ("rollout_kill", 0, [-9, 1], f"process 1 lost process 0 (pid ... {KILLED}"),
    "main one killed, others are busy": ("rollout_kill", 0, [-9, 1], f"process 1 lost process 0 (pid ... {KILLED}"),
    "stopped": ("rollout_stop", 1, [1, "stopped"], f"process 0 lost process 1 (pid ... {LATE}"),
    "stopped, others are asked": ("rollout_stop", 1, [1, "stopped"], "process 0 was asked to stop and waited"),
    "main one stopped, others are asked": ("rollout_stop", 0, ["stopped", 1], "process 1 was asked to stop and wait"),
    "main one stopped": ("rollout_stop", 0, ["stopped", 1], f"process 1 lost process 0 (pid ... {LATE}"),
}  # fmt: skip


def config(name: str, what: str, on: int, tmp_path: Path) -> dict:
    grpo = {"kind": "grpo", "steps": 3, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
    sft = {"kind": "sft", "steps": 3, "batch": 6, "micro_batch": 2, "optim": {"lr": 0.05}}
    reward = "leaving" if name == "reward that leaves" else "letters"
    short = what == "rollout_stop" and "asked" not in name
    return {
        "name": name.replace(" ", "-").replace(",", ""),
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "threads": 1,
        "timeout": 3 if short else 600,
        "modality": f"{HERE / 'failing.py'}:Failing",
        "model": {"what": what, "on": on, "others_sleep": 280 if "busy" in name else 0},
        "data": {"records": str(tmp_path / "records.jsonl")}
        if "loss" in what
        else {"prompts": str(tmp_path / "p.txt")},
        "rewards": [] if "loss" in what else [{"name": f"{tmp_path / 'letters.py'}:{reward}"}],
        "stages": [sft if "loss" in what else grpo],
        "report": {"samples_every": int("disk" in what)},
    }


def write_inputs(tmp_path: Path) -> None:
    (tmp_path / "letters.py").write_text(REWARDS, encoding="utf-8")
    (tmp_path / "p.txt").write_text("\n".join("x" * n for n in range(1, 9)), encoding="utf-8")


# One of each kind; the others are `slow`.
QUICK = (
    "reward that leaves",
    "nan on the main one",
    "load",
    "full disk",
    "save",
    "killed",
    "main one killed, others are busy",
    "stopped, others are asked",
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory, helpers):
    return ended(QUICK, tmp_path_factory, helpers)


@pytest.fixture(scope="module")
def others(tmp_path_factory, helpers):
    return ended([case for case in CASES if case not in QUICK], tmp_path_factory, helpers)


def ended(cases, tmp_path_factory, helpers):
    """{case: (exit codes, stderr of each)}, all in one start of Python."""
    tmp_path = tmp_path_factory.mktemp("failing")
    write_inputs(tmp_path)
    lines = [json.dumps({"id": str(i), "prompt": "x" * i, "completion": "ab"}) for i in range(1, 9)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "pairs.py").write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\n{PAIRS}", encoding="utf-8")
    jobs = {}
    for name in cases:
        what, on, _, _ = CASES[name]
        path = helpers.written(config(name, what, on, tmp_path), tmp_path)
        jobs[name] = (["train", str(path), "--quiet"], "asked" in name)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    process = helpers.command(str(tmp_path / "pairs.py"), str(tmp_path / "jobs.json"), str(tmp_path))
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    rows = [json.loads(line.removeprefix("RESULT ")) for line in out.splitlines() if line.startswith("RESULT ")]

    def said(name: str, rank: int) -> str:
        return (tmp_path / f"{name}.{rank}.err").read_text(encoding="utf-8")

    return {name: (codes, [said(name, 0), said(name, 1)]) for name, codes in rows}


@pytest.mark.parametrize("case", QUICK)
def test_all_end_and_one_message_says_why(quick, case):
    check(case, *quick[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK])
def test_all_end_and_one_message_says_why_in_every_case(others, case):
    check(case, *others[case])


def check(case, codes, said):
    """A process that has not ended within 60 seconds has no code."""
    main, other = said
    _, _, wanted, message = CASES[case]
    assert codes == wanted, main + other
    teller, silent = (main, other) if wanted[0] == 1 else (other, main)
    assert all(part in teller for part in message.split(" ... ")), teller
    assert (main + other).count("error: ") == 1, main + other
    assert "error: " not in silent and "Traceback" not in main + other


@pytest.mark.parametrize("launcher", ["two_processes", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_the_launcher_s_signal_leaves_time_to_tell(helpers, tmp_path, launcher):
    """A launcher ends the others with SIGTERM where one has failed; the main process is in a long rollout then."""
    write_inputs(tmp_path)
    made = config("launched", "rollout_bug", 1, tmp_path)
    made["model"]["others_sleep"] = 280
    path = helpers.written(made, tmp_path)
    script = tmp_path / "train.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom mmrl.cli import main\nmain()\n")
    process = getattr(helpers, launcher)(str(script), "train", str(path), "--quiet")
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "process 1 failed: KeyError: 'boom' (failing.py:" in told[0], err[-3000:]
    note = tmp_path / "runs" / "launched" / ".failed_1"
    assert str(note) in told[0] and "Traceback" in note.read_text(encoding="utf-8")


def test_notes_are_of_one_start_only(tmp_path):
    write_note(tmp_path, 1)
    other = Notes(tmp_path, 0, 2)
    assert other.read() == {}  # before it is this start's
    claim(tmp_path, resume=False, fresh=False)
    other.open()
    assert other.read() == {}
    write_note(tmp_path, 1)
    with pytest.raises(Failed, match="process 1 failed: ValueError: no"):
        other.refuse()
    alone = Notes(tmp_path / "alone", 0, 1)
    alone.open()
    alone.write(ValueError("one process has nobody to tell"))
    assert not (tmp_path / "alone").exists()


def test_a_note_ends_the_waiting_though_its_writer_still_lives(tmp_path, monkeypatch):
    """Its connection breaks where it ends, and it may take its time to end."""

    def not_yet(patience):
        raise RuntimeError("not yet")

    monkeypatch.setattr("mmrl.training.processes._abandoned", [])
    waiting = Processes("cpu")
    waiting.notes = Notes(tmp_path, 0, 2)
    waiting.notes.open()
    write_note(tmp_path, 1)
    with pytest.raises(Failed, match="process 1 failed: ValueError: no"):
        waiting._wait(SimpleNamespace(wait=not_yet, is_completed=lambda: False))


def write_note(folder: Path, rank: int) -> None:
    notes = Notes(folder, rank, 2)
    notes.open()
    notes.write(ValueError("no"))
