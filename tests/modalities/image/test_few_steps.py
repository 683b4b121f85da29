"""A few-step model: evaluated by its re-noise steps, taught by many of the ODE, compared with records and a teacher."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from small_pipelines import PROMPTS, adapter, nudge
from test_every_family import picture

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.guidance import Scales
from mmrl.seeds import seed_of
from mmrl.types import Group

RENOISE = {"kernel": "renoise", "guidance": 1.0, "steps": 3}


def few(**options):
    policy = adapter("sd3", sampling=RENOISE, **options)
    nudge(policy)
    return policy


def predicted(policy, x, level, prompts, guidance=1.0):
    """The velocity at a noise level, with guidance, of one forward each."""
    time, size, scales = torch.full((len(x),), 1000 * float(level)), policy.train_size, Scales(guidance)
    asked = [policy._asked(prompt) for prompt in prompts]
    condition = policy._conditions(asked, size)
    against = policy._sampler.unconditional(asked, scales, size)
    return policy.policy.predict(x, time, condition, scales, size, against)[0]


@torch.no_grad()
def test_it_is_evaluated_as_it_is_trained_to_sample():
    """x0 = x - t v, then (1 - t') x0 + t' noise; no trajectories."""
    policy = few(evaluation={})
    decoded = {}
    policy._sampler.decode = lambda latents, size: decoded.update(latents=latents) or [None] * len(latents)
    [group] = policy.evaluate(PROMPTS[:1], 2, seed=5)
    assert [sample.trajectory for sample in group.samples] == [None, None]
    levels = policy._sampler.schedule(3, policy.train_size).level.float()
    shape, wanted = policy.family.latent_shape(policy.train_size), []
    for number in range(2):
        names = ("eval", PROMPTS[0].id, number)
        first = torch.Generator().manual_seed(seed_of(5, *names))
        later = torch.Generator().manual_seed(seed_of(5, *names, "steps"))
        x = torch.randn(1, *shape, generator=first)
        for now, after in pairwise(levels):
            clean = x - now * predicted(policy, x, now, PROMPTS[:1])
            x = (1 - after) * clean + after * torch.randn(1, *shape, generator=later)
        wanted.append(x[0])
    torch.testing.assert_close(decoded["latents"], torch.stack(wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_stage_that_samples_otherwise_is_evaluated_alike():
    """By the re-noise steps of the model, whatever kernel the stage's own sampling has."""
    policy = few(evaluation={})
    before = policy.evaluate(PROMPTS[:1], 1, seed=5)
    own = policy.config.sampling.model_copy(update={"kernel": "flow_sde", "noise_level": 0.9, "steps": 5})
    policy.sample_as(policy.config.model_copy(update={"sampling": own}))
    after = policy.evaluate(PROMPTS[:1], 1, seed=5)
    assert before[0].samples[0].artifact.tobytes() == after[0].samples[0].artifact.tobytes()


@pytest.mark.parametrize(
    ("sampling", "evaluation", "steps", "renoises"),
    [
        ({"kernel": "renoise", "steps": 4}, {}, 4, True),
        ({"kernel": "renoise", "steps": 4}, {"steps": 2, "kernel": "renoise"}, 2, True),
        ({"kernel": "renoise", "steps": 4}, {"kernel": "ode"}, 20, False),
        ({"steps": 4}, {}, 20, False),
        ({"steps": 4}, {"steps": 7}, 7, False),
    ],
)
def test_what_the_config_says_of_its_evaluation(sampling, evaluation, steps, renoises):
    config = ModelConfig(path="a/b", sampling=sampling, evaluation=evaluation)
    assert (config.evaluation_steps, config.evaluates_by_renoise) == (steps, renoises)
    assert any(f"evaluation: {'renoise' if renoises else 'ODE'}, {steps} steps" in line for line in config.describe())


def test_re_noise_steps_of_an_evaluation_are_those_of_training():
    with pytest.raises(ValidationError, match=r"set sampling.kernel: renoise, or leave it out"):
        ModelConfig(path="a/b", evaluation={"kernel": "renoise"})


@torch.no_grad()
def test_a_teacher_solves_the_ode_in_its_own_steps_and_with_its_own_guidance():
    policy = few()
    groups = policy.solved([Group(PROMPTS[0], 0), Group(PROMPTS[1], 1)], 2, 7, steps=4, guidance=3.0)
    ends = policy.ends([sample for group in groups for sample in group.samples])
    levels = policy._sampler.schedule(4, policy.train_size).level.float()
    wanted = []
    for prompt in PROMPTS[:2]:
        for number in range(2):
            noise = torch.Generator().manual_seed(seed_of(7, prompt.id, number, "solved"))
            x = torch.randn(1, *ends.shape[1:], generator=noise)
            for now, after in pairwise(levels):
                x = x + (after - now) * predicted(policy, x, now, [prompt], 3.0)
            wanted.append(x[0])
    torch.testing.assert_close(ends, torch.stack(wanted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ends, policy.ends([s for g in policy.solved(groups, 2, 7, 4, None) for s in g.samples]))


def test_records_are_samples_of_their_prompts():
    policy = few()
    records = [{"id": str(n), "prompt": f"a {n}", "image": picture(32, 32, n)} for n in range(2)]
    samples = policy.encoded(records)
    assert [(s.prompt.id, s.prompt.text) for s in samples] == [("0", "a 0"), ("1", "a 1")]
    torch.testing.assert_close(policy.ends(samples)[1], policy._records.latents(records[1:])[0])


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_teacher_is_read_from_its_folder(tmp_path, train):
    """Its trained weights become the reference; the policy stays what it is."""
    options = {"train": "lora", "lora": {"rank": 2, "alpha": 4}} if train == "lora" else {}
    teacher, policy = few(**options), few(**options)
    nudge(policy, size=0.02)
    teacher.save(tmp_path / "teacher")
    before = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}
    if train == "full":
        policy.config = policy.config.model_copy(update={"path": "elsewhere", "build": None})
    policy.take_reference(str(tmp_path / "teacher"))
    for name, weight in teacher.trainable_parameters().items():
        torch.testing.assert_close(policy.reference_parameters()[name], weight.detach())
        assert torch.equal(policy.trainable_parameters()[name], before[name])
    with policy.reference():
        assert not policy.policy_acts


def test_a_teacher_of_another_shape_is_refused(tmp_path):
    adapter("sd3", build={"layers": 1}).save(tmp_path / "wide")
    policy = few()
    policy.config = policy.config.model_copy(update={"build": None})
    with pytest.raises(
        Unsupported, match=r"wide' is another model than the policy: .* take the one that the policy was"
    ):
        policy.take_reference(str(tmp_path / "wide"))


@pytest.mark.parametrize("beside", ["alpha", "latents"])
def test_a_teacher_whose_weights_mean_something_else_is_refused(tmp_path, beside):
    """LoRA of another scale, latents of another scale: the trained weights alone would fit."""
    options = {"train": "lora", "lora": {"rank": 2, "alpha": 4}} if beside == "alpha" else {}
    policy = few(**options)
    if beside == "alpha":
        few(train="lora", lora={"rank": 2, "alpha": 8}).save(tmp_path / "teacher")
    else:
        teacher = few()
        teacher.load_state({**teacher.state(), "scaling_factor": 0.25})
        teacher.save(tmp_path / "teacher")
        policy.config = policy.config.model_copy(update={"path": "elsewhere", "build": None})
    wrong = r"alpha / rank of .* is 4\.0, not 2" if beside == "alpha" else "latents' scale and shift are"
    with pytest.raises(Unsupported, match=wrong):
        policy.take_reference(str(tmp_path / "teacher"))
