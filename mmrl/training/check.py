"""The adapter contract: what must hold of a modality before training means anything (`mmrl check`).

Every check goes through mmrl.modalities.adapter.Adapter only, so it holds for any modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrl.config import Config, ConfigError, SftStage
from mmrl.config.stage_sampling import SamplingStage
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.training.assemble import load_adapter, load_prompts, load_records, set_threads
from mmrl.training.check_company import in_company
from mmrl.training.check_optional import optional_clauses
from mmrl.training.check_replay import first_ratio, masked, micro_batches, nothing, parameters, reference, replay_equals
from mmrl.training.check_sampling import complete_groups, evaluation, repeats, roll_out, storable, twice
from mmrl.training.check_saving import save_and_load
from mmrl.training.check_tools import (
    CheckResult,
    all_columns,
    clause,
    raised,
)
from mmrl.types import Prompt


def run_checks(config: Config, prompts: int = 3) -> list[CheckResult]:
    """check_adapter for the adapter and the first prompts of a config.

    Raises ConfigError for a config without prompts, and what loading the adapter raises.
    """
    set_threads(config)
    adapter = load_adapter(config)
    data = load_prompts(config, adapter)
    train, held = data.prompts, data.eval_prompts
    if not (train or held):
        raise ConfigError("check needs prompts to sample: set data.prompts or data.eval_prompts")

    def reload(folder: Path) -> Adapter | None:
        if not hasattr(config.model, "at"):
            return None
        return load_adapter(config.model_copy(update={"model": config.model.at(folder)}))

    try:
        found: list[CheckResult] = []
        for name, model in _samplings(config).items():
            if name:
                adapter.sample_as(model)
            results = check_adapter(
                adapter, (train or held)[:prompts], reload=reload, records=_records(config, adapter)
            )
            found += [replace(result, name=f"{name}{result.name}") for result in results]
        return found
    finally:
        adapter.close()


def _samplings(config: Config) -> dict[str, Any]:
    """What stands before the clauses -> the model section as it samples: each stage's, where one has its own. Samples
    without an action that is trained have nothing to replay."""
    sampling = [stage for stage in config.stages if isinstance(stage, SamplingStage)]
    found = {f"stage {stage.name}: ": config.of_stage(stage).model for stage in sampling}
    found = {name: model for name, model in found.items() if getattr(model, "actions_per_sample", lambda: 1)()}
    return found if any(stage.sampling for stage in sampling) and found else {"": config.model}


def _records(config: Config, adapter: Adapter) -> dict[str, list[dict[str, Any]]]:
    """A few of the config's supervised records for the objectives that its stages have."""
    loaded = load_records(config, adapter)
    stages = [s for s in config.stages if isinstance(s, SftStage) and not s.data_from and s.options is None]
    return {s.objective: loaded.batch(0, 3, config.seed) for s in stages} if loaded else {}


def check_adapter(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    n: int = 2,
    seed: int = 0,
    reload: Callable[[Path], Adapter | None] | None = None,
    records: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> list[CheckResult]:
    """Run every clause of the contract; a clause that raises has failed, and its detail says what was raised.

    prompts: a few, better of different lengths. n: samples per prompt, 2 or more.
    reload: an adapter from a folder that `save` wrote, or None where the folder holds only a part of a policy.
    records: supervised records by objective; left out: made of the samples, where they have the columns.
    """
    try:
        groups = roll_out(adapter, prompts, n, seed)
    except Exception as error:
        return [CheckResult("rollout", False, raised(error))]
    complete = clause("groups are complete", lambda: complete_groups(groups, prompts, n))
    if not complete.passed:
        return [complete]
    samples = [sample for group in groups for sample in group.samples]
    return [
        complete,
        clause("artifacts can be stored", lambda: storable(samples)),
        clause("rollout repeats", lambda: repeats(adapter, groups, prompts, n, seed)),
        clause("rollout is independent of the batch", lambda: in_company(adapter, groups, prompts, n, seed)),
        clause("a prompt twice gives other samples", lambda: twice(adapter, prompts, n, seed)),
        clause("replay equals rollout", lambda: replay_equals(adapter, samples)),
        clause("first ratio is 1", lambda: first_ratio(adapter, samples)),
        clause("masked actions get no gradient", lambda: masked(adapter, samples)),
        clause("micro-batches leave the gradient", lambda: micro_batches(adapter, samples)),
        clause("no samples make no micro-batch", lambda: nothing(adapter)),
        clause("policy starts at its reference", lambda: reference(adapter, samples)),
        clause("trainable parameters", lambda: parameters(adapter, samples)),
        clause("evaluation repeats", lambda: evaluation(adapter, prompts, n, seed)),
        *optional_clauses(adapter, prompts, samples, records),
        clause("save and load", lambda: save_and_load(adapter, prompts, n, seed, reload)),
    ]


def start_checks(adapter: Adapter, prompts: Sequence[Prompt], budget: int, seed: int = 0) -> list[CheckResult]:
    """The clauses that are cheap enough to be asked before step 1 of every training, on two samples a prompt.

    budget: model evaluations that fit into a micro-batch; those with gradient are left out where it is too small.
    Raises Unsupported, ConfigError where the config asks for what the adapter does not do.
    """
    config = (Unsupported, ConfigError)
    groups = roll_out(adapter, prompts, 2, seed)
    complete = clause("groups are complete", lambda: complete_groups(groups, prompts, 2))
    if not complete.passed:
        return [complete]
    samples = [sample for group in groups for sample in group.samples]
    found = [complete]  # that the replay equals the rollout is asked of the first real micro-batch
    if len(samples) * len(all_columns(samples)) <= budget:
        found.append(clause("masked actions get no gradient", lambda: masked(adapter, samples), config))
        found.append(clause("micro-batches leave the gradient", lambda: micro_batches(adapter, samples), config))
    return found
