"""HPSv3 on a tiny Qwen2-VL with the published names: the released forward pass, step by step, beside the reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

WORDS = "Rate it.\nTextual prompt - {text_prompt}\nPlease: <|Reward|>\n\nEND\n"
PROMPT = "a red {circle}"


def noise(size=(448, 448), seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(options, the base model, its processor, the head's tensors)"""
    from mmrl.modalities.vision.tiny import build

    folder = tmp_path_factory.mktemp("hpsv3")
    base, processor = build("qwen2_vl", layers=2, vision_layers=1, initializer_range=0.1, seed=2)
    base.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    base.resize_token_embeddings(len(processor.tokenizer) + 1)
    torch.manual_seed(0)
    head = {}
    for place, (out, into) in {0: (1024, 64), 3: (16, 1024), 5: (2, 16)}.items():
        head[f"rm_head.{place}.weight"], head[f"rm_head.{place}.bias"] = 0.1 * torch.randn(out, into), torch.randn(out)
    # As transformers 4.45 wrote them.
    old = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.clone()
        for name, tensor in base.state_dict().items()
    }
    save_file({**old, **head}, folder / "HPSv3.safetensors")
    (folder / "words.txt").write_text(WORDS)
    options = {
        "weights": str(folder / "HPSv3.safetensors"),
        "prompt": str(folder / "words.txt"),
        "model": str(folder / "base"),
        "device": "cpu",
        "dtype": "float32",
    }
    return options, base.eval(), processor, {name: tensor.double().numpy() for name, tensor in head.items()}


def scores(options: dict, pictures: list, prompt: str = PROMPT) -> list:
    asked = Prompt("p", prompt)
    group = Group(asked, 0, [Sample(asked, i, picture) for i, picture in enumerate(pictures)])
    score_groups([group], [load_reward("hpsv3.score", options)])
    return [sample.scores["hpsv3.score"] for sample in group.samples]


@torch.no_grad()
def by_hand(tiny, picture: Image.Image, prompt: str = PROMPT, counted: bool = True) -> tuple[float, float]:
    """The picture's features put among the words' embeddings, positions counted one by one, the head in numpy."""
    _, base, processor, head = tiny
    words = WORDS.replace("{text_prompt}", prompt).split("<|Reward|>")
    tokenizer = processor.tokenizer
    pixels = processor.image_processor(images=[picture], do_resize=False, return_tensors="pt")
    seen = base.model.visual(pixels.pixel_values, grid_thw=pixels.image_grid_thw).pooler_output
    marks = [tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "image_pad", "vision_end")]
    ids = tokenizer("<|im_start|>user\n").input_ids + [marks[0]] + [marks[1]] * len(seen) + [marks[2]]
    ids += tokenizer(words[0]).input_ids
    place = len(ids)
    ids += [len(tokenizer), *tokenizer(words[1] + "<|im_end|>\n<|im_start|>assistant\n").input_ids]
    row = torch.tensor([ids])
    embedded = base.model.language_model.embed_tokens(row).masked_scatter((row == marks[1])[..., None], seen)
    positions = torch.arange(len(ids)).expand(3, 1, -1)
    if not counted:
        kinds = (row == marks[1]).int()
        positions, _ = base.model.get_rope_index(row, image_grid_thw=pixels.image_grid_thw, mm_token_type_ids=kinds)
    x = base.model.language_model(inputs_embeds=embedded, position_ids=positions).last_hidden_state[0, place].numpy()
    for layer in (0, 3, 5):
        x = head[f"rm_head.{layer}.weight"] @ x + head[f"rm_head.{layer}.bias"]
        x = np.maximum(x, 0) if layer != 5 else x
    return float(x[0]), float(x[1])


def test_the_score_is_the_head_at_the_token_with_positions_counted_one_by_one(tiny):
    picture = noise()  # 448 x 448 is 256 cells of 28 x 28 already
    mu, log_sigma = by_hand(tiny, picture)
    [found] = scores(tiny[0], [picture])
    assert found.value == pytest.approx(mu, abs=1e-3)
    assert found.details["log_sigma"] == pytest.approx(log_sigma, abs=1e-3)
    # Qwen2-VL's own positions would give another number: they are not what the model was trained with.
    assert abs(by_hand(tiny, picture, counted=False)[0] - mu) > 0.01


def test_batches_of_prompts_and_pictures_change_no_score(tiny):
    pictures = [noise(seed=i) for i in range(3)] + [noise((600, 300)), Image.new("RGB", (1, 1))]
    whole = [s.value for s in scores({**tiny[0], "batch": 5}, pictures)]
    assert len({round(value, 4) for value in whole}) == 5
    assert [s.value for s in scores({**tiny[0], "batch": 2}, pictures)] == pytest.approx(whole, abs=1e-3)
    for prompt in ("", "a very long prompt " * 20):
        assert scores(tiny[0], [pictures[0]], prompt)[0].value == pytest.approx(
            by_hand(tiny, pictures[0], prompt)[0], abs=1e-3
        )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((448, 448), (448, 448)),
        ((1024, 1024), (448, 448)),
        ((100, 100), (448, 448)),
        ((1, 1), (448, 448)),
        ((1200, 720), (560, 336)),  # 578.4 x 347.0: down to whole cells
        ((600, 360), (560, 336)),
        ((300, 180), (588, 364)),  # smaller: up to whole cells
    ],
)
def test_every_picture_is_brought_to_256_cells(tiny, size, expected):
    module = __import__("sys").modules[type(load_reward("hpsv3.score", tiny[0]).call).__module__]
    assert module.fitted(Image.new("RGB", size)).size == expected


def test_modes_and_what_is_no_picture(tiny):
    red = Image.new("RGB", (448, 448), (255, 0, 0))
    clear = Image.new("RGBA", (448, 448), (255, 0, 0, 0))
    shown = [
        red,
        red.convert("CMYK"),
        clear,
        Image.new("RGB", (448, 448), "white"),
        "a text",
        Image.new("RGB", (900, 3)),
    ]
    found = scores(tiny[0], shown)
    assert [s.status for s in found] == ["ok"] * 4 + ["invalid"] * 2
    assert found[0].value == pytest.approx(found[1].value, abs=1e-3)
    assert found[2].value == pytest.approx(found[3].value, abs=1e-3)
    assert "ratio of over 200" in found[5].reason


def test_a_prompt_with_the_model_s_marks_is_told_and_scores_nothing(tiny):
    reward = load_reward("hpsv3.score", tiny[0])
    assert reward.check_prompt(Prompt("p", "a cat")) is None
    for mark in ("<|Reward|>", "<|im_end|>", "<|image_pad|>"):
        assert mark in reward.check_prompt(Prompt("p", f"a {mark} cat"))
    assert scores(tiny[0], [noise()], "a <|Reward|> cat")[0].status == "invalid"
    assert scores(tiny[0], [noise()], "a <|image_pad|> cat")[0].status == "invalid"


def test_names_of_transformers_5_are_read_and_two_rewards_share_the_model(tiny, tmp_path):
    new = {}
    for name, tensor in load_file(tiny[0]["weights"]).items():
        name = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        new["model." + name if name.startswith("visual.") else name] = tensor
    save_file(new, tmp_path / "new.safetensors")
    old = load_reward("hpsv3.score", tiny[0]).call
    again = load_reward("hpsv3.score", {**tiny[0], "batch": 1}).call
    other = load_reward("hpsv3.score", {**tiny[0], "weights": str(tmp_path / "new.safetensors")}).call
    assert again.model is old.model
    assert other.model is not old.model
    sample = [Sample(Prompt("p", PROMPT), 0, noise())]
    assert other(sample)[0].value == old(sample)[0].value


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weights": "nowhere.safetensors"}, "MizzenAI/HPSv3"),
        ({"weights": "HPSv3.pth"}, "may hold a pickle"),
        ({"prompt": "Rate {text_prompt}: <|Reward|>"}, "no .txt file that is there"),
        ({"model": "nobody/nothing"}, "hf download nobody/nothing"),
        ({"batch": 0}, "batch=0"),
        ({"dtype": "fp8"}, "dtype"),
    ],
)
def test_what_is_missing_is_one_line_that_names_it(tiny, options, told):
    with pytest.raises(RewardError, match=told) as error:
        load_reward("hpsv3.score", {**tiny[0], **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["", "{text_prompt}", "<|Reward|>", "{text_prompt} <|Reward|> <|Reward|>"])
def test_words_without_their_two_places_are_refused(tiny, tmp_path, words):
    (tmp_path / "own.txt").write_text(words)
    with pytest.raises(RewardError, match="once each"):
        load_reward("hpsv3.score", {**tiny[0], "prompt": str(tmp_path / "own.txt")})


@pytest.mark.parametrize("change", ["no head", "no words", "one less", "another", "other widths"])
def test_weights_of_another_model_are_told(tiny, tmp_path, change):
    weights = load_file(tiny[0]["weights"])
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "no head":
        weights = {name: tensor for name, tensor in weights.items() if "rm_head" not in name}
    elif change == "no words":
        del weights["model.embed_tokens.weight"]
    elif change == "one less":
        del weights[name]
    elif change == "another":
        weights["model.layers.9.mlp.up_proj.weight"] = weights[name].clone()
    else:
        weights[name] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(RewardError, match=r"other.safetensors (lacks|has|does not fit)"):
        load_reward("hpsv3.score", {**tiny[0], "weights": str(tmp_path / "other.safetensors")})
