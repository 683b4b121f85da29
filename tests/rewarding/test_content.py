"""Marks of files: of what they hold, and of nothing else."""

from __future__ import annotations

import shutil

import pytest

from mmrl import content
from mmrl.content import mark_of


def model(folder):
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "a.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "policy" / "config.json").write_text("{}")
    (folder / "config.yaml").write_text("x: 1")
    (folder / "metrics.jsonl").write_text("")
    return folder


def test_a_copy_elsewhere_has_the_same_mark_whenever_it_was_made(tmp_path):
    one = model(tmp_path / "one")
    shutil.copytree(one, tmp_path / "other", copy_function=shutil.copyfile)
    assert mark_of(one) == mark_of(tmp_path / "other")
    (one / "metrics.jsonl").write_text("a step")  # a run goes on to write of itself
    assert mark_of(one) == mark_of(tmp_path / "other")


@pytest.mark.parametrize("name", ["policy/a.safetensors", "policy/config.json", "config.yaml", "policy/b.safetensors"])
@pytest.mark.parametrize("large", [False, True], ids=["read whole", "read in pieces"])
def test_another_content_has_another_mark(tmp_path, monkeypatch, name, large):
    if large:
        monkeypatch.setattr(content, "_WHOLE", 1000)
        monkeypatch.setattr(content, "_PIECES", 8)
        monkeypatch.setattr(content, "_PIECE", 64)
    folder = model(tmp_path / "one")
    before = mark_of(folder)
    file = folder / name
    size = file.stat().st_size if file.exists() else 10
    file.write_bytes(b"\x07" * size)
    assert mark_of(folder) != before


def test_the_ends_of_a_large_file_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_WHOLE", 1000)
    monkeypatch.setattr(content, "_PIECE", 64)
    file = tmp_path / "a.bin"
    found = set()
    for place in (None, 0, 19_999):
        data = bytearray(20_000)
        if place is not None:
            data[place] = 1
        file.write_bytes(data)
        found.add(mark_of(file))
    assert len(found) == 3
