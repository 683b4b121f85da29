"""Rewards over HTTP against real vLLM: /classify, /pooling, /score, and a first token of a chat with pictures."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.share import share
from mmrl.types import Group, Prompt, Sample

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
ANSWERS = ["12", "a longer answer", ""]


def scored(name: str, prompt: Prompt, artifacts: list, **options) -> list:
    group = Group(prompt, 0, [Sample(prompt, i, artifact) for i, artifact in enumerate(artifacts)])
    score_groups([group], [load_reward(f"remote.{name}", {"patience": 0, "attempts": 1, **options})])
    return [sample.scores[f"remote.{name}"] for sample in group.samples]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """(folder, model, tokenizer) of a tiny decoder with one score."""
    from transformers import AutoConfig, AutoTokenizer, Qwen3ForSequenceClassification

    folder = tmp_path_factory.mktemp("scores") / "scorer"
    source = share("assets", "text-tiny")
    config = AutoConfig.from_pretrained(source)
    config.num_labels, config.architectures = 1, ["Qwen3ForSequenceClassification"]
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config).float().eval()
    model.score.weight.data.mul_(20)  # so that scores are apart
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder, model, AutoTokenizer.from_pretrained(folder)


def test_scores_of_a_reward_model_are_those_of_transformers(serve, scorer):
    folder, model, tokenizer = scorer
    url = serve(
        folder, "--runner", "pooling", "--max-model-len", "128", "--chat-template", str(folder / "chat_template.jinja")
    )
    prompt = Prompt("p", "7 + 5 = ", {"prompt": "7 + 5 = "})
    with torch.no_grad():
        rows = [tokenizer(prompt.text + answer, return_tensors="pt") for answer in ANSWERS]
        wanted = [float(model(**row).logits[0, 0]) for row in rows]
    assert max(wanted) - min(wanted) > 0.1
    for name in ("classify", "pooling"):
        found = scored(name, prompt, ANSWERS, url=url, model=str(folder))
        assert [score.reason for score in found] == [""] * 3
        assert [score.value for score in found] == pytest.approx(wanted, abs=1e-3)
    found = scored("relevance", prompt, ANSWERS[:2], url=url, model=str(folder))
    assert [score.reason for score in found] == [""] * 2
    assert [score.value for score in found] == pytest.approx(wanted[:2], abs=1e-3)


def test_a_chat_with_pictures_tells_its_first_token(serve):
    from transformers import AutoTokenizer

    folder = share("assets", "vision-tiny")
    words = len(AutoTokenizer.from_pretrained(folder))
    url = serve(folder, "--max-model-len", "256", "--max-logprobs", str(words))
    prompt = Prompt("p", "Which number?", {"prompt": "Which number?"})
    pictures = [Image.new("RGB", (56, 56), colour) for colour in ("red", "blue")]
    asked = {"url": f"{url}/v1", "model": str(folder), "question": "$prompt", "yes": "3", "no": "7", "top": words}
    found = scored("yes_no", prompt, pictures, **asked)
    assert [score.reason for score in found] == [""] * 2
    assert all(0 < score.value < 1 and score.details["yes"] > 0 for score in found)
    assert found[0].value != found[1].value  # it has seen them
