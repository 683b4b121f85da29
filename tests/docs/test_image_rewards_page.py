"""The page of image reward models: its configs are read, its options exist, its commands convert a pickle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmrl.config import load
from mmrl.config.markup import parse
from mmrl.rewarding import available
from mmrl.share import share

NAMES = set(available())
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "image_rewards.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for kind in ("yaml", "bash")}


def options_of(name: str) -> set[str]:
    """Keyword options of a reward's class, by its file alone: nothing is imported."""
    file, _, attribute = name.partition(".")
    tree = ast.parse((share("rewards") / f"{file}.py").read_text(encoding="utf-8"))
    made = next(node for node in tree.body if getattr(node, "name", None) == attribute)
    init = next(node for node in made.body if getattr(node, "name", None) == "__init__")
    return {argument.arg for argument in init.args.args} - {"self"}


def rewards_in(value: object) -> list[dict]:
    return [reward for reward in value.get("rewards", []) if reward["name"] in NAMES]


@pytest.mark.parametrize("block", BLOCKS["yaml"], ids=range(len(BLOCKS["yaml"])))
def test_every_option_of_the_page_exists(block):
    rewards = rewards_in(parse(block, "page"))
    assert rewards
    for reward in rewards:
        if reward.get("options"):
            assert set(reward["options"]) <= options_of(reward["name"]), reward["name"]


def test_the_config_with_several_of_them_is_read():
    [whole] = [block for block in BLOCKS["yaml"] if "stages" in block]
    config = load(parse(whole, "page"))
    assert [reward.weight for reward in config.rewards] == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert config.stages[0].algorithm["combine"] == "advantage_sum"


def test_the_page_s_commands_turn_the_pickles_into_safetensors(tmp_path, monkeypatch):
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1)}
    torch.save(tensors, tmp_path / "ImageReward.pt")
    torch.save({"state_dict": tensors}, tmp_path / "HPS_v2.1_compressed.pt")
    (tmp_path / "hpsv3" / "dataset").mkdir(parents=True)
    source = 'import os\nINSTRUCTION = """Rate {text_prompt}\n"""\nprompt_with_special_token = """<|Reward|>\n"""\n'
    (tmp_path / "hpsv3" / "dataset" / "data_collator_qwen.py").write_text(source)
    commands = re.findall(r'^python -c "(.*)"$', "\n".join(BLOCKS["bash"]), re.MULTILINE)
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command in commands:
        exec(command, {})
    for name in ("ImageReward", "HPS_v2.1"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert (tmp_path / "hpsv3.txt").read_text() == "Rate {text_prompt}\n<|Reward|>\n"


def test_the_page_names_every_reward_that_sees_a_picture_by_a_model():
    named = set(re.findall(r"`(\w+\.\w+)`", PAGE))
    files = {"pickscore", "hps", "imagereward", "hpsv3", "unified_reward", "paco", "vqa"}
    assert {name for name in NAMES if name.partition(".")[0] in files} <= named
