"""Before processes are together: one line for an error that all have, the own line of one that has another; and all
that a launcher started come together, or none trains."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest
import torch.distributed as dist

from mmrl.commands import one_voice
from mmrl.config import ConfigError
from mmrl.training.processes import Processes


@pytest.fixture
def launched(monkeypatch):
    """`launched(rank)`: as torchrun sets the environment of one of two processes, with its store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=9))
    monkeypatch.setattr(one_voice, "PATIENCE_S", 0.5)
    words = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in {**words, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    yield lambda rank: monkeypatch.setenv("RANK", str(rank))
    del store


def test_what_all_say_is_said_by_the_first(launched):
    launched(0)
    assert one_voice.to_tell("stages: missing") == "stages: missing"
    launched(1)
    assert one_voice.to_tell("stages: missing") is None
    assert one_voice.to_tell("no file here") == "process 1: no file here"


def test_a_process_whose_first_one_is_well_tells_its_own(launched):
    launched(1)
    assert one_voice.to_tell("no file here") == "process 1: no file here"


def test_another_start_is_not_taken_for_this_one(launched, monkeypatch):
    launched(0)
    one_voice.to_tell("stages: missing")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    launched(1)
    assert one_voice.to_tell("stages: missing") == "process 1: stages: missing"


def test_a_launcher_without_a_store_or_with_a_dead_one_silences_nobody(launched, monkeypatch):
    launched(1)
    monkeypatch.setenv("MASTER_PORT", "1")
    assert one_voice.to_tell("missing") == "process 1: missing"
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert one_voice.to_tell("missing") == "process 1: missing"
    monkeypatch.delenv("WORLD_SIZE")
    assert one_voice.to_tell("missing") == "missing"


@pytest.mark.parametrize("words", [["bogus=1"], ["--bogus"]])
def test_a_wrong_word_is_one_line_under_torchrun(helpers, words):
    process = helpers.torchrun("-m", "mmrl", "train", "text/tiny", *words)
    _, err = process.communicate(timeout=300)
    assert process.returncode and len([line for line in err.splitlines() if "bogus" in line]) == 1, err


def test_processes_that_did_not_come_together_are_refused():
    """One that trains alone while its launcher started two, such as without LOCAL_RANK on GPUs."""
    script = (
        "import os; from mmrl.training.processes import Processes; Processes('cpu'); os.environ['WORLD_SIZE'] = '2';"
        "Processes('cpu')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert ConfigError.__name__ in ended.stderr and "WORLD_SIZE=2 and 1 came together" in ended.stderr


def test_without_an_accelerator_all_are_asked_to_join_over_cpus(monkeypatch):
    """device=auto on a machine without GPUs, where accelerate left alone starts a run for each process."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    asked = []
    import accelerate

    made = accelerate.Accelerator
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: asked.append(options["cpu"]) or made(**options))
    Processes("auto")
    assert asked == [True]
