"""The adapter contract passes on every image family, and fails, with a reason, on adapters that break it."""

from __future__ import annotations

import random

import pytest
import torch

from mmrl.config import load
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.training.check import check_adapter, run_checks
from mmrl.types import Group, Prompt, Sample

UNET = {"text_width": 16, "latent_channels": 4, "vae_widths": [8, 8], "grid": 4, "widths": [8, 16], "max_length": 32}
FAMILIES = {
    "sd3": ("sd3", {}),
    "flux": (
        "flux",
        {"single_layers": 1, "heads": 1, "head_dim": 32, "layers": 1, "text_width": 16, "vae_widths": [8, 8]},
    ),
    "sd": ("sd", {**UNET, "heads": 2}),
    "sd_v": ("sd", {**UNET, "heads": 2, "prediction": "v_prediction"}),
    "sdxl": ("sdxl", {**UNET, "heads": [2, 2]}),
    "sdxl_v": ("sdxl", {**UNET, "heads": [2, 2], "prediction": "v_prediction"}),
}
PROMPTS = [Prompt(str(i), text) for i, text in enumerate(["a red dot", "a", "two green dots and a blue dot"])]


@pytest.fixture
def tiny_model(tiny):
    def make(case: str = "sd3", **sampling):
        family, build = FAMILIES[case]
        values = tiny()
        if case != "sd3":
            values["model"]["build"] = {**build, "corpus": values["model"]["build"]["corpus"]}
        values["model"]["family"] = family
        values["model"]["sampling"] = {"steps": 4, "size": 8, **sampling}
        return values

    return make


@pytest.mark.parametrize("case", FAMILIES)
def test_the_contract_holds_for_every_family(tiny_model, case):
    results = run_checks(load(tiny_model(case, guidance=2.0)))
    assert [r.detail for r in results if not r.passed] == []
    assert len(results) == 24


@pytest.mark.parametrize(
    "sampling", [{"ratio_norm": True}, {"kernel": "cps"}, {"kernel": "dance_sde", "same_noise": True}]
)
def test_the_contract_holds_for_other_ways_to_sample(tiny_model, sampling):
    results = run_checks(load(tiny_model("sd3", **sampling)))
    assert [r.detail for r in results if not r.passed] == []


@pytest.mark.parametrize("case", ["sd3", "sdxl"])
def test_the_contract_holds_in_sixteen_bits(tiny_model, case):
    """Of what is saved every trained bit comes back, though frozen weights are read in 16 bits."""
    values = tiny_model(case, guidance=2.0)
    values["model"]["dtype"] = "bfloat16"
    assert [(r.name, r.detail) for r in run_checks(load(values)) if not r.passed] == []


def test_the_contract_holds_for_lora(tiny_model):
    values = tiny_model()
    values["model"] |= {"train": "lora", "lora": {"rank": 2, "alpha": 4}}
    assert [r.detail for r in run_checks(load(values)) if not r.passed] == []


# -------------------------------------------------------------------- adapters that break it


class OffReplay(ImageAdapter):
    """Replays with another guidance than it sampled with, as far as anyone can see."""

    def logprobs(self, samples, columns, reference=False):
        found = super().logprobs(samples, columns, reference)
        found.logp = found.logp + 0.01
        return found


class OffRatio(ImageAdapter):
    def logprobs(self, samples, columns, reference=False):
        found = super().logprobs(samples, columns, reference)
        found.log_ratio = found.logp - found.logp.detach() + 0.01
        return found


class Neighbours(ImageAdapter):
    """Centres each batch: a sample depends on those it is rolled out with."""

    def rollout(self, groups, n, step, seed):
        filled = super().rollout(groups, n, step, seed)
        samples = [s for g in filled for s in g.samples]
        mean = torch.stack([s.trajectory.logp for s in samples]).mean()
        for sample in samples:
            sample.trajectory.logp = sample.trajectory.logp - mean
        return filled


class GlobalNoise(ImageAdapter):
    """Draws from torch's global generator."""

    def rollout(self, groups, n, step, seed):
        return super().rollout(groups, n, step, int(torch.randint(2**31, ())))


def leaky(logprobs):
    def leak(self, samples, columns, reference=False):
        found = logprobs(self, samples, columns, reference)
        total = found.logp.sum(dim=1, keepdim=True)
        found.logp = found.logp.detach() + total - total.detach()
        return found

    return leak


class Leaky(ImageAdapter):
    """Right values; but each action's gradient is that of all of them."""

    logprobs = leaky(ImageAdapter.logprobs)


class OverRows(ImageAdapter):
    """Right values; but gradients are divided by the size of the micro-batch."""

    def logprobs(self, samples, columns, reference=False):
        found = super().logprobs(samples, columns, reference)
        found.logp = found.logp.detach() + (found.logp - found.logp.detach()) / len(samples)
        return found


class Forgetful(ImageAdapter):
    """Never replays the last sample."""

    def slices(self, samples, budget):
        return super().slices(samples[:-1], budget)


class Detached(ImageAdapter):
    def logprobs(self, samples, columns, reference=False):
        found = super().logprobs(samples, columns, reference)
        found.logp = found.logp.detach() + 0 * found.logp
        return found


class MovedReference(ImageAdapter):
    def prepare_reference(self):
        super().prepare_reference()
        for tensor in self._reference.values():
            tensor.mul_(1.5)


class Incomplete(ImageAdapter):
    def rollout(self, groups, n, step, seed):
        filled = super().rollout(groups, n, step, seed)
        return [Group(g.prompt, g.index, g.samples[: n - (i == 1)]) for i, g in enumerate(filled)]


class RandomEvaluation(ImageAdapter):
    def evaluate(self, prompts, n, seed):
        return super().evaluate(prompts, n, random.randrange(2**31))


class NoTrajectory(ImageAdapter):
    def rollout(self, groups, n, step, seed):
        filled = super().rollout(groups, n, step, seed)
        return [Group(g.prompt, g.index, [Sample(g.prompt, s.index, s.artifact) for s in g.samples]) for g in filled]


class Pickles(ImageAdapter):
    def save(self, folder):
        super().save(folder)
        torch.save({}, folder / "weights.bin")


class SaveCasts(ImageAdapter):
    def save(self, folder):
        for parameter in self.trainable_parameters().values():
            parameter.data = parameter.data.bfloat16().float()
        super().save(folder)


# adapter -> the clauses that fail (at least), and words of the first one's detail.
BROKEN = [
    (OffReplay, {"replay equals rollout", "first ratio is 1"}, ["off by 1.0e-02", "same forward"]),
    (OffRatio, {"first ratio is 1"}, ["off 1 by 1.0e-02", "log_ratio"]),
    (Neighbours, {"rollout is independent of the batch", "replay equals rollout"}, ["alone", "padding"]),
    (GlobalNoise, {"rollout repeats"}, ["same (seed, step)", "global generator"]),
    (Leaky, {"masked actions get no gradient"}, ["leak", "sums or means over columns"]),
    (OverRows, {"micro-batches leave the gradient"}, ["micro_batch", "statistics over the batch"]),
    (Forgetful, {"micro-batches leave the gradient"}, ["never", "slices"]),
    (Detached, {"masked actions get no gradient", "trainable parameters"}, ["no gradient at all", "detach"]),
    (MovedReference, {"policy starts at its reference"}, ["away from its reference"]),
    (Incomplete, {"groups are complete"}, ["group 1 has samples [0]", "expected 0..1"]),
    (NoTrajectory, {"groups are complete"}, ["no trajectory"]),
    (RandomEvaluation, {"evaluation repeats"}, ["same seed gave other samples"]),
    (Pickles, {"save and load"}, ["weights.bin", "safetensors"]),
    (SaveCasts, {"save and load"}, ["saving changed"]),
]


@pytest.mark.parametrize(("adapter", "clauses", "told"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_adapter_fails_with_a_reason(tiny_model, adapter, clauses, told):
    made = adapter(load(tiny_model()).model)
    failed = {r.name: r.detail for r in check_adapter(made, PROMPTS) if not r.passed}
    assert clauses <= set(failed)
    first = next(name for name in failed if name in clauses)
    for words in told:
        assert words in failed[first]
    # What is broken is told apart from what is not.
    assert len(failed) <= len(clauses) + 2


def test_an_adapter_that_raises_fails_that_clause_only(tiny_model):
    class Raises(ImageAdapter):
        def evaluate(self, prompts, n, seed):
            raise RuntimeError("no sampler")

    made = Raises(load(tiny_model()).model)
    failed = {r.name: r.detail for r in check_adapter(made, PROMPTS) if not r.passed}
    assert failed["evaluation repeats"] == "raised RuntimeError: no sampler"
    assert set(failed) == {"evaluation repeats"}


def test_a_lost_weight_is_found_when_the_policy_is_loaded_again(tiny_model):
    config = load(tiny_model()).model
    made = ImageAdapter(config)

    def reload(folder):
        again = ImageAdapter(config.model_copy(update={"path": str(folder), "build": None}))
        next(iter(again.trainable_parameters().values())).data.add_(1e-3)
        return again

    result = check_adapter(made, PROMPTS, reload=reload)[-1]
    assert not result.passed
    assert "1 parameters differ after loading" in result.detail


def test_the_command_line_exits_with_0_or_1(tiny_model, helpers, tmp_path, monkeypatch, capsys):
    from mmrl.cli import cli

    path = helpers.written(tiny_model(), tmp_path)
    cli(["check", str(path)], standalone_mode=False)
    assert capsys.readouterr().out.count("pass  ") == 24

    monkeypatch.setattr(ImageAdapter, "logprobs", leaky(ImageAdapter.logprobs))
    with pytest.raises(SystemExit) as end:
        cli(["check", str(path)], standalone_mode=False)
    assert end.value.code == 1
    assert "FAIL  masked actions get no gradient" in capsys.readouterr().out
