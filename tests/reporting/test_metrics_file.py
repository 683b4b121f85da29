import json
import os

import numpy as np
import pytest
import torch

from mmrl.reporting import files
from mmrl.reporting.disk import WriteError
from mmrl.reporting.files import dumps, write_atomic
from mmrl.reporting.metrics import MetricsWriter, read_metrics


def test_rows_come_back_in_order_and_each_line_is_there_before_close(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1, "loss": 0.25})
    assert read_metrics(path) == [{"step": 1, "loss": 0.25}]
    writer.write({"step": 2, "loss": -1})
    writer.close()
    assert path.read_text() == '{"step": 1, "loss": 0.25}\n{"step": 2, "loss": -1}\n'


def test_values_that_json_cannot_hold_become_null_and_scalars_of_arrays_become_numbers(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as writer:
        writer.write({"step": 1, "a": float("nan"), "b": np.float32(0.5), "c": torch.tensor(-float("inf"))})
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "a": None, "b": 0.5, "c": None}]


def test_strict_json_goes_through_containers():
    value = {1: (float("inf"), [np.array([1.0, np.nan])]), "o": object}
    assert json.loads(dumps(value)) == {"1": [None, [[1.0, None]]], "o": "<class 'object'>"}


def test_a_resume_writes_no_step_twice(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 8):
            writer.write({"step": step, "run": "first"})
    before = path.read_bytes().splitlines(keepends=True)
    with MetricsWriter(path) as writer:
        writer.truncate_after(4)
        assert path.read_bytes() == b"".join(before[:4])
        for step in range(5, 8):
            writer.write({"step": step, "run": "second"})
    assert [(row["step"], row["run"]) for row in read_metrics(path)] == [
        *[(step, "first") for step in (1, 2, 3, 4)],
        *[(step, "second") for step in (5, 6, 7)],
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("tail, steps", [('{"step": 2, "lo', [1, 3]), ('{"step": 2}', [1, 2, 3])])
def test_a_line_cut_by_a_kill_is_dropped_and_a_whole_one_kept(tmp_path, tail, steps):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n' + tail)
    assert [row["step"] for row in read_metrics(path)] == steps[:-1]
    with MetricsWriter(path) as writer:
        writer.write({"step": 3})
    assert [row["step"] for row in read_metrics(path)] == steps


def test_damage_elsewhere_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\noops\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2: not JSON"):
        read_metrics(path)
    path.write_text('{"step": 1}\n[1]\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2: expected a JSON object, found list"):
        read_metrics(path)


def test_a_row_without_a_step_is_refused_and_nothing_is_written(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as writer, pytest.raises(ValueError, match="integer 'step'"):
        writer.write({"loss": 1.0})
    assert read_metrics(tmp_path / "m.jsonl") == []
    assert read_metrics(tmp_path / "never.jsonl") == []


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomic(path, "old")
    seen = []

    def power_cut(source, target):
        seen.append((os.path.basename(source), path.read_text()))
        raise OSError("power cut")

    monkeypatch.setattr(files.os, "replace", power_cut)
    with pytest.raises(WriteError, match=r"summary\.json: power cut"):
        write_atomic(path, "new")
    assert seen == [(".summary.json.tmp", "old")]
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_an_atomic_write_goes_through_no_link(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / ".report.html.tmp").symlink_to("secret")
    (tmp_path / "report.html").symlink_to("secret")
    write_atomic(tmp_path / "report.html", "new")
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "report.html").read_text() == "new"
