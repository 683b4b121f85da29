"""Merged checkpoints hold the weighted mean of their tensors and load like the first of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmrl.cli import cli
from mmrl.training.merge import MergeError, bai_weights, merge


def checkpoint(root: Path, values: dict[str, list[float]], dtype=torch.float32, place: str = "model") -> Path:
    """root/unet/<place>.safetensors and a config beside it."""
    folder = root / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.tensor(v, dtype=dtype) for name, v in values.items()}
    save_file(tensors, folder / f"{place}.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"from": root.name}))
    return root


def merged(out: Path) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in load_file(out / "unet" / "model.safetensors").items()}


@pytest.fixture
def three(tmp_path) -> list[Path]:
    values = {"a": {"w": [4.0, 0.0]}, "b": {"w": [8.0, 4.0]}, "c": {"w": [2.0, -2.0]}}
    return [checkpoint(tmp_path / name, v) for name, v in values.items()]


def test_the_default_of_three_is_the_two_level_mean(three, tmp_path):
    # 0.5 * (0.5 * 4 + 0.5 * 8) + 0.5 * 2 = 4; 0.5 * (0 + 2) + 0.5 * -2 = 0.
    out = merge(tmp_path / "out", three)
    assert merged(out) == {"w": [4.0, 0.0]}
    assert json.loads((out / "merge.json").read_text())["weights"] == [0.25, 0.25, 0.5]


def test_the_weights_of_bai_by_hand():
    # theta = 0.8 * (0.3 * a + 0.7 * b) + 0.2 * c
    assert bai_weights(3, inner=0.3, outer=0.8) == pytest.approx((0.24, 0.56, 0.2))
    assert bai_weights(2, inner=0.3) == pytest.approx((0.3, 0.7))
    with pytest.raises(MergeError, match="4 checkpoints have no default weights"):
        bai_weights(4)


def test_given_weights_may_lie_outside_the_unit_interval(three, tmp_path):
    # 2 * 4 - 1 * 8 = 0, 2 * 0 - 4 = -4
    assert merged(merge(tmp_path / "out", three[:2], [2.0, -1.0])) == {"w": [0.0, -4.0]}


def test_all_of_one_checkpoint_is_that_checkpoint(three, tmp_path):
    assert merged(merge(tmp_path / "out", three, [0.0, 1.0, 0.0])) == {"w": [8.0, 4.0]}


def test_what_a_scalar_heads_scores_were_like_is_not_said_of_others(three, tmp_path):
    for number, root in enumerate(three):
        (root / "head").mkdir()
        notes = {"mean": number, "std": 2.0, "scores": 8, "show": "{prompt}{candidate}", "model": {"path": "x"}}
        (root / "head" / "head.json").write_text(json.dumps(notes))
    out = merge(tmp_path / "out", three)
    kept = json.loads((out / "head" / "head.json").read_text())
    assert kept == {"show": "{prompt}{candidate}", "model": {"path": "x"}}


def test_files_metadata_and_dtype_are_those_of_the_first(three, tmp_path):
    half = checkpoint(tmp_path / "half", {"w": [1.0, 3.0]}, dtype=torch.bfloat16)
    out = merge(tmp_path / "out", [half, three[0]])
    with safe_open(out / "unet" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("w").dtype == torch.bfloat16
        assert file.get_tensor("w").tolist() == [2.5, 1.5]
    assert json.loads((out / "unet" / "config.json").read_text()) == {"from": "half"}


def test_other_shards_are_no_other_model(tmp_path):
    whole = checkpoint(tmp_path / "whole", {"v": [1.0], "w": [2.0]})
    parts = checkpoint(tmp_path / "parts", {"v": [3.0]}, place="model-1")
    checkpoint(tmp_path / "parts", {"w": [6.0]}, place="model-2")
    assert merged(merge(tmp_path / "out", [whole, parts])) == {"v": [2.0], "w": [4.0]}


def test_one_name_in_two_folders_is_two_tensors(tmp_path):
    roots = [checkpoint(tmp_path / n, {"w": [v]}) for n, v in (("a", 0.0), ("b", 2.0))]
    for root, value in zip(roots, (10.0, 20.0)):
        save_file({"w": torch.tensor([value])}, root / "model.safetensors")
    out = merge(tmp_path / "out", roots)
    assert merged(out) == {"w": [1.0]}
    assert load_file(out / "model.safetensors")["w"].tolist() == [15.0]


def test_different_shapes_are_refused_with_the_names(three, tmp_path):
    other = checkpoint(tmp_path / "other", {"w": [1.0, 2.0, 3.0]})
    with pytest.raises(MergeError, match=r"unet/w \[3\] instead of \[2\]"):
        merge(tmp_path / "out", [three[0], other])
    assert not (tmp_path / "out").exists()


def test_different_tensors_are_refused_with_the_names(three, tmp_path):
    other = checkpoint(tmp_path / "other", {"u": [1.0, 2.0]})
    with pytest.raises(MergeError, match="it lacks unet/w; it adds unet/u; only"):
        merge(tmp_path / "out", [three[0], other])


def test_counters_must_agree_and_are_copied(tmp_path):
    roots = []
    for name, count in (("a", 3), ("b", 3), ("c", 4)):
        root = checkpoint(tmp_path / name, {"w": [1.0]})
        save_file({"ids": torch.tensor([count])}, root / "buffers.safetensors")
        roots.append(root)
    out = merge(tmp_path / "out", roots[:2])
    assert load_file(out / "buffers.safetensors")["ids"].tolist() == [3]
    with pytest.raises(MergeError, match=r"ids is torch.int64 and differs"):
        merge(tmp_path / "bad", roots[1:])
    assert [p.name for p in tmp_path.iterdir() if "bad" in p.name] == []  # no half-written folder either


def test_bad_requests_say_what_to_do(three, tmp_path):
    with pytest.raises(MergeError, match=r"sum to 0\.9"):
        merge(tmp_path / "out", three[:2], [0.4, 0.5])
    with pytest.raises(MergeError, match="2 weights for 3"):
        merge(tmp_path / "out", three, [0.5, 0.5])
    with pytest.raises(MergeError, match="two checkpoints or more"):
        merge(tmp_path / "out", three[:1])
    with pytest.raises(MergeError, match="exists"):
        merge(three[2], three[:2])
    with pytest.raises(MergeError, match="no such folder"):
        merge(tmp_path / "out", [three[0], tmp_path / "nowhere"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MergeError, match=r"no \.safetensors file"):
        merge(tmp_path / "out", [empty, three[0]])


def test_a_part_saved_in_another_format_is_refused_not_left_out(three, tmp_path):
    (three[0] / "vae").mkdir()
    (three[0] / "vae" / "weights.bin").write_bytes(b"x")
    with pytest.raises(MergeError, match="safe_serialization=True"):
        merge(tmp_path / "out", three[:2])
    assert not (tmp_path / "out").exists()


def test_a_run_stands_for_its_last_checkpoint(three, tmp_path):
    policy = checkpoint(tmp_path / "run" / "checkpoints" / "step_000001" / "policy", {"w": [6.0, 6.0]})
    (tmp_path / "run" / "checkpoints" / "latest").symlink_to(policy.parent.name)
    assert merged(merge(tmp_path / "out", [three[0], tmp_path / "run"])) == {"w": [5.0, 3.0]}


def test_the_command(three, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["merge", str(out), *map(str, three[:2]), "--weights", "0.75,0.25"])
    assert done.exit_code == 0, done.output
    assert merged(out) == {"w": [5.0, 1.0]}
    wrong = CliRunner().invoke(cli, ["merge", str(tmp_path / "x"), *map(str, three[:2]), "--weights", "a,b"])
    assert isinstance(wrong.exception, MergeError)


def test_the_result_loads_with_from_pretrained(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=16)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(GPT2LMHeadModel(config))
        models[-1].save_pretrained(tmp_path / str(seed))
    out = merge(tmp_path / "out", [tmp_path / str(seed) for seed in range(3)])
    loaded = dict(GPT2LMHeadModel.from_pretrained(out).named_parameters())
    first, second, third = (dict(m.named_parameters()) for m in models)
    assert loaded.keys() == first.keys()
    for name, value in loaded.items():
        wanted = 0.5 * (0.5 * first[name] + 0.5 * second[name]) + 0.5 * third[name]
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-6)
