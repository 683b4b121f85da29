"""Videos of records are shown as pictures in their order, at the places that the texts give them."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.prompts import load_prompts
from mmrl.data.records import Records
from mmrl.data.videos import with_frames
from mmrl.films import FilmError, frames_of
from mmrl.media import Clip
from mmrl.pictures import PictureError, image_size, open_image

COLOURS = [(20 * n, 200 - 20 * n, 90) for n in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten frames of one colour each: as files, as a GIF and a WebP, and a film of them."""
    place = tmp_path_factory.mktemp("films")
    frames = [Image.new("RGB", (32, 16), colour) for colour in COLOURS]
    (place / "walk").mkdir()
    for number, frame in enumerate(frames):
        frame.save(place / "walk" / f"{number + 1}.png")
    frames[0].save(place / "walk.gif", save_all=True, append_images=frames[1:])
    frames[0].save(place / "walk.webp", save_all=True, append_images=frames[1:], lossless=True)
    (place / "empty").mkdir()
    (place / "text.gif").write_text("no film")
    return place


@pytest.fixture(scope="module")
def film(folder):
    av = pytest.importorskip("av")
    with av.open(str(folder / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for colour in COLOURS:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 16), colour))))
        container.mux(stream.encode())
    return "walk.mp4"


@pytest.mark.parametrize("name", ["walk", "walk.gif", "walk.webp", None])
def test_a_film_that_a_model_is_to_draw_is_opened_frame_by_frame(folder, tmp_path, name):
    shown = [Image.new("RGB", (32, 16), colour) for colour in COLOURS] if name is None else name
    where = str(folder / f"target_{name}.jsonl")
    if name is None:
        (tmp_path / "films.py").write_text(
            "from PIL import Image\n\ndef film(index):\n"
            f"    return {{'prompt': 'x', 'video': [Image.new('RGB', (32, 16), c) for c in {COLOURS}]}}\n"
        )
        where = f"{tmp_path / 'films.py'}:film"
    else:
        (folder / f"target_{name}.jsonl").write_text(json.dumps({"prompt": "x", "video": shown}) + "\n")
    record = Records(DataConfig(records=where, video_frames=5), ("video",)).get(0)
    assert isinstance(record["video"], Clip) and record["video"].size == (32, 16)
    near([frame.getpixel((5, 5)) for frame in record["video"].frames], [COLOURS[n] for n in (1, 3, 5, 7, 9)])


def test_a_film_to_draw_that_is_missing_or_too_large_is_named(folder):
    for name, value, message in (("a", "nowhere", "video 'nowhere'"), ("b", "walk.gif", "over data.max_pixels=7")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "x", "video": value}) + "\n")
        with pytest.raises(ConfigError, match=message):
            Records(DataConfig(records=str(folder / f"{name}.jsonl"), max_pixels=7), ("video",))


def colours(record, folder):
    return [open_image(ref, str(folder), 10**6).getpixel((5, 5)) for ref in record["images"]]


def near(found, wanted, by=6):
    assert len(found) == len(wanted)
    assert all(abs(a - b) <= by for one, other in zip(found, wanted) for a, b in zip(one, other))


@pytest.mark.parametrize("name", ["walk", "walk.gif", "walk.webp"])
@pytest.mark.parametrize(
    ("most", "numbers"),
    [(10, list(range(10))), (20, list(range(10))), (5, [1, 3, 5, 7, 9]), (2, [2, 7]), (1, [5])],
)
def test_frames_are_spread_evenly_and_come_in_order(folder, name, most, numbers):
    record = with_frames({"prompt": "<video> What?", "videos": [name]}, str(folder), most)
    assert record["prompt"] == "<image>" * len(numbers) + " What?" and set(record) == {"prompt", "images"}
    near(colours(record, folder), [COLOURS[n] for n in numbers])


def test_a_film_is_read_by_pyav(folder, film):
    record = with_frames({"prompt": "<video>", "videos": [film]}, str(folder), 4)
    assert record["images"] == [f"walk.mp4#frame={n}" for n in (1, 3, 6, 8)]
    near(colours(record, folder), [COLOURS[n] for n in (1, 3, 6, 8)], by=30)  # compressed
    assert image_size(record["images"][0], str(folder), 10**6) == (32, 16)
    with pytest.raises(PictureError, match=r"walk\.mp4#frame=1': 32x16 is over data\.max_pixels=100"):
        open_image(record["images"][0], str(folder), 100)
    with pytest.raises(PictureError, match="has no frame 99"):
        open_image("walk.mp4#frame=99", str(folder), 10**6)


def test_a_film_without_pyav_is_one_line(folder, film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"""^video 'walk\.mp4': films .* 'av': pip install "mmrl\[video\]"$"""):
        with_frames({"prompt": "<video>", "videos": [film]}, str(folder), 4)


@pytest.mark.parametrize(
    ("record", "prompt", "images"),
    [
        # Where nothing marks them they come first, as pictures do.
        ({"prompt": "What?", "videos": [["1.png", "2.png"]], "image": "a.png"}, "What?", ["1.png", "2.png", "a.png"]),
        # Marks of both kinds: each takes the next of its own.
        (
            {"prompt": "<image> <video> <image>", "videos": [["1.png", "2.png"]], "images": ["a.png", "b.png"]},
            "<image> <image><image> <image>",
            ["a.png", "1.png", "2.png", "b.png"],
        ),
        # Names of stills alone are the frames of one.
        ({"prompt": "<video>", "videos": ["1.png", "2.png"]}, "<image><image>", ["1.png", "2.png"]),
        ({"prompt": "<video><video>", "videos": ["1.png", "2.png"]}, "<image><image>", ["1.png", "2.png"]),
        ({"prompt": "<video>", "video": ["1.png", "2.png"]}, "<image><image>", ["1.png", "2.png"]),
        # A column of that name that no text marks is the record's own.
        ({"prompt": "a red dot", "video": "cut 3"}, "a red dot", None),
        ({"prompt": "a red dot", "videos": None}, "a red dot", None),
    ],
)
def test_marks_say_where_frames_stand(tmp_path, record, prompt, images):
    for name in ("1.png", "2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = with_frames(record, str(tmp_path), 8)
    assert found["prompt"] == prompt and found.get("images") == ([] if images == [] else images)


@pytest.mark.parametrize(
    "content", ["<video>What?", [{"type": "video", "video": "x"}, {"type": "text", "text": "What?"}]]
)
def test_videos_of_messages_stand_in_them(folder, content):
    record = {"messages": [{"role": "system", "content": "Look."}, {"role": "user", "content": content}]}
    found = with_frames({**record, "videos": ["walk.gif"]}, str(folder), 2)
    assert [m["content"] for m in found["messages"]] == ["Look.", "<image><image>What?"]
    assert found["images"] == ["walk.gif#frame=2", "walk.gif#frame=7"]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "<video><video>", "videos": ["walk.gif"]}, "<video> stands 2 times in the text, and there are 1"),
        ({"prompt": "<video>", "videos": ["none.gif"]}, "video 'none.gif': is no folder and no file"),
        ({"prompt": "<video>", "videos": ["empty"]}, "video 'empty': is a folder without pictures"),
        ({"prompt": "<video>", "videos": ["text.gif"]}, "video 'text.gif': cannot be read"),
        ({"prompt": "<video>", "videos": ["../a.gif"]}, "video '../a.gif': must be a file below"),
        ({"prompt": "<video>", "videos": ["https://x.org/a.mp4"]}, "URLs are not opened"),
        ({"prompt": "<video>", "videos": [5]}, "video of the record: is int, expected"),
        ({"prompt": "<video>", "videos": [[]]}, "has no frames"),
        ({"prompt": "<image> or", "videos": ["walk.gif"], "images": ["a.png"]}, "nothing says where the videos are"),
        ({"prompt": "<video><image>", "videos": ["walk.gif"]}, "<image> stands more often"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(folder, record, told):
    with pytest.raises(ValueError) as raised:
        with_frames(record, str(folder), 2)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_a_run_s_prompts_have_their_frames(folder, tmp_path):
    import json

    source = folder / "prompts.jsonl"
    source.write_text(json.dumps({"prompt": "<video>What moves?", "videos": ["walk.gif"]}) + "\n")
    (prompt,) = load_prompts(str(source), {}, "stop", video_frames=3)
    assert prompt.text == "<image><image><image>What moves?"
    assert prompt.record["images"] == [f"walk.gif#frame={n}" for n in (1, 5, 8)]
    near(colours(prompt.record, folder), [COLOURS[n] for n in (1, 5, 8)])


def test_a_frame_that_is_asked_for_is_opened_without_a_warning(folder, recwarn):
    assert open_image("walk.gif#frame=0", str(folder), 10**6).size == (32, 16)
    assert not [w for w in recwarn if "frames" in str(w.message)]


def test_other_files_are_no_films(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FilmError, match="is no film: give a folder of pictures, or a file of"):
        frames_of("a.txt", tmp_path / "a.txt", 3)
