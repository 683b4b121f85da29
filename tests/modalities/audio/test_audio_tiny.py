"""assets/audio-tiny: it is what its card says, hears as well as its card says, and its default trains from it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import mmrl
from mmrl.config import load
from mmrl.modalities.audio.adapter import AudioAdapter
from mmrl.share import share

FOLDER = share("assets", "audio-tiny")
CARD = (FOLDER / "README.md").read_text()
MADE = load("audio/tiny_pretrain")
DEFAULT = load("audio/tiny")
FEW = 100  # held-out questions, of which every option is right equally often


def test_the_files_are_the_model_that_the_config_of_the_card_builds():
    assert "`configs/audio/tiny_pretrain.yaml`" in CARD and "license: apache-2.0" in CARD
    assert DEFAULT.model.path == "share://assets/audio-tiny"
    built, shipped = AudioAdapter(MADE.model), AudioAdapter(DEFAULT.model)
    shapes = [{name: tuple(t.shape) for name, t in one.model.state_dict().items()} for one in (built, shipped)]
    assert shapes[0] == shapes[1]
    assert built.processor.tokenizer.get_vocab() == shipped.processor.tokenizer.get_vocab()
    assert built.processor.feature_extractor.to_dict() == shipped.processor.feature_extractor.to_dict()
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {path.suffix for path in files} == {".md", ".json", ".jinja", ".safetensors"}


def valid(samples):
    """Whether the completion is one of the options."""
    return [float(sample.artifact.strip() in sample.prompt.record["choices"]) for sample in samples]


def test_it_writes_options_and_hears_as_its_card_says():
    """The card's line `| the first 100 | right | options |`; one more or less, as machines add in other orders."""
    told = re.search(rf"\| the first {FEW} \| (0\.\d+) \| (\d\.\d+) \|", CARD)
    assert told
    monitors = [{"name": "choice.text"}, {"name": valid}]
    scores = mmrl.evaluate(load("audio/tiny", [f"data.eval_prompts_count={FEW}"]), eval={"rewards": monitors})
    assert scores["eval/choice.text"] == pytest.approx(float(told[1]), abs=1.5 / FEW)
    assert scores["eval/valid"] == pytest.approx(float(told[2]), abs=1.5 / FEW)


@pytest.mark.parametrize("sounds", ["own", "shuffled"])
def test_the_default_of_hearing_starts(tmp_path, sounds):
    """As `mmrl train --modality audio` does, and as its control, with fewer questions."""
    asked = [f"out={tmp_path}", "data.prompts_count=20", f"data.prompts_options.sounds={sounds}", "eval={}"]
    none = ["data.eval_prompts=null", ("data.eval_prompts_options", {}), "data.eval_prompts_count=100"]
    stage = [f"stages.grpo.{key}={value}" for key, value in {"steps": 2, "groups": 4, "samples": 4}.items()]
    summary = mmrl.train(load("audio/tiny", [*asked, *none, *stage]), quiet=True)
    assert summary["steps"] == 2 and summary["samples"] == 2 * 4 * 4
