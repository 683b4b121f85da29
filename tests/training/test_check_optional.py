"""What an adapter may leave out is asked for where it is written; one broken adapter for each clause."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from able import PROMPTS, Able
from answers import Answers, AnswersConfig

from mmrl.training.check import check_adapter


def failed(adapter):
    return {r.name: r.detail for r in check_adapter(adapter(AnswersConfig()), PROMPTS[:3], n=4) if not r.passed}


@pytest.mark.parametrize("adapter", [Able, Answers])
def test_the_contract_holds_with_and_without_what_may_be_left_out(adapter):
    """Masked entries of Answers are NaN, and nobody looks at them."""
    assert failed(adapter) == {}


class Unstorable(Able):
    def rollout(self, *args):
        groups = super().rollout(*args)
        for sample in (s for g in groups for s in g.samples):
            sample.artifact = SimpleNamespace(text=sample.artifact)
        return groups


class SlicesNothing(Able):
    def slices(self, samples, budget):
        from mmrl.types import Slice

        if not samples:
            yield Slice(torch.arange(0), torch.arange(0))
        yield from super().slices(samples, budget)


class GreedyInSilence(Able):
    def evaluate(self, prompts, n, seed):
        return super().evaluate(prompts, n, 0)


class FalselyGreedy(Able):
    deterministic_evaluation = True


class ByName(Able):
    """Noise of a prompt, not of a group."""

    def rollout(self, groups, n, step, seed):
        for group in groups:
            group.draw = 0
        return super().rollout(groups, n, step, seed)


class Picky(Able):
    def usable(self, prompt):
        return "too short" if len(prompt.text) < 3 else None


class FirstColumns(Able):
    """Gives the first columns, whichever are asked for."""

    def logprobs(self, samples, columns, **options):
        return super().logprobs(samples, torch.arange(len(columns)), **options)


class SharedReference(Able):
    def prepare_reference(self):
        self._reference = {"table": self.table.data}


class StuckReference(Able):
    """Its reference is the policy of the first time that anyone asked."""

    def logprobs(self, samples, columns, reference=False, entropy=False):
        found = super().logprobs(samples, columns, False, entropy)
        if reference:
            found.logp_reference = found.logp.detach().clone()
        return found


class DetachedEntropy(Able):
    def logprobs(self, samples, columns, reference=False, entropy=False):
        found = super().logprobs(samples, columns, reference, entropy)
        if entropy:
            found.entropy = found.entropy.detach()
        return found


class NoEntropy(Able):
    def logprobs(self, samples, columns, reference=False, entropy=False):
        return super().logprobs(samples, columns, reference)


class OldFeatures(Able):
    def features(self, samples, columns, names):
        return {
            name: values - 1 if name == "logp" else values
            for name, values in super().features(samples, columns, names).items()
        }


class SummedFeatures(Able):
    def features(self, samples, columns, names):
        return {name: values[:, 0] for name, values in super().features(samples, columns, names).items()}


class Shouting(Able):
    def given(self, prompt, completions):
        return super().given(prompt, [text + "c" for text in completions])


class Wordless(Able):
    """Counts records where its loss is a mean over letters."""

    def supervised_loss(self, records, objective, seed):
        count = sum(len(r["completion"]) + 1 for r in records)
        return super().supervised_loss(records, objective, seed) * len(records) / count


class SilentLoss(Able):
    def supervised_loss(self, records, objective, seed):
        return super().supervised_loss(records, objective, seed).detach().requires_grad_()


class Forgetting(Able):
    count = 0

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"] + 1


class Objects(Able):
    def state(self):
        return {"table": self.table}


class FromTheReference(Able):
    """Says how far it is from somewhere else."""

    def logprobs(self, samples, columns, **options):
        found = super().logprobs(samples, columns, **options)
        found.divergence = found.divergence + 0.5
        return found


class NoDivergence(Able):
    def logprobs(self, samples, columns, **options):
        found = super().logprobs(samples, columns, **options)
        found.divergence = None
        return found


BROKEN = [
    (Unstorable, "artifacts can be stored", "SimpleNamespace"),
    (SlicesNothing, "no samples make no micro-batch", "1 micro-batches"),
    (GreedyInSilence, "evaluation repeats", "deterministic_evaluation = True"),
    (FalselyGreedy, "evaluation repeats", "though the adapter says deterministic_evaluation"),
    (ByName, "a prompt twice gives other samples", "seed the noise with `group.key`"),
    (Picky, "prompts that were sampled are usable", "usable says 'too short' of prompt 'p0'"),
    (FirstColumns, "columns in any order", "is the action columns[j]"),
    (SharedReference, "the reference stays where it was", "look for tensors that are shared"),
    (StuckReference, "the reference stays where it was", "the reference moved by"),
    (DetachedEntropy, "entropy", "differentiable"),
    (NoEntropy, "entropy", "gives entropy None"),
    (FromTheReference, "divergence", "is 5.0e-01 before anything was trained"),
    (NoDivergence, "divergence", "gives divergence None, expected (12, 5) like `logp`"),
    (OldFeatures, "features", "feature logp is off by 1.0e+00"),
    (SummedFeatures, "features", "feature entropy is (12,), expected (12, 5)"),
    (Shouting, "given answers", "completion(given("),
    (Wordless, "supervised loss", "is `supervised_weight` what the loss is a mean over?"),
    (SilentLoss, "supervised loss", ""),
    (Forgetting, "state", "makes {'count': 1} of {'count': 0}"),
    (Objects, "state", "no JSON"),
]


@pytest.mark.parametrize(("adapter", "clause", "told"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_a_broken_adapter_fails_its_clause_with_a_reason(adapter, clause, told):
    found = failed(adapter)
    assert clause in found
    assert told in found[clause]
    assert len(found) <= 3  # what is broken is told apart from what is not
