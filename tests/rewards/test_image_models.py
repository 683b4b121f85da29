"""PickScore, HPS and ImageReward on tiny models of their architectures: each against its formula, worked out anew."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

SIDE, WIDTH = 32, 64
PROMPTS = ["a red circle", "two blue squares", ""]
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def noise(size=(32, 32), seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def pixels_of(picture: Image.Image) -> torch.Tensor:
    """Of a picture that has the model's size already: nothing is resized."""
    assert picture.size == (SIDE, SIDE)
    array = (np.asarray(picture, dtype=np.float64) / 255 - MEAN) / STD
    return torch.tensor(array.transpose(2, 0, 1), dtype=torch.float32)[None]


def scores(name: str, options: dict, prompt: str, pictures: list) -> list:
    asked = Prompt("p", prompt)
    group = Group(asked, 0, [Sample(asked, i, picture) for i, picture in enumerate(pictures)])
    score_groups([group], [load_reward(name, options)])
    return [next(iter(sample.scores.values())) for sample in group.samples]


# -------------------------------------------------------------------- tiny models with the published names


def clip_folder(folder) -> str:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocab = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(vocab)}, merges=[])
    size = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**size, **marks, "vocab_size": len(vocab), "max_position_embeddings": 77, "projection_dim": 16},
        vision_config={**size, "image_size": SIDE, "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


def open_clip_file(folder) -> dict:
    open_clip = pytest.importorskip("open_clip")
    config = folder / "mmrl-tiny-hps.json"
    tower = {"layers": 1, "width": WIDTH}
    vision = {**tower, "image_size": SIDE, "head_width": 32, "patch_size": 16}
    text = {**tower, "context_length": 77, "vocab_size": 49408, "heads": 2}
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("mmrl-tiny-hps")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "hps.safetensors")
    return {"model": str(config), "weights": str(folder / "hps.safetensors")}


def linear(weights: dict, name: str, out: int, into: int, scale: float = 0.1) -> None:
    weights[f"{name}.weight"] = scale * torch.randn(out, into)
    weights[f"{name}.bias"] = scale * torch.randn(out)


def published_imagereward() -> dict[str, torch.Tensor]:
    """Tensors with the names that ImageReward.pt has, of two layers each; the widths of the head are its own."""
    torch.manual_seed(0)
    w: dict[str, torch.Tensor] = {}
    see, read = "blip.visual_encoder", "blip.text_encoder"
    w[f"{see}.cls_token"], w[f"{see}.pos_embed"] = torch.randn(1, 1, 128), 0.5 * torch.randn(1, 5, 128)
    w[f"{see}.patch_embed.proj.weight"], w[f"{see}.patch_embed.proj.bias"] = (
        0.05 * torch.randn(128, 3, 16, 16),
        torch.randn(128),
    )
    for i in range(2):
        for norm in ("norm1", "norm2"):
            linear(w, f"{see}.blocks.{i}.{norm}", 128, 1)
            w[f"{see}.blocks.{i}.{norm}.weight"] = 1 + 0.1 * torch.randn(128)
        for name, out, into in (
            ("attn.qkv", 384, 128),
            ("attn.proj", 128, 128),
            ("mlp.fc1", 96, 128),
            ("mlp.fc2", 128, 96),
        ):
            linear(w, f"{see}.blocks.{i}.{name}", out, into)
    w[f"{see}.norm.weight"], w[f"{see}.norm.bias"] = torch.rand(128), torch.randn(128)
    w[f"{read}.embeddings.word_embeddings.weight"] = torch.randn(40, 64)
    w[f"{read}.embeddings.position_embeddings.weight"] = 0.5 * torch.randn(35, 64)
    w[f"{read}.embeddings.position_ids"] = torch.arange(35)[None]
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        for kind, into in (("attention", 64), ("crossattention", 128)):
            linear(w, f"{read}.{layer}.{kind}.self.query", 64, 64)
            linear(w, f"{read}.{layer}.{kind}.self.key", 64, into)
            linear(w, f"{read}.{layer}.{kind}.self.value", 64, into)
            linear(w, f"{read}.{layer}.{kind}.output.dense", 64, 64)
            norms.append(f"{layer}.{kind}.output.LayerNorm")
        linear(w, f"{read}.{layer}.intermediate.dense", 96, 64)
        linear(w, f"{read}.{layer}.output.dense", 64, 96)
        norms.append(f"{layer}.output.LayerNorm")
    for norm in norms:
        w[f"{read}.{norm}.weight"], w[f"{read}.{norm}.bias"] = 1 + 0.1 * torch.randn(64), 0.1 * torch.randn(64)
    for part in ("vision_proj", "text_proj"):
        linear(w, f"blip.{part}", 8, 64)
    for place, (out, into) in {0: (1024, 64), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}.items():
        linear(w, f"mlp.layers.{place}", out, into)
    return w


def imagereward_by_hand(w: dict, pixels: torch.Tensor, ids: torch.Tensor) -> float:
    """The released forward pass, by the published names: pre-norm ViT, post-norm BERT that looks at it, head."""

    def dense(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def attend(q, k, v, heads):
        q, k, v = (x.view(1, -1, heads, 64).transpose(1, 2) for x in (q, k, v))
        return ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)

    see, read = "blip.visual_encoder", "blip.text_encoder"
    proj = f"{see}.patch_embed.proj"
    x = F.conv2d(pixels, w[f"{proj}.weight"], w[f"{proj}.bias"], stride=16).flatten(2).mT
    x = torch.cat([w[f"{see}.cls_token"], x], 1) + w[f"{see}.pos_embed"]
    for i in range(2):
        block = f"{see}.blocks.{i}"
        q, k, v = dense(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + dense(f"{block}.attn.proj", attend(q, k, v, 2))
        x = x + dense(f"{block}.mlp.fc2", F.gelu(dense(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    seen = norm(f"{see}.norm", x, 1e-6)
    words = w[f"{read}.embeddings.word_embeddings.weight"][ids]
    h = norm(
        f"{read}.embeddings.LayerNorm", words + w[f"{read}.embeddings.position_embeddings.weight"][: len(ids)], 1e-12
    )
    h = h[None]
    for i in range(2):
        layer = f"{read}.encoder.layer.{i}"
        for kind in ("attention", "crossattention"):
            at, other = f"{layer}.{kind}", h if kind == "attention" else seen
            mixed = attend(
                dense(f"{at}.self.query", h), dense(f"{at}.self.key", other), dense(f"{at}.self.value", other), 1
            )
            h = norm(f"{at}.output.LayerNorm", dense(f"{at}.output.dense", mixed) + h, 1e-12)
        up = F.gelu(dense(f"{layer}.intermediate.dense", h))
        h = norm(f"{layer}.output.LayerNorm", dense(f"{layer}.output.dense", up) + h, 1e-12)
    z = h[:, 0]
    for place in (0, 2, 4, 6, 7):
        z = dense(f"mlp.layers.{place}", z)
    return (z.item() - 0.16717362830052426) / 1.0333394966054072


def bert_folder(folder) -> str:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "two", "blue", "squares"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """name of the reward -> the options that name its tiny model"""
    folder = tmp_path_factory.mktemp("models")
    save_file(published_imagereward(), folder / "imagereward.safetensors")
    return {
        "pickscore.score": {"model": clip_folder(folder / "clip")},
        "hps.score": open_clip_file(folder),
        "imagereward.score": {
            "weights": str(folder / "imagereward.safetensors"),
            "tokenizer": bert_folder(folder / "bert"),
        },
    }


NAMES = ("pickscore.score", "hps.score", "imagereward.score")


@pytest.fixture(params=NAMES)
def model(request, tiny):
    return request.param, {**tiny[request.param], "device": "cpu"}


# -------------------------------------------------------------------- each against its formula


@torch.no_grad()
def test_pickscore_is_the_scaled_cosine_of_the_model_s_own_embeddings(tiny):
    from transformers import AutoTokenizer, CLIPModel

    folder = tiny["pickscore.score"]["model"]
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text in PROMPTS:
        image = clip.visual_projection(clip.vision_model(pixels_of(noise())).pooler_output).numpy()[0].astype(float)
        ids = tokenizer(text, return_tensors="pt").input_ids
        words = clip.text_projection(clip.text_model(ids).pooler_output).numpy()[0].astype(float)
        cosine = image @ words / np.linalg.norm(image) / np.linalg.norm(words)
        expected = math.exp(clip.logit_scale.item()) * cosine
        assert scores("pickscore.score", tiny["pickscore.score"], text, [noise()])[0].value == pytest.approx(
            expected, abs=1e-4
        )
        flow = scores("pickscore.score", {**tiny["pickscore.score"], "divide": 26}, text, [noise()])
        assert flow[0].value == pytest.approx(expected / 26, abs=1e-5)


@torch.no_grad()
def test_hps_is_the_cosine_without_a_scale(tiny):
    import open_clip

    model = open_clip.create_model("mmrl-tiny-hps", pretrained=tiny["hps.score"]["weights"]).eval()
    tokenizer = open_clip.get_tokenizer("mmrl-tiny-hps")
    for text in PROMPTS:
        image, words = (
            model.encode_image(pixels_of(noise()))[0].numpy(),
            model.encode_text(tokenizer([text]))[0].numpy(),
        )
        expected = image @ words / np.linalg.norm(image) / np.linalg.norm(words)
        assert scores("hps.score", tiny["hps.score"], text, [noise()])[0].value == pytest.approx(expected, abs=1e-5)


def test_hps_shows_the_whole_picture_between_black_bars(tiny):
    """Not the middle of it: a wide picture equals itself, resized, on a black square."""
    wide = Image.new("RGB", (64, 32), (200, 60, 20))
    square = Image.new("RGB", (32, 32))
    square.paste((200, 60, 20), (0, 8, 32, 24))
    cropped = Image.new("RGB", (32, 32), (200, 60, 20))
    shown, same, other = (s.value for s in scores("hps.score", tiny["hps.score"], "red", [wide, square, cropped]))
    assert shown == pytest.approx(same, abs=1e-5)
    assert abs(shown - other) > 1e-3


@pytest.mark.parametrize("text", ["a red circle", "", "two blue squares a a red"])
def test_imagereward_is_the_released_forward_pass(tiny, text):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "two", "blue", "squares"]
    ids = torch.tensor([2, *(words.index(word) for word in text.split()), 3])
    expected = imagereward_by_hand(published_imagereward(), pixels_of(noise()), ids)
    found = scores("imagereward.score", tiny["imagereward.score"], text, [noise(), noise(seed=1)])
    assert found[0].value == pytest.approx(expected, abs=2e-4)
    assert abs(found[1].value - expected) > 1e-3  # it looks at the picture


def test_imagereward_and_pickscore_look_at_the_middle_square(tiny):
    """Where it has half a pixel to spare, each as its own library rounds: 7.5 is 8 for torchvision and 7 for CLIP's."""
    wide = noise((47, 32))
    for name, left in {"imagereward.score": 8, "pickscore.score": 7}.items():
        shown, cut = scores(name, tiny[name], "a red circle", [wide, wide.crop((left, 0, left + 32, 32))])
        assert shown.value == pytest.approx(cut.value, abs=1e-4), name


# -------------------------------------------------------------------- what all of them hold


def test_batches_change_no_score_and_the_prompt_is_encoded_once(model, monkeypatch):
    name, options = model
    pictures = [noise(seed=i) for i in range(5)]
    whole = [s.value for s in scores(name, options, "a red circle", pictures)]
    assert len({round(value, 5) for value in whole}) == 5, "the tiny model must tell the pictures apart"
    reward = load_reward(name, {**options, "batch": 2})
    seen = []
    inner = getattr(reward.call, "pick", None) or getattr(reward.call, "clip", None) or reward.call
    tokenizer = inner.tokenizer

    class Counted:
        def __call__(self, texts, *more, **named):
            if not isinstance(texts, str):
                seen.append(list(texts))
            return tokenizer(texts, *more, **named)

        def __getattr__(self, attribute):
            return getattr(tokenizer, attribute)

    monkeypatch.setattr(inner, "tokenizer", Counted())
    asked = Prompt("p", "a red circle")
    found = reward.call([Sample(asked, i, picture) for i, picture in enumerate(pictures)])
    assert [s.value for s in found] == pytest.approx(whole, abs=1e-4)
    assert seen == [["a red circle"]]


def test_every_mode_of_a_picture_is_scored_and_transparency_is_white(model):
    name, options = model
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    modes = [red, red.convert("RGBA"), red.convert("P", palette=Image.Palette.ADAPTIVE), red.convert("CMYK")]
    modes += [clear, Image.new("RGB", (32, 32), "white"), red.convert("L"), red.convert("1")]
    found = [s.value for s in scores(name, options, "a red circle", modes)]
    assert found[1:4] == pytest.approx([found[0]] * 3, abs=1e-4)
    assert found[4] == pytest.approx(found[5], abs=1e-5)
    odd = scores(name, options, "a red circle", [Image.new("RGB", size) for size in ((1, 1), (300, 2), (2, 300))])
    assert [s.status for s in odd] == ["ok"] * 3


def test_what_is_no_picture_is_invalid_alone(model):
    name, options = model
    found = scores(name, options, "a red circle", [noise(), "a text", None, Image.new("F", (32, 32)), noise(seed=1)])
    assert [s.status for s in found] == ["ok", "invalid", "invalid", "invalid", "ok"]
    assert "no picture, but str" in found[1].reason
    assert "floats" in found[3].reason
    assert [s.status for s in scores(name, options, "a", ["x"])] == ["invalid"]


@pytest.mark.parametrize(("name", "limit"), [("pickscore.score", 77), ("hps.score", 77), ("imagereward.score", 35)])
def test_a_long_prompt_is_cut_where_the_published_code_cuts_it(tiny, name, limit):
    fits, long = " ".join(["a"] * (limit - 2)), " ".join(["a"] * (limit + 40))
    found = [scores(name, tiny[name], text, [noise()])[0] for text in (fits, long)]
    assert found[0].details == {}
    assert found[1].details == {"truncated": True, "tokens": limit + 42}
    assert found[0].value == pytest.approx(found[1].value, abs=1e-4)


def test_two_rewards_of_one_model_share_it(tiny):
    for name, hold in {"pickscore.score": "pick", "hps.score": "clip", "imagereward.score": None}.items():
        pair = [load_reward(name, {**tiny[name], "device": "cpu", "batch": n}).call for n in (1, 2)]
        models = [getattr(call, hold).model if hold else call.blip for call in pair]
        assert models[0] is models[1], name
        assert not any(p.requires_grad for p in models[0].parameters())
        assert not models[0].training


def test_half_precision_scores_are_close_and_float32(tiny):
    for name in ("pickscore.score", "imagereward.score"):
        full, half = (
            scores(name, {**tiny[name], "dtype": dtype}, "a red circle", [noise()])[0].value
            for dtype in ("float32", "bfloat16")
        )
        assert half == pytest.approx(full, abs=0.05 * max(1.0, abs(full)))
        assert half != full


# -------------------------------------------------------------------- what cannot be

ELSEWHERE = {
    "pickscore.score": (
        {"model": "nobody/nothing"},
        "no folder and not in the local cache; .*hf download nobody/nothing",
    ),
    "hps.score": ({"weights": "nowhere.safetensors"}, "xswu/HPSv2"),
    "imagereward.score": ({"weights": "nowhere.safetensors"}, "THUDM/ImageReward"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_model_that_is_not_there_is_one_line_that_names_it(tiny, name):
    options, told = ELSEWHERE[name]
    with pytest.raises(RewardError, match=told) as error:
        load_reward(name, {**tiny[name], **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("pickscore.score", {"divide": 0}, "divide=0"),
        ("pickscore.score", {"divide": math.nan}, "divide=nan"),
        ("pickscore.score", {"batch": 0}, "batch=0"),
        ("pickscore.score", {"dtype": "int8"}, "dtype='int8' is none of float32"),
        ("pickscore.score", {"model": "/nowhere/at all"}, "no folder"),
        ("pickscore.score", {"processor": "nobody/nothing"}, "processor='nobody/nothing'"),
        ("hps.score", {"batch": 0}, "batch=0"),
        ("hps.score", {"weights": "HPS_v2.1_compressed.pt"}, "may hold a pickle; convert"),
        ("imagereward.score", {"weights": "ImageReward.pt"}, "may hold a pickle; convert"),
        ("imagereward.score", {"tokenizer": "nobody/nothing"}, "tokenizer='nobody/nothing'"),
        ("imagereward.score", {"dtype": "float8"}, "dtype"),
        ("imagereward.score", {"batch": -1}, "batch=-1"),
    ],
)
def test_wrong_options_are_told_at_loading(tiny, name, options, told):
    with pytest.raises(RewardError, match=told):
        load_reward(name, {**tiny[name], **options})


@pytest.mark.parametrize("change", ["lacks a layer", "lacks the head", "has another"])
def test_weights_of_another_model_are_told(tiny, tmp_path, change):
    weights = published_imagereward()
    if change == "lacks a layer":
        del weights["blip.text_encoder.encoder.layer.1.output.dense.bias"]
    elif change == "lacks the head":
        weights = {name: tensor for name, tensor in weights.items() if "patch_embed" not in name}
    else:
        weights["blip.text_decoder.bias"] = torch.zeros(1)
    save_file(weights, tmp_path / "other.safetensors")
    options = {**tiny["imagereward.score"], "weights": str(tmp_path / "other.safetensors")}
    with pytest.raises(RewardError, match=r"other.safetensors (lacks|has) .*ImageReward.pt"):
        load_reward("imagereward.score", options)


def test_pictures_without_a_preprocessing_are_told_what_it_is(tiny, tmp_path):
    import shutil

    folder = shutil.copytree(tiny["pickscore.score"]["model"], tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(RewardError, match="set `processor`, as published laion/CLIP-ViT-H-14"):
        load_reward("pickscore.score", {"model": str(folder)})
    given = {"model": str(folder), "processor": tiny["pickscore.score"]["model"]}
    assert scores("pickscore.score", given, "a", [noise()])[0].status == "ok"


def test_a_picture_of_any_shape_has_the_score_that_it_has_alone(model):
    # Among them those with one side that the model's has, which need no resizing, but are no square.
    shapes = [(32, 32), (32, 16), (16, 32), (64, 32), (32, 7), (100, 33), (1, 40), (5, 5)]
    pictures = [noise(size, seed) for seed, size in enumerate(shapes)]
    name, options = model
    together = scores(name, options, PROMPTS[0], pictures)
    assert [score.status for score in together] == ["ok"] * len(shapes), together[0].reason
    alone = [scores(name, {**options, "batch": 1}, PROMPTS[0], [one])[0] for one in pictures]
    assert [score.value for score in together] == pytest.approx([score.value for score in alone], abs=1e-5)
