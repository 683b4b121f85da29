"""Published record formats become ours: told by their columns, with the same pictures; bad ones named by line."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from every import every
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import FORMATS, format_of, normalised, unseen
from mmrl.data.images import stored_images
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import load_prompts, training_prompts
from mmrl.data.records import KeptRecords, Records
from mmrl.importing import import_file
from mmrl.modalities.adapter import Adapter
from mmrl.pictures import PictureError, open_image
from mmrl.share import share
from mmrl.training.assemble import load_prompts as load_config_prompts

SAMPLES = share("datasets", "emoji_scenes", "formats")
PUBLISHED = ("satori", "mgpo", "visionthink", "vlm_r1", "mmpr", "trl", "ui_s1")
BOUND = 1_000_000


def jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sample(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def red(tmp_path) -> Path:
    Image.new("RGB", (4, 2), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (2, 4), (10, 10, 200)).save(tmp_path / "blue.png")
    return tmp_path


# -------------------------------------------------------------------- boxes in words


@every(
    ("said", "boxes", "objects"),
    [
        ("[1, 2, 30, 40]", [[1, 2, 30, 40]], None),
        ([1, 2, 30, 40], [[1, 2, 30, 40]], None),
        ("<answer> [[1, 2, 3, 4], [5, 6, 7, 8]] </answer>", [[1, 2, 3, 4], [5, 6, 7, 8]], None),
        ('{"bbox_2d": [1, 2, 3, 4]}', [[1, 2, 3, 4]], None),
        (
            '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]\n```',
            [[1, 2, 3, 4]],
            [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}],
        ),
        ("[]", [], []),
        *(
            (text, None, None)
            for text in ("7", "yes", "[1, 2, 3]", "[1, 2, [3], 4]", '{"a": 1}', "[[1,2,3,4], 5]", "[")
        ),
    ],
)
def test_an_answer_of_boxes_becomes_the_columns_that_rewards_read(said, boxes, objects):
    turns = [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": said}]
    made = normalised({"image": "a.png", "conversations": turns})
    assert (made.get("boxes"), made.get("objects")) == (boxes, objects)


def test_columns_of_boxes_that_are_there_stay():
    turns = [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": "[1, 2, 3, 4]"}]
    made = normalised({"image": "a.png", "conversations": turns, "boxes": [[0, 0, 9, 9]]})
    assert made["boxes"] == [[0, 0, 9, 9]]


# -------------------------------------------------------------------- the samples that ship


@every("name", PUBLISHED)
def test_a_published_record_is_told_by_its_columns_and_ours_stays_as_it_is(name):
    for record in sample(name):
        assert format_of(record) == name
        before = json.dumps(record)
        made = normalised(record)
        assert json.dumps(record) == before
        assert made == normalised(record, name)
        assert {key: made[key] for key in record if key not in ("prompt", "messages")} == {
            key: record[key] for key in record if key not in ("prompt", "messages")
        }
        assert normalised(made) == made
        assert isinstance(made["prompt"], str)
        assert all(isinstance(m["content"], str) for m in made.get("messages", []))


@every("name", PUBLISHED)
def test_a_sample_is_read_as_prompts_whose_pictures_open(name):
    prompts = load_prompts(f"share://datasets/emoji_scenes/formats/{name}.jsonl", {}, "stop")
    assert 5 <= len(prompts) <= 10
    for prompt in prompts:
        for ref in prompt.record["images"]:
            assert open_image(ref, prompt.root, BOUND).size == (160, 160)


def test_the_samples_of_all_formats_say_the_same_of_a_picture():
    for index in range(6):
        made = {name: normalised(sample(name)[index]) for name in PUBLISHED if name != "ui_s1"}
        odd = index % 2
        assert {tuple(record["images"]) for record in made.values()} == {(f"pictures/scene-{index}.jpg",)}
        number = made["mmpr"]["chosen"]
        assert made["mmpr"]["rejected"] != number
        assert f"({made['mgpo']['answer']}) {number}" in made["mgpo"]["prompt"]
        asked = {name for name, record in made.items() if "Which number" in record["prompt"]}
        assert asked == {"mmpr", "mgpo", *(["satori", "visionthink"] if odd else ["trl"])}
        for name in asked - {"mgpo", "mmpr"}:
            assert made[name]["answer"] == number
        kinds = made["satori"]["image_caption"].split(", ")
        (target,) = {kind for kind in kinds if kind in made["mmpr"]["prompt"]}
        if odd:
            assert made["trl"]["answer"] in kinds
            assert f"Where is the {target}?" in made["vlm_r1"]["prompt"]
            assert json.loads(made["vlm_r1"]["answer"]) == {"bbox_2d": made["satori"]["bboxs"][0]}
        else:
            assert made["satori"]["answer"] in kinds
            assert made["visionthink"]["answer"] == str(len(kinds))
            assert made["vlm_r1"]["answer"] in ("yes", "no")


def test_tapping_the_experts_point_changes_the_next_screen():
    for record in sample("ui_s1"):
        made = normalised(record)
        screens = [np.asarray(open_image(name, SAMPLES, BOUND), int) for name in made["images"]]
        assert len(screens) == len(made["steps"]) == 3
        for before, after, step in zip(screens, screens[1:], made["steps"]):
            x1, y1, x2, y2 = step["action_content"]["bbox"]
            x, y = step["action_content"]["coordinate"]
            assert x1 < x < x2
            assert y1 < y < y2
            difference = np.abs(before - after).mean(-1)
            assert difference[y1:y2, x1:x2].mean() > 10 * difference.mean()


def test_the_script_makes_samples_of_the_same_columns(tmp_path):
    build = import_file(share("datasets", "emoji_scenes", "build_formats.py"))
    build.FOLDER = tmp_path
    build.main()
    shipped = sorted(path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.suffix in (".jpg", ".jsonl"))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()) == shipped
    for name in PUBLISHED:
        made = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [set(record) for record in made] == [set(record) for record in sample(name)]


# -------------------------------------------------------------------- what becomes of the columns


def test_every_format_has_a_name_and_ours_is_the_default():
    assert set(PUBLISHED) < set(FORMATS)
    assert format_of({"prompt": "x", "answer": 1}) == format_of({}) == "plain"
    assert format_of({"problem": "x", "answer": 1}) == "plain"  # without pictures: text, named by data.columns
    record = {"prompt": "37+58=", "answer": "95", "solution": "a", "tools": None}
    assert normalised(record) == record


def test_parts_of_messages_become_marks_and_their_pictures_images():
    parts = [
        {"type": "text", "text": "first", "image": None},
        {"type": "image", "text": None, "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "b.png"}},
        {"text": "second"},
        "third",
    ]
    made = normalised({"prompt": [{"role": "user", "content": parts}]})
    assert made["messages"] == [{"role": "user", "content": "first<image><image>secondthird"}]
    assert made["prompt"] == "first<image><image>secondthird"
    assert made["images"] == ["a.png", "b.png"]
    with pytest.raises(
        ValueError, match=r"a part of a message is neither text nor picture nor sound: \{.type.: .video.\}"
    ):
        normalised({"messages": [{"role": "user", "content": [{"type": "video"}]}]})


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<image>one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "2"},
]


def test_the_last_answer_of_a_conversation_is_its_completion():
    made = normalised({"messages": CHAT, "images": ["a.png"], "solution": "2"})
    assert (made["messages"], made["completion"], made["answer"]) == (CHAT[:4], "2", "2")
    assert made["prompt"] == "two"
    pair = normalised({"messages": CHAT, "images": ["a.png"], "rejected_response": "3"})
    assert (pair["messages"], pair["chosen"], pair["rejected"]) == (CHAT[:4], "2", "3")
    assert "completion" not in pair
    given = normalised({"messages": CHAT, "images": ["a.png"], "completion": "two"})
    assert given["completion"] == "two"


def test_answers_as_messages_become_texts():
    prompt = [{"role": "user", "content": "what?"}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]
    other = [{"role": "assistant", "content": "a dog"}]
    made = normalised({"prompt": prompt, "chosen": answer, "rejected": other, "completion": answer})
    assert (made["chosen"], made["rejected"], made["completion"]) == ("a cat", "a dog", "a cat")
    for kept in ([5, 6, 7], ["turn one", "turn two"], []):
        assert normalised({"prompt": prompt, "completion": kept})["completion"] == kept
    with pytest.raises(ValueError, match="`chosen` has two messages of role assistant one behind the other; join them"):
        normalised({"prompt": prompt, "chosen": answer * 2, "rejected": other})


def test_llava_conversations_keep_their_turns():
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "<image>\nwhich?"},
        {"from": "gpt", "value": 4.5},
    ]
    made = normalised({"conversations": turns, "image": ["a.png"]})
    assert [m["role"] for m in made["messages"]] == ["system", "user"]
    assert (made["answer"], made["completion"], made["images"]) == ("4.5", "4.5", ["a.png"])
    spoken = normalised({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]})
    assert (spoken["prompt"], spoken["completion"]) == ("hi", "ho")
    assert "images" not in spoken


@every(
    ("choices", "lines"),
    [
        (["red", "blue"], ["A. red", "B. blue"]),
        (["(A) red", "(B) blue"], ["(A) red", "(B) blue"]),
        (["A. red", "B. blue"], ["A. red", "B. blue"]),
        ({"A": "red", "B": 7, "C": None}, ["A. red", "B. 7"]),
        (None, []),
    ],
)
def test_choices_are_written_under_the_question(choices, lines):
    made = normalised({"question": "Which?", "choices": choices, "answer": "A", "image": "a.png"})
    assert made["prompt"].split("\n") == ["Which?", *lines]
    assert (made["images"], made["answer"]) == (["a.png"], "A")


def test_names_and_pictures_of_tables():
    picture = Image.new("L", (1, 1))
    draw = functools.partial(Image.new, "L", (1, 1))
    held = {"bytes": b"123", "path": "x.png"}
    named = {"bytes": None, "path": "y.png"}
    made = normalised({"problem": "<image>" * 5, "images": ["a.png", picture, draw, held, named]})
    assert made["images"] == ["a.png", picture, draw, held, "y.png"]
    assert normalised({"prompt": "<image>", "images": "a.png"})["images"] == ["a.png"]


def test_a_picture_that_a_caption_describes_stays_a_column():
    """Training data of image models: the picture is what is made, not what is asked about."""
    record = {"prompt": "a red dot", "image": "red.png"}
    assert normalised(record) == record
    asked = normalised({"prompt": "<image>what is it?", "image": "red.png"})
    assert asked["images"] == ["red.png"]
    assert normalised(record, "trl")["images"] == ["red.png"]


# -------------------------------------------------------------------- what the policy would see

EMPTY = [{}, {"images": None}, {"images": []}]
ASKED = {
    "trl": {"prompt": [{"role": "user", "content": "what?"}]},
    "swift": {"messages": [{"role": "user", "content": "what?"}]},
    "visionthink": {"problem": "what?"},
    "vlm_r1": {"conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a cat"}]},
    "mmpr": {"question": "what?", "chosen": "a", "rejected": "b"},
    "mgpo": {"question": "what?"},
}


@every("empty", EMPTY)
@every("name", ASKED)
def test_an_empty_list_of_pictures_hides_none(empty, name):
    """Whatever the format, `images` that hold nothing beside `image` are as good as no column."""
    made = normalised({**ASKED[name], **empty, "image": "a.png"})
    assert made["images"] == ["a.png"]
    assert normalised({"prompt": "<image>what?", **empty, "image": "a.png"})["images"] == ["a.png"]
    assert normalised({"question": "what?", **empty, "image_path": "a.png"})["images"] == ["a.png"]
    plain = normalised({"prompt": "what?", **empty, "image": "a.png"})
    assert plain.get("images", plain["image"]) == "a.png"  # as the adapter asks
    steps = [{"screenshot": "a.png", "action_content": {}}]
    assert normalised({"goal": "go", "steps": steps, **empty})["images"] == ["a.png"]
    assert "messages" not in normalised({"prompt": "what?", "messages": [], **empty})


@every("column", ["system", "system_prompt"])
@every("name", ASKED)
def test_a_system_text_comes_first_in_every_format(name, column):
    made = normalised({**ASKED[name], "image": "a.png", column: "Be brief."})
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what?"}]
    assert (made["messages"], made["prompt"]) == (said, "what?")
    assert normalised(made) == made
    assert not unseen(made)
    blank = normalised({**ASKED[name], "image": "a.png", column: " "})
    assert blank.get("messages", said[1:]) == said[1:]


@every(
    ("columns", "told"),
    [
        ({"system": "other"}, "`system` and the first message, of role system, say different things"),
        ({"system": "Be brief.", "system_prompt": "other"}, "`system` and `system_prompt` say different things"),
        ({"system": ["Be brief."]}, "`system` is list, expected a text"),
    ],
)
def test_system_texts_that_contradict_are_refused(columns, told):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what?"}]
    assert normalised({"messages": messages, "system": "Be brief."})["messages"] == messages
    with pytest.raises(ValueError, match=told):
        normalised({"messages": messages, **columns})


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({**ASKED["swift"], "tools": "[]", "rejected_images": ["a.png"], "audios": []}, {"rejected_images"}),
        ({**ASKED["trl"], "chat_template_kwargs": {"enable_thinking": False}}, set()),
        ({"prompt": "what?", "tools": ["hammer"]}, {"tools"}),
        ({**ASKED["visionthink"], "images": ["red.png"], "image": "blue.png"}, {"image"}),
        ({**ASKED["visionthink"], "images": ["red.png"], "image": "red.png"}, set()),
        ({"prompt": "what?", "system": "Be brief."}, {"system"}),
        ({"prompt": "a red dot", "images": ["red.png"], "image": "blue.png", "video": "cut 3"}, set()),
        ({"prompt": "what?", "answer": "a", "level": 3}, set()),
    ],
)
def test_columns_that_nobody_sees_are_told_once(red, record, columns):
    assert unseen(record) == columns
    source = jsonl(red / "a.jsonl", [record, record, record])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load_prompts(source, {}, "stop")
    told = {f"{source}:1: the column `{column}` is not shown to the policy" for column in columns}
    assert sorted(str(w.message) for w in warned) == sorted(told)


@every(
    ("record", "told"),
    [
        (
            {"messages": [{"role": "user", "content": "<video>what?"}], "videos": ["a.mp4"]},
            "<video> stands in",
        ),
        ({"prompt": "<audio><audio>what?", "audio": "a.wav"}, "<audio> stands 2 times in the text, and there are 1"),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, "what?"]}],
                "images": ["b.png"],
            },
            "pictures stand in the messages and in `images`",
        ),
        (
            {"messages": [{"role": "user", "content": "find <ref-object>"}], "objects": {"ref": ["a"], "bbox": []}},
            "`objects` of {ref, bbox} fill marks",
        ),
        ({"conversations": [{"from": "human", "value": None}]}, "a `value` that is null"),
        ({"prompt": "what?", "messages": "hello"}, "`messages` must be a list"),
    ],
)
def test_what_the_policy_would_see_otherwise_is_refused(record, told):
    with pytest.raises(ValueError, match=told):
        normalised(record)


def test_the_same_picture_may_stand_in_the_message_and_in_the_column():
    content = [{"type": "image", "image": "a.png"}, "what?"]
    for column in ({"images": ["a.png"]}, {"image": "a.png"}):
        assert normalised({"prompt": [{"role": "user", "content": content}], **column})["images"] == ["a.png"]


# -------------------------------------------------------------------- records that are none


@every(
    ("record", "form", "told"),
    [
        ({"prompt": "<image>a<image>", "images": ["a.png"]}, "auto", "<image> stands 2 times.* there are 1 pictures"),
        ({"prompt": "<image>a", "images": ["a.png", "b.png"]}, "auto", "stands 1 times.* there are 2 pictures"),
        ({"prompt": "<image>a"}, "auto", "stands 1 times.* there are no `images`"),
        ({"prompt": "<image>a", "images": []}, "auto", "stands 1 times.* there are no `images`"),
        ({"messages": CHAT}, "auto", "stands 1 times in the text, and there are no `images`"),
        ({"prompt": "a", "images": [3]}, "auto", "picture 0 of `images`: expected a file name or a picture, got int"),
        ({"prompt": "a", "images": ["a.png", None]}, "auto", "picture 1 of `images`: .* got NoneType"),
        ({"prompt": "a", "images": [{"bytes": None, "path": None}]}, "auto", "got NoneType"),
        ({"prompt": "a", "images": [""]}, "auto", "got str"),
        ({"answer": 1}, "trl", "format trl needs `prompt`"),
        ({"prompt": "a"}, "swift", "format swift needs `messages`"),
        ({"messages": CHAT, "possible_answers": []}, "satori", "needs `possible_answers`, a list that is not empty"),
        ({"question": "a"}, "mgpo", "needs `image` or `image_path`"),
        ({"image": "a.png"}, "mgpo", "needs `question`, a text"),
        ({"question": "a", "image": "a", "choices": "A B"}, "mgpo", "`choices` is str"),
        ({"problem": " ", "images": ["a"]}, "visionthink", "needs `problem`, a text that is not empty"),
        ({"conversations": [{"role": "user"}]}, "auto", "a list of {from, value}"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "auto", "`conversations` has 'bot'; expected human"),
        ({"question": "a", "chosen": "b"}, "mmpr", "format mmpr needs `rejected`"),
        ({"question": "a", "correct_answer": "b"}, "sat", "format sat needs `answers`"),
        ({"question": "a", "answers": ["b"]}, "sat", "format sat needs `correct_answer`"),
        ({"goal": "a", "steps": [{"action": {}}]}, "auto", "step 0 of `steps` lacks `screenshot`"),
        ({"goal": "", "steps": [{"screenshot": "a"}]}, "auto", "format ui_s1 needs `goal`"),
        ({"goal": "a", "steps": []}, "auto", "`steps`, a list of objects that is not empty"),
        ({"messages": CHAT[:2], "rejected_response": "x"}, "auto", "needs a last message of role `assistant`"),
        ({"messages": [{"role": "user"}]}, "auto", "message 0 of `prompt` needs `role` and `content`"),
        ({"messages": CHAT[2:3]}, "auto", "no text in a last message of role `user`"),
    ],
)
def test_what_is_wrong_with_a_record_is_told(record, form, told):
    with pytest.raises(ValueError, match=told):
        normalised(record, form)


def test_without_a_mark_pictures_stand_in_front():
    made = normalised({"prompt": "what?", "images": ["a.png", "b.png"]})
    assert (made["prompt"], made["images"]) == ("what?", ["a.png", "b.png"])


def test_pictures_are_looked_at_before_anything_runs(red):
    noise = Image.effect_noise((64, 64), 90)
    noise.save(red / "noise.png")
    (red / "text.png").write_text("not a picture")
    Image.new("1", (2000, 1000)).save(red / "huge.png")
    bad = {
        "missing.png": "no such file",
        "text.png": "cannot be read",
        "huge.png": r"2000x1000 is over data\.max_pixels=10000",
        "../red.png": "must be a file below",
        "https://example.org/a.png": "URLs are not opened",
    }
    rows = [{"prompt": "<image>what?", "images": ["red.png"]}]
    rows += [{"prompt": "<image>what?", "images": [name]} for name in bad]
    rows += [{"prompt": "<image><image>what?", "images": ["red.png"]}]
    for number, (name, told) in enumerate(bad.items(), 1):
        source = jsonl(red / f"{number}.jsonl", [rows[0], rows[number]])
        with pytest.raises(ConfigError, match=rf"{number}\.jsonl:2: picture '{name}'.*{told}.*on_bad_record: skip"):
            training_prompts(DataConfig(prompts=source, max_pixels=10_000))
    data = DataConfig(prompts=jsonl(red / "all.jsonl", rows), max_pixels=10_000, on_bad_record="skip")
    with pytest.warns(UserWarning) as warned:
        prompts = training_prompts(data)
    assert len(prompts) == 1
    assert str(warned[-1].message) == "data: skipped 6 of 7 records"


# -------------------------------------------------------------------- where pictures are


def test_prompts_know_the_folder_of_their_pictures(red, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    rows = [{"problem": "<image>what?", "images": ["red.png"]}]
    beside = training_prompts(DataConfig(prompts=jsonl(red / "a.jsonl", rows)))[0]
    assert beside.root == str(red)
    apart = DataConfig(prompts=jsonl(elsewhere / "a.jsonl", rows), image_root=str(red))
    whole = DataConfig(
        prompts=jsonl(elsewhere / "b.jsonl", [{**rows[0], "images": [str(red / "red.png")]}]), image_root=str(red)
    )
    for prompt in (beside, training_prompts(apart)[0], training_prompts(whole)[0]):
        assert open_image(prompt.record["images"][0], prompt.root, BOUND).size == (4, 2)
    with pytest.raises(ConfigError, match="no such file"):
        training_prompts(apart.model_copy(update={"image_root": None}))


def test_a_function_names_pictures_beside_its_file(red):
    (red / "maker.py").write_text(
        "def make(index):\n"
        "    return {'problem': '<image>what?', 'images': [['red.png', 'blue.png'][index]], 'completion': 'a'}\n"
    )
    source = f"{red / 'maker.py'}:make"
    prompts = training_prompts(DataConfig(prompts=source, prompts_count=2))
    assert [open_image(p.record["images"][0], p.root, BOUND).size for p in prompts] == [(4, 2), (2, 4)]
    records = Records(DataConfig(records=source, records_count=2), ("completion",)).batch(0, 2, 0)
    assert sorted(r["images"][0]().size for r in records) == [(2, 4), (4, 2)]
    assert {r["prompt"] for r in records} == {"<image>what?"}
    (red / "wrong.py").write_text("def make(index):\n    return {'prompt': '<image>', 'completion': 'a'}\n")
    wrong = Records(DataConfig(records=f"{red / 'wrong.py'}:make", records_count=2), ("completion",))
    with pytest.raises(ConfigError, match=r"wrong\.py:make\(\d\): <image> stands 1 times"):
        wrong.batch(0, 1, 0)


def test_supervised_records_carry_functions_that_open_their_pictures(red):
    rows = [{"messages": [*CHAT[1:3]], "images": ["red.png"]}, {"messages": [*CHAT[1:3]], "images": ["gone.png"]}]
    data = DataConfig(records=jsonl(red / "a.jsonl", rows), on_bad_record="skip")
    with pytest.warns(UserWarning, match=r"a\.jsonl:2: picture 'gone\.png': no such file; skipped"):
        records = Records(data, ("completion",))
    assert records.count == 1
    record = records.batch(0, 1, 0)[0]
    assert (record["prompt"], record["completion"]) == ("<image>one", "1")
    assert record["images"][0]().size == (4, 2)


def test_preference_pairs_of_mmpr(red):
    rows = [{"image": "red.png", "question": "<image>colour?", "chosen": "red", "rejected": "blue"}]
    pair = load_preferences(jsonl(red / "pairs.jsonl", rows), "stop")[0]
    assert (pair.text, pair.root) == ("<image>colour?", str(red))
    assert (pair.record["chosen"], pair.record["images"]) == ("red", ["red.png"])
    with pytest.raises(ConfigError, match="no such file"):
        load_preferences(jsonl(red / "bad.jsonl", [{**rows[0], "image": "gone.png"}]), "stop")
    with pytest.raises(ConfigError, match="format swift needs `messages`"):
        load_preferences(red / "pairs.jsonl", "stop", form="swift")


def test_what_a_filter_keeps_stands_with_its_pictures(red, tmp_path_factory):
    """A record goes to another folder: pictures that were names, functions or PIL are files beside it there."""
    run = tmp_path_factory.mktemp("run")
    refs = ["red.png", functools.partial(Image.new, "RGB", (3, 3)), Image.new("RGBA", (5, 6)), "red.png"]
    record = {"id": "a", "prompt": "<image>" * 4 + "?", "completion": "b", "images": refs}
    stored = stored_images(record, str(red), run, BOUND)
    assert stored["images"][0] == stored["images"][3]
    assert len(list((run / "pictures").iterdir())) == 3
    path = Path(jsonl(run / "kept.jsonl", [stored]))
    prompt = load_prompts(str(path), {}, "stop")[0]
    sizes = [open_image(ref, prompt.root, BOUND).size for ref in prompt.record["images"]]
    assert sizes == [(4, 2), (3, 3), (5, 6), (4, 2)]
    assert [ref().size for ref in KeptRecords(path, BOUND, 600).batch(0, 1, 0)[0]["images"]] == sizes
    assert stored_images({"prompt": "a"}, None, run, BOUND) == {"prompt": "a"}
    with pytest.raises(PictureError):
        stored_images({"images": ["gone.png"]}, str(red), run, BOUND)


def test_the_same_question_about_another_picture_is_another_prompt(red):
    rows = [{"prompt": "<image>colour?", "images": [name]} for name in ("red.png", "blue.png")]
    train, held = (jsonl(red / f"{n}.jsonl", [row]) for n, row in enumerate(rows))
    data = {"prompts": train, "eval_prompts": held}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = load_config_prompts(SimpleNamespace(data=DataConfig(**data), prompts_looked_at=None), Adapter(None))
        assert [len(read.prompts), len(read.eval_prompts)] == [1, 1]
    same = DataConfig(**{**data, "eval_prompts": train})
    with pytest.warns(UserWarning, match="1 held-out prompts are also training prompts, e.g. '<image>colour"):
        load_config_prompts(SimpleNamespace(data=same, prompts_looked_at=None), Adapter(None))


SHOWN = ("messages", "images", "image", "image_path", "conversations", "system", "system_prompt")


@every("column", [*SHOWN, "completion", "chosen", "rejected"])
def test_a_known_column_that_holds_null_is_as_absent(column):
    """A table with rows of several forms has null for the columns that a row lacks; no reward may meet it."""
    assert normalised({"prompt": "q", column: None}) == normalised({"prompt": "q"})


def test_a_question_of_sat_is_asked_with_its_options(red):
    """As the paper's appendix and spatial-vlm-investigator ask; without the options the answer is one of many."""
    record = {
        "question": "How did the camera rotate?",
        "answers": ["rotated left", "rotated right", "it stood still"],
        "correct_answer": "it stood still",
        "image_bytes": ["red.png"],
        "question_type": "ego_movement",
    }
    made = normalised(record)
    assert made["prompt"] == (
        "Answer in natural language. How did the camera rotate? "
        "Choose between the following options: rotated left, rotated right or it stood still"
    )
    assert (made["answer"], made["images"], made["question_type"]) == ("it stood still", ["red.png"], "ego_movement")
    assert format_of(record) == "sat" and made == normalised(record, "sat") and normalised(made) == made
    two, one = (normalised({**record, "answers": record["answers"][:n]})["prompt"] for n in (2, 1))
    assert two.endswith("options: rotated left or rotated right") and one.endswith("options: rotated left")
    (prompt,) = load_prompts(jsonl(red / "sat.jsonl", [record]), {}, "stop")
    assert open_image(prompt.record["images"][0], prompt.root, BOUND).size == (4, 2)


@pytest.mark.parametrize(
    ("part", "picture"),
    [
        ({"path": "a.png"}, "a.png"),
        ({"url": "a.png"}, "a.png"),
        ({"base64": "iVBORw=="}, {"bytes": b"\x89PNG", "path": None}),
    ],
    ids=["path", "url", "base64"],
)
def test_pictures_in_messages_by_the_keys_of_transformers(part, picture):
    messages = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "what?"}]}]
    made = normalised({"messages": messages})
    assert made["images"] == [picture] and made["prompt"] == "<image>what?"
