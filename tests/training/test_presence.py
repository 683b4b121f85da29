"""Where processes are, as others see it: by files and locks that end with them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from mmrl.training import presence
from mmrl.training.presence import Place, Presence
from mmrl.training.processes import LostProcess, Processes
from mmrl.training.run_folder import claim, released


def nothing() -> None:
    """Nobody else to wait for; nobody is gone."""


@pytest.fixture
def three(tmp_path):
    """Three processes that have appeared, of which this is the first; the others are files with locks."""
    made = [Presence(tmp_path, rank, 3) for rank in range(3)]
    for one in reversed(made):
        one.open(nothing, nothing)
    yield made
    for one in made:
        one.close(well=True)
    assert not list(tmp_path.glob(".at_*"))


def test_who_waits_is_not_missing_and_who_does_not_is(three):
    first, second, third = three
    second.at(step=7, doing="sampling", waits=True)
    third.at(step=7, doing="training")
    missing, ended = first.missing()
    assert list(missing) == [2] and ended is False
    assert str(missing[2]) == f"pid {os.getpid()} on {third.place.host}, last at step 7, training"
    third.at(lost=True)
    assert first.missing()[0] == {}


def test_a_disk_without_locks_is_used_and_tells_where_processes_are_but_not_who_ended(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    with released(tmp_path), pytest.warns(UserWarning, match="has no locks"):
        claim(tmp_path, resume=False, fresh=False)
    first, second = (Presence(tmp_path, rank, 2) for rank in range(2))
    for one in (second, first):
        one.open(nothing, nothing)
    second.at(step=7, doing="sampling")
    missing, ended = first.missing()
    assert missing[1].step == 7 and ended is None and first.ended() == {}
    for one in (first, second):
        one.close(well=True)


def test_doing_is_left_where_it_failed(three):
    first, second, _ = three
    second.at(doing="training")
    with second.doing("saving"):
        assert first.missing()[0][1].doing == "saving"
    assert first.missing()[0][1].doing == "training"
    with pytest.raises(KeyError), second.doing("evaluating"):
        raise KeyError
    assert first.missing()[0][1].doing == "evaluating"


CHILD = """
import os, signal, sys
from mmrl.training.presence import Presence
one = Presence(sys.argv[1], 1, 2)
one.open(lambda: None, lambda: None)
one.at(step=4, doing="sampling")
if sys.argv[2] == "left":
    one.close(well=False)
print("there", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_killed_process_is_known_by_its_lock_and_one_that_was_done_is_not(tmp_path, helpers, how):
    gone = threading.Event()
    child = helpers.command("-c", CHILD, str(tmp_path), how)
    assert child.stdout.readline() == "there\n"
    first = Presence(tmp_path, 0, 2)
    first.open(nothing, gone.set)
    assert first.ended() == {}
    child.send_signal(signal.SIGKILL)
    child.wait()
    if how == "left":
        assert first.ended() == {} and first.missing() == ({}, False)
    else:
        place = Place(first.place.host, child.pid, 4, "sampling")
        assert first.missing() == ({1: place}, True)
        clear = Presence(tmp_path, 0, 2)  # has never seen the lock: others may not show theirs
        clear._file = first._file
        assert clear.missing() == ({1: place}, None)
    first.close(well=True)
    assert not gone.is_set()


def test_a_process_that_does_not_end_by_itself_is_ended_but_not_while_it_needs_nobody(tmp_path, helpers, monkeypatch):
    monkeypatch.setattr(presence, "LOOK_S", 0.01)
    monkeypatch.setattr(presence, "GRACE_S", 0.01)
    gone, asked = threading.Event(), threading.Event()
    child = helpers.command("-c", CHILD, str(tmp_path), "killed")
    assert child.stdout.readline() == "there\n"
    first = Presence(tmp_path, 0, 2)
    first.open(nothing, gone.set)
    ended = first.ended

    def asking(*ranks):
        found = ended(*ranks)
        if found:
            asked.set()
        return found

    monkeypatch.setattr(first, "ended", asking)
    with first.undisturbed():
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert asked.wait(60) and not gone.wait(0.2)
    assert gone.wait(60)
    first.close(well=True)


def test_files_that_cannot_be_read_say_nothing(three, tmp_path):
    first = three[0]
    for path, text in ((".at_1", "half of a li"), (".at_2", json.dumps({"host": "h", "pid": 1, "more": 2}))):
        (tmp_path / path).write_text(text)
    assert first.missing()[0] == {}
    three[1].place = Place("h", 1)
    three[1].at()
    assert list(first.missing()[0]) == [1]


def test_places_of_an_earlier_start_are_removed(tmp_path):
    (tmp_path / ".at_3").write_text("old")
    (tmp_path / ".at_home").write_text("somebody's")
    claim(tmp_path, resume=False, fresh=False)
    assert not (tmp_path / ".at_3").exists() and (tmp_path / ".at_home").exists()


def test_of_many_processes_the_first_looks_at_some_at_a_time_and_others_at_the_first(tmp_path):
    first, other = Presence(tmp_path, 0, 200), Presence(tmp_path, 5, 200)
    first._file = other._file = 0
    looked = [first._watched() for _ in range(4)]
    assert all(len(ranks) == presence.AT_ONCE for ranks in looked) and set().union(*looked) == set(range(1, 200))
    assert other._watched() == [0]
    first._file = other._file = None


def test_a_backend_that_would_end_the_process_is_left_in_time(tmp_path, monkeypatch):
    """NCCL's time-out ends a process without a word: the wait ends by itself before it."""
    monkeypatch.setattr("mmrl.training.processes._abandoned", [])
    waiting = Processes("cpu", run_dir=str(tmp_path), timeout=0.6)
    waiting.device = SimpleNamespace(type="cuda")
    with pytest.raises(LostProcess, match=r"longer than timeout=0\.6 seconds"):
        waiting._wait(SimpleNamespace(is_completed=lambda: False))
