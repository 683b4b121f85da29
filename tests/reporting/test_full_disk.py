"""Disks that take no more: one documented error that says what to do, and files that are whole all the same."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from PIL import Image

from mmrl.reporting import disk
from mmrl.reporting.disk import WriteError
from mmrl.reporting.files import write_atomic
from mmrl.reporting.metrics import MetricsWriter, read_metrics
from mmrl.reporting.sample_index import list_tags
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import SampleStore, write_offending, write_step
from mmrl.reporting.summary import write_summary
from mmrl.types import Group, Prompt, Sample

FAULTS = {
    errno.ENOSPC: "is full .*MB are free.*free some space",
    errno.EDQUOT: "quota is full",
    errno.EROFS: "read-only .*mount it writable",
    errno.EACCES: "no permission .*allow it",
    errno.EIO: "Input/output error",
}
ARTIFACTS = {
    "text": "an answer",
    "picture": Image.new("RGB", (4, 4)),
    "array": np.zeros(3),
}
SUMMARY = {"main_metric": "eval/x", "before": {}, "after": {}, "steps": 1, "wall_s": 1.0, "samples": 1, "actions": 1}


def group(artifact="an answer"):
    prompt = Prompt("p", "p")
    return Group(prompt, 0, [Sample(prompt, 0, artifact)])


def failing(number):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


WRITERS = {
    "metrics": lambda run: MetricsWriter(run / "metrics.jsonl").write({"step": 1}),
    "samples": lambda run: write_step(run, "step_000001", [group()]),
    "part": lambda run: write_step(run, "step_000001", [group()], part=1, parts=2),
    "offending": lambda run: write_offending(run, [group()], "why"),
    "summary": lambda run: write_summary(run, **SUMMARY, seed=0, config="c"),
    "text": lambda run: write_atomic(run / "data" / "x.jsonl", "x"),
}


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_says_what_the_disk_said_and_what_to_do(tmp_path, monkeypatch, writer, number):
    """Every call that could write fails, from the making of a folder on."""
    with monkeypatch.context() as patch:
        for name in ("mkdir", "open", "write", "replace"):
            patch.setattr(f"os.{name}", failing(number))
        patch.setattr("builtins.open", failing(number))
        with pytest.raises(WriteError, match=FAULTS[number]) as caught:
            WRITERS[writer](tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.errno == number
    WRITERS[writer](tmp_path / "run")  # there is room again


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_disk_that_fills_up_on_an_artifact_leaves_the_step_that_was_there(tmp_path, monkeypatch, artifact):
    write_step(tmp_path, "step_000001", [group("before")])
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", failing(errno.ENOSPC))
        patch.setattr("pathlib.Path.write_bytes", failing(errno.ENOSPC))
        with pytest.raises(WriteError, match=r"step_000001: the disk"):
            write_step(tmp_path, "step_000001", [group(ARTIFACTS[artifact])])
    assert os.listdir(tmp_path / "samples") == ["step_000001"]  # the room that it took is given back
    assert read_step(tmp_path, "step_000001")[0][0].samples[0].artifact == "before"


def test_a_row_that_meets_a_full_disk_is_taken_back_and_can_be_written_again(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"step": 1})
        write = os.write
        with monkeypatch.context() as patch:
            calls = []

            def half(descriptor, data):
                calls.append(data)
                if len(calls) > 1:
                    raise OSError(errno.ENOSPC, "full")
                return write(descriptor, data[: len(data) // 2])

            patch.setattr(os, "write", half)
            with pytest.raises(WriteError, match=r"metrics\.jsonl: the disk"):
                writer.write({"step": 2, "loss": 0.5})
        assert path.read_bytes() == b'{"step": 1}\n'
        writer.write({"step": 2, "loss": 0.25})
    assert read_metrics(path) == [{"step": 1}, {"step": 2, "loss": 0.25}]


def test_short_writes_are_finished(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with MetricsWriter(tmp_path / "m.jsonl") as writer:
        writer.write({"step": 1, "loss": 0.125})
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "loss": 0.125}]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_row_cut_anywhere_is_repaired_by_the_next_writer(tmp_path, cut):
    line = b'{"step": 2, "loss": 1.5}\n'
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line[:cut])
    with MetricsWriter(path) as writer:
        writer.write({"step": 3})
    kept = [1, 2, 3] if cut == len(line) - 1 else [1, 3]  # only the newline was missing
    assert [row["step"] for row in read_metrics(path)] == kept
    assert path.read_bytes().endswith(b'}\n{"step": 3}\n')


def synced(monkeypatch):
    """The files that were synced, by path."""
    seen = []
    fsync = os.fsync

    def call(descriptor):
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", call)
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to name a descriptor")
def test_what_a_checkpoint_counts_on_is_synced_once(tmp_path, monkeypatch):
    writer, store = MetricsWriter(tmp_path / "metrics.jsonl"), SampleStore(tmp_path)
    writer.write({"step": 1})
    folders = [store.write("step_000001", [group()]), store.offending([group()], "why")]
    seen = synced(monkeypatch)
    writer.sync()
    assert seen == [str(tmp_path / "metrics.jsonl"), str(tmp_path)]
    seen.clear()
    store.sync()
    expected = {str(path) for folder in folders for path in (folder, *folder.iterdir(), folder.parent)}
    assert set(seen) == expected
    seen.clear()
    store.sync()
    assert seen == []


def test_a_disk_that_fails_on_syncing_is_told_and_one_that_cannot_sync_is_not(tmp_path, monkeypatch):
    writer, store = MetricsWriter(tmp_path / "metrics.jsonl"), SampleStore(tmp_path)
    store.write("step_000001", [group()])
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    for part in (writer, store):
        with pytest.raises(WriteError, match="Input/output error"):
            part.sync()
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    for part in (writer, store):
        part.sync()


def test_a_store_hands_on_its_part_and_its_pictures(tmp_path):
    for part in range(2):
        store = SampleStore(tmp_path, part=part, parts=2)
        store.write("step_000001", [Group(Prompt(f"p{part}", ""), part)], {"part": part})
    groups, extra = read_step(tmp_path, "step_000001")
    assert [g.prompt.id for g in groups] == ["p0", "p1"]
    assert extra == {"part": 0}
    assert list_tags(tmp_path) == ["step_000001"]


def test_a_fault_that_nobody_numbered_is_quoted_and_cut(tmp_path):
    """numpy says how much it wrote, without a number of the system's."""
    with pytest.raises(WriteError, match="10 requested and 4 written") as caught, disk.writing(tmp_path / "x.npy"):
        raise OSError("10 requested and 4 written" + " " * 5000)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
