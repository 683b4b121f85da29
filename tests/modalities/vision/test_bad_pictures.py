"""Pictures and records that cannot be used: one message each, the record skipped or the run stopped as configured."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from PIL import Image

from mmrl.api import train
from mmrl.config import ConfigError, load
from mmrl.modalities.vision.tiny import KINDS
from mmrl.pictures import PictureError
from mmrl.training.assemble import load_adapter, load_prompts
from mmrl.types import Group, Prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory, drawn):
    """Pictures of every sort in data/, and one outside."""
    place = tmp_path_factory.mktemp("pictures") / "data"
    place.mkdir()
    drawn(1).save(place / "good.png")
    drawn(1).save(place.parent / "outside.png")
    drawn(1).save(place / "whole.jpg")
    (place / "corrupt.jpg").write_bytes((place / "whole.jpg").read_bytes()[:-200])  # whose head is whole
    (place / "text.png").write_text("no picture")
    Image.new("1", (3000, 2000)).save(place / "huge.png")
    Image.new("RGB", (1, 300)).save(place / "thin.png")
    drawn(2).convert("CMYK").save(place / "cmyk.jpg")
    Image.new("RGB", (1, 1), "red").save(place / "dot.png")
    whole = (place / "good.png").read_bytes()
    middle = whole.index(b"IDAT") + 12  # neither its head nor its end tells
    (place / "damaged.png").write_bytes(
        whole[:middle] + bytes(255 - b for b in whole[middle : middle + 20]) + whole[middle + 20 :]
    )
    drawn(1).save(place / "film.gif", save_all=True, append_images=[drawn(5)])
    return place


BAD = {
    "missing.png": r"picture 'missing\.png': no such file",
    "corrupt.jpg": r"picture 'corrupt\.jpg': cannot be read: ",
    "text.png": r"picture 'text\.png': cannot be read: it is no picture of PNG, JPEG",
    "huge.png": r"picture 'huge\.png': 3000x2000 is over ",
    "../outside.png": r"picture '\.\./outside\.png': must be a file below ",
    "https://example.org/a.png": r"picture 'https://example\.org/a\.png': URLs are not opened",
    "thin.png": r"a picture of 1x300 pixels: absolute aspect ratio must be smaller than 200",
}


# -------------------------------------------------------------------- the adapter's door


@pytest.fixture(scope="module")
def bounded(adapter):
    made = adapter()
    made.max_pixels = 1_000_000
    return made


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_and_nothing_is_sampled(bounded, folder, name):
    prompt = Prompt("p", "What?", {"images": [name]}, str(folder))
    with pytest.raises(PictureError, match=BAD[name]):
        bounded.usable(prompt)
    with pytest.raises(PictureError, match=BAD[name]):
        bounded.rollout([Group(prompt, 0)], 2, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cmyk.jpg", "dot.png"])
def test_odd_pictures_that_can_be_read_are(shared, folder, roll, kind, name):
    policy = shared(kind)
    prompt = Prompt("p", "What?", {"images": [name]}, str(folder))
    assert policy.usable(prompt) is None
    (sample,) = roll(policy, [prompt], n=1)
    assert sample.media[0].original == ((1, 1) if name == "dot.png" else (64, 48))
    with torch.no_grad():
        logp = policy.logprobs([sample], torch.arange(10)).logp[0, : len(sample.trajectory.logp)]
    torch.testing.assert_close(logp, sample.trajectory.logp, rtol=0, atol=2e-5)


def test_of_an_animation_the_first_frame_is_shown_with_a_warning(bounded, folder, drawn, roll):
    def logp(name):
        return roll(bounded, [Prompt("p", "What?", {"images": [name]}, str(folder))], n=1)[0].trajectory.logp

    Image.open(folder / "film.gif").convert("RGB").save(folder / "first.png")
    with pytest.warns(UserWarning, match=r"picture 'film\.gif': it has 2 frames, the first is taken"):
        found = logp("film.gif")
    assert torch.equal(found, logp("first.png"))


def test_a_view_of_a_picture_that_is_not_there_is_told(bounded, drawn, ask):
    from mmrl.media import View

    with pytest.raises(ValueError, match="prompt '\\?' has 1 pictures, picture 1 was asked for"):
        bounded.shelf.get(ask("?", drawn(1)), View(1))


# -------------------------------------------------------------------- the run


@pytest.fixture
def written(folder, tmp_path):
    """written(records, **data) -> the file of a config whose prompts are good records, and these."""
    good = [{"id": f"good {i}", "prompt": f"What is {i}?", "images": ["good.png"]} for i in range(2)]
    (tmp_path / "flat.py").write_text("def flat(samples):\n    return [float(s.index) for s in samples]\n")

    def make(records, **data):
        source = folder / f"{tmp_path.name}.jsonl"
        source.write_text("".join(json.dumps(r) + "\n" for r in [*good, *records]), encoding="utf-8")
        build = {
            "hidden": 32,
            "layers": 1,
            "heads": 2,
            "kv_heads": 1,
            "vision_hidden": 32,
            "vision_heads": 2,
            "patch": 8,
        }
        config = {
            "name": "run",
            "modality": "vision",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {"path": "built", "build": build, "sampling": {"max_tokens": 4}},
            "data": {"prompts": str(source), "max_pixels": 1_000_000, **data},
            "rewards": [{"name": f"{tmp_path / 'flat.py'}:flat"}],
            "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "optim": {"lr": 1e-3}}],
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return make


RECORDS = [
    *({"prompt": "What?", "images": [name]} for name in BAD),
    {"prompt": "<image> or <image>?", "images": ["good.png"]},
    {"prompt": "<image>?"},
]
TOLD = [
    *BAD.values(),
    r"<image> stands 2 times in the text, and there are 1 pictures",
    r"<image> stands 1 times in the text, and there are no `images`",
]


@pytest.mark.parametrize(("record", "told"), list(zip(RECORDS, TOLD)), ids=[*BAD, "marks", "none"])
def test_a_bad_record_stops_the_run_before_anything_is_trained(written, record, told):
    """Named by its line where the record alone tells it, by its id where the model's processor does."""

    config = load(written([{"id": "bad", **record}]))
    with pytest.raises(ConfigError, match=rf"(\.jsonl:3|prompt 'bad'): {told}.*data\.on_bad_record: skip"):
        load_prompts(config, load_adapter(config))


def test_bad_records_are_counted_and_skipped_where_asked(written, tmp_path, main):
    """Through the command line: a run on what is left, and one line on each."""
    path = written([{"id": f"bad {i}", **record} for i, record in enumerate(RECORDS)], on_bad_record="skip")
    code, _, err = main("train", path, "--quiet")
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert any("data: skipped 8 of 11 records" in line for line in told)
    assert any("4: picture 'corrupt.jpg': cannot be read: image file is truncated" in line for line in told)
    assert any("1 of 3 prompts cannot be used, first 'bad 6': a picture of 1x300 pixels" in line for line in told)
    (row,) = map(json.loads, (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines())
    assert row["reward/invalid"] == 0 and row["reward/mean"] == 0.5


def test_one_bad_record_is_one_message_of_the_command_line(written, main):
    code, _, err = main("train", written([{"id": "bad", "prompt": "What?", "images": ["corrupt.jpg"]}]), "--quiet")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in err
    assert re.match(r"error: \S+\.jsonl:\d: picture 'corrupt\.jpg': cannot be read: ", errors[0])


DAMAGED = {"id": "bad", "prompt": "What?", "images": ["damaged.png"]}


def test_a_picture_that_breaks_in_a_step_is_left_out_where_asked(written, tmp_path, main):
    """Its prompt is named and leaves the step; the others are trained on, and evaluated on."""
    path = written([DAMAGED], on_bad_record="skip")
    words = ("stages.grpo.groups=3", f"data.eval_prompts={yaml.safe_load(path.read_text())['data']['prompts']}")
    code, _, err = main("train", path, "--quiet", *words)
    assert code == 0, err
    told = [line for line in err.splitlines() if "left out" in line]
    assert told and all(
        re.match(r"warning: prompt 'bad': picture 'damaged\.png': cannot be read: .*; it is left out", t) for t in told
    )
    (row,) = map(json.loads, (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines())
    summary = json.loads((tmp_path / "runs/run/summary.json").read_text())
    assert row["reward/mean"] == 0.5 and summary["samples"] == 4


def test_a_picture_that_breaks_in_a_step_ends_the_run_with_one_line(written, main):
    code, _, err = main("train", written([DAMAGED]), "--quiet", "stages.grpo.groups=3")
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in err
    assert re.match(r"error: prompt 'bad': picture 'damaged\.png': .*data\.on_bad_record: skip", errors[0])


# Whatever decodes a picture first: what of a config is not as in `written`, and the record that is bad.
ANSWERS = {"completion": "yes", "chosen": "yes", "rejected": "no"}
TWO = {"id": "bad", "prompt": "What?", "images": ["good.png", "damaged.png"]}
TREE = {"iterations": 1, "children": 2, "depth": 2, "step_end": "a", "step_tokens": 3}
GRPO = {"kind": "grpo", "steps": 1, "groups": 3, "samples": 2, "optim": {"lr": 1e-3}}
DECODERS = {
    "the start checks": GRPO,
    "a tree": {"kind": "grpo", "steps": 1, "groups": 3, "tree": TREE},
    "records": {"kind": "sft", "steps": 1, "batch": 3, "micro_batch": 2},
    "pairs": {"kind": "preference", "steps": 1, "batch": 3},
    "an expert": {**GRPO, "expert": {"batch": 3}},
    "a filter": {"kind": "filter", "rule": "difficulty", "steps": 1, "groups": 3, "samples": 2},
}


@pytest.fixture
def decoding(written, folder, tmp_path):
    """decoding(stage, rows, on_bad) -> a config whose one stage sees these records in this order."""

    def make(stage, rows, on_bad="skip"):
        source = folder / f"{tmp_path.name}_{len(rows)}.jsonl"
        source.write_text("".join(json.dumps({**row, **ANSWERS}) + "\n" for row in rows), encoding="utf-8")
        values = yaml.safe_load(written([]).read_text())
        values["data"] |= {"prompts": str(source), "on_bad_record": on_bad}
        values["name"] = f"run_{len(rows)}"
        values["stages"] = [stage | ({"pairs": str(source)} if stage["kind"] == "preference" else {})]
        if stage["kind"] == "sft" or "expert" in stage:
            values["data"]["records"] = str(source)
        if stage["kind"] in ("sft", "preference"):
            values["rewards"] = []
            del values["data"]["prompts"]
        return values

    return make


GOOD = [{"id": f"good {i}", "prompt": f"What is {i}?", "images": ["good.png"]} for i in range(2)]


@pytest.mark.parametrize("stage", DECODERS.values(), ids=DECODERS)
def test_whatever_decodes_a_broken_picture_first_leaves_it_out_where_asked(decoding, stage):
    with pytest.warns(UserWarning, match=r"(prompt|record) 'bad': picture 'damaged\.png': .*; it is left out"):
        train(load(decoding(stage, [TWO, *GOOD])), quiet=True)


@pytest.mark.parametrize("stage", DECODERS.values(), ids=DECODERS)
def test_whatever_decodes_a_broken_picture_first_tells_what_to_do(decoding, stage):
    with pytest.raises(ConfigError, match=r"(prompt|record) 'bad': picture 'damaged\.png': .*on_bad_record: skip"):
        train(load(decoding(stage, [TWO, *GOOD], "stop")), quiet=True)


@pytest.mark.parametrize("name", ["records", "pairs"])
def test_a_step_without_a_broken_record_is_a_step_of_the_others(decoding, tmp_path, name):
    """Denominators count what is there: loss and gradient are those of a file that never had the record."""
    stage = DECODERS[name]
    with pytest.warns(UserWarning, match="left out"):
        train(load(decoding(stage, [TWO, *GOOD])), quiet=True)
    train(load(decoding({**stage, "batch": 2}, GOOD)), quiet=True)
    rows = [json.loads((tmp_path / f"runs/run_{n}/metrics.jsonl").read_text()) for n in (3, 2)]
    for key in ("loss", "grad_norm", *(k for k in rows[0] if k.startswith("preference/"))):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5), key
    assert rows[0]["grad_norm"] > 0


@pytest.mark.parametrize("name", ["records", "pairs", "answers"])
def test_a_step_of_which_nothing_can_be_read_trains_nothing_and_says_so(decoding, tmp_path, name):
    """Three steps of a record each, one of which is broken: it has no loss, which 0 would be."""
    alone = {"batch": 1} if name in ("records", "pairs") else {"groups": 1}
    stage = {**(GRPO if name == "answers" else DECODERS[name]), **alone, "steps": 3}
    with pytest.warns(UserWarning) as warned:
        train(load(decoding(stage, [TWO, *GOOD])), quiet=True)
    rows = [json.loads(row) for row in (tmp_path / "runs/run_3/metrics.jsonl").read_text().splitlines()]
    (empty,) = [row for row in rows if row["loss"] is None]
    told = [str(w.message) for w in warned if "nothing is learned in it" in str(w.message)]
    assert told == [f"step {empty['step']}: none of its records can be read: nothing is learned in it"]
    assert empty["grad_norm"] == 0 and [v for k, v in empty.items() if k.startswith("preference/") and v] == []
    assert any(row["grad_norm"] > 0 for row in rows if row is not empty) or name == "answers"


def test_an_expert_whose_records_are_all_broken_has_no_loss(decoding, tmp_path):
    stage = {**GRPO, "groups": 2, "expert": {"batch": 1, "warmup": 0}}
    values = decoding(stage, GOOD)
    values["data"]["records"] = decoding(stage, [TWO])["data"]["records"]
    with pytest.warns(UserWarning, match="left out"):
        train(load(values), quiet=True)
    (row,) = map(json.loads, (tmp_path / "runs/run_2/metrics.jsonl").read_text().splitlines())
    assert row["expert/loss"] is None and row["loss"] is not None


def test_the_contract_from_the_command_line(written, main):
    """`mmrl check CONFIG` of a vision run takes prompts with their pictures from its data, and its environment."""
    path = written([{"id": "text", "prompt": "12+30="}])
    for words in ([], ["data.where={id: good 0}", "environment={name: mgpo, min_pixels: null}"]):
        code, out, err = main("check", path, *words)
        assert code == 0, out + err
        lines = out.splitlines()
        assert len(lines) == 24 and all(line.startswith("pass  ") for line in lines)
