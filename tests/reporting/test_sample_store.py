import json
import os

import numpy as np
import pytest
from PIL import Image

from mmrl.media import Media, View
from mmrl.reporting import samples
from mmrl.reporting.samples import list_tags, read_index, read_step, write_offending, write_step
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


def test_an_unfinished_step_is_invisible_and_a_later_write_repairs_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(samples.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            write_step(tmp_path, "step_000001", two_groups())
    assert os.listdir(tmp_path / "samples") == [".step_000001.tmp"]
    assert list_tags(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="stored tags: none"):
        read_step(tmp_path, "step_000001")
    write_step(tmp_path, "step_000001", two_groups())
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
