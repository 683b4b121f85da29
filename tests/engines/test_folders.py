"""No folder of weights outlives its run: not one that ended, failed to start, or was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest
import torch
from standin_server import connect

from mmrl.engines.folders import WeightsFolder
from mmrl.engines.http_client import ServerError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def test_a_folder_is_made_when_it_is_needed_and_removed_at_the_end(place):
    folder = WeightsFolder()
    assert not list(place.iterdir())
    (folder.empty("a") / "x").write_text("1")
    kept = folder.empty("b")
    folder.keep_only(kept)
    assert [p.name for p in folder.path.iterdir() if p.is_dir()] == ["b"]
    (folder.empty("b") / "y").write_text("1")
    assert not list(folder.empty("b").iterdir())
    folder.close()
    assert not list(place.iterdir())
    folder.close()


KILLED = """
import os, signal, sys
from mmrl.engines.folders import WeightsFolder
folder = WeightsFolder(sys.argv[1])
(folder.empty("version_1") / "model.safetensors").write_bytes(b"0" * 100)
print(folder.path.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_goes_with_the_next_start_and_what_is_in_use_stays(tmp_path):
    mine = WeightsFolder(tmp_path)
    mine.empty("version_1")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    left = killed.stdout.strip()
    assert left and {p.name for p in tmp_path.iterdir()} == {mine.path.name, left}
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "mmrl-vllm-without-a-lock").mkdir()
    second = WeightsFolder(tmp_path)
    stay = {mine.path.name, second.path.name, "somebody's", "mmrl-vllm-without-a-lock"}
    assert {p.name for p in tmp_path.iterdir()} == stay
    assert (mine.path / "version_1").is_dir()
    mine.close(), second.close()


def test_a_failed_start_leaves_nothing(place, folder, server):
    server.mode = "raw_logprobs"
    with pytest.raises(ServerError):
        connect(folder, server)
    assert not list(place.iterdir())


@pytest.mark.parametrize("refuse", [None, "/collective_rpc"])
def test_an_engine_leaves_nothing_whether_its_sync_went_well_or_not(place, folder, server, refuse):
    engine = connect(folder, server)
    server.refuse = refuse
    for version in (1, 2):
        try:
            engine.sync([("lm_head.weight", torch.ones(2, 2))], version)
        except ServerError:
            assert refuse
    engine.close()
    assert not list(place.iterdir())


def test_two_runs_in_one_folder_do_not_write_over_each_other(tmp_path, folder, server):
    engines = []
    for _ in range(2):
        engines.append(engine := connect(folder, server, options={"folder": tmp_path}))
        engine.sync([("lm_head.weight", torch.ones(2, 2))], 1)
    paths = [body["kwargs"]["weights_path"] for path, body in server.posts if path == "/collective_rpc"]
    assert len(set(paths)) == 2 and len(list(tmp_path.iterdir())) == 2
    for engine in engines:
        engine.close()
    assert not list(tmp_path.iterdir())
