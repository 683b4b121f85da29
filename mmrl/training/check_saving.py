"""The clause of the adapter contract (see check) about what `save` writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmrl.modalities.adapter import Adapter
from mmrl.training.check_tools import (
    same_artifacts,
)
from mmrl.types import Prompt


def save_and_load(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    n: int,
    seed: int,
    reload: Callable[[Path], Adapter | None] | None,
) -> tuple[bool, str]:
    before = {name: p.detach().clone() for name, p in adapter.trainable_parameters().items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "policy"
        adapter.save(folder)
        files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
        if not files:
            return False, "save wrote nothing: a checkpoint would hold no policy"
        pickles = sorted(path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        if pickles:
            return False, f"save wrote {', '.join(pickles)}: weights go into safetensors only, never into pickles"
        changed = [name for name, p in adapter.trainable_parameters().items() if not torch.equal(p, before[name])]
        if changed:
            return False, f"saving changed {len(changed)} parameters, e.g. {changed[0]}: save must only read"
        again = reload(folder) if reload else None
        if again is None:
            return True, f"{len(files)} files, without pickles; not loaded again, as they are a part of a policy"
        lost = [name for name, p in again.trainable_parameters().items() if not torch.equal(p, before.get(name, p + 1))]
        if lost or len(again.trainable_parameters()) != len(before):
            return (
                False,
                f"{len(lost)} parameters differ after loading, e.g. {(lost or ['(missing)'])[0]}: look at dtypes",
            )
        if not same_artifacts(adapter.evaluate(prompts, n, seed), again.evaluate(prompts, n, seed)):
            return False, (
                "the loaded policy draws other samples with equal trained weights: look at the frozen parts, the "
                "tokenizers and the scheduler that save writes"
            )
    return (
        True,
        f"{len(files)} files, without pickles; loaded again, it has the same weights and draws the same samples",
    )
