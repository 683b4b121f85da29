import json
import os

import numpy as np
import pytest
from PIL import Image

from mmrl.media import Media, View
from mmrl.reporting import samples
from mmrl.reporting.sample_index import list_tags, read_index
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import write_offending, write_step
from mmrl.types import Group, Prompt, Sample, Score, Turn


def two_groups():
    first, second = Prompt("a", "same words"), Prompt("b", "same words")
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    ok = Score.of(0.75, boxes=np.array([1, 2]), iou=float("nan"))
    return [
        Group(first, 10, [Sample(first, 0, picture, scores={"iou": ok}, reward=0.75, advantage=1.25)]),
        Group(
            second,
            11,
            [
                Sample(second, 0, "an answer", stop="length", scores={"judge": Score.invalid("HTTP 503")}),
                Sample(second, 3, None, stop="error", scores={"judge": Score.of(None)}),
            ],
        ),
    ]


def test_a_step_comes_back(tmp_path):
    write_step(tmp_path, "step_000012", two_groups(), {"stage": "grpo"})
    (first, second), extra = read_step(tmp_path, "step_000012")
    assert extra == {"stage": "grpo"}
    assert (first.prompt, first.index, second.prompt.id, second.index) == (
        Prompt("a", "same words"),
        10,
        "b",
        11,
    )
    sample = first.samples[0]
    assert sample.artifact.tobytes() == bytes(range(48))
    assert (sample.reward, sample.advantage, sample.stop) == (0.75, 1.25, "done")
    assert sample.scores["iou"] == Score(0.75, details={"boxes": [1, 2], "iou": None})
    assert second.samples[0].artifact == "an answer"
    assert second.samples[0].scores["judge"] == Score(None, "HTTP 503", "invalid")
    assert second.samples[1].scores["judge"].status == "na"
    assert [(s.index, s.reward, s.stop) for s in second.samples] == [(0, None, "length"), (3, None, "error")]
    assert second.samples[1].artifact is None


def test_the_index_is_strict_json(tmp_path):
    folder = write_step(tmp_path, "eval_before", two_groups())

    def refuse(constant):
        raise AssertionError(constant)

    index = json.loads((folder / "index.json").read_text(), parse_constant=refuse)
    assert index["groups"][0]["samples"][0]["file"] == "0000_000.png"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writing_a_step_again_changes_nothing_and_fewer_samples_leave_no_stale_file(tmp_path):
    once = contents(write_step(tmp_path, "step_000001", two_groups()))
    again = contents(write_step(tmp_path, "step_000001", two_groups()))
    assert once == again
    fewer = contents(write_step(tmp_path, "step_000001", two_groups()[:1]))
    assert set(fewer) == {"0000_000.png", "index.json"}
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_000001"]


class PowerCut(BaseException):
    """Ends the process where it is raised: nothing is cleaned up behind it."""


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_crash_at_any_moment_leaves_a_whole_step_or_none_and_a_later_write_repairs_it(tmp_path, monkeypatch, call):
    """The new folder has no room (call 1), so the old one is moved aside (2), and the new one into its place (3)."""
    before = contents(write_step(tmp_path, "step_000001", two_groups()[:1]))
    calls = []

    def counted(original):
        def wrapper(*args, **kwargs):
            calls.append(args)
            if len(calls) >= call:
                raise PowerCut
            return original(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(samples.os, "replace", counted(os.replace))
        removed = samples.shutil.rmtree
        patch.setattr(samples.shutil, "rmtree", lambda p, **k: None if calls else removed(p, **k))
        if call < 4:
            with pytest.raises(PowerCut):
                write_step(tmp_path, "step_000001", two_groups())
        else:
            write_step(tmp_path, "step_000001", two_groups())
    if call < 3:
        assert contents(tmp_path / "samples" / "step_000001") == before
    assert list_tags(tmp_path) == ([] if call == 3 else ["step_000001"])
    write_step(tmp_path, "step_000001", two_groups())
    assert len(read_step(tmp_path, "step_000001")[0]) == 2
    assert os.listdir(tmp_path / "samples") == ["step_000001"]


def test_a_failing_artifact_keeps_the_step_that_was_there(tmp_path):
    before = contents(write_step(tmp_path, "step_000001", two_groups()))
    bad = two_groups()
    bad[0].samples[0].artifact = object()
    with pytest.raises(TypeError, match="object"):
        write_step(tmp_path, "step_000001", bad)
    assert contents(tmp_path / "samples" / "step_000001") == before


@pytest.mark.parametrize("tag", ["../up", "a/b", "", ".hidden", "a b"])
def test_tags_are_file_names(tmp_path, tag):
    with pytest.raises(ValueError, match="sample tag"):
        write_step(tmp_path, tag, [])
    assert os.listdir(tmp_path) == []


def test_a_foreign_index_cannot_point_outside_its_folder(tmp_path):
    folder = write_step(tmp_path, "step_000001", two_groups())
    index = json.loads((folder / "index.json").read_text())
    index["groups"][0]["samples"][0]["file"] = "../../secret.txt"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="inside the folder"):
        read_index(tmp_path, "step_000001")


def test_offending_groups_are_kept_one_folder_each(tmp_path):
    write_offending(tmp_path, two_groups(), "loss is NaN")
    write_offending(tmp_path, two_groups()[:1], "ratio is 40 on the first update")
    assert list_tags(tmp_path) == ["offending_000001", "offending_000002"]
    assert read_index(tmp_path, "offending_000001")["extra"] == {"why": "loss is NaN"}
    assert len(read_index(tmp_path, "offending_000002")["groups"]) == 1


# -------------------------------------------------------------------- pictures that a policy was shown

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def shown_group(views):
    """One sample for each list of views; its turns are the question, and an answer between two pictures."""
    prompt = Prompt("q", "Where?")
    group = Group(prompt, 0)
    for number, seen in enumerate(views):
        media = tuple(Media(view, SCENE.size, (56, 28), tokens=8) for view in seen)
        turns = [Turn("user", "<image>Where?", (0,)), Turn("assistant", "there", trained=True)]
        turns += [Turn("user", "<image>", (place,)) for place in range(1, len(media))]
        group.samples.append(Sample(prompt, number, "there", turns=tuple(turns), media=media, info={"crop": "ok"}))
    return group


def cut(sample, media):
    return SCENE.crop([round(v) for v in media.view.crop or (0, 0, *SCENE.size)])


def test_each_different_picture_is_stored_once_per_group(tmp_path):
    first, second = View(0, (2.0, 4.0, 30.0, 20.0)), View(0, (0.0, 0.0, 10.0, 10.0))
    group = shown_group([[View(), first], [View(), second], [View(), first], [View()]])
    folder = write_step(tmp_path, "step_000001", [group, shown_group([[View()]])], render=cut)
    assert len(list(folder.glob("*_seen_*.png"))) == 3 + 1
    samples_ = read_index(tmp_path, "step_000001")["groups"][0]["samples"]
    files = [[shown["file"] for shown in sample["media"]] for sample in samples_]
    assert len({names[0] for names in files}) == 1
    assert files[0] == files[2] != files[1]
    assert samples_[0]["media"][1]["crop"] == [2.0, 4.0, 30.0, 20.0]
    stored = Image.open(folder / files[0][1])
    assert stored.tobytes() == SCENE.crop((2, 4, 30, 20)).tobytes()


def test_a_conversation_comes_back_from_the_store(tmp_path):
    group = shown_group([[View(), View(0, (2.5, 4.0, 30.0, 20.0), (64, 32))]])
    write_step(tmp_path, "step_000001", [group], render=cut)
    (back,), _ = read_step(tmp_path, "step_000001")
    (before,), (after,) = group.samples, back.samples
    assert (after.turns, after.media, after.info) == (before.turns, before.media, before.info)


def test_a_picture_that_is_gone_is_told_and_stops_nothing(tmp_path):
    def gone(sample, media):
        raise FileNotFoundError("scene.png is gone")

    write_step(tmp_path, "step_000001", [shown_group([[View()], [View()]])], render=gone)
    for sample in read_index(tmp_path, "step_000001")["groups"][0]["samples"]:
        assert "scene.png is gone" in sample["media"][0]["problem"]
        assert "file" not in sample["media"][0]


def test_a_shown_picture_outside_of_the_folder_is_refused(tmp_path):
    folder = write_step(tmp_path, "step_000001", [shown_group([[View()]])], render=cut)
    index = json.loads((folder / "index.json").read_text())
    index["groups"][0]["samples"][0]["media"][0]["file"] = "../../secret.png"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="file name inside the folder"):
        read_index(tmp_path, "step_000001")


def test_a_modality_that_draws_nothing_stores_nothing(tmp_path):
    """The default of `Adapter.picture`."""
    folder = write_step(tmp_path, "step_000001", [shown_group([[View()]])], render=lambda sample, media: None)
    assert set(contents(folder)) == {"0000_000.txt", "index.json"}
    (shown,) = read_index(tmp_path, "step_000001")["groups"][0]["samples"][0]["media"]
    assert "file" not in shown
    assert "problem" not in shown


# -------------------------------------------------------------------- several processes


def step_groups(count=7):
    groups = [shown_group([[View()], [View(), View(0, (0.0, 0.0, 10.0, 10.0))]]) for _ in range(count)]
    for index, group in enumerate(groups):
        group.index = index
        group.samples[0].reward, group.samples[0].artifact = float(index), f"answer {index}"
        group.samples[1].artifact = SCENE.crop((0, 0, index + 1, 4))
    return groups


def read_back(run_dir, tag):
    """What a reader finds: all records and what each file holds, whatever the file is called."""
    groups, extra = read_step(run_dir, tag)
    stored = read_index(run_dir, tag)["groups"]
    files = [
        [(run_dir / "samples" / tag / shown["file"]).read_bytes() for s in g["samples"] for shown in s["media"]]
        for g in stored
    ]
    rows = [
        (g.prompt, g.index, [(s.index, s.reward, s.info, s.turns, s.media, _bytes(s.artifact)) for s in g.samples])
        for g in groups
    ]
    return rows, files, extra


def _bytes(artifact):
    return artifact if isinstance(artifact, str) else artifact.tobytes()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_samples_are_the_same_whatever_the_number_of_processes(tmp_path, parts, order):
    """Nine processes write seven groups: two of them have none."""
    write_step(tmp_path / "one", "step_000001", step_groups(), {"stage": "grpo"}, cut)
    for part in range(parts)[::order]:
        mine = step_groups()[part::parts]
        write_step(tmp_path / "many", "step_000001", mine, {"stage": "grpo"}, cut, part=part, parts=parts)
    assert read_back(tmp_path / "many", "step_000001") == read_back(tmp_path / "one", "step_000001")
    assert list_tags(tmp_path / "many") == ["step_000001"]
    assert os.listdir(tmp_path / "many" / "samples") == ["step_000001"]


def test_groups_that_each_process_counts_for_itself_come_in_turn(tmp_path):
    """As in an evaluation: every process's first groups have the same place."""
    for part in range(3):
        mine = step_groups()[part::3]
        for place, group in enumerate(mine):
            group.index = place
        write_step(tmp_path, "eval_after", mine, part=part, parts=3)
    rewards = [g["samples"][0]["reward"] for g in read_index(tmp_path, "eval_after")["groups"]]
    assert rewards == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("order", [1, -1])
def test_another_number_of_processes_replaces_a_step(tmp_path, before, after, order):
    """A resume may write a step again; nothing of the first writing is read or left."""
    for part in range(before):
        write_step(tmp_path, "step_000001", step_groups(12)[part::before], part=part, parts=before)
    for part in range(after)[::order]:
        write_step(tmp_path, "step_000001", step_groups(5)[part::after], part=part, parts=after)
    index = read_index(tmp_path, "step_000001")
    assert [g["index"] for g in index["groups"]] == [0, 1, 2, 3, 4]
    assert index["missing"] == []
    left = sorted(p.name for p in (tmp_path / "samples" / "step_000001").glob("*") if p.is_dir())
    assert left == ([f"part_{n:04d}" for n in range(after)] if after > 1 else [])


def test_a_process_that_never_wrote_is_named_and_the_others_are_read(tmp_path):
    for part in (0, 2):
        write_step(tmp_path, "step_000001", step_groups(6)[part::3], part=part, parts=3)
    index = read_index(tmp_path, "step_000001")
    assert [g["index"] for g in index["groups"]] == [0, 2, 3, 5]
    assert index["missing"] == ["part_0001"]


@pytest.mark.parametrize(("part", "parts"), [(2, 2), (-1, 2), (0, 0)])
def test_parts_are_counted_from_0(tmp_path, part, parts):
    with pytest.raises(ValueError, match="counted from 0"):
        write_step(tmp_path, "step_000001", [], part=part, parts=parts)


def test_offending_groups_of_several_processes_meet_in_no_folder(tmp_path):
    """All look for the next number at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda n: write_offending(tmp_path, two_groups(), f"why {n}"), range(8)))
    assert len(set(folders)) == 8
    told = {read_index(tmp_path, tag)["extra"]["why"] for tag in list_tags(tmp_path, "offending_")}
    assert told == {f"why {n}" for n in range(8)}
