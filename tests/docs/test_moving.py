"""The pages for users of TRL and flow_grpo name options that exist, on both sides where the other side is installed."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from mmrl.config import load
from mmrl.config.places import OTHERS, keys
from mmrl.config.run import Config

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {"from_trl.md": "text", "from_flow_grpo.md": "image"}
CODE = re.compile(r"`([^`]+)`")


def rows(page: str) -> list[list[str]]:
    """Cells of the table of options."""
    text = (DOCS / page).read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "`" in line]


def ours(page: str) -> dict[str, str]:
    """Keys of the second column, with what stands behind them in brackets or after a colon."""
    code = re.compile(r"`([a-z][\w.]*)(?:: [^`]*)?`(?: \(([^)]*)\))?")
    return {key: behind for row in rows(page) for key, behind in code.findall(row[1])}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_ours_exists_and_has_that_default(page):
    given = {
        "modality": PAGES[page],
        "model": {"path": "built"},
        "data": {"prompts": "p.txt"},
        "rewards": [{"name": "jpeg.compressible"}, {"name": "exact.match"}],
        "stages": [{"kind": "grpo", "steps": 1}],
    }
    known = set(keys(Config, given))
    named = ours(page)
    assert len(named) > 20
    # A gate, a preset or a mode is a value, not a key; a key has a dot, or stands at the top of a config.
    assert {key for key in named if "." in key} <= known
    config = load(given)
    clip = 0.2 if page == "from_trl.md" else 1e-4
    left_to_the_model = {"clip_low": clip, "clip_high": clip, "noise_level": 0.7, "steps": 20}
    wrong = {}
    for key, said in named.items():
        if _number(said) or said in ("float32", "constant", "sequence_mean", "group_std"):
            value = _default(config, key)
            value = left_to_the_model[key.rpartition(".")[2]] if value is None else value
            if str(value) != said and not (_number(said) and float(said) == value):
                wrong[key] = (said, value)
    assert not wrong


def _default(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.replace("stages.grpo.algorithm", "stages.grpo.resolved").split("."):
        value = value[0] if part == "grpo" else getattr(value, part)
    return getattr(value, "name", value)  # of a hook, its name


def _number(text: str) -> bool:
    return bool(re.fullmatch(r"[\d.e+-]+", text))


def _fields(module: str, file: str) -> dict[str, str]:
    """Fields of the data classes in a file of an installed package, and their defaults as written; nothing is run."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.submodule_search_locations is not None
    tree = ast.parse(Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8"))
    found = {}
    for each in (n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body if isinstance(n, ast.AnnAssign)):
        value = each.value
        if isinstance(value, ast.Call):
            value = next((k.value for k in value.keywords if k.arg == "default"), None)
        found[ast.unparse(each.target)] = ast.unparse(value).strip("'\"") if value is not None else ""
    return found


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is in the extra bench")
def test_every_option_of_trl_exists_and_has_that_default():
    fields = _fields("transformers", "training_args.py") | _fields("trl", "trainer/grpo_config.py")
    arguments = {"model", "peft_config", "model_init_kwargs"}
    said = {}
    for row in rows("from_trl.md"):
        for code, behind in re.findall(r"`(\w+)(?:\[[^`]*)?`(?: \(([^)]*)\))?", row[0]):
            assert code in fields or code in arguments, code
            if _number(behind or "-x"):
                said[code] = float(behind)
    assert len(said) > 7
    wrong = {k: (v, fields[k]) for k, v in said.items() if fields[k] and _number(fields[k]) and float(fields[k]) != v}
    assert not wrong


# Names that are words of ours too, that are split over two keys, or that stand for what is always so here.
NO_PLACE = {"model", "model_init_kwargs", "gradient_accumulation_steps", "lora_path", "train_batch_size", "batch_size"}
NO_PLACE |= {"num_generations", "num_image_per_prompt", "use_vllm", "adv_clip_max", "global_std"}
NO_PLACE |= {"per_prompt_stat_tracking"}


@pytest.mark.parametrize("page", PAGES)
def test_an_option_of_theirs_in_a_config_is_told_what_the_page_says(page):
    said = {}
    for row in rows(page):
        ends = {key.rpartition(".")[2] for key in re.findall(r"`([a-z][\w.]*)(?:: [^`]*)?`", row[1])}
        for code in re.findall(r"`([\w.]+)(?:\[[^`]*|[ =][^`]*)?`", row[0]):
            name = code.rpartition(".")[2]
            if name not in ends | NO_PLACE:
                said[name] = (OTHERS.get(name), ends)
    assert len(said) > 20
    assert not {name: (told, ends) for name, (told, ends) in said.items() if told not in ends}
