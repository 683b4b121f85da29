"""model.keep_graph in a training."""

from __future__ import annotations

import torch

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop


def test_a_training_ends_at_the_same_weights(tiny):
    stage = {"kind": "grpo", "steps": 2, "groups": 2, "samples": 3, "micro_batch": 4, "updates": 2}

    def weights(kept: bool) -> dict[str, torch.Tensor]:
        run = assemble(load(tiny(name=f"kept-{kept}", stages=[stage], model={"keep_graph": kept})))
        Loop(run, quiet=True).train()
        return run.adapter.trainable_parameters()

    plain, kept = weights(False), weights(True)
    assert max(float((plain[k] - kept[k]).detach().abs().max()) for k in plain) < 1e-6
