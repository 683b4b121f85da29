"""Pictures that are drawn by servers: what is drawn here, with weights that follow, in whole trainings, too."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from drawn_elsewhere import BUILD, CORPUS, LORA, PROMPTS, groups, largest, made, moved, to
from PIL import Image
from watching import Watch, coming_and_going, rows_of, versions_of

import mmrl
from mmrl.engines.agreement import EngineMismatch
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.types import Group, Prompt


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("sd3", {}),
        ("sd3", LORA),
        ("sd3", {"components": ["denoiser", "text_encoders"]}),
        ("sd", {}),
        ("flux", {"dtype": "bfloat16", **LORA}),
        ("sd3", {"sampling": {"plan": {"name": "untrained", "boundaries": True}, "same_noise": True}}),
    ],
)
def test_servers_draw_what_is_drawn_here_bit_for_bit_also_after_updates(family, model, served):
    """Group by group, as other batches round otherwise. Weights follow, whichever are trained."""
    here = made(family, **model)
    away = made(family, **model, **to(served(made(family, **model))))
    for step in range(2):
        for group in groups(2 - step):
            mine, theirs = here.rollout([group], 2, step, 7), away.rollout([group], 2, step, 7)
            assert largest(mine, theirs) == 0
        moved(here, step)
        moved(away, step)
    away.close()


def test_pictures_that_prompts_show_come_along(served):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    prompt = Prompt("edit", "make it red", {"images": [image]})
    here = made("flux_kontext", source_pixels=4096)
    away = made("flux_kontext", source_pixels=4096, **to(served(made("flux_kontext", source_pixels=4096))))
    assert largest(here.rollout([Group(prompt, 0)], 2, 0, 1), away.rollout([Group(prompt, 0)], 2, 0, 1)) == 0
    away.close()


def test_a_stages_own_sampling_and_what_rewards_read_come_along(served):
    servers = served(made(), 2)
    here, away = made(), made(**to(servers))
    for adapter in (here, away):
        sampling = adapter.config.sampling.model_copy(
            update={"steps": 4, "plan": {"name": "random_window"}, "keep_mean": True}
        )
        adapter.sample_as(adapter.config.model_copy(update={"sampling": sampling}))
        adapter.wanted = frozenset({"latents"})
    mine, theirs = here.rollout(groups(), 2, 3, 5), away.rollout(groups(), 2, 3, 5)
    for one, other in zip((s for g in mine for s in g.samples), (s for g in theirs for s in g.samples)):
        assert other.artifact is None and one.latents.keys() == other.latents.keys() == {"clean", "noisy", "level"}
        pairs = [(one.latents[name], other.latents[name]) for name in one.latents]
        pairs += [(one.actions.tensors[name], other.actions.tensors[name]) for name in ("x", "x_next", "mean", "step")]
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in pairs)
    away.close()


def test_weights_that_another_stage_trained_are_sent_once(served):
    """Text encoders that are frozen now and not the server's: what it keeps of prompts is made anew."""
    servers = served(made())
    here, away = made(), made(**to(servers))
    for adapter in (here, away):
        adapter.select(["text_encoders"])
        moved(adapter, 4)
        adapter.select(["denoiser"])
    with pytest.warns(UserWarning, match="held other values of .* text_encoder.*the run's were sent"):
        found = away.rollout(groups(1), 2, 0, 3)
    assert largest(here.rollout(groups(1), 2, 0, 3), found) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        away.rollout(groups(1), 2, 1, 3)
    away.close()


def test_a_stage_that_trains_other_parts_sends_what_the_last_one_ended_with(served):
    """The last updates of a stage come after its last push, and another part is trained then, or between two."""
    servers = served(made())
    here, away = made(), made(**to(servers))
    for parts in (["denoiser"], ["text_encoders"], ["denoiser"]):
        for adapter in (here, away):
            adapter.select(parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert largest(here.rollout(groups(1), 2, 0, 3), away.rollout(groups(1), 2, 0, 3)) == 0
        for adapter in (here, away):
            moved(adapter, 1)
            adapter.select(["vae"])
            moved(adapter, 2)
    away.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_that_were_trained_and_are_frozen_again_keep_the_servers_types(dtype, served):
    """Full training keeps weights in float32, and the rest is in the run's type."""
    servers = served(made(dtype=dtype))
    here, away = made(dtype=dtype), made(dtype=dtype, **to(servers))
    for adapter in (here, away):
        adapter.select(["text_encoders"])
        moved(adapter, 4)
        adapter.select(["denoiser"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = away.rollout(groups(1), 2, 0, 3)
    assert largest(here.rollout(groups(1), 2, 0, 3), found) == 0
    away.close()


def test_log_probs_that_are_not_the_models_stop_the_run(served, monkeypatch):
    servers = served(made())
    away = made(**to(servers))
    original = ImageAdapter.rollout

    def rollout(adapter, *arguments):
        found = original(adapter, *arguments)
        if adapter is servers[0].adapter:
            for sample in (s for g in found for s in g.samples):
                sample.actions.logp += 0.01
        return found

    monkeypatch.setattr(ImageAdapter, "rollout", rollout)
    with pytest.raises(EngineMismatch, match=r"differ from this model's by up to 0\.01"):
        away.rollout(groups(1), 2, 0, 0)
    away.close()


# ---------------------------------------------------------------- trainings


def config(folder, servers, steps=5, **stage):
    (folder / "prompts.txt").write_text("\n".join(p.text for p in PROMPTS), encoding="utf-8")
    (folder / "mine.py").write_text(
        "import numpy as np\n\ndef red(samples):\n"
        "    return [float(np.asarray(s.artifact)[..., 0].mean()) / 255 for s in samples]\n",
        encoding="utf-8",
    )
    sampling = {"steps": 3, "size": 32}
    model = {"path": "built", "family": "sd3", "build": {"corpus": CORPUS, **BUILD["sd3"]}, "sampling": sampling}
    own = {"kind": "grpo", "name": "rl", "steps": steps, "groups": 2, "samples": 3, "micro_batch": 64}
    return {
        "name": "run",
        "out": str(folder / "runs"),
        "modality": "image",
        "model": {**model, **to(servers)},
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:red"}],
        "stages": [{**own, "optim": {"lr": 0.001}, **stage}],
        "report": {"samples_every": 2},
        "threads": 1,
        "device": "cpu",
    }


def of_run(told):
    """The adapter of a run, as it is made there."""
    torch.manual_seed(0)
    model = {**told["model"], "engine": {"name": "diffusers"}}
    return ImageAdapter(ModelConfig(**model))


def test_a_training_over_servers_is_the_training_without(served, tmp_path):
    """Step by step: rewards and weights are those of a run that draws for itself."""
    folders = [tmp_path / "here", tmp_path / "away"]
    for folder in folders:
        folder.mkdir()
    alone = config(folders[0], [], 3, algorithm={"preset": "flow_grpo"})
    alone["model"].pop("engine")
    mmrl.train(alone, quiet=True)
    servers = served(of_run(alone), 2)
    mmrl.train(config(folders[1], servers, 3, algorithm={"preset": "flow_grpo"}), quiet=True)
    first, second = (rows_of(folder) for folder in folders)
    assert [row["reward/mean"] for row in first] == pytest.approx([row["reward/mean"] for row in second], abs=1e-5)
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-4)


def test_a_training_in_the_background_keeps_its_bound_while_servers_come_and_go(served, tmp_path, monkeypatch):
    staleness, steps = 2, 6
    watch = Watch(monkeypatch, groups=2, samples=3, reward="mine.red")
    told = config(tmp_path, [], steps=steps, asynchronous={"staleness": staleness})
    base = of_run(told)
    servers = served(base, 2)
    told["model"] |= to(servers)
    with coming_and_going(watch, servers, lambda gone: served(base, port=gone.port)[0], 0, most_up=0.6, most_down=0.2):
        mmrl.train(told, quiet=True)
    watch.check(steps, staleness)
    for sample in watch.all_samples():  # a picture is of one policy
        assert set(versions_of(sample)) == {sample.version} and not sample.latents
    assert max(row["rollout/age_max"] for row in rows_of(tmp_path)) <= staleness
