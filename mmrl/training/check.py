"""The adapter contract: what must hold of a modality before training means anything (`mmrl check`).

Every check goes through mmrl.modalities.adapter.Adapter only, so it holds for any modality.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrl.config import Config, ConfigError, SftStage
from mmrl.config.stage_sampling import SamplingStage
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.reporting.artifacts import load_artifact, save_artifact
from mmrl.training.assemble import load_adapter, load_prompts, load_records, set_threads
from mmrl.training.check_company import in_company
from mmrl.training.check_optional import optional_clauses
from mmrl.training.check_tools import (
    CERTAIN,
    GRADIENT_ROUNDING,
    ROUNDING,
    CheckResult,
    all_columns,
    certain,
    clause,
    distance,
    gradient_of,
    near_one,
    one_slice,
    raised,
    same,
    same_artifacts,
    stored_logp,
)
from mmrl.types import Group, Prompt, Sample

# Of a discrete policy to say all of a rollout once more: less than that is no accident.
CHANCE = 1e-3


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
        groups = _rollout(adapter, prompts, n, seed)
    except Exception as error:
        return [CheckResult("rollout", False, raised(error))]
    complete = clause("groups are complete", lambda: _complete(groups, prompts, n))
    if not complete.passed:
        return [complete]
    samples = [sample for group in groups for sample in group.samples]
    return [
        complete,
        clause("artifacts can be stored", lambda: _storable(samples)),
        clause("rollout repeats", lambda: _repeats(adapter, groups, prompts, n, seed)),
        clause("rollout is independent of the batch", lambda: in_company(adapter, groups, prompts, n, seed)),
        clause("a prompt twice gives other samples", lambda: _twice(adapter, prompts, n, seed)),
        clause("replay equals rollout", lambda: _replay(adapter, samples)),
        clause("first ratio is 1", lambda: _first_ratio(adapter, samples)),
        clause("masked actions get no gradient", lambda: _masked(adapter, samples)),
        clause("micro-batches leave the gradient", lambda: _micro_batches(adapter, samples)),
        clause("no samples make no micro-batch", lambda: _nothing(adapter)),
        clause("policy starts at its reference", lambda: _reference(adapter, samples)),
        clause("trainable parameters", lambda: _parameters(adapter, samples)),
        clause("evaluation repeats", lambda: _evaluation(adapter, prompts, n, seed)),
        *optional_clauses(adapter, prompts, samples, records),
        clause("save and load", lambda: _save(adapter, prompts, n, seed, reload)),
    ]


def start_checks(adapter: Adapter, prompts: Sequence[Prompt], budget: int, seed: int = 0) -> list[CheckResult]:
    """The clauses that are cheap enough to be asked before step 1 of every training, on two samples a prompt.

    budget: model evaluations that fit into a micro-batch; those with gradient are left out where it is too small.
    Raises Unsupported, ConfigError where the config asks for what the adapter does not do.
    """
    config = (Unsupported, ConfigError)
    groups = _rollout(adapter, prompts, 2, seed)
    complete = clause("groups are complete", lambda: _complete(groups, prompts, 2))
    if not complete.passed:
        return [complete]
    samples = [sample for group in groups for sample in group.samples]
    found = [complete]  # that the replay equals the rollout is asked of the first real micro-batch
    if len(samples) * len(all_columns(samples)) <= budget:
        found.append(clause("masked actions get no gradient", lambda: _masked(adapter, samples), config))
        found.append(clause("micro-batches leave the gradient", lambda: _micro_batches(adapter, samples), config))
    return found


# -------------------------------------------------------------------- rollout


def _rollout(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
    return adapter.rollout([Group(prompt, i) for i, prompt in enumerate(prompts)], n, 0, seed)


def _complete(groups: Sequence[Group], prompts: Sequence[Prompt], n: int) -> tuple[bool, str]:
    if [g.prompt.id for g in groups] != [p.id for p in prompts] or [g.index for g in groups] != list(
        range(len(groups))
    ):
        return False, (
            f"rollout returned groups {[(g.index, g.prompt.id) for g in groups]} for the prompts "
            f"{[p.id for p in prompts]}: return one group per given group, in order, with its prompt and index"
        )
    for group in groups:
        places = [s.index for s in group.samples]
        # A conversation that restarts makes a sample of each of its rows, which name their episode.
        episodes = {s.info.get("episode", s.index) for s in group.samples}
        if places != list(range(len(places))) or episodes != set(range(n)):
            return False, (
                f"group {group.index} has samples {places}, expected 0..{n - 1}: every sample of a group is compared "
                "with the others, so none may be missing"
            )
        for sample in group.samples:
            wrong = _wrong_sample(sample, group)
            if wrong:
                return False, f"sample {sample.index} of group {group.index} {wrong}"
    return True, f"{len(groups)} groups of {n}, {len(groups[0].samples[0].actions.logp)} actions in the first sample"


def _wrong_sample(sample: Sample, group: Group) -> str | None:
    trajectory = sample.trajectory
    if sample.prompt.id != group.prompt.id:
        return f"carries the prompt {sample.prompt.id!r}, not its group's {group.prompt.id!r}"
    if sample.artifact is None:
        return "has no artifact: rewards would have nothing to look at"
    if trajectory is None:
        return "has no trajectory: nothing can be replayed"
    if trajectory.logp.ndim != 1 or trajectory.logp.dtype != torch.float32:
        return f"has logp {tuple(trajectory.logp.shape)} {trajectory.logp.dtype}, expected [T] float32"
    if trajectory.mask.shape != trajectory.logp.shape or trajectory.mask.dtype != torch.bool:
        return f"has mask {tuple(trajectory.mask.shape)} {trajectory.mask.dtype}, expected [T] bool like logp"
    if not trajectory.mask.any():
        return "has no trained action: look at the mask"
    if not torch.isfinite(trajectory.logp[trajectory.mask]).all():
        return "has a log-probability that is not finite: look at the standard deviation of the last actions"
    return None


def _repeats(
    adapter: Adapter, groups: Sequence[Group], prompts: Sequence[Prompt], n: int, seed: int
) -> tuple[bool, str]:
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        again = _rollout(adapter, prompts, n, seed)
    gap = _gap(groups, again)
    if gap == 0 and same_artifacts(groups, again):
        return True, "the same seed gives the same samples, whatever the global generator holds"
    return False, (
        f"the same (seed, step) gave samples that differ by {gap:.1e}: a resumed run would not be the run that was "
        "stopped. Draw every number from a generator seeded by (seed, step, prompt id, sample index), and look "
        "for dropout (eval mode) and for the global generator"
    )


def _twice(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> tuple[bool, str]:
    """A step may ask a prompt twice: where a pass over the prompts ends, and when a group is replaced."""
    asked = [Group(prompt, 2 * i + draw, draw=draw) for i, prompt in enumerate(prompts) for draw in (0, 1)]
    groups = adapter.rollout(asked, n, 0, seed)
    firsts, seconds = groups[::2], groups[1::2]
    if not (_gap(firsts, seconds) == 0 and same_artifacts(firsts, seconds)):
        return True, "the second group of a prompt has noise of its own"
    samples = [sample for group in firsts for sample in group.samples]
    stored, mask = stored_logp(samples, all_columns(samples))
    if adapter.certain_logp > 0 and float(stored[mask].sum()) > math.log(CHANCE):
        return True, "the policy says the same again and again: check with other prompts"
    return False, (
        "a prompt that is asked twice in a step gave the same samples twice: seed the noise with `group.key`, not with "
        "the prompt's id"
    )


def _nothing(adapter: Adapter) -> tuple[bool, str]:
    found = list(adapter.slices([], 8))
    return not found, f"slices of no samples gave {len(found)} micro-batches" if found else "slices([]) gives none"


def _storable(samples: Sequence[Sample]) -> tuple[bool, str]:
    """Samples are stored for the report, and whole rollouts when a run stops inside a step."""
    with tempfile.TemporaryDirectory() as place:
        for number, sample in enumerate(samples):
            name = save_artifact(sample.artifact, Path(place), str(number))
            if not same(sample.artifact, load_artifact(Path(place) / name)):
                return False, f"{name} read back is another {type(sample.artifact).__name__} than was stored"
    return True, f"{type(samples[0].artifact).__name__}, stored and read back"


def _gap(some: Sequence[Group], others: Sequence[Group]) -> float:
    """Largest difference of two rollouts over log-probabilities and stored tensors, relative where above 1."""
    gap = 0.0
    for a, b in zip((s for g in some for s in g.samples), (s for g in others for s in g.samples), strict=True):
        pairs: list[tuple[Tensor, Tensor | None]] = [(a.actions.logp, b.actions.logp)]
        pairs += [(a.actions.tensors[key], b.actions.tensors.get(key)) for key in a.actions.tensors]
        for x, y in pairs:
            if y is None or x.shape != y.shape:
                return float("inf")
            if x.numel():
                scale = x.double().abs().clamp(min=1)
                gap = max(gap, float(((x.double() - y.double()).abs() / scale).max()))
    return gap


# -------------------------------------------------------------------- replay


def _replay(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        logp = adapter.logprobs(samples, columns).logp.cpu()
    if logp.shape != stored.shape:
        return False, f"logprobs returned {tuple(logp.shape)} for {len(samples)} samples x {len(columns)} columns"
    gap, bound = float(torch.where(mask, (logp - stored).abs(), 0.0).max()), near_one(adapter)
    if gap <= bound:
        return True, f"largest difference {gap:.1e}, allowed {bound:.1e}"
    return False, (
        f"replayed log-probabilities are off by {gap:.1e} (allowed {bound:.1e}, a tenth of the clip range): the loss "
        "would weigh actions that were never taken so. Rollout and replay must run the same forward: look at "
        "guidance, eval mode, dtype, and at how the stored actions were rounded"
    )


def _first_ratio(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        replay = adapter.logprobs(samples, columns)
    log_ratio = replay.logp.cpu() - stored if replay.log_ratio is None else replay.log_ratio.cpu()
    gap, bound = float(torch.where(mask, torch.expm1(log_ratio).abs(), 0.0).max()), near_one(adapter)
    if gap <= bound:
        return True, f"largest deviation {gap:.1e}, allowed {bound:.1e}"
    return False, (
        f"before any update a ratio is off 1 by {gap:.1e} (allowed {bound:.1e}): samples would be clipped before "
        "anything was learned. Look at `log_ratio` where the adapter returns one, and at the replay otherwise"
    )


def _masked(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    if len(columns) < 2:
        return True, "one action a sample: nothing to mask"
    stored, mask = stored_logp(samples, columns)
    kept = columns[: len(columns) // 2]
    if certain(adapter, stored, mask & (columns < len(kept))):
        return True, CERTAIN
    partly = mask & (columns < len(kept))
    whole = gradient_of(adapter, samples, one_slice(samples), partly)
    gap, norm = distance(gradient_of(adapter, samples, one_slice(samples, kept), partly), whole)
    if norm == 0:
        return False, "the unmasked actions have no gradient at all: look for a detach or no_grad in logprobs"
    if gap <= GRADIENT_ROUNDING[adapter.precision]:
        return True, f"with {len(columns) - len(kept)} of {len(columns)} columns masked (relative difference {gap:.1e})"
    return False, (
        f"masking columns {len(kept)}..{len(columns) - 1} leaves a gradient that differs by {gap:.1e} from replaying "
        "the others alone: masked actions leak into the loss. Each entry of `logp` must depend on its own action and "
        "the context before it only; look for sums or means over columns"
    )


def _micro_batches(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    stored, mask = stored_logp(samples, all_columns(samples))
    budget = max(1, int(mask.sum()) // 3)
    counts = torch.zeros(mask.shape, dtype=torch.int64)
    slices = list(adapter.slices(samples, budget))
    for part in slices:
        counts[part.rows[:, None], part.columns[None, :]] += 1
    if not (counts[mask] == 1).all():
        return False, (
            f"slices with a budget of {budget} replay {int((counts[mask] == 0).sum())} trained actions never and "
            f"{int((counts[mask] > 1).sum())} more than once: look at how `slices` cuts rows and columns"
        )
    gap, _ = distance(gradient_of(adapter, samples, one_slice(samples)), gradient_of(adapter, samples, slices))
    if certain(adapter, stored, mask):
        return True, CERTAIN
    if gap <= GRADIENT_ROUNDING[adapter.precision]:
        return True, f"{len(slices)} micro-batches instead of one (relative difference {gap:.1e})"
    return False, (
        f"{len(slices)} micro-batches give a gradient that differs by {gap:.1e} from one: the result would depend on "
        "micro_batch. Look for statistics over the batch in logprobs, and for padding that is attended to"
    )


def _reference(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    if "reference" not in adapter.provides:
        return True, "the adapter provides none: an algorithm that compares with it is refused"
    adapter.prepare_reference()
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        found = adapter.logprobs(samples, columns, reference=True)
    if found.kl is None and found.logp_reference is None:
        return False, "logprobs(reference=True) returned neither `kl` nor `logp_reference`: KL terms have no input"
    gap = 0.0
    for name, value, wanted in (
        ("kl", found.kl, torch.zeros_like(found.logp)),
        ("logp_reference", found.logp_reference, found.logp),
    ):
        if value is None:
            continue
        if value.shape != stored.shape:
            return False, f"`{name}` is {tuple(value.shape)}, expected {tuple(stored.shape)} like `logp`"
        gap = max(gap, float(torch.where(mask, (value - wanted).abs().cpu(), 0.0).max()))
    if gap <= ROUNDING:
        return True, f"largest KL or difference before training {gap:.1e}"
    return False, (
        f"before any update the policy is {gap:.1e} away from its reference: the KL would pull towards something "
        "else than the model training starts from. Look at `reference()` and at what it switches off"
    )


# -------------------------------------------------------------------- parameters, evaluation, disk


def _parameters(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    parameters = adapter.trainable_parameters()
    if not parameters:
        return False, "trainable_parameters() is empty: nothing would be trained"
    if list(parameters) != list(adapter.trainable_parameters()):
        return False, "two calls give other names or another order: a checkpoint could not be matched to them"
    frozen = [name for name, p in parameters.items() if not p.requires_grad]
    if frozen:
        return False, f"{len(frozen)} of them do not require a gradient, e.g. {frozen[0]}: leave them out"
    gradients = gradient_of(adapter, samples, one_slice(samples))
    bad = [name for name, g in zip(parameters, gradients) if not torch.isfinite(g).all()]
    if bad:
        return (
            False,
            f"the gradient of {len(bad)} of them is not finite, e.g. {bad[0]}: look at standard deviations near 0",
        )
    reached = sum(bool(g.any()) for g in gradients)
    if not reached:
        return False, "no gradient reaches any of them: look for a detach or no_grad in logprobs"
    count = sum(p.numel() for p in parameters.values())
    return True, f"{len(parameters)} tensors, {count:,} numbers; the loss reaches {reached} tensors"


def _evaluation(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> tuple[bool, str]:
    first = adapter.evaluate(prompts, n, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        second = adapter.evaluate(prompts, n, seed)
    counts = [len(g.samples) for g in first]
    if counts != [n] * len(prompts):
        return False, f"evaluate returned {counts} samples per prompt, expected {n} for each of {len(prompts)}"
    if not same_artifacts(first, second):
        return False, (
            "the same seed gave other samples: scores before and after training could not be compared. Seed each "
            "sample's noise by (seed, prompt id, sample index)"
        )
    other = same_artifacts(first, adapter.evaluate(prompts, n, seed + 1))
    if adapter.deterministic_evaluation:
        if not other:
            return False, "another seed gave other samples, though the adapter says deterministic_evaluation"
        return True, "the same samples whatever the seed, as the adapter says"
    if other:
        return False, (
            "another seed gave the same samples: the seed is not used; where evaluation is greedy, say so with "
            "deterministic_evaluation = True"
        )
    return True, "the same seed gives the same samples, another seed others"


def _save(
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
