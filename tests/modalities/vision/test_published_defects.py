"""Mistakes of published vision systems that would have to happen here, in the adapter, as regression cases.

Those of environments, rewards and advantages stand with them; tests/README.md says where.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmrl.environments.mgpo import Mgpo, MgpoOptions
from mmrl.media import View, to_original
from mmrl.modalities.vision.tiny import KINDS
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt

CELL = 16  # pixels of a visual token's side in these models
QWEN = [kind for kind in KINDS if kind.startswith("qwen")]


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels), pixels


# -------------------------------------------------------------------- sizes and coordinates (T4)


@pytest.mark.parametrize("kind", QWEN)
@pytest.mark.parametrize("size", [(20, 20), (64, 48), (100, 41), (640, 300), (7, 90)])
def test_the_size_that_was_seen_is_the_processor_s_own(adapter, kind, size):
    """SATORI recomputes it, with a lower bound that its sampler does not have."""
    policy = adapter(kind, min_pixels=4 * CELL**2, max_pixels=20 * CELL**2)
    picture = policy.shelf.get(Prompt("p", "", {"images": [noise(*size)[0]]}), View())
    made = policy.processor(text=[policy.processor.image_token], images=[noise(*size)[0]], return_tensors="pt")
    rows, columns = made["image_grid_thw"][0, 1:].tolist()
    width, height = picture.media.seen
    assert (width, height) == (columns * CELL // 2, rows * CELL // 2)
    assert width % CELL == height % CELL == 0 and picture.tokens == width * height // CELL**2 <= 20
    assert picture.media.original == size
    assert to_original((0, 0, width, height), picture.media, "seen") == (0.0, 0.0, *map(float, size))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_right_box_of_a_small_picture_is_right(adapter, kind):
    """SATORI's reward would take 24 x 20 pixels for hundreds, where the sampler showed 48 x 32."""
    policy = adapter(kind)
    prompt = Prompt("p", "Where?", {"images": [noise(24, 20)[0]], "boxes": [[6, 5, 18, 15]]})
    written = {"qwen2_5_vl": "[12, 8, 36, 24]", "qwen3_vl": "[250, 250, 750, 750]"}[kind]
    group = Group(prompt, 0, policy.given(prompt, [written]))
    assert group.samples[0].media[0].seen == (48, 32)
    score_groups([group], [load_reward("grounding.box_iou", {})])
    assert group.samples[0].scores["grounding.box_iou"].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "box"),
    [("qwen2_5_vl", [16, 16, 48, 32]), ("qwen2_vl", [250, 333, 750, 667]), ("internvl", [250, 333, 750, 667])],
)
def test_a_crop_is_the_pixels_that_were_pointed_at(adapter, kind, box):
    """DeepEyes cuts the raw picture at coordinates of the reduced one. Here 128 x 96 pixels are seen as 64 x 48."""
    model = {"max_pixels": 64 * 48, "min_pixels": CELL**2} if kind.startswith("qwen") else {}
    policy = adapter(kind, **model)
    policy.environment = Mgpo(MgpoOptions(min_pixels=None, max_pixels=None, min_side=4))
    image, pixels = noise(128, 96)
    prompt = Prompt("p", "What is it?", {"images": [image]})
    first = f'```json\n[{{"bbox_2d": {box}, "label": "x"}}]\n```'
    (sample,) = policy.given(prompt, [[first, "\\boxed{A}"]])
    assert sample.info["crop"] == "ok" and len(sample.media) == 2
    shown = policy.reader.rows(sample)[1].media[0].image
    # Whole pixels that cover the box: thousandths lie a little beside the pixels that they are to name.
    top, bottom = (32, 64) if kind == "qwen2_5_vl" else (31, 65)
    assert np.array_equal(np.asarray(shown), pixels[top:bottom, 32:96])
    assert sample.info["box"] == pytest.approx([32, 32, 96, 64], abs=0.1)


def test_sizes_of_one_picture_do_not_stay_for_the_next(adapter):
    """VLM-R1 scales up pictures under 28 pixels, and normal ones behind them by the sizes that were left over."""
    policy = adapter()
    images = [noise(9, 5)[0], noise(96, 64)[0], noise(9, 5)[0], noise(48, 80)[0]]
    prompt = Prompt("p", "Which?", {"images": images})
    (together,) = policy.given(prompt, ["a"])
    for media, image in zip(together.media, images):
        (alone,) = policy.given(Prompt("q", "?", {"images": [image]}), ["a"])
        assert (media.original, media.seen, media.tokens) == (
            alone.media[0].original,
            alone.media[0].seen,
            alone.media[0].tokens,
        )


# -------------------------------------------------------------------- sampling (T8, T9)


def test_defaults_of_a_generation_config_do_not_reach_the_sampler(adapter, drawn, ask, roll):
    """VLM-R1 sets a temperature of 1, and top_k=50 of transformers stays on. Here it would be greedy."""
    plain, changed = adapter(), adapter()
    for name, value in {"top_k": 1, "top_p": 0.1, "temperature": 0.01, "repetition_penalty": 9.0}.items():
        setattr(changed.model.generation_config, name, value)
    prompts = [ask("What?", drawn(1))]
    for a, b in zip(roll(plain, prompts, n=4), roll(changed, prompts, n=4)):
        assert torch.equal(a.trajectory.tensors["ids"], b.trajectory.tensors["ids"])
        assert torch.equal(a.trajectory.logp, b.trajectory.logp)
    assert len({s.artifact for s in roll(changed, prompts, n=4)}) == 4


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_each_of_several_eos_ids_ends_an_answer(adapter, drawn, ask, roll, end):
    """VLM-R1 knows one EOS id; released Qwen models name two."""
    from mmrl.modalities.tokens import loading

    policy = adapter(build={"tied": False})
    ids = [policy.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    policy.model.generation_config.eos_token_id = ids
    policy.stop_ids = loading.stop_ids(policy.model, policy.tokenizer)
    assert set(policy.stop_ids) == set(ids)
    stop = policy.tokenizer.convert_tokens_to_ids(end)
    (given,) = policy.given(ask("What?", drawn(1)), ["a"])
    hidden = policy._replayed([given], torch.arange(1)).hidden.detach()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[stop] = 50 * hidden[0] / hidden[0].norm()
    for sample in roll(policy, [ask("What?", drawn(1))]):
        found = sample.trajectory.tensors["ids"].tolist()
        assert sample.stop == "eos" and found[-1] == stop and found.count(stop) == 1
        assert sample.trajectory.mask.all() and "<|" not in sample.artifact


def test_the_token_of_id_0_is_a_token_like_any_other(adapter, drawn, ask):
    """InternVL's NLL ignores index 0 after setting it at what is not trained, and with it the real token 0."""
    policy = adapter()
    assert policy.tokenizer.convert_ids_to_tokens(0) == "<|endoftext|>"
    (sample,) = policy.given(ask("What?", drawn(1)), [[40, 0, 41, 2]])
    assert sample.trajectory.mask.all()
    logp = policy.logprobs([sample], torch.arange(4)).logp[0]
    assert (logp < -1e-3).all()
    record = {"id": "r", "prompt": "What?", "images": [drawn(1)], "completion": [40, 0, 41, 2]}
    assert policy.supervised_weight([record]) == 4
    assert policy.supervised_loss([record], "sft", 0).item() == pytest.approx(-logp.mean().item(), abs=1e-6)


def test_both_answers_of_a_pair_stand_behind_one_prompt(adapter, drawn, ask):
    """MPO compares answers to the same ids and pictures."""
    policy = adapter()
    pair = policy.given(ask("What?", drawn(1), drawn(2)), ["the one", "another, longer one"])
    first, second = (policy.reader.rows(sample)[0] for sample in pair)
    assert first.key == second.key and len(first.media) == 2
    apart = [policy.logprobs([s], torch.arange(len(s.trajectory.mask))).logp[0] for s in pair]
    both = policy.logprobs(pair, torch.arange(max(map(len, apart)))).logp
    for row, alone in zip(both, apart):
        torch.testing.assert_close(row[: len(alone)], alone, rtol=0, atol=1e-5)
