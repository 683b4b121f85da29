"""A saved scalar model as a judge: its scores are those of the training's model, and a failure is a reason."""

from __future__ import annotations

import copy
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.cli import cli
from mmrl.config import ConfigError
from mmrl.judging.scalar import ScalarModel, scalar_folder
from mmrl.modalities.adapter import Adapter
from mmrl.types import Candidate, Prompt

HEAD = {"outputs": 2, "init": 0.1}
ASKED = [Prompt("sum", "12+3="), Prompt("long", "word " * 30), Prompt("word", "What is 5 times 7?")]
ANSWERS = [Candidate("15"), Candidate("no"), Candidate("35, and more")]


def saved(adapter, folder, modality, **notes):
    """A policy's folder as a checkpoint of a run has it."""
    dump = adapter.config.model_dump(mode="json")
    adapter.score_notes = {"modality": modality, "model": dump, "show": "{prompt} {candidate}", **notes}
    policy = folder / "checkpoints" / "latest" / "policy"
    adapter.save(policy)
    return policy


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    build = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "context": 256}
    adapter = TextAdapter(ModelConfig(path="built", build=build, sampling={"max_tokens": 8}, head=HEAD))
    folder = tmp_path_factory.mktemp("text")
    saved(adapter, folder, "text", mean=0.5, std=0.25)
    return adapter, folder


def test_scores_are_the_models_in_the_order_of_the_items(text):
    adapter, folder = text
    judge = ScalarModel(folder, device="cpu", batch=100)
    scores = judge.scores(list(zip(ASKED, ANSWERS)))
    samples = [adapter.given(p, [c.answer])[0] for p, c in zip(ASKED, ANSWERS)]
    wanted = torch.cat([adapter.scores([sample]) for sample in samples]).detach()
    assert [s.value for s in scores] == pytest.approx(wanted[:, 0].tolist(), rel=1e-4, abs=1e-5)
    assert [s.details["sigma"] for s in scores] == pytest.approx(wanted[:, 1].exp().tolist(), rel=1e-4)
    assert len({s.value for s in scores}) == 3


def test_normalised_they_have_the_stored_mean_and_spread(text):
    _, folder = text
    raw, normal = (ScalarModel(folder, normalise=n, device="cpu") for n in (False, True))
    items = list(zip(ASKED, ANSWERS))
    for one, other in zip(raw.scores(items), normal.scores(items)):
        assert other.value == pytest.approx((one.value - 0.5) / 0.25)
        assert other.details["sigma"] == pytest.approx(one.details["sigma"] / 0.25)
    assert raw.identity != normal.identity


def _body(adapter):
    next(adapter.model.parameters()).data[0, 0] += 1e-3


def _head(adapter):
    adapter.head.weight.data[0, 0] += 1e-3


@pytest.mark.parametrize("change", [_body, _head])
def test_each_weight_is_part_of_the_identity_and_the_place_is_not(text, tmp_path, change):
    adapter, folder = text
    shutil.copytree(folder, tmp_path / "copy")
    assert ScalarModel(tmp_path / "copy", device="cpu").identity == ScalarModel(folder, device="cpu").identity
    other = copy.deepcopy(adapter)
    with torch.no_grad():
        change(other)
    saved(other, tmp_path / "other", "text", mean=0.5, std=0.25)
    assert ScalarModel(tmp_path / "other", device="cpu").identity != ScalarModel(folder, device="cpu").identity


def test_the_base_that_lora_stands_on_is_part_of_the_identity(tmp_path):
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    build = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1}
    base = TextAdapter(ModelConfig(path="built", build=build))
    base.save(tmp_path / "base")
    tuned = TextAdapter(ModelConfig(path=str(tmp_path / "base"), train="lora", head=HEAD))
    saved(tuned, tmp_path / "tuned", "text")
    before = ScalarModel(tmp_path / "tuned", device="cpu").identity
    _body(base)
    base.save(tmp_path / "base")
    assert ScalarModel(tmp_path / "tuned", device="cpu").identity != before


def test_what_cannot_be_read_whole_is_invalid_and_says_why(text):
    judge = ScalarModel(text[1], device="cpu")
    long, good = Candidate("word " * 300), Candidate("15")
    scores = judge.scores([(ASKED[0], long), (ASKED[0], good), (ASKED[0], Candidate("", ("missing.png",)))])
    assert [s.status for s in scores] == ["invalid", "ok", "invalid"]
    assert "context" in scores[0].reason
    assert scores[1].value == pytest.approx(judge.scores([(ASKED[0], good)])[0].value, rel=1e-4)
    assert judge.scores([]) == []


def test_threads_get_their_own_scores(text):
    judge = ScalarModel(text[1], device="cpu")
    alone = [judge.scores([item])[0].value for item in zip(ASKED, ANSWERS)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda item: judge.scores([item])[0].value, list(zip(ASKED, ANSWERS)) * 3))
    assert found == alone * 3


def test_candidates_that_are_pictures_are_shown_behind_the_words(tmp_path):
    from mmrl.modalities.vision.adapter import VisionAdapter
    from mmrl.modalities.vision.config import ModelConfig

    build = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_hidden": 32, "vision_heads": 2, "patch": 8}
    adapter = VisionAdapter(
        ModelConfig(path="built", build={"kind": "qwen2_5_vl", **build}, sampling={"max_tokens": 8}, head=HEAD)
    )
    policy = saved(adapter, tmp_path, "vision")
    red, blue = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    judge = ScalarModel(policy, device="cpu")
    prompt = Prompt("p", "a red square")
    items = [(prompt, Candidate("", (picture,))) for picture in (red, blue)]
    broken = (prompt, Candidate("", ("gone.png",)))
    first, second, third = judge.scores([*items, broken])
    assert first.ok and second.ok and first.value != second.value
    assert third.status == "invalid" and "gone.png" in third.reason
    shown = Prompt("p", "", {"messages": [{"role": "user", "content": "a red square <image>"}], "images": [red]})
    (wanted,) = adapter.scores(adapter.given(shown, [""])).detach().tolist()
    assert first.value == pytest.approx(wanted[0], rel=1e-4, abs=1e-5)


def test_folders_that_are_no_scalar_model_are_refused(text, tmp_path):
    adapter, folder = text
    assert scalar_folder(folder) == scalar_folder(folder / "checkpoints" / "latest" / "policy")
    assert scalar_folder(tmp_path) is None
    with pytest.raises(ConfigError, match="no model with a scalar head"):
        ScalarModel(tmp_path)
    policy = saved(adapter, tmp_path, "text")
    with pytest.raises(ConfigError, match="normalise needs the mean"):
        ScalarModel(policy, normalise=True)
    notes = json.loads((policy / "head" / "head.json").read_text())
    (policy / "head" / "head.json").write_text(json.dumps({**notes, "modality": "evil.py:Code"}))
    with pytest.raises(ConfigError, match="its maker's own"):
        ScalarModel(policy)


# -------------------------------------------------------------------- as a classifier


@pytest.mark.parametrize("train", ["full", "lora"])
def test_an_exported_model_is_a_classifier_with_the_same_scores(tmp_path, train):
    from transformers import AutoModelForSequenceClassification

    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    build = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "context": 256}
    lora = {"train": "lora", "lora": {"rank": 2}} if train == "lora" else {}
    adapter = TextAdapter(ModelConfig(path="built", build=build, sampling={"max_tokens": 8}, head=HEAD, **lora))
    with torch.no_grad():
        for parameter in adapter.trainable_parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape)
    saved(adapter, tmp_path / "run", "text")
    ran = CliRunner().invoke(cli, ["judge", "export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out" / "model.safetensors").is_file() and str(tmp_path / "out") in ran.output
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    judge = ScalarModel(tmp_path / "run", device="cpu")
    for prompt, answer in zip(ASKED, ANSWERS):
        (sample,) = adapter.given(prompt, [answer.answer])
        row = torch.cat([sample.actions.tensors["prompt"], sample.actions.tensors["ids"]])
        with torch.no_grad():
            logits = classifier(input_ids=row[None]).logits[0]
        (score,) = judge.scores([(prompt, answer)])
        assert [score.value, score.details["sigma"]] == pytest.approx(
            [float(logits[0]), math.exp(logits[1])], rel=1e-4, abs=1e-5
        )
    with pytest.raises(ConfigError, match="out exists"):
        judge.export(tmp_path / "out")


def test_what_cannot_be_a_classifier_says_why(text, tmp_path, monkeypatch):
    import mmrl.modalities.text.classifier as classifier

    judge = ScalarModel(text[1], device="cpu")
    monkeypatch.setattr(classifier, "_class_of", lambda *_: None)
    with pytest.raises(ConfigError, match="no class of Qwen3Config for sequence classification"):
        judge.export(tmp_path / "out")
    monkeypatch.setattr(judge, "adapter", object.__new__(Adapter))
    with pytest.raises(ConfigError, match=r"Adapter has no class .*serve-reward"):
        judge.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
