"""BMAS on a table of four directions, so that every cosine is known; and on the decoder that ships."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmrl.rewarding import RewardError, load_reward
from mmrl.types import Prompt, Sample

# "puppy" is at a right angle to none of dog (0.6) and cat (0.8).
ROWS = {"dog": (1, 0), "cat": (0, 2), "puppy": (0.6, 0.8), "not": (-1, 0), ".": (5, 5), "<end>": (7, 7), "?": (9, 1)}


@pytest.fixture
def folder(tmp_path):
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(ROWS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path)
    table = torch.tensor([ROWS[word] for word in ROWS], dtype=torch.float32).to(torch.bfloat16)
    save_file({"model.embed_tokens.weight": table, "lm_head.weight": table + 1}, tmp_path / "model.safetensors")
    return tmp_path


def score(folder, text: str, answer: object, **options):
    options = {"model": str(folder), "extract": "whole", **options}
    return load_reward("bmas.similarity", options).call([Sample(Prompt("p", "q", {"answer": answer}), 0, text)])[0]


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("dog", "dog", 1.0),
        ("dog", "cat", 0.0),
        ("dog", "not", -1.0),
        ("cat", "puppy", 0.8),
        # answer to reference: (1 + 0.8) / 2, reference to answer: 1
        ("dog cat", "dog puppy", (0.5 * (1 + 0.8) + 0.5 * (1 + 0.8)) / 2),
        ("dog cat", "dog", (0.5 * (1 + 0) + 1) / 2),
        ("dog .", "dog", 1.0),  # punctuation and special tokens are dropped
        ("dog <end>", "dog", 1.0),
        ("puppy", ["dog", "cat"], 0.8),  # the better reference
        ("", "dog", 0.0),
        (" . ", "dog", 0.0),
    ],
)
def test_by_hand(folder, text, answer, value):
    found = score(folder, text, answer)
    assert found.status == "ok"
    assert found.value == pytest.approx(value, abs=4e-3)  # the table is in bfloat16


def test_a_bag_of_words_scores_as_much_and_the_gate_stops_the_long_one(folder):
    assert score(folder, "cat dog", "dog cat").value == pytest.approx(1.0)
    spam = "dog cat " * 50
    assert score(folder, spam, "dog cat").value == pytest.approx(1.0)  # known, and why there is a gate
    assert score(folder, spam, "dog cat", length_gate=3).value == 0.0
    assert score(folder, "dog", "dog cat " * 2, length_gate=3).value == 0.0
    assert score(folder, "dog cat dog", "dog cat", length_gate=3).value == pytest.approx(1.0)


def test_the_final_answer_is_what_is_compared(folder):
    assert score(folder, "<answer>dog</answer> cat", "dog", extract="auto").value == pytest.approx(1.0)


def test_on_the_decoder_that_ships():
    reward = load_reward("bmas.similarity", {"model": "share://assets/text-tiny", "extract": "whole"})
    prompt = Prompt("p", "q", {"answer": "12+34"})
    same, other, none = (s.value for s in reward.call([Sample(prompt, 0, text) for text in ("12+34", "99", "++")]))
    assert same == pytest.approx(1.0)
    assert other < 0.9
    assert none == 0.0


def test_a_checkpoint_in_several_files(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    places = {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert score(folder, "dog", "dog").value == pytest.approx(1.0)


def test_what_is_missing_is_told(folder, tmp_path_factory):
    assert score(folder, "dog", None).status == "na"
    assert "no token with a letter" in score(folder, "dog", ".").reason
    with pytest.raises(RewardError, match=r"no \.safetensors file"):
        load_reward("bmas.similarity", {"model": str(tmp_path_factory.mktemp("empty"))})
    save_file({"lm_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(RewardError, match="found none where one input embedding"):
        load_reward("bmas.similarity", {"model": str(folder)})
    with pytest.raises(RewardError, match=r"length_gate=0\.5 must be 1"):
        load_reward("bmas.similarity", {"model": str(folder), "length_gate": 0.5})
    with pytest.raises(RewardError, match="needs the option 'model'"):
        load_reward("bmas.similarity")
