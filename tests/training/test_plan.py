"""`mmrl plan` is a dry run: what stops a training before its first step stops a plan, with the same words."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrl.share import share
from tests.training.conftest import merged

REWARD = "def shorter(samples):\n    return [-float(len(s.artifact)) for s in samples]\n"
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ messages[0]['content'] }}"
)


@pytest.fixture
def text(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """text(**changes) -> a config of a model of a few thousand numbers that trains in a second."""
    lines = [json.dumps({"id": str(i), "prompt": f"say {i}"}) for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "own.py").write_text(REWARD, encoding="utf-8")

    def make(**changes: Any) -> dict[str, Any]:
        build = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1}
        stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "micro_batch": 64}
        base = {
            "name": "run",
            "modality": "text",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {"path": "built", "build": build, "sampling": {"max_tokens": 4}},
            "data": {"prompts": str(tmp_path / "prompts.jsonl")},
            "rewards": [{"name": f"{tmp_path / 'own.py'}:shorter"}],
            "stages": [stage],
        }
        if changes.get("modality") == "image":
            base["model"] = {}
        return merged(base, changes)

    return make


def stage(**options: Any) -> list[dict[str, Any]]:
    return [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, **options}]


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def copied(folder: Path, name: str, leave_out: str = "") -> Path:
    """A model that ships, as a folder of one's own."""
    shutil.copytree(share("assets", name), folder / name, ignore=shutil.ignore_patterns(leave_out or " "))
    return folder / name


def loaded(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "build": None, **more}


def cut_short(folder: Path) -> Path:
    weights = copied(folder, "text-tiny") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return weights.parent


def without_system(folder: Path) -> Path:
    made = copied(folder, "text-tiny")
    (made / "chat_template.jinja").write_text(REFUSES, encoding="utf-8")
    return made


def pictures(folder: Path, picture: str) -> dict[str, Any]:
    """Of a run that sees."""
    record = {"id": "1", "prompt": "<image> what?", "images": [picture]}
    prompts = written(folder, "seen.jsonl", json.dumps(record) + "\n")
    return {"modality": "vision", "model": loaded("share://assets/vision-tiny"), "data": {"prompts": prompts}}


def painted(**model: Any) -> dict[str, Any]:
    """Of a run that draws."""
    sampling = {"steps": 4, "size": 8} | model.pop("sampling", {})
    build = {"corpus": ["say 1"]}
    made = {"path": "built", "family": "sd3", "build": build, "sampling": sampling, "evaluation": {"steps": 2}}
    return {"modality": "image", "model": {**made, **model}, "rewards": [{"name": "jpeg.compressible"}]}


def paired(folder: Path) -> str:
    """A file of pairs."""
    return written(folder, "pairs.jsonl", json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")


# What is wrong -> (changes of the config, made in a folder; words of the message).
BROKEN: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "unknown key": (lambda at: {"stages": stage(sample=4)}, "stages.0.sample: unknown key"),
    "data missing": (lambda at: {"data": {"prompts": str(at / "none.jsonl")}}, "no prompt file"),
    "data of held-out prompts missing": (lambda at: {"data": {"eval_prompts": str(at / "none.txt")}}, "no prompt file"),
    "data of pairs missing": (
        lambda at: {"stages": [{"kind": "preference", "steps": 1, "pairs": str(at / "none.jsonl")}]},
        "no prompt file",
    ),
    "record without a prompt": (
        lambda at: {"data": {"prompts": written(at, "bad.jsonl", '{"question": "a"}\n')}},
        "needs a non-empty string `prompt`",
    ),
    "column of a reward missing": (lambda at: {"rewards": [{"name": "exact.match"}]}, "prompts do not suit it"),
    "column of a curriculum missing": (
        lambda at: {"stages": stage(curriculum={"order": "sorted", "column": "level"})},
        "level",
    ),
    "unknown reward": (lambda at: {"rewards": [{"name": "exact.macth"}]}, "match"),
    "reward that does not import": (
        lambda at: {"rewards": [{"name": written(at, "breaks.py", "1 / 0\n" + REWARD) + ":shorter"}]},
        "does not import: ZeroDivisionError",
    ),
    "option of a reward": (lambda at: {"rewards": [{"name": "exact.match", "options": {"cae": 1}}]}, "no option 'cae'"),
    "model folder missing": (lambda at: {"model": loaded(at / "none")}, "no config.json in"),
    "model folder without weights": (
        lambda at: {"model": loaded(copied(at, "text-tiny", "*.safetensors"))},
        "no weights in",
    ),
    "weights cut short": (lambda at: {"model": loaded(cut_short(at))}, "cut short"),
    "model of another modality": (lambda at: {"model": loaded("share://assets/vision-tiny")}, "is no causal"),
    "pipeline without a part's weights": (
        lambda at: {
            "modality": "image",
            "model": {"path": str(copied(at, "image-tiny", "diffusion_pytorch_model.safetensors"))},
        },
        "no weights in",
    ),
    "LoRA to start from missing": (
        lambda at: {"model": {"train": "lora", "lora": {"path": str(at / "none")}}},
        "no adapter_config.json in",
    ),
    "package of a tracker": (lambda at: {"trackers": ["mlflow"]}, "pip install mlflow"),
    "environment unknown": (lambda at: {"environment": {"name": "zooom"}}, "zoom"),
    "option of an environment": (lambda at: {"environment": {"name": "rounds", "round": 2}}, "no option 'round'"),
    "updates that do not divide groups": (lambda at: {"stages": stage(updates=3)}, "cannot be split evenly"),
    "template that refuses a system message": (
        lambda at: {"model": loaded(without_system(at), system="Be brief.")},
        "no system here",
    ),
    "prompts longer than allowed": (lambda at: {"model": {"max_prompt_tokens": 1}}, "6 of 6 prompts cannot be used"),
    "picture missing": (lambda at: pictures(at, "none.png"), "none.png"),
    "stage that does not import": (
        lambda at: {"stages": [{"kind": written(at, "kinds.py", "class Mine:\n    pass\n") + ":Mine", "steps": 1}]},
        "is no stage",
    ),
    "column of tasks missing": (
        lambda at: {
            "data": {"eval_prompts": written(at, "held.jsonl", '{"prompt": "other"}\n')},
            "eval": {"by": "task"},
        },
        "eval.by: no held-out record has a column 'task'",
    ),
    "rewards that count for nothing": (
        lambda at: {"rewards": [{"name": f"{at / 'own.py'}:shorter", "weight": 0}]},
        "stage 'grpo': every reward has weight 0",
    ),
    "ratio over sequences that a micro-batch cuts": (
        lambda at: {**painted(), "stages": stage(micro_batch=1, algorithm={"ratio": "sequence"})},
        "micro_batch is too small",
    ),
    "ratios of the trainer's replay, and of its own": (
        lambda at: {**painted(sampling={"ratio_norm": True}), "stages": stage(old_logp="replay", updates=2)},
        "old_logp: replay goes with ratios of log-probs",
    ),
    "part without a log-probability": (lambda at: painted(components=["vae"]), "[vae] has no log-probability"),
    "texts as answers of an adapter of pictures": (
        lambda at: {**painted(), "stages": [{"kind": "preference", "steps": 1, "pairs": paired(at)}], "rewards": []},
        "candidate 0 is not one picture and nothing else",
    ),
    "tree of an adapter that makes no single steps": (
        lambda at: {**painted(), "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "tree": {"step_end": "."}}]},
        "makes no single steps",
    ),
    "reward of hints that is none": (
        lambda at: {"stages": stage(hints={"reward": "nope"})},
        "hints: no reward 'nope' (there is own.shorter)",
    ),
    "prompts of hints without a solution": (
        lambda at: {"stages": stage(hints={"reward": "own.shorter"})},
        "hints: prompt '0' has no `solution`",
    ),
    "more than one pass of a filter": (
        lambda at: {"stages": [{"kind": "filter", "steps": 9, "groups": 2, "samples": 2, "rule": "difficulty"}]},
        "take steps=3",
    ),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_what_stops_a_training_stops_a_plan_with_the_same_words(wrong, text, main, tmp_path):
    changes, words = BROKEN[wrong]
    path = written(tmp_path, "config.yaml", yaml.safe_dump(text(**changes(tmp_path))))
    began = time.process_time()
    code, _, said = main("plan", path)
    took = time.process_time() - began
    (line,) = said.splitlines()
    assert code == 1
    assert words in line
    assert took < 5
    assert main("train", path, "--quiet")[::2] == (1, said), "the training says another thing"


def test_a_whole_config_is_planned_and_leaves_nothing(text, main, tmp_path):
    path = written(tmp_path, "config.yaml", yaml.safe_dump(text()))
    before = sorted(tmp_path.rglob("*"))
    code, said, errors = main("plan", path)
    assert (code, errors) == (0, "")
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before
    # "<|im_start|>user\nsay 0<|im_end|>\n<|im_start|>assistant\n": 3 special ones and 4 + 1 + 5 + 1 + 9 + 1 bytes
    assert "6 prompts; columns id, prompt" in said
    assert "prompts: tokens 24 to 24" in said
    assert "memory of stage grpo: about " in said


@pytest.mark.parametrize(("processes", "told"), [(1, False), (2, False), (8, True)])
def test_prompts_that_are_fewer_than_processes_are_said(text, main, tmp_path, processes, told, monkeypatch):
    path = written(tmp_path, "config.yaml", yaml.safe_dump(text()))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    code, said, _ = main("plan", path)
    assert code == 0
    assert ("2 prompts on 8 processes: 6 of them have nothing to sample" in said) == told


def test_a_model_that_is_on_the_hub_only_is_said_and_the_rest_looked_at(text, main, tmp_path):
    config = text(model=loaded("somebody/not-on-this-machine"))
    code, said, _ = main("plan", written(tmp_path, "config.yaml", yaml.safe_dump(config)))
    assert code == 0
    assert "somebody/not-on-this-machine will be downloaded" in said
    assert "6 prompts" in said
    config["rewards"] = [{"name": "exact.match"}]
    code, _, said = main("plan", written(tmp_path, "config.yaml", yaml.safe_dump(config)))
    assert code == 1 and "prompts do not suit it" in said


def test_a_resume_is_looked_at(text, main, tmp_path):
    path = written(tmp_path, "config.yaml", yaml.safe_dump(text()))
    assert main("plan", path, "--resume")[0] == 1
    assert main("train", path, "--quiet")[0] == 0
    code, said, _ = main("plan", path, "--resume")
    assert code == 0 and "behind step 1" in said
    assert "holds a run already" in main("plan", path)[1]
    code, _, said = main("plan", path, "seed=5", "--resume")
    assert code == 1 and "seed: 0 -> 5" in said
    assert main("train", path, "seed=5", "--resume", "--quiet")[::2] == (1, said)


def test_a_step_is_measured(text, main, tmp_path):
    config = text(stages=[{**stage()[0], "steps": 100}], data={"eval_prompts": str(tmp_path / "prompts.jsonl")})
    path = written(tmp_path, "config.yaml", yaml.safe_dump(config))
    code, said, _ = main("plan", path, "--measure")
    assert code == 0
    assert "100 to go" in said and "time: about 0:" in said
    assert "MB of main memory at most" in said
    assert not (tmp_path / "runs").exists()


def test_time_is_that_of_the_steps_that_are_left():
    from mmrl.config import load
    from mmrl.training.measure import told

    config = load("vision/vlm_r1_rec_tiny")
    rows = [{"stage": s.name, "time/step": 2.0 + n} for n, s in enumerate(config.stages)]
    steps = [s.steps for s in config.stages]
    seconds = 2 * (steps[0] - 3) + sum((2 + n) * count for n, count in enumerate(steps) if n)
    *_, last = told(config, rows, done=3)
    assert last.startswith(f"time: about {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} ")


def test_a_sharded_run_is_planned_by_parts_and_shards_that_do_not_divide_are_refused(text, main, tmp_path):
    path = written(tmp_path, "config.yaml", yaml.safe_dump(text()))
    code, said, _ = main("plan", path, "--processes", "4", "--shards", "2", "--simulate", "2,8")
    assert code == 0
    table = said.partition("simulation of stage grpo, 2 prompts x 2 samples a step:\n")[2].splitlines()
    assert [line.split()[:2] for line in table[:3]] == [["GPUs", "shards"], ["2", "2"], ["8", "2"]]
    assert "simulated, not measured, on h100" in said
    assert "memory of stage grpo on each of 4 GPUs, 2 shards x 2 copies: about " in said
    assert "gathered blocks" in said and "the whole model" in said
    code, _, said = main("plan", path, "--processes", "4", "--shards", "3")
    assert code == 1 and "take sharding.shards=1, 2 or 4, or 3 or 6 processes" in said
