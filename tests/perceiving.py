"""What tests of models that see and of models that hear share: a policy of two layers, and what its parts are asked."""

from __future__ import annotations

import torch


def built(adapter, config, sizes, kind, build=None, sampling=None, loud=False, **model):
    """An adapter of a model of these sizes. loud: with weights so large that positions and media matter."""
    made = adapter(config(path="built", build={"kind": kind, **sizes, **(build or {})}, sampling=sampling, **model))
    if loud:
        with torch.no_grad():
            for parameter in made.model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
    return made


def watch(policy):
    """Lists that fill up: media in each call of the tower, shapes [rows, tokens] of each forward of the decoder."""
    assert policy._ways.shared  # tried before anything is counted
    perceived, shapes = [], []
    features = policy.family.features

    def counted(model, inputs):
        perceived.append(len(inputs))
        return features(model, inputs)

    policy.family.features = counted
    policy.family.language(policy.model).register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    return perceived, shapes


def replay(policy, samples, budget=10**6, **options):
    for part in policy.slices(samples, budget):
        policy.logprobs([samples[r] for r in part.rows], part.columns, **options)
