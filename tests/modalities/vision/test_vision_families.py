"""Every family reads what transformers' own processor and forward read; others are refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families import FAMILIES, REFUSED, check_kind
from mmrl.modalities.vision.tiny import KINDS

PREFIX = ("paligemma", "paligemma2")
SHOWN = {
    "one": [(64, 48)],
    "several of unequal sizes": [(40, 90), (64, 48), (120, 30)],
    "none": [],
    "a large one": [(600, 300)],
}


def one_shot(policy, prompt, ids):
    """Log-probs of `ids` behind a prompt by the plain model with its own processor, and the prompt's ids."""
    images, processor = prompt.record["images"], policy.processor
    told = {"images_kwargs": policy.family.processor_options()}
    if policy.reader.prompts.chat:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt.text}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
    else:
        text = "<image>" * len(images) + prompt.text
    made = processor(text=[text], images=[images] if images else None, return_tensors="pt", **told)
    before = made.input_ids.shape[1]
    made["input_ids"] = torch.cat([made.input_ids, ids[None]], 1)
    made["attention_mask"] = torch.ones_like(made.input_ids)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in made:
            behind = torch.ones if policy.family.prefix_attention else torch.zeros
            made[name] = torch.cat([made[name], behind(1, len(ids), dtype=made[name].dtype)], 1)
    made.pop("labels", None)
    with torch.no_grad():
        logits = policy.model(**made).logits[0, before - 1 : -1].float()
    logits = (logits / policy.config.sampling.temperature).index_fill(1, torch.tensor(policy.banned), -torch.inf)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0], made.input_ids[0, :before]


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_policy_reads_is_a_one_shot_forward_of_the_plain_model(shared, drawn, ask, roll, kind, shown):
    policy = shared(kind)
    images = [drawn(number, size) for number, size in enumerate(SHOWN[shown])]
    if kind in PREFIX and not images:
        pytest.skip("its processor wants a picture in every prompt")
    prompt = ask("Which is the larger one", *images)
    for sample in roll(policy, [prompt, ask("Another", drawn(5))], n=2)[:2]:  # beside a prompt of another length
        tensors = sample.trajectory.tensors
        wanted, before = one_shot(policy, prompt, tensors["ids"])
        assert torch.equal(tensors["prompt"], before)
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-5)
        with torch.no_grad():
            replayed = policy.logprobs([sample], torch.arange(len(tensors["ids"]))).logp[0]
        torch.testing.assert_close(replayed, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tiles", [2, 4])
def test_pan_and_scan_shows_crops_in_the_words_of_the_processor(adapter, drawn, ask, roll, tiles):
    """Gemma 3 with pictures of 2:1 and near to a square, of which only the first is cropped."""
    policy = adapter("gemma3", loud=True, tiles=tiles)
    prompt = ask("Which", drawn(1, (1200, 300)), drawn(2, (300, 280)))
    (sample,) = roll(policy, [prompt], n=1)
    each = policy.processor.image_seq_length
    assert [m.tokens for m in sample.media] == [(1 + tiles) * each, each]  # of 1200 x 300 up to 4 crops of 300 x 300
    wanted, before = one_shot(policy, prompt, sample.trajectory.tensors["ids"])
    assert torch.equal(sample.trajectory.tensors["prompt"], before)
    torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-5)


def test_line_ends_around_a_picture_are_those_of_the_processor(adapter, drawn, ask, roll):
    """Gemma's tokenizer makes one token of several line ends, of the picture's frame and of the text alike."""
    corpus = ["a\n\n\nb\n\n\n\nc\n\nd"] * 30
    policy = adapter("gemma3", build={"corpus": corpus, "vocab": 320})
    (three,) = policy.tokenizer("\n\n\n", add_special_tokens=False).input_ids  # one token
    prompt = ask("What", drawn(1))
    (sample,) = roll(policy, [prompt], n=1)
    assert torch.equal(sample.trajectory.tensors["prompt"], one_shot(policy, prompt, torch.tensor([5]))[1])
    assert three in sample.trajectory.tensors["prompt"].tolist()


@pytest.mark.parametrize("kind", ["paligemma2", "gemma3"])
def test_layers_with_a_window_see_no_further(shared, drawn, ask, roll, kind):
    """A prompt longer than the window: full attention everywhere would be another policy."""
    policy = shared(kind)
    config = policy.model.config.text_config
    (sample,) = roll(policy, [ask("Which of these many words would be seen by a window", drawn(1))], n=1)
    tensors = sample.trajectory.tensors
    assert len(tensors["prompt"]) > config.sliding_window and "sliding_attention" in config.layer_types
    with torch.no_grad():
        near = policy.logprobs([sample], torch.arange(10)).logp
        window, config.sliding_window = config.sliding_window, 10**6
        try:
            far = policy.logprobs([sample], torch.arange(10)).logp
        finally:
            config.sliding_window = window
    assert (near - far).abs().max() > 1e-3


def test_soft_caps_are_computed_although_sdpa_has_none(shared):
    """The shipped vision/spatial_sat is a PaliGemma 2: it could not be loaded with sdpa."""
    policy = shared("paligemma2")
    assert policy.model.config.text_config._attn_implementation == "eager"
    assert policy.model.config.vision_config._attn_implementation == "sdpa"


def test_a_paligemma_2_is_loaded_from_a_folder_as_from_the_hub(adapter, drawn, ask, roll, tmp_path):
    policy = adapter("paligemma2")
    policy.save(tmp_path)
    again = VisionAdapter(policy.config.at(tmp_path))
    prompt = ask("which", drawn(1))
    first, second = (roll(p, [prompt], n=1)[0].trajectory for p in (policy, again))
    assert torch.equal(first.tensors["ids"], second.tensors["ids"])
    torch.testing.assert_close(first.logp, second.logp, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["paligemma", "gemma3"])
def test_flash_attention_is_refused_where_pictures_need_masks(kind):
    with pytest.raises(ValueError, match=f"flash_attention_2 takes no masks, which pictures of {kind} need"):
        check_kind(kind, ModelConfig(path="a/b", attention="flash_attention_2"))


@pytest.mark.parametrize("kind", ["paligemma", "paligemma2", "gemma3"])
def test_vllm_is_refused_where_it_would_read_something_else(kind):
    config = ModelConfig(path="built", build={"kind": kind, "patch": 8}, engine={"name": "vllm"})
    with pytest.raises(ValueError, match=r"engine\.name=vllm: .*ForConditionalGeneration has .*leave it at"):
        VisionAdapter(config)


@pytest.mark.parametrize("kind", ["mllama", "llama4"])
def test_models_that_are_not_read_are_refused_by_name_before_their_weights(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))  # a folder without any weights
    with pytest.raises(
        ValueError, match=f"model_type '{kind}' is no .* known here: {REFUSED[kind]}; there are qwen2_vl"
    ):
        VisionAdapter(ModelConfig(path=str(tmp_path)))


def test_a_model_nobody_thought_of_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    with pytest.raises(ValueError, match=r"model_type 'blip-2' is no vision-language family that is known here; there"):
        VisionAdapter(ModelConfig(path=str(tmp_path)))


def test_every_family_has_a_twin_and_every_twin_a_family(shared):
    kinds = {shared(kind).model.config.model_type for kind in KINDS}
    assert kinds == set(FAMILIES) and not kinds & set(REFUSED)


# -------------------------------------------------------------------- videos as an input of their own

FILMS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "internvl"]


def film(drawn, numbers, total, fps, size=(64, 48)):
    """A video of which a few frames were chosen."""
    frames = [drawn(number, size) for number in range(len(numbers))]
    return {"frames": frames, "numbers": list(numbers), "total": total, "fps": fps}


@pytest.mark.filterwarnings("ignore:.*fps.*")
@pytest.mark.parametrize("kind", FILMS)
def test_a_video_is_what_the_processor_makes_of_it(shared, drawn, ask, roll, kind):
    """Before a picture, four frames of a video of two seconds: ids, positions and log-probs of a one-shot forward."""
    import numpy as np
    from transformers.video_utils import VideoMetadata

    policy = shared(kind)
    picture, video = drawn(7, (40, 72)), film(drawn, (2, 7, 12, 17), 20, 10.0)
    prompt = ask("<image> and <image>: what moves", video, picture)
    for sample in roll(policy, [prompt, ask("Another", drawn(5))], n=2)[:2]:
        ids = sample.trajectory.tensors["ids"]
        parts = [{"type": "video"}, {"type": "text", "text": " and "}, {"type": "image"}]
        parts.append({"type": "text", "text": ": what moves"})
        text = policy.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        told = {"images_kwargs": policy.family.processor_options()}
        made = policy.processor(
            text=[text],
            images=[[picture]],
            videos=[np.stack([np.asarray(frame) for frame in video["frames"]])],
            video_metadata=[VideoMetadata(20, 10.0, 64, 48, 2.0, None, [2, 7, 12, 17])],
            do_sample_frames=False,
            return_tensors="pt",
            **told,
        )
        made.pop("video_metadata", None)
        before = made["input_ids"].shape[1]
        assert torch.equal(made["input_ids"][0], sample.trajectory.tensors["prompt"])
        made["input_ids"] = torch.cat([made["input_ids"], ids[None]], 1)
        made["attention_mask"] = torch.ones_like(made["input_ids"])
        if "mm_token_type_ids" in made:
            types = made["mm_token_type_ids"]
            made["mm_token_type_ids"] = torch.cat([types, torch.zeros(1, len(ids), dtype=types.dtype)], 1)
        with torch.no_grad():
            logits = policy.model(**made).logits[0, before - 1 : -1] / policy.config.sampling.temperature
        logits = logits.index_fill(1, torch.tensor(policy.banned), -torch.inf)
        wanted = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-5)
        assert [m.original for m in sample.media] == [(64, 48), (40, 72)]


def test_a_video_alone_is_that_of_llava_s_processor(shared, drawn, ask, roll):
    import numpy as np

    policy = shared("llava_onevision")
    video = film(drawn, (0, 1, 2), 3, None)
    (sample,) = roll(policy, [ask("What moves", video)], n=1)
    ids = sample.trajectory.tensors["ids"]
    text = policy.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    frames = np.stack([np.asarray(frame) for frame in video["frames"]])
    made = policy.processor(text=[text], videos=[frames], do_sample_frames=False, return_tensors="pt")
    assert torch.equal(made["input_ids"][0], sample.trajectory.tensors["prompt"])
    with torch.no_grad():
        logits = policy.model(
            input_ids=torch.cat([made["input_ids"], ids[None]], 1), pixel_values_videos=made["pixel_values_videos"]
        ).logits[0, made["input_ids"].shape[1] - 1 : -1]
    logits = (logits / 0.7).index_fill(1, torch.tensor(policy.banned), -torch.inf)
    wanted = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["paligemma", "gemma3", "idefics3"])
def test_a_video_is_refused_where_the_processor_takes_none(shared, drawn, ask, kind):
    from mmrl.pictures import PictureError

    with pytest.raises(PictureError, match=r"a video of 64x48 pixels: .*takes no videos; set data\.videos: frames"):
        shared(kind).usable(ask("What moves", film(drawn, (0, 1), 2, None)))


def test_the_report_shows_the_first_frame_of_a_video(shared, drawn, ask, roll):
    policy = shared("internvl")
    (sample,) = roll(policy, [ask("What moves", film(drawn, (0, 1), 2, None))], n=1)
    shown = policy.picture(sample, sample.media[0])
    assert shown.size == (64, 48) and shown.tobytes() == drawn(0).tobytes()
