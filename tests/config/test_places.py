"""A key that stands in the wrong place is told where it belongs; a path in a config is its file's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrl.config import Config, ConfigError, load
from mmrl.config.markup import write
from mmrl.config.places import OTHERS, keys


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1e-4", "stages.grpo.optim.lr"),
        ("stages.grpo.kl_coef=0.1", "stages.grpo.algorithm.kl_coef"),
        ("stages.grpo.rank=4", "model.lora.rank"),
        ("model.temperature=1", "model.sampling.temperature or model.evaluation.temperature"),
        ("learning_rate=1e-4", "stages.grpo.optim.lr"),
        ("stages.grpo.beta=0.1", "stages.grpo.algorithm.kl_coef"),
        ("num_generations=8", "stages.grpo.samples"),
        ("data.temperature=1", "model.sampling.temperature"),
        # Words of other libraries that look like another of ours.
        ("beta=0.1", "stages.grpo.algorithm.kl_coef"),
        ("report_to=wandb", "'trackers'"),
        ("eval_steps=5", "eval.every or checkpoint.every"),
        ("stages.grpo.num_train_epochs=4", "'steps'"),
    ],
)
def test_a_key_in_the_wrong_place_is_told_the_right_one(config, override, meant):
    with pytest.raises(ConfigError) as caught:
        load(config(), [override])
    assert f"did you mean {meant}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_that_was_given_a_word_says_how_it_is_written(config):
    with pytest.raises(ConfigError, match=r"trackers: expected a list, got 'wandb'; write trackers=\[wandb\]"):
        load(config(), ["trackers=wandb"])


@pytest.mark.parametrize("modality", ["text", "vision", "audio", "image"])
def test_every_key_of_a_run_is_one_that_an_override_takes(config, modality):
    """The keys are asked of the sections; that an override finds the place of each is asked of `load`: what it refuses
    is the value, never the key."""
    values = config(modality, ("sft", "grpo"))
    known = list(keys(Config, values))
    assert len(known) == len(set(known)) > 150
    for key in known:
        try:
            load(values, [(key, ["no such value"])])
        except ConfigError as error:
            assert "unknown key" not in str(error) and "no item" not in str(error), key


def test_what_others_call_an_option_is_the_end_of_a_key(config):
    ends = {key.rpartition(".")[2] for m in ("text", "image") for key in keys(Config, config(m, ("sft", "grpo")))}
    assert set(OTHERS.values()) <= ends


# ---- paths ------------------------------------------------------------------------------------------------


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("", encoding="utf-8")


@pytest.fixture
def written(config, tmp_path):
    """A config in a folder of its own, beside everything that it names."""
    home = tmp_path / "home"
    files(home, "prompts.jsonl", "data/held.jsonl", "mine.py", "model/config.json", "shards/0.parquet")
    values = config()
    values["model"] = {"path": "model"}
    values["data"] = {"prompts": "prompts.jsonl", "eval_prompts": "data/held.jsonl", "records": "shards/*.parquet"}
    values["rewards"] = [{"name": "mine.py:reward", "options": {"table": "data/held.jsonl", "words": "data"}}]
    (home / "run.yaml").write_text(write(values), encoding="utf-8")
    return home


def test_paths_in_a_file_are_the_files(written, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    files(elsewhere, "prompts.jsonl")
    monkeypatch.chdir(elsewhere)
    made = load("../home/run.yaml")
    assert Path(made.data.prompts).samefile(written / "prompts.jsonl")
    assert Path(made.data.eval_prompts).samefile(written / "data/held.jsonl")
    assert Path(made.model.path).samefile(written / "model")
    assert made.data.records == str(written / "shards/*.parquet")
    reward = made.rewards[0]
    assert reward.name == f"{written / 'mine.py'}:reward"
    assert Path(reward.options["table"]).samefile(written / "data/held.jsonl")
    assert reward.options["words"] == "data"  # a bare word is a word, whatever lies there
    assert made.out == "runs"  # where a run goes is the caller's


def test_a_copy_finds_its_files_from_anywhere(written, tmp_path, monkeypatch):
    monkeypatch.chdir(written)
    copy = tmp_path / "far" / "config.yaml"
    copy.parent.mkdir()
    copy.write_text(load("run.yaml").dump(), encoding="utf-8")
    monkeypatch.chdir(copy.parent)
    assert Path(load("config.yaml").data.prompts).samefile(written / "prompts.jsonl")


def test_a_path_that_is_given_by_hand_is_the_callers(written, tmp_path, monkeypatch):
    here = tmp_path / "here"
    files(here, "prompts.jsonl")
    monkeypatch.chdir(here)
    assert Path(load("../home/run.yaml", ["data.prompts=prompts.jsonl"]).data.prompts).samefile(here / "prompts.jsonl")


def test_names_that_are_no_files_stay(config, tmp_path, monkeypatch):
    """Of the hub, of what ships, of modalities beside a folder of that name; and files that nobody has."""
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "text/x", "grpo/x", "share/x")
    values = config()
    values["model"]["path"] = "owner/model"
    values["data"] |= {"prompts": "share://datasets/x.jsonl", "records": "not/there.jsonl"}
    (tmp_path / "run.yaml").write_text(write(values), encoding="utf-8")
    made = load("run.yaml")
    assert (made.model.path, made.modality, made.stages[0].kind) == ("owner/model", "text", "grpo")
    assert (made.data.prompts, made.data.records) == ("share://datasets/x.jsonl", "not/there.jsonl")


def test_words_that_are_compared_or_matched_are_no_files(config, tmp_path, monkeypatch):
    """A column's value, a name of a column, a system text, a regular expression: whatever lies beside the config."""
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "a/b.png", "level.1", ".x/.y")
    values = config()
    values["data"] |= {"eval_prompts": "held.jsonl", "where": {"image": "a/b.png"}, "columns": {"answer": "level.1"}}
    values["rewards"] = [{"name": "regex.fullmatch", "options": {"pattern": ".*/.*"}}]
    values["model"]["system"] = "a/b.png"
    (tmp_path / "run.yaml").write_text(write(values), encoding="utf-8")
    made = load("run.yaml", ["data.eval_where.image=a/b.png", "data.where.more=a/b.png"])
    assert made.data.where == {"image": "a/b.png", "more": "a/b.png"}
    assert (made.data.eval_where, made.data.columns) == ({"image": "a/b.png"}, {"answer": "level.1"})
    assert (made.rewards[0].options["pattern"], made.model.system) == (".*/.*", "a/b.png")
