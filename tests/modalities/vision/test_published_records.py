"""A record as TRL, ms-swift, VLM-R1 and the papers publish it trains through the command line, unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from one_layer import ONE_LAYER

from mmrl.cli import cli
from mmrl.config import load
from mmrl.share import share
from mmrl.training.assemble import load_adapter, load_prompts

FORMATS = share("datasets", "emoji_scenes", "formats")
# Cells of 16 pixels, 4 x 4 of them at most: a picture costs 16 tokens.
BUILD = {"kind": "qwen2_5_vl", **ONE_LAYER, "max_pixels": 4096, "context": 6000}
LETTERS = "def letters(samples):\n    return [float(sum(map(ord, s.artifact)) % 97) for s in samples]\n"
GRPO = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 3, "micro_batch": 4096}


@pytest.fixture
def config(tmp_path: Path):
    """config(data, stage, **more) -> a config that trains a tiny model for a step by the letters of its answers."""
    (tmp_path / "mine.py").write_text(LETTERS, encoding="utf-8")

    def make(data: dict[str, Any], stage: dict[str, Any] = GRPO, **more: Any) -> dict[str, Any]:
        base = {
            "name": "run",
            "modality": "vision",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {"path": "built", "build": BUILD, "sampling": {"max_tokens": 12}},
            "data": data,
            "rewards": [{"name": f"{tmp_path / 'mine.py'}:letters"}],
            "stages": [stage],
        }
        return base | more

    return make


def trained(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The metrics of the step that `mmrl train` makes of the config."""
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = CliRunner().invoke(cli, ["train", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[-1])
    assert math.isfinite(row["loss"]) and row["grad_norm"] > 0
    return row


def opening(config: dict[str, Any]) -> str:
    """What the policy reads of the first record, each id in words; a picture is one sign."""
    made = load(config)
    adapter = load_adapter(made)
    prompts = load_prompts(made, adapter).prompts
    return "".join(adapter.reader.words(adapter.reader.opened(prompts[0], adapter.reader.context(prompts[0])).row.ids))


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


PICTURE = "<|vision_start|>▣<|vision_end|>"


@pytest.mark.parametrize("name", ["trl", "vlm_r1", "satori", "mgpo", "visionthink"])
def test_a_published_file_trains_as_it_is(config, tmp_path, name):
    row = trained(config({"prompts": str(FORMATS / f"{name}.jsonl")}), tmp_path)
    assert row["env/visual_tokens"] == 16


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("trl", [("user", f"{PICTURE}Which number is on the ")]),
        ("vlm_r1", [("user", f"{PICTURE}Is there a ")]),
        ("satori", [("system", "Write <caption>, <bbox> and <answer>."), ("user", f"{PICTURE}What is at the ")]),
    ],
)
def test_the_policy_reads_the_messages_with_the_picture_where_it_stands(config, name, messages):
    read = opening(config({"prompts": str(FORMATS / f"{name}.jsonl")}))
    *before, (role, begins) = messages
    start = "".join(turn(*message) for message in before) + f"<|im_start|>{role}\n{begins}"
    assert read.startswith(start)
    assert read.endswith("?<|im_end|>\n<|im_start|>assistant\n")


SWIFT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<image><image>Which one is older?"},
    {"role": "assistant", "content": "The second."},
]


def swift(folder: Path, **more: Any) -> str:
    """Two records in ms-swift's form, whose pictures have whole paths, as its users write them."""
    pictures = [str(FORMATS / "pictures" / f"scene-{i}.jpg") for i in range(2)]
    records = [{"messages": SWIFT, "images": images, **more} for images in (pictures, pictures[::-1])]
    path = folder / "swift.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)


def test_swift_messages_are_prompts(config, tmp_path):
    made = config({"prompts": swift(tmp_path), "image_root": str(FORMATS), "format": "swift"})
    row = trained(made, tmp_path)
    assert row["env/visual_tokens"] == 32
    assert opening(made) == (
        turn("system", "Be brief.") + turn("user", f"{PICTURE}{PICTURE}Which one is older?") + "<|im_start|>assistant\n"
    )


def test_swift_messages_are_supervised_records(config, tmp_path):
    data = {"records": swift(tmp_path), "image_root": str(FORMATS)}
    stage = {"kind": "sft", "steps": 1, "batch": 2, "micro_batch": 2}
    row = trained(config(data, stage, rewards=[]), tmp_path)
    # An untrained model finds every token about as likely: the loss is near the log of their number.
    assert 3 < row["loss"] < 9


def test_swift_messages_are_preference_pairs(config, tmp_path):
    stage = {"kind": "preference", "objective": "dpo", "steps": 1, "batch": 2, "micro_batch": 4096}
    stage["pairs"] = swift(tmp_path, rejected_response="The first.")
    row = trained(config({"image_root": str(FORMATS)}, stage, rewards=[]), tmp_path)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are one


def test_mmpr_pairs_train(config, tmp_path):
    stage = {"kind": "preference", "objective": "mpo", "steps": 1, "batch": 4, "micro_batch": 4096}
    stage["pairs"] = str(FORMATS / "mmpr.jsonl")
    row = trained(config({}, stage, rewards=[]), tmp_path)
    # 0.8 of the DPO loss and 0.2 of BCO's two parts at a margin of 0, and the chosen answer's likelihood.
    assert row["loss"] > 0.8 * math.log(2) + 0.2 * 2 * math.log(2)


def test_ui_s1_trajectories_train(config, tmp_path):
    made = config({"prompts": str(FORMATS / "ui_s1.jsonl")}, environment={"name": "ui_s1", "patches": -1})
    row = trained(made, tmp_path)
    assert row["env/patched"] > 0 and 16 < row["env/visual_tokens"] <= 32  # at most two screenshots a step


def test_vlm_r1_rewards_are_chosen_by_its_own_column(config, tmp_path):
    dispatch = {
        "name": "compose.dispatch",
        "options": {"by": "accu_reward_method", "rewards": {"yes_no": "exact.match", "default": "grounding.box_iou"}},
    }
    made = config({"prompts": str(FORMATS / "vlm_r1.jsonl")})
    made["rewards"].append(dispatch)
    made["stages"] = [{**GRPO, "groups": 6}]
    row = trained(made, tmp_path)
    assert row["reward/invalid"] == 0 and row["reward/compose.dispatch"] is not None
