"""Every shipped config of a large vision-language model really trains: one step of it on a tiny model of its class.

The tiny models are untrained, so what they sample is noise. What environments and rewards read is therefore written by
a `script`; the ids, their log-probs and the gradient stay those of the samples.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from one_layer import ONE_LAYER
from PIL import Image

from mmrl import api
from mmrl.cli import cli
from mmrl.config import load
from mmrl.modalities.media.reading import MediaReader
from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.share import share
from mmrl.training.run_folder import released
from mmrl.types import Group

REAL = sorted(p.stem for p in share("configs", "vision").glob("*.yaml") if "tiny" not in p.stem)
SIZES = {**ONE_LAYER, "context": 6000}
QWEN = {"kind": "qwen2_5_vl", **SIZES}

# What the policy is said to say, in turn.
SATORI = [
    "<caption>a red square on blue</caption><bbox>[[8, 8, 24, 24]]</bbox><answer>red</answer>",
    "<caption>nothing</caption><bbox>[[0, 0, 64, 48]]</bbox><answer>blue</answer>",
]
MGPO = [
    'It is there.\n```json\n[{"bbox_2d": [8, 8, 40, 40], "label": "it"}]\n```\n\\boxed{A}',
    "I do not know. \\boxed{B}",
]
CALL = '<tool_call>{"name": "resize_image", "arguments": {"action": "resize"}}</tool_call>'
VISIONTHINK = [f"<think>too small</think>{CALL}", "<think>I see</think><answer>red</answer>"]
REC = [
    '<think>there</think><answer>{"bbox_2d": [8, 8, 24, 24], "label": "square"}</answer>',
    "<think>there</think><answer>somewhere</answer>",
]
DETECTION = [
    '<think>one</think><answer>```json\n[{"bbox_2d": [8, 8, 24, 24], "label": "square"}]\n```</answer>',
    '<think>two</think><answer>[{"bbox_2d": [8, 8, 24, 24], "label": "square"}, '
    '{"bbox_2d": [0, 0, 9, 9], "label": "square"}]</answer>',
]
MIXED = [
    "<think>so</think><answer>yes</answer>",
    "<think>so</think><answer>(B)</answer>",
    "<think>so</think><answer>10.2</answer>",
    "<think>so</think><answer>[8, 8, 24, 24]</answer>",
    "<think>so</think><answer>a red square</answer>",
]
SERIES = [
    "<think>up</think><class>Desktop</class><extension>It draws 80 W at noon.</extension>",
    "<think>down</think><class>Laptop</class>",
]
SPATIAL = ["The left one is nearer.\nleft.", "right", ""]
SCREEN = [
    '<think>tap it</think><action>{"action": "click", "coordinate": [16, 16]}</action>',
    '<think>wait</think><action>{"action": "wait", "time": 1}</action>',
    "nothing",
]
STEPS = ["The final answer is red", "The final answer is blue."]
VOTES = ["so \\boxed{3}", "so \\boxed{ 3 }", "so \\boxed{4}", "no idea"]


# -------------------------------------------------------------------- data of the shape that the configs name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of a red square on blue, 64 x 48, and of other sizes."""
    for name, size in (("a.png", (64, 48)), ("b.png", (48, 64)), ("c.png", (64, 48))):
        picture = Image.new("RGB", size, (30, 60, 200))
        picture.paste((220, 30, 40), (8, 8, 24, 24))
        picture.save(tmp_path / name)
    return tmp_path


def write(folder: Path, name: str, records: Sequence[dict]) -> str:
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(folder / name)


def satori(folder: Path) -> dict[str, Any]:
    record = {
        "messages": [{"role": "user", "content": "<image>What colour is the square?"}],
        "image_caption": "A red square on a blue ground.",
        "bboxs": [[8, 8, 24, 24]],
        "width": 64,
        "height": 48,
        "possible_answers": ["red", "Red"],
    }
    return {"prompts": write(folder, "p.jsonl", [{**record, "images": [n]} for n in ("a.png", "c.png")])}


def mgpo(folder: Path) -> dict[str, Any]:
    record = {"question": "What colour is the square?", "choices": ["red", "blue"], "answer": "A"}
    return {"prompts": write(folder, "p.jsonl", [{**record, "image_path": n} for n in ("a.png", "b.png")])}


def visionthink(folder: Path) -> dict[str, Any]:
    record = {
        "problem": "<image>What colour is the square?",
        "original_answer": "red",
        "info": {"tgt_width": 32, "tgt_height": 24, "use_tool": False},
    }
    records = [{**record, "images": [n], "doc_id": n} for n in ("a.png", "c.png")]
    return {"prompts": write(folder, "p.jsonl", records)}


def cascade(folder: Path) -> dict[str, Any]:
    query = {"question": "<image>What colour is the square?", "answer": "red"}
    pairs = [{**query, "image": n, "chosen": "It is red.", "rejected": "Blue."} for n in ("a.png", "b.png")]
    return {
        "prompts": write(folder, "p.jsonl", [{**query, "image": n} for n in ("a.png", "b.png")]),
        "pairs": write(folder, "pairs.jsonl", pairs),
    }


def vlm_r1(gold: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        said = [{"from": "human", "value": "<image>Where is the square?"}, {"from": "gpt", "value": gold}]
        records = [{"id": i, "image": n, "conversations": said} for i, n in enumerate(("a.png", "b.png"))]
        (folder / "data").mkdir()
        return {"prompts": write(folder / "data", "p.jsonl", records), "image_root": str(folder)}

    return make


def mixed(folder: Path) -> dict[str, Any]:
    tasks = {
        "yesno": {"answer": "Yes"},
        "choice": {"answer": "B", "choices": ["blue", "red"]},
        "chart": {"answer": "10"},
        "region": {"answer": "[8, 8, 24, 24]", "boxes": [[8, 8, 24, 24]]},
        "open": {"answer": "a red square on blue"},
    }
    records = [{"prompt": "<image>So?", "images": ["a.png"], "task": task, **more} for task, more in tasks.items()]
    return {"prompts": write(folder, "p.jsonl", records)}


def timemaster(folder: Path) -> dict[str, Any]:
    lines = [f"{i % 2 + 1}\t" + "\t".join(str((j * (i + 1)) % 7) for j in range(20)) for i in range(4)]
    (folder / "Computers_TRAIN.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = load("vision/timemaster").data.prompts_options | {"file": str(folder / "Computers_TRAIN.tsv")}
    answered = {"prompt": "<image>Which?", "images": ["a.png"], "completion": SERIES[0]}
    return {
        "prompts_options": options,
        "prompts_count": 4,
        "records": write(folder, "records.jsonl", [answered, {**answered, "completion": SERIES[1]}]),
    }


def spatial(folder: Path) -> dict[str, Any]:
    record = {"question": "Which is nearer?", "correct_answer": "left", "answers": ["left", "right"]}
    return {"prompts": write(folder, "p.jsonl", [{**record, "image_bytes": [n]} for n in ("a.png", "b.png")])}


def ui_s1(folder: Path) -> dict[str, Any]:
    click = {"action_content": {"action": "click", "coordinate": [16, 16]}, "bbox": [8, 8, 24, 24], "thought": "Tap."}
    wait = {"action_content": {"action": "wait", "time": 2}}
    steps = [{**click, "screenshot": "a.png"}, {**wait, "screenshot": "c.png"}, {**click, "screenshot": "c.png"}]
    return {"prompts": write(folder, "p.jsonl", [{"goal": g, "steps": steps} for g in ("Open it", "Close it")])}


def propa(folder: Path) -> dict[str, Any]:
    record = {"prompt": "<image>What colour is the square?", "answer": "red"}
    worked = {**record, "images": ["a.png"], "completion": "It is a square.\n\nThe final answer is red"}
    return {
        "prompts": write(folder, "p.jsonl", [{**record, "images": [n]} for n in ("a.png", "b.png")]),
        "records": write(folder, "records.jsonl", [worked]),
    }


def spine(folder: Path) -> dict[str, Any]:
    records = [{"question": "How many?", "decoded_image": n} for n in ("a.png", "b.png")]
    return {"prompts": write(folder, "p.jsonl", records)}  # no answer anywhere


DATA: dict[str, Callable[[Path], dict[str, Any]]] = {
    "satori": satori,
    "mgpo": mgpo,
    "visionthink": visionthink,
    "cascade": cascade,
    "vlm_r1_rec": vlm_r1("[8, 8, 24, 24]"),
    "vlm_r1_detection": vlm_r1('[{"bbox_2d": [8, 8, 24, 24], "label": "square"}]'),
    "mixed_r1": mixed,
    "timemaster": timemaster,
    "spatial_sat": spatial,
    "ui_s1": ui_s1,
    "propa": propa,
    "spine": spine,
}
SCRIPTS = {
    "satori": SATORI,
    "mgpo": MGPO,
    "visionthink": VISIONTHINK,
    "cascade": ["The answer is red.", "The answer is blue."],
    "vlm_r1_rec": REC,
    "vlm_r1_detection": DETECTION,
    "mixed_r1": MIXED,
    "timemaster": SERIES,
    "spatial_sat": SPATIAL,
    "ui_s1": SCREEN,
    "propa": STEPS,
    "spine": VOTES,
}
BUILDS = {
    "cascade": {**QWEN, "kind": "internvl", "tiles": 2},
    "spatial_sat": {**QWEN, "kind": "paligemma", "patch": 16},
    "timemaster": {**QWEN, "max_pixels": 8192},
}


# -------------------------------------------------------------------- running one step


def script(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str]) -> None:
    """What the adapter decodes: the lines in turn, one for each ids that are new; parts of these have parts of it."""
    said: dict[tuple[int, ...], str] = {}
    turn = itertools.cycle(lines)

    def text(self: MediaReader, ids: torch.Tensor) -> str:
        key = tuple(ids.tolist())
        whole = next((k for k in said if k[: len(key)] == key), None)
        if whole is None:
            said[key] = next(turn)
            return said[key]
        return said[whole][: math.ceil(len(said[whole]) * len(key) / len(whole))]

    monkeypatch.setattr(MediaReader, "text", text)


def tiny(name: str, folder: Path, url: str) -> dict[str, Any]:
    """The config on a tiny model of its class: fewer and shorter samples, smaller pictures, a judge of the test's."""
    config = load(f"vision/{name}")
    data = DATA[name](folder)
    pairs = data.pop("pairs", None)
    values = config.model_dump(mode="json")
    values |= {"out": str(folder / "runs"), "threads": 1, "device": "cpu", "seed": 3}
    for key in [key for key in values["data"] if key.startswith("eval_") or key == "split"]:
        values["data"].pop(key)
    values["data"] |= data
    values["eval"], values["report"] = {}, {}
    values["model"] |= {
        "path": "built",
        "build": BUILDS.get(name, QWEN),
        "dtype": "float32",
        "min_pixels": None,
        "max_pixels": None,
    }
    values["model"]["sampling"] |= {"max_tokens": 24}
    values["model"]["evaluation"] |= {"max_tokens": None}
    if name == "mgpo":
        values["environment"] |= {"min_pixels": 1024, "max_pixels": 4096, "min_side": 4}
    for stage in values["stages"]:
        stage |= {"steps": 1}
        stage |= {"micro_batch": 4096} if stage["kind"] != "filter" else {}
        stage |= {"batch": 2} if "batch" in stage else {}
        stage |= {"groups": 2} if "groups" in stage else {}
        stage |= {"samples": 4} if "samples" in stage and not stage.get("tree") else {}
        stage |= {"updates": min(stage["updates"], 2), "refill": min(stage["refill"], 2)} if "updates" in stage else {}
        stage |= {"pairs": pairs} if stage.get("pairs") else {}
        if stage.get("tree"):
            stage["tree"] |= {"iterations": 3, "step_tokens": 8}
            stage["expert"] |= {"batch": 2}
    if name == "mixed_r1":
        from mmrl.modalities.vision.tiny import build

        values["stages"][0] |= {"groups": 5}
        model, processor = build(**QWEN)
        model.save_pretrained(folder / "policy")
        processor.save_pretrained(folder / "policy")
    return judged(values, url, str(folder / "policy"))


def judged(value: Any, url: str, policy: str) -> Any:
    """The values with every judge at `url`, and rewards that read the policy's weights reading them in `policy`."""
    if isinstance(value, dict):
        put = {"judge": {"url": url, "model": "stub"}}
        made = {k: put.get(k) or judged(v, url, policy) for k, v in value.items()}
        return made | ({"model": policy} if str(made.get("model", "")).startswith("models/") else {})
    return [judged(v, url, policy) for v in value] if isinstance(value, list) else value


class Ran:
    """A run of one step a stage: `groups` by stage as they were when they had been sampled and scored."""

    def __init__(self, values: dict[str, Any], lines: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        script(monkeypatch, lines)
        self.groups: dict[str, list[Group]] = {}
        self.config = load(values)
        self.trainer = api.trainer(self.config, quiet=True, should_stop=self.look)
        self.adapter = self.trainer.adapter
        # So that an untrained model ends its turns.
        self.adapter.stop_ids = tuple(range(0, len(self.adapter.tokenizer), 8))
        self.before = {k: v.detach().clone() for k, v in self.adapter.trainable_parameters().items()}
        with released(self.config.run_dir):
            self.summary = self.trainer.train()
        lines_ = (self.config.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = {row["stage"]: row for row in map(json.loads, lines_)}

    def look(self, point: str) -> bool:
        if point == "rollout":
            stage = self.trainer.stage
            queue = stage.rollouts.queue if hasattr(stage, "rollouts") else stage.waiting
            self.groups[stage.options.name] = list(queue[0])
        return False

    @property
    def samples(self) -> list[Any]:
        return [s for g in self.groups["grpo"] for s in g.samples]

    @property
    def moved(self) -> set[str]:
        after = self.adapter.trainable_parameters()
        return {k for k, v in self.before.items() if not v.equal(after[k])}


@pytest.fixture
def ran(folder, chat_server, monkeypatch) -> Callable[[str], Ran]:
    chat_server.answer = lambda request: "Score: 1\nspecific: 1\nappropriate: 1\nrelevant: 0.5\ndeep: 0.5"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(name: str, lines: Sequence[str] | None = None) -> Ran:
        made = Ran(tiny(name, folder, chat_server.url), lines or SCRIPTS[name], monkeypatch)
        assert made.summary["steps"] == len(made.config.stages)
        for row in made.rows.values():
            broken = {k: v for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
            assert not broken
            assert row.get("reward/invalid", 0) == 0
            assert row.get("ratio/max_dev", 0.0) < 1e-3 or made.config.stages[-1].updates > 1
        assert made.rows[made.config.stages[-1].name]["grad_norm"] > 0
        assert made.moved
        trained = "vision_tower", "visual", "multi_modal_projector"
        sees = {k for k in made.before if any(t in k for t in trained)}
        assert bool(sees) == (made.config.model.vision == "trained")
        assert not sees or sees & made.moved
        return made

    return run


def values_of(samples: Sequence[Any], name: str) -> list[float | None]:
    return [s.scores[name].value for s in samples]


# -------------------------------------------------------------------- all of them


def test_every_config_has_a_test_here():
    assert sorted(DATA) == sorted(SCRIPTS) == REAL


@pytest.mark.parametrize("name", REAL)
def test_a_plan_is_told_before_it_ends_at_data_that_are_not_there(name):
    done = CliRunner().invoke(cli, ["plan", f"vision/{name}"])
    assert f"{load(f'vision/{name}').model.path} will be downloaded" in done.output
    told = str(done.exception)
    missing = ("no prompt file", "cannot be loaded", "no file", "no .safetensors file")
    assert done.exit_code == 0 or any(words in told for words in missing), told


@pytest.mark.parametrize("name", REAL)
def test_config_says_where_its_values_come_from(name):
    about = load(f"vision/{name}").about
    assert "arXiv" in about and "Ours:" in about and "eleased" in about


def test_pictures_that_vllm_would_put_elsewhere_are_refused():
    section = {"path": "built", "build": {"kind": "paligemma"}, "engine": {"name": "vllm"}}
    with pytest.raises(ValueError, match="PaliGemmaForConditionalGeneration has its pictures where vLLM wants them"):
        VisionAdapter(VisionAdapter.Config(**section))


# -------------------------------------------------------------------- one by one


def test_satori(ran):
    run = ran("satori")
    assert run.rows["grpo"]["reward/tags.segments"] == 1.0
    right, wrong = values_of(run.samples, "exact.match")[:2]
    assert (right, wrong) == (1.0, 0.0)
    boxes = values_of(run.samples, "grounding.union_iou")
    # A picture of 64 x 48 is seen as it is: the box is right, and the second one is the whole picture.
    assert boxes[:2] == pytest.approx([1.0, 16 * 16 / (64 * 48)])
    captions = values_of(run.samples, "caption.overlap")
    assert captions[1] == 0 < captions[0] < 1
    read = "".join(run.adapter.reader.words(run.samples[0].trajectory.tensors["prompt"]))
    assert read.index("list of boxes [[x1, y1, x2, y2], ...]") < read.index("▣") < read.index("What colour")


def test_mgpo(ran):
    run = ran("mgpo")
    for sample in run.samples:
        assert len(sample.media) == 2 and sum(t.trained for t in sample.turns) == 2
        assert sample.media[0].view.crop is None
        assert (sample.media[1].view.crop is not None) == (sample.info["crop"] == "ok")
    assert {s.info["crop"] for s in run.samples} == {"ok", "no_json"}
    assert run.rows["grpo"]["env/crop/ok"] + run.rows["grpo"]["env/crop/no_json"] == 1
    pointed = [s for s in run.samples if s.info["crop"] == "ok"]
    first = [s.turns[2].text for s in pointed]
    assert all("```\n" in text for text in first)
    assert any(len(text) < len(MGPO[0]) for text in first)  # what it said behind the box is forgotten
    assert set(values_of(run.samples, "choice.letter")) == {0.0, 1.0}


def test_visionthink(ran, chat_server):
    run = ran("visionthink")
    asked = [s for s in run.samples if s.info["calls"]]
    direct = [s for s in run.samples if not s.info["calls"]]
    assert asked and direct
    assert run.rows["grpo"]["env/calls"] == len(asked) / len(run.samples)
    assert all([m.view.size for m in s.media] == [(32, 24), None] for s in asked)
    assert all(len(s.media) == 1 and s.media[0].seen == (32, 32) for s in direct)
    scores = [s.scores["visionthink.controlled"] for s in run.samples]
    assert any(score.details["penalty"] == 0.1 for score in scores)
    assert chat_server.requests and all("red" in r["messages"][0]["content"] for r in chat_server.requests)


def test_cascade_hands_on_from_stage_to_stage(ran):
    run = ran("cascade")
    assert list(run.rows) == ["mpo", "medium", "gspo"]
    assert run.rows["mpo"]["loss"] > 0 and "preference/delta" in run.rows["mpo"]
    assert run.rows["medium"]["filter/kept"] == 2  # half of each prompt's answers are right
    kept = (run.config.run_dir / "data" / "medium.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["pass_rate"] for line in kept} == {0.5}
    trained = [g.prompt.record["pass_rate"] for g in run.groups["gspo"]]
    assert trained == [0.5, 0.5]
    assert len(run.groups["gspo"][0].samples[0].media) == 1


def test_vlm_r1_referring_expressions(ran):
    run = ran("vlm_r1_rec")
    assert set(values_of(run.samples, "tags.segments")) == {0.0, 1.0}
    assert sorted(set(values_of(run.samples, "grounding.box_iou"))) == pytest.approx([0.0, 1.0])
    assert run.samples[0].turns[0].text.startswith("<image>Where is the square?\nThink inside")


def test_vlm_r1_detection_takes_off_for_boxes_too_many(ran):
    run = ran("vlm_r1_detection")
    # The second answer finds the square first and has a box too many: average precision 1, times 1 / 2.
    assert sorted(set(values_of(run.samples, "detection.average_precision"))) == pytest.approx([0.5, 1.0])


def test_mixed_r1_rewards_every_task_by_its_own(ran):
    run = ran("mixed_r1")
    named = {
        g.prompt.record["task"]: g.samples[0].scores["compose.dispatch"].details["reward"] for g in run.groups["grpo"]
    }
    assert named == {
        "yesno": "exact.match",
        "choice": "choice.letter",
        "chart": "chart.relaxed",
        "region": "grounding.box_iou",
        "open": "bmas.similarity",
    }


def test_timemaster_asks_the_judge_about_right_answers_alone(ran, chat_server):
    run = ran("timemaster")
    assert run.rows["cold-start"]["loss"] > 0
    for sample in run.samples:
        right = sample.scores["exact.match"].value == 1
        extension = 0.75 if right and "<extension>" in sample.artifact else 0.0
        assert sample.scores["compose.gated"].value == extension
        assert sample.scores["tags.label"].value == 1.0
    assert {s.scores["exact.match"].value for s in run.samples} == {0.0, 1.0}
    assert chat_server.requests and all("80 W at noon" in r["messages"][0]["content"] for r in chat_server.requests)
    assert run.samples[0].media[0].original == (600, 250)


def test_spatial_sat(ran):
    run = ran("spatial_sat")
    assert set(values_of(run.samples, "exact.match")) == {0.0, 1.0}
    empty = [s for s in run.samples if not s.artifact]
    assert empty and all(s.scores["regex.fullmatch"].value == 1 and s.reward == -0.2 for s in empty)
    # PaliGemma has no template: placeholders, the start token, the text.
    words = run.adapter.reader.words(run.samples[0].trajectory.tensors["prompt"])
    assert (
        "".join(words)
        == "▣<bos>Answer in natural language. Which is nearer? Choose between the following options: left or right\n"
    )
    assert all("language_model" in name and ("q_proj" in name or "v_proj" in name) for name in run.before)


def test_ui_s1_makes_a_sample_of_every_step(ran):
    run = ran("ui_s1")
    for sample in run.samples:
        assert sample.info["steps"] == 3 and len(sample.media) == min(2, sample.info["step"] + 1)
        assert sample.scores["ui_s1.step"].value == sample.info["step_reward"]
    steps = {(g.index, s.info["episode"], s.info["step"]) for g in run.groups["grpo"] for s in g.samples}
    assert len(steps) == len(run.samples) > 8
    assert any(s.info["patched"] for s in run.samples) and any(s.info["match"] for s in run.samples)
    first = [s.scores["ui_s1.future"].status == "ok" for s in run.samples]
    assert first == [s.info["step"] == 0 for s in run.samples]


def test_propa_trains_on_the_branchings_of_its_trees(ran):
    run = ran("propa")
    groups = run.groups["grpo"]
    assert run.rows["cold-start"]["loss"] > 0 and math.isfinite(run.rows["grpo"]["expert/loss"])
    assert groups and all(len(g.samples) == 4 for g in groups)
    for group in groups:
        assert len({tuple(s.trajectory.tensors["prompt"].tolist()) for s in group.samples}) == 1
        rewards = [s.scores["tree"].value for s in group.samples]
        assert max(rewards) - min(rewards) >= 0.1
        assert all(s.scores["exact.match"].status == "na" for s in group.samples)


def test_spine_learns_from_votes(ran):
    run = ran("spine")
    for group in run.groups["grpo"]:
        assert "answer" not in group.prompt.record
        said = [s.scores["vote.answer"].details["vote"] for s in group.samples]
        assert [s.reward for s in group.samples] == [float(answer == "3") for answer in said]
    assert run.rows["grpo"]["term/entropy_band"] >= 0
