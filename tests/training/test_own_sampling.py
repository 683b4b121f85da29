"""A stage that samples in its own way: as a model of those options does, evaluated as the run's, resumed, and refused
where it says what has no effect."""

from __future__ import annotations

import pytest
import torch

from mmrl.config import ConfigError, load
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import SamplingConfig
from mmrl.training.assemble import assemble
from mmrl.training.check import run_checks
from mmrl.training.loop import Loop
from mmrl.training.plan import plan_text
from mmrl.training.stopping import Stopped
from mmrl.types import Group, Prompt

UNTRAINED = {"name": "untrained"}
NFT = {"kind": "forward_process", "steps": 2, "groups": 2, "samples": 3, "micro_batch": 5, "draws": 2}
GRPO = {"kind": "grpo", "steps": 2, "groups": 2, "samples": 3, "micro_batch": 8}
OWN = {
    "steps": 4,
    "kernel": "cps",
    "noise_level": 0.4,
    "plan": {"name": "random_window", "size": 1},
    "guidance": 3.0,
    "true_cfg": 2.0,
    "guidance_gradient": "both",
    "same_noise": True,
    "size": 16,
    "frames": 5,
    "logp_reduction": "sum",
    "ratio_norm": True,
    "keep_mean": True,
    "kl_published": True,
}
# Where an option has no effect by itself, what else the model says.
BESIDE = {"guidance_gradient": {"guidance": 2.0}, "true_cfg": {"size": 16}, "frames": {"size": 16, "frames": 1}}
# Of which family an option is that the tiny model's has not.
CORPUS = ["a red square", "two blue circles"]
FAMILY = {
    "true_cfg": {"family": "flux", "build": {"corpus": CORPUS}},
    "frames": {"family": "wan", "build": {"corpus": CORPUS, "layers": 1}},
}
PROMPTS = [Prompt(text, text) for text in ("a red square", "two blue circles")]


def everything(adapter: ImageAdapter) -> list[torch.Tensor]:
    """Numbers of a rollout, its replay and what that tells, and the gradient."""
    groups = adapter.rollout([Group(p, i) for i, p in enumerate(PROMPTS)], 2, 1, 0)
    samples = [sample for group in groups for sample in group.samples]
    found = [tensor for sample in samples for tensor in (sample.actions.logp, *sample.actions.tensors.values())]
    adapter.prepare_reference()
    moved = next(iter(adapter.trainable_parameters().values()))
    before = moved.detach().clone()
    with torch.no_grad():
        moved += 0.01
    columns = torch.arange(len(samples[0].actions.logp))
    told = adapter.logprobs(samples, columns, reference=True)
    found += [value for value in vars(told).values() if value is not None]
    parameters = adapter.trainable_parameters().values()
    for parameter in parameters:
        parameter.grad = None
    (told.logp.sum() if told.log_ratio is None else told.log_ratio.sum()).backward()
    with torch.no_grad():
        moved.copy_(before)
    return [*found, *(p.grad.clone() for p in parameters if p.grad is not None), torch.tensor(adapter.default_clip)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def pixels(adapter: ImageAdapter) -> list[bytes]:
    return [s.artifact.tobytes() for g in adapter.evaluate(PROMPTS, 1, 3) for s in g.samples]


@pytest.mark.parametrize("option", sorted(SamplingConfig.of_stages))
def test_an_option_of_a_stage_is_that_of_the_model_but_for_evaluation(tiny, option):
    """Every one that a stage may have: rollout, replay and gradient are those of a model with it, and others than
    without."""
    plain = load(tiny()).model
    beside = plain.sampling.model_copy(update=BESIDE.get(option, {}))
    model = plain.model_copy(update={**FAMILY.get(option, {}), "sampling": beside})
    changed = model.model_copy(update={"sampling": model.sampling.model_copy(update={option: OWN[option]})})
    adapter, right = ImageAdapter(model), ImageAdapter(changed)
    right.load_state(adapter.state())
    before, pictures = everything(adapter), pixels(adapter)
    adapter.sample_as(changed)
    found = everything(adapter)
    assert same(found, everything(right))
    assert not same(found, before)
    assert pixels(adapter) == pictures


def both(tiny, name="run", **values):
    """NFT on the ODE's pictures, then Flow-GRPO on the model's own sampling."""
    stages = [{**NFT, "sampling": {"plan": UNTRAINED, "steps": 2}}, dict(GRPO)]
    return load(tiny(name=name, stages=stages, **values))


def test_nft_and_then_grpo_are_one_run_that_resumes_anywhere(tiny):
    def run(name, should_stop=None, resume=False):
        loop = Loop(assemble(both(tiny, name), should_stop=should_stop), quiet=True)
        loop.train(resume=resume)
        return loop

    straight = run("straight")
    weights = straight.adapter.trainable_parameters()
    for passing in (1, 3):  # inside of the first stage, and of the second
        seen: list[str] = []
        name = f"cut{passing}"
        with pytest.raises(Stopped):
            run(name, lambda point, seen=seen, n=passing: point == "step" and (seen.append(point) or len(seen) == n))
        again = run(name, resume=True)
        for key, parameter in again.adapter.trainable_parameters().items():
            assert torch.equal(parameter, weights[key]), key


def test_it_is_planned_and_checked(tiny):
    config = both(tiny)
    text = plan_text(config)
    assert "sampling here: plan {'name': 'untrained'}, steps 2" in text
    assert "2 trained actions a sample: 12 a step" in text  # of the second stage, by the model's three steps
    two = [GRPO, {**GRPO, "name": "guided", "sampling": {"guidance": 3.0}}]
    found = run_checks(load(tiny(stages=two)), prompts=1)
    assert all(result.passed for result in found), found
    names = [result.name for result in found]
    assert sum(name.startswith("stage grpo: ") for name in names) * 2 == len(names)
    assert names[-1] == "stage guided: save and load"
    alone = load(tiny(stages=[{**GRPO, "sampling": {"plan": {"name": "first_fraction", "fraction": 0.4}}}]))
    assert "1 trained actions a sample: 6 a step" in plan_text(alone)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{**GRPO, "sampling": {"setps": 3}}], r"stages\.0\.sampling\.setps: unknown key; did you mean 'steps'"),
        ([{**GRPO, "sampling": {"steps": 0}}], r"stages\.0\.sampling\.steps: .*greater than or equal to 1"),
        ([{**GRPO, "sampling": {}}], r"stages\.0\.sampling: names nothing"),
        ([{**GRPO, "sampling": {"steps": 3}}], r"stages\.0\.sampling\.steps: is 3 in model\.sampling already"),
        ([{**GRPO, "sampling": {"storage": "bfloat16"}}], r"stages\.0\.sampling\.storage: is of evaluation, too"),
        ([{**GRPO, "sampling": {"negative_prompt": "x"}}], r"negative_prompt: is of evaluation, too"),
        (
            [{**GRPO, "sampling": {"kernel": "renoise", "noise_level": 0.3}}],
            r"sampling\.noise_level: has no effect here",
        ),
        ([{**GRPO, "sampling": {"keep_mean": True}}], r"sampling\.keep_mean: has no effect here"),
        ([{**GRPO, "sampling": {"plan": UNTRAINED}}], r"learns from actions, and samples have none"),
        ([{**GRPO, "sampling": {"plan": {"name": "fall"}}}], r"unknown plan 'fall'"),
        ([{**GRPO, "sampling": {"steps": 4}}], r"model\.sampling\.steps: every stage that samples has its own"),
        ([{"kind": "sft", "steps": 1, "sampling": {"steps": 4}}], r"stages\.0\.sampling: unknown key"),
    ],
)
def test_what_has_no_meaning_is_refused(tiny, stages, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        load(tiny(stages=stages))


def test_what_is_of_the_models_guidance_is_of_a_stages_too(tiny):
    model = {"sampling": {"negative_prompt": "blurred"}}
    load(tiny(model=model, stages=[{**GRPO, "sampling": {"guidance": 3.0}}]))
    with pytest.raises(ConfigError, match=r"model\.sampling\.negative_prompt: has no effect here"):
        load(tiny(model=model, stages=[{**GRPO, "sampling": {"guidance": 1.0}}]))


def test_a_modality_whose_stages_sample_alike_says_so(tiny):
    values = tiny(stages=[{**GRPO, "sampling": {"temperature": 0.5}}], modality="text", model={"path": "somewhere"})
    values["model"] = {"path": "somewhere"}
    with pytest.raises(ConfigError, match=r"stages\.0\.sampling: a stage of modality text samples as the model says"):
        load(values)


def test_what_does_not_fit_the_model_is_refused_where_the_stage_begins(tiny):
    config = load(tiny(stages=[{**GRPO, "sampling": {"kernel": "ddim"}}]))
    with pytest.raises(Unsupported, match=r"the stage's sampling: .*does not fit sd3"):
        Loop(assemble(config), quiet=True).train()


def test_what_evaluation_takes_of_the_models_sampling_is_not_nobodys(tiny):
    """Steps and kernel where it goes by re-noise steps; not where it says that it is the ODE with steps of its own."""
    own = [{**GRPO, "sampling": {"kernel": "flow_sde", "steps": 5}}]
    renoise = {"sampling": {"kernel": "renoise"}, "evaluation": {"steps": None}}
    config = load(tiny(model=renoise, stages=own))
    adapter = ImageAdapter(config.model)
    adapter.sample_as(config.of_stage(config.stages[0]).model)
    assert (adapter._evaluation.steps, adapter._training(None).steps, adapter.renoises) == (3, 5, False)
    with pytest.raises(ConfigError, match=r"model\.sampling\.kernel: every stage that samples has its own"):
        load(tiny(model={**renoise, "evaluation": {"kernel": "ode"}}, stages=own))


@pytest.mark.parametrize("kernel", ["flow_sde", "cps", "dance_sde"])
def test_a_few_step_model_is_evaluated_by_its_own_steps_whatever_a_stage_samples_by(tiny, kernel):
    """Its re-noise steps, from which the other kernels draw other pictures."""
    config = load(
        tiny(
            model={"sampling": {"kernel": "renoise"}, "evaluation": {"steps": None}},
            stages=[{**GRPO, "sampling": {"kernel": kernel}}],
        )
    )
    adapter = ImageAdapter(config.model)
    pictures = pixels(adapter)
    adapter.sample_as(config.of_stage(config.stages[0]).model)
    assert pixels(adapter) == pictures
