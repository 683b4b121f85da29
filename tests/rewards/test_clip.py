"""CLIP and the aesthetic head on a tiny random model: the plumbing must equal open_clip called by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mmrl.rewarding import RewardError, load_reward

open_clip = pytest.importorskip("open_clip")

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = ["a red circle", "two blue squares", "a red circle"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(options that name the tiny model, the model, its preprocessing)"""
    folder = tmp_path_factory.mktemp("clip")
    config = folder / "mmrl-tiny-clip.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("mmrl-tiny-clip")
    weights = folder / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return {"model": str(config), "pretrained": str(weights), "device": "cpu"}, model.eval(), preprocess


@pytest.fixture
def samples(sample):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in PROMPTS]
    return [sample(text, picture) for text, picture in zip(PROMPTS, pictures)]


@torch.no_grad()
def features(model, preprocess, samples):
    image = model.encode_image(torch.stack([preprocess(s.artifact) for s in samples]), normalize=True)
    text = model.encode_text(
        open_clip.get_tokenizer("mmrl-tiny-clip")([s.prompt.text for s in samples]), normalize=True
    )
    return image, text


def test_the_score_is_the_cosine_that_open_clip_gives(tiny, samples):
    options, model, preprocess = tiny
    image, text = features(model, preprocess, samples)
    expected = torch.cosine_similarity(image, text)
    scores = load_reward("clip.score", options).call(samples)
    assert [s.value for s in scores] == pytest.approx(expected.tolist(), abs=1e-6)
    assert len({round(v, 6) for v in expected.tolist()}) == 3, "the tiny model must tell the samples apart"


def test_batches_and_scale_do_not_change_the_cosine(tiny, samples):
    options = tiny[0]
    whole = load_reward("clip.score", options).call(samples)
    cut = load_reward("clip.score", {**options, "batch": 2, "scale": 100.0}).call(samples)
    assert [s.value / 100 for s in cut] == pytest.approx([s.value for s in whole], abs=1e-6)


def test_a_long_prompt_is_reported_as_truncated(tiny, sample, samples):
    picture = samples[0].artifact
    # "a" is one token: 75 of them and the two marks fill the context of 77 exactly.
    fits, cut = load_reward("clip.score", tiny[0]).call([sample("a " * 75, picture), sample("a " * 76, picture)])
    assert fits.details == {}
    assert cut.details == {"truncated": True, "tokens": 78}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretrained": None}, "random"),
        ({"pretrained": "no-such-tag"}, "neither a file nor a tag"),
        ({"model": "no-such.json"}, "no model config"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(tiny, change, message):
    with pytest.raises(RewardError, match=message):
        load_reward("clip.score", {**tiny[0], **change})


def test_pickled_weights_are_refused(tiny, tmp_path):
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(RewardError, match="pickle"):
        load_reward("clip.score", {**tiny[0], "pretrained": str(tmp_path / "weights.pt")})


def test_the_aesthetic_head_reads_the_picture_only(tiny, samples, tmp_path):
    options, model, preprocess = tiny
    g = torch.Generator().manual_seed(1)
    w = [torch.randn(4, 16, generator=g), torch.randn(3, 4, generator=g), torch.randn(1, 3, generator=g)]
    b = [torch.randn(len(x), generator=g) for x in w]
    # 10 sorts after 2 by number and before it by letter: the order of the layers must be the number's.
    head = {f"layers.{n}.{k}": t for n, x, y in zip((0, 2, 10), w, b) for k, t in (("weight", x), ("bias", y))}
    save_file(head, tmp_path / "head.safetensors")
    options = {**options, "head": str(tmp_path / "head.safetensors")}
    image, _ = features(model, preprocess, samples)
    linear = ((image @ w[0].T + b[0]) @ w[1].T + b[1]) @ w[2].T + b[2]
    relu = ((image @ w[0].T + b[0]).relu() @ w[1].T + b[1]).relu() @ w[2].T + b[2]
    found = load_reward("aesthetic.score", options).call(samples)
    assert [s.value for s in found] == pytest.approx(linear[:, 0].tolist(), abs=1e-5)
    scores = load_reward("aesthetic.score", {**options, "activation": "relu", "scale": 0.1}).call(samples)
    assert [s.value for s in scores] == pytest.approx((relu[:, 0] / 10).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [([(4, 16), (1, 5)], "does not fit"), ([(4, 16)], "one output"), ([], "one output")],
)
def test_a_head_that_is_no_head_is_refused(tiny, tmp_path, shapes, message):
    save_file({f"{n}.weight": torch.zeros(s) for n, s in enumerate(shapes)}, tmp_path / "head.safetensors")
    with pytest.raises(RewardError, match=message):
        load_reward("aesthetic.score", {**tiny[0], "head": str(tmp_path / "head.safetensors")})


@pytest.mark.parametrize("name", ["clip.score", "aesthetic.score"])
def test_plain_and_noisy_pictures_stay_in_the_range(tiny, sample, tmp_path, name):
    """No picture earns more than its cosine: not by its size, its mode or its contrast."""
    options, *_ = tiny
    if name == "aesthetic.score":
        head = tmp_path / "head.safetensors"
        save_file({"weight": torch.full((1, 16), 0.25), "bias": torch.zeros(1)}, head)  # a unit vector
        options = {**options, "head": str(head)}
    rng = np.random.default_rng(1)
    pictures = [Image.new(mode, size) for mode in ("L", "RGB", "RGBA") for size in ((1, 1), (300, 2), (64, 64))]
    pictures += [Image.fromarray((255 * (rng.random((64, 64, 3)) > 0.5)).astype(np.uint8))]
    for prompt in ("a red circle", "a red circle " * 200, "\x00", ""):
        for score in load_reward(name, options).call([sample(prompt, picture) for picture in pictures]):
            assert -1.0001 <= score.value <= 1.0001
