"""Tiny vision-language models: made without a file, whole on disk, pictures and placeholders of one count."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmrl.modalities.vision import tiny
from mmrl.modalities.vision.tiny import qwen

PREFIX = ("paligemma", "paligemma2")  # whose prompts are not a chat
CHAT = [kind for kind in tiny.KINDS if kind not in PREFIX]
SIZES = {"hidden": 32, "layers": 2, "vision_hidden": 32, "patch": 8}


@pytest.fixture(scope="module", params=list(tiny.KINDS))
def built(request):
    model, processor = tiny.build(request.param, **SIZES, tiles=2)
    return request.param, model.eval(), processor


def picture(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 60)) -> Image.Image:
    made = Image.new("RGB", (width, height), (20, 120, 220))
    made.paste(Image.new("RGB", (width // 2, height // 3), colour), (width // 4, height // 5))
    return made


def encode(kind: str, processor):
    """One row with one picture and one with two of other shapes."""
    image = {"type": "image"}
    talks = [
        [{"role": "user", "content": [image, {"type": "text", "text": "How many?"}]}],
        [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": [image, {"type": "text", "text": "or"}, image]},
        ],
    ]
    if kind in PREFIX:
        texts = ["<image>How many?", "<image><image>or"]
    else:
        texts = [processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) for talk in talks]
    pictures = [[picture(96, 96)], [picture(80, 48), picture(64, 112, (0, 0, 0))]]
    return processor(text=texts, images=pictures, padding=True, return_tensors="pt")


def test_a_model_on_disk_is_the_model_and_its_processor(built, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kind, model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    reader = AutoProcessor.from_pretrained(tmp_path)
    inputs, same = encode(kind, processor), encode(kind, reader)
    assert inputs.keys() == same.keys()
    for name in inputs:
        assert torch.equal(inputs[name], same[name]), name
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**same).logits)
    end = {"gemma3": "<end_of_turn>", **dict.fromkeys(("idefics3", "smolvlm"), "<end_of_utterance>")}.get(
        kind, "<|im_end|>"
    )
    assert again.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids(end)
    assert reader.chat_template == processor.chat_template
    assert reader.tokenizer.padding_side == "left"


def test_the_same_arguments_make_the_same_model(built):
    kind, model, processor = built
    state = torch.random.get_rng_state()
    twin, reader = tiny.build(kind, **SIZES, tiles=2)
    assert torch.equal(torch.random.get_rng_state(), state)  # and nobody else's numbers change
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert processor.tokenizer.get_vocab() == reader.tokenizer.get_vocab()
    other, _ = tiny.build(kind, **SIZES, tiles=2, seed=1)
    assert not torch.equal(model.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_the_picture_reaches_the_answer_and_the_gradient_reaches_the_tower(built):
    kind, model, processor = built
    inputs = encode(kind, processor)
    model.zero_grad()
    logits = model(**inputs).logits
    logits[:, -1].square().mean().backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if "vis" in name
        and not (kind == "llava_onevision" and "post_layernorm" in name)  # it takes what stands before that layer
        and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
    assert still == [] and any("vis" in name for name, _ in model.named_parameters())
    other = dict(inputs) | {"pixel_values": -inputs["pixel_values"]}
    with torch.no_grad():
        assert not torch.equal(model(**other).logits[:, -1], logits[:, -1])


def test_every_special_id_of_the_config_is_a_token_of_the_tokenizer(built):
    kind, model, processor = built
    tokenizer = processor.tokenizer
    text = model.config.get_text_config()
    assert text.vocab_size == len(tokenizer) == model.get_output_embeddings().weight.shape[0]
    assert (text.eos_token_id, text.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.generation_config.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    marks = tokenizer if kind == "gemma3" else processor  # whose processor knows the mark that begins a picture
    assert model.config.image_token_id == marks.image_token_id
    for name in ("video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if hasattr(model.config, name):
            assert tokenizer.convert_ids_to_tokens(getattr(model.config, name)).startswith(("<|vi", "<vi")), (
                kind,
                name,
            )


@pytest.mark.parametrize("kind", [kind for kind in CHAT if kind.startswith(("qwen", "intern"))])
def test_parts_and_plain_text_make_one_template(kind):
    _, processor = tiny.build(kind, **SIZES)
    render = {"tokenize": False, "add_generation_prompt": True}
    plain = processor.apply_chat_template([{"role": "user", "content": "How many?"}], **render)
    parts = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "How"}, {"type": "text", "text": " many?"}]}], **render
    )
    assert plain == parts == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"


def test_paligemma_has_no_chat_template():
    assert tiny.build("paligemma", **SIZES)[1].chat_template is None


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_canvas_of_160_pixels_is_100_visual_tokens(kind):
    model, processor = tiny.build(kind, **SIZES, max_pixels=160 * 160)
    inputs = processor(text="<|image_pad|>", images=[picture(160, 160)], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 100
    assert inputs["image_grid_thw"].tolist() == [[1, 20, 20]]


@pytest.mark.parametrize(
    "kind, tokens", [("internvl", 16), ("idefics3", 16), ("smolvlm", 16), ("paligemma", 16), ("gemma3", 16)]
)
def test_one_tile_is_the_whole_picture(kind, tokens):
    model, processor = tiny.build(kind, **SIZES)
    inputs = encode(kind, processor)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 3 * tokens


def test_rotary_sections_are_the_released_ones_scaled():
    assert qwen.sections(128) == [16, 24, 24] and qwen.interleaved_sections(128) == [24, 20, 20]
    for head_dim in range(8, 130, 2):
        for sections in (qwen.sections(head_dim), qwen.interleaved_sections(head_dim)):
            assert sum(sections) == head_dim // 2 and min(sections) >= 1


@pytest.mark.parametrize(
    "kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "internvl", "idefics3", "smolvlm"]
)
def test_weights_are_as_wide_as_asked(kind):
    for wanted in (0.02, 0.1):
        model, _ = tiny.build(kind, **SIZES, initializer_range=wanted)
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "o_proj.weight", "qkv.weight")):
                assert weight.std().item() == pytest.approx(wanted, rel=0.15), name


def test_a_corpus_makes_merges_and_leaves_the_special_tokens():
    _, processor = tiny.build("qwen2_5_vl", **SIZES, corpus=["count the red squares"] * 4, vocab=280)
    tokenizer = processor.tokenizer
    assert len(tokenizer) == 280  # the 3 + 11 special tokens, 256 bytes and 10 merges
    assert tokenizer.decode(tokenizer("count the red squares")["input_ids"]) == "count the red squares"
    assert len(tokenizer("<|vision_start|><|image_pad|>")["input_ids"]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "qwen9_vl"}, "kind='qwen9_vl': known are qwen2_vl"),
        ({"hidden": 36, "heads": 4}, "hidden, heads: 36 is no multiple of 8"),
        ({"heads": 4, "kv_heads": 3}, "heads, kv_heads"),
        ({"vision_hidden": 24}, "vision_hidden, vision_heads: 24 is no multiple of 16"),
        ({"kind": "internvl", "image_size": 100}, "image_size: 100 is no multiple of 28"),
        ({"kind": "idefics3", "tiles": 7}, "tiles=7: from 1 to 6"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build(**arguments)
