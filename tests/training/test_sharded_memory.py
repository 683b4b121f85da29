"""Memory of a sharded model: published shapes counted by hand, and what one process keeps, gathers and computes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_estimate import run_config
from torch import nn

from mmrl.config import ConfigError
from mmrl.modalities.shards import Divisible
from mmrl.training.assemble import assemble
from mmrl.training.cursor import Cursor
from mmrl.training.estimate.sharded import Sharded
from mmrl.training.estimate.splitting import held_parts, most_rows, sharded_sizes, shared_units
from mmrl.training.estimate.stages import sizes_of
from mmrl.training.estimate.units import Unit, kept, most_gathered, units
from mmrl.training.plan_batches import batch_lines, check_rows
from mmrl.training.planned import PlannedProcesses
from mmrl.training.policy import Policy
from mmrl.training.sharding import refuse
from mmrl.training.stages.kinds import made_stage

# ---------------------------------------------------------------- Qwen2.5-VL-3B, by hand

# q and o with 2048 x 2048, k and v with 2048 x 256, their biases (not o's), three of 2048 x 11008, two norms.
QWEN_BLOCK = (2 * 2048**2 + 2048) + 2 * (2048 * 256 + 256) + 3 * 2048 * 11008 + 2 * 2048
QWEN_ROOT = 151936 * 2048 + 2048  # tied embeddings, the last norm
# qkv, projection, gate, up and down of 3420, two norms; 32 times. Patches of 3 x 2 x 14 x 14; the merger of four.
EYE_BLOCK = (1280 * 3840 + 3840) + (1280**2 + 1280) + 2 * (1280 * 3420 + 3420) + (3420 * 1280 + 1280) + 2 * 1280
EYES = 32 * EYE_BLOCK + 1176 * 1280 + 1280 + (5120**2 + 5120) + (5120 * 2048 + 2048)

# ---------------------------------------------------------------- SD3.5 medium, by hand

LINEAR = 1536**2 + 1536
FORWARD = 2 * 4 * 1536**2 + 4 * 1536 + 1536
# Modulation of 9 and 6, eight linear layers and norms of heads of 64; in the first 13 a second attention.
DUAL = 15 * LINEAR + 8 * LINEAR + 4 * 64 + 4 * LINEAR + 2 * 64 + 2 * FORWARD
PLAIN = 12 * LINEAR + 8 * LINEAR + 4 * 64 + 2 * FORWARD
LAST = 8 * LINEAR + 7 * LINEAR + 4 * 64 + FORWARD  # without what the text would be next
SD_ROOT = (64 * 1536 + 1536) + (256 * 1536 + 1536 + LINEAR) + (2048 * 1536 + 1536 + LINEAR)
SD_ROOT += (4096 * 1536 + 1536) + 2 * LINEAR + (1536 * 64 + 64)


@pytest.fixture(scope="module")
def qwen() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    seen = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, "num_heads": 16}
    with torch.device("meta"):
        config = Qwen2_5_VLConfig(text_config=text, vision_config=seen, tie_word_embeddings=True)
        return Qwen2_5_VLForConditionalGeneration(config)


@pytest.fixture(scope="module")
def medium() -> Any:
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel(
            sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
            pooled_projection_dim=2048, qk_norm="rms_norm", dual_attention_layers=tuple(range(13)),
        )  # fmt: skip


QWEN_BLOCKS = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")
SD_BLOCKS = ("JointTransformerBlock",)


def counts(found: list[Unit]) -> list[int]:
    return [sum(p.numel() for p in unit.parameters) for unit in found]


def test_the_parts_of_a_vision_language_model_are_those_worked_out_by_hand(qwen):
    found = list(units(qwen, QWEN_BLOCKS, [qwen.model.visual]))
    assert [unit.root for unit in found] == [False] * 36 + [True]
    assert counts(found) == [QWEN_BLOCK] * 36 + [QWEN_ROOT]
    assert 36 * QWEN_BLOCK + QWEN_ROOT + EYES == 3_754_622_976  # as its card has it
    # The embeddings, and two blocks, in two bytes.
    assert most_gathered(found, torch.bfloat16) == 2 * (QWEN_ROOT + 2 * QWEN_BLOCK)
    with_eyes = list(units(qwen, QWEN_BLOCKS))
    assert sorted(counts(with_eyes))[:32] == [EYE_BLOCK] * 32 and sum(counts(with_eyes)) == 3_754_622_976


def test_the_parts_of_a_denoiser_are_those_worked_out_by_hand(medium):
    found = list(units(medium, SD_BLOCKS))
    assert {*medium._no_split_modules, *medium._repeated_blocks} == set(SD_BLOCKS)
    assert counts(found) == [LAST] + [PLAIN] * 10 + [DUAL] * 13 + [SD_ROOT]
    assert sum(counts(found)) == 2_243_171_520
    assert most_gathered(found, torch.bfloat16) == 2 * (SD_ROOT + 2 * DUAL)


def stage_of(model: Any, whole: Any, train: str, **beside: Any) -> Any:
    """As much of a stage as `held_parts` looks at."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    adapter = SimpleNamespace(
        precision=torch.bfloat16,
        divisible=lambda: [Divisible(model, [*QWEN_BLOCKS, *SD_BLOCKS], whole)],
        weights=lambda: [*model.parameters(), *model.buffers()],
        reference_parameters=lambda: trained,
    )
    config = SimpleNamespace(model=SimpleNamespace(train=train))
    learner = SimpleNamespace(parameters=trained, average=SimpleNamespace(weights=trained))
    stage = {"roles": {}, "learners": {"policy": learner}, "needs_reference": True, **beside}
    return SimpleNamespace(run=SimpleNamespace(adapter=adapter, config=config), **stage)


@pytest.mark.parametrize("shards", [1, 2, 8, 16])
def test_full_fine_tuning_takes_16_bytes_of_a_parameter_over_the_shards(qwen, shards):
    """Masters, gradients and two moments of four bytes; every first dimension is a multiple of 16."""
    tower = {id(p) for p in qwen.model.visual.parameters()}
    for p in qwen.parameters():
        p.requires_grad_(id(p) not in tower)
    found = held_parts(stage_of(qwen, [qwen.model.visual], "full"), shards)
    each = 4 * (36 * QWEN_BLOCK + QWEN_ROOT) // shards
    assert [found[key] for key in ("masters", "gradients", "average", "reference")] == [each] * 4
    assert found["moments"] == 2 * each
    assert found["frozen"] == found["roles"] == 0
    buffers = sum(b.numel() * b.element_size() for b in qwen.buffers())
    assert found["whole"] == 4 * EYES + buffers


def test_lora_takes_its_adapters_and_the_base_in_its_own_type(medium):
    """Of rank 8 on the four projections of the first attention: 8 x (1536 + 1536) each, in 24 blocks."""
    from peft import LoraConfig

    with torch.device("meta"):
        model = type(medium).from_config(medium.config).to(torch.bfloat16).requires_grad_(False)
        model.add_adapter(LoraConfig(r=8, target_modules=[f"attn.to_{x}" for x in ("q", "k", "v", "out.0")]))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    found = held_parts(stage_of(model, [], "lora"), 8)
    low_rank = 24 * 4 * 8 * (1536 + 1536)
    assert found["adapters"] == 4 * low_rank // 8 == found["gradients"] == found["moments"] // 2
    assert "masters" not in found
    # 8 does not divide 4 of the root's and blocks' numbers of rows only: none here.
    assert found["frozen"] == 2 * 2_243_171_520 // 8


@pytest.mark.parametrize(
    ("shape", "shards", "rows"), [((10, 3), 4, 3), ((8, 3), 4, 2), ((2, 3), 4, 1), ((7,), 2, 4), ((7,), 1, 7)]
)
def test_a_parameter_is_split_along_its_rows_and_all_have_room_for_the_fullest(shape, shards, rows):
    assert kept(torch.empty(shape), shards) == 4 * rows * (3 if len(shape) > 1 else 1)


def test_inner_blocks_are_parts_of_their_own_and_what_is_shared_belongs_to_one():
    class Inner(nn.Linear):
        pass

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.own = Inner(2, 2, bias=False), nn.Linear(2, 3, bias=False)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 2)
            self.blocks = nn.ModuleList([Outer(), Outer()])
            self.head = nn.Linear(2, 5, bias=False)
            self.head.weight = self.embedding.weight

    found = list(units(Model(), ["Inner", "Outer", "NotThere"]))
    assert sorted(counts(found[:-1])) == [4, 4, 6, 6]
    assert found[-1].root and counts(found[-1:]) == [10]


def test_phases_of_a_shard_are_sums():
    sizes = Sharded(
        4, frozen=1, masters=20, whole=300, moments=40, gradients=20, scratch=3, gathered=7, unreduced=8, copy=80,
        sampling=5, activations=9,
    )  # fmt: skip
    assert sizes.resident == 361
    assert sizes.phases() == {"rollout": 446, "update": 361 + 20 + 7 + 8 + 9, "optimizer": 361 + 20 + 3}
    assert Sharded(4, frozen=1, copy=2).phases() == {"rollout": 3}
    first, *others = sizes.lines("grpo", 8)
    assert "each of 8 GPUs, 4 shards x 2 copies" in first and "(rollout)" in first
    assert len(others) == 3


# ---------------------------------------------------------------- traced


def made(name: str, world: int = 1, **options: Any) -> tuple[Any, Any]:
    config = run_config(name, **options)
    run = assemble(config, PlannedProcesses(world), weights=False)
    policy, cursor = Policy(run.adapter), Cursor()
    policy.select(None, "grpo")
    cursor.begin_stage(0)
    stage = made_stage(run, config.stages[0], policy, cursor)
    return stage, run.data.prompts


@pytest.mark.parametrize("name", ["text", "vision", "image"])
def test_activations_are_an_update_s_peak_without_its_gradients(name):
    """In float32, where what is gathered is what is kept, and an update of several micro-batches has gradients."""
    stage, prompts = made(name, micro_batch=2)
    whole = sizes_of(stage, prompts)
    stage.run.config.sharding.shards = 2
    split = sharded_sizes(stage, prompts)
    assert split.activations + whole.trained == whole.update
    assert 0 < split.sampling <= whole.sampling  # a frozen tower's features are kept from the first trace
    assert 0 < split.gathered <= split.copy
    assert split.gradients == pytest.approx(whole.trained / 2, rel=0.02)
    assert all(p.grad is None and p.dtype == torch.float32 for p in stage.learners["policy"].parameters.values())
    assert sum(p.numel() for unit in shared_units(stage.run.adapter) for p in unit.parameters) * 4 <= whole.weights
    assert most_rows(stage.run.adapter) > 8


# ---------------------------------------------------------------- what divides


def test_shards_that_cannot_be_are_refused_with_numbers_that_can():
    config = run_config("text")
    for shards, told in ((3, "take sharding.shards=1, 2, 4 or 8, or 6 or 9 processes"), (16, "with 8 processes")):
        config.sharding.shards = shards
        with pytest.raises(ConfigError, match=told):
            refuse(config, 8)
    check_rows(32, 32)
    with pytest.raises(ConfigError, match=r"shards=64 is more than .* has rows: 32 at most"):
        check_rows(64, 32)


@pytest.mark.parametrize(
    ("processes", "options", "told"),
    [
        (1, {"groups": 3}, []),
        (2, {"groups": 4}, ["4 prompts x 2 samples, at most 2 x 2 = 4 of each"]),
        (
            3,
            {"groups": 4},
            ["some have 2, some 1, and wait for the others; groups=3 or 6 divides", "2 x 2 = 4 of each"],
        ),
        (8, {"groups": 4}, ["4 of them have nothing to sample; take groups=8", "1 x 2 = 2 of each"]),
        (4, {"groups": 4, "updates": 2}, ["1 x 2 = 2 of each", "over 2 prompts of 4.*such as 8"]),
    ],
)
def test_what_each_process_has_and_what_does_not_divide(processes, options, told):
    stage = run_config("text", **options).stages[0]
    lines = list(batch_lines(stage, processes))
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert re.search(words, line), line


# ---------------------------------------------------------------- what a simulation starts from


def test_operations_are_those_of_the_matrix_products():
    """Two layers of 4 x 6 and 6 x 5 on 3 rows: 2 x 3 x (24 + 30); twice that backward, the first input's left out."""
    from mmrl.training.estimate.work import counted

    first, second = nn.Linear(4, 6), nn.Linear(6, 5)
    x = torch.ones(3, 4)
    assert counted(lambda: second(first(x))) == 2 * 3 * (24 + 30)
    assert counted(lambda: second(first(x)).sum().backward()) == 2 * 3 * (2 * 24 + 3 * 30)
    assert counted(lambda: second(first(x)), [second]) == 2 * 3 * 30
    q = torch.ones(1, 2, 7, 4)
    assert counted(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * (2 * 7 * 7 * 4)


@pytest.mark.parametrize(("name", "forwards", "varied"), [("text", None, True), ("image", 3, False)])
def test_the_work_of_a_step_is_that_of_the_model(name, forwards, varied):
    """An update is a forward of the reference and three of the policy, of all matrices but what is looked up."""
    from mmrl.training.estimate.work import work_of

    stage, prompts = made(name, groups=4, samples=2, algorithm={"preset": "grpo", "kl_coef": 0.1})
    work = work_of(stage, prompts)
    assert (work.groups, work.samples, work.varied) == (4, 2, varied)
    assert work.forwards == (forwards or stage.run.config.model.sampling.max_tokens)
    numbers = sum(p.numel() for p in stage.learners["policy"].parameters.values())
    assert work.gradients == 4 * numbers == work.optimizer / 7
    assert work.blocks * work.block + work.around == pytest.approx(work.weights) and work.narrow == 0.5
    if name == "text":
        tokens = work.forwards + stage.run.adapter.cost(prompts[0])["tokens"]
        assert work.forward_flops == 2 * numbers
        assert 0.5 * 8 * numbers * work.forwards < work.update_flops < 1.5 * 8 * numbers * tokens
    else:
        assert work.update_flops > 3 * work.forward_flops
