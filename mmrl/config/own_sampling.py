"""A stage's own `sampling` over that of the model, and what of it would be refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmrl.config.effect import given
from mmrl.config.stage import Stage
from mmrl.config.stage_sampling import SamplingStage
from mmrl.config.validation import validate
from mmrl.near import short


def of_stage(model: Any, stage: Stage, at: Sequence[str | int] = ()) -> Any:
    """The model section as the stage samples.

    at: where the stage stands in the config. Raises ConfigError, naming the key, for what does not fit together.
    """
    own = getattr(stage, "sampling", None)
    if not own:
        return model
    sampling = validate(type(model.sampling), {**model.sampling.model_dump(), **own}, (*at, "sampling"))
    return model.model_copy(update={"sampling": sampling})


def refuse_own_sampling(run: Any) -> None:
    """Raise ValueError for what stages may not, or need not, say of their sampling.

    That is an option that is of evaluation, too; that the model has already; that has no effect in the stage; and one
    of the model's that every stage has for itself.
    """
    told = [line for number, stage in enumerate(run.stages) for line in _useless(run, stage, number)]
    told += _nobodys(run)
    if told:
        raise ValueError("\n".join(told))


def _useless(run: Any, stage: Stage, number: int) -> Iterator[str]:
    own = getattr(stage, "sampling", None)
    if own is None:
        return
    place = f"stages.{number}.sampling"
    known = getattr(getattr(run.model, "sampling", None), "of_stages", None)
    if known is None:
        yield f"{place}: a stage of modality {run.modality} samples as the model says; set model.sampling"
        return
    if not own:
        yield f"{place}: names nothing that would be other than in model.sampling; leave it out"
    made = of_stage(run.model, stage, ("stages", number))
    alone = run.model_copy(update={"model": made, "stages": [stage]})
    for key in own:
        when = type(made).effects.get(f"sampling.{key}")
        if key not in known:
            yield f"{place}.{key}: is of evaluation, too, and the same for all stages; set model.sampling.{key}"
        elif getattr(made.sampling, key) == getattr(run.model.sampling, key):
            yield f"{place}.{key}: is {short(own[key])} in model.sampling already; leave it out"
        elif when is not None and not when.test(made, alone):
            yield f"{place}.{key}: has no effect here, it needs {when.needs}; leave it out"


def _nobodys(run: Any) -> Iterator[str]:
    """Of what the model says of sampling and neither a stage nor evaluation takes from it."""
    sampling = [stage.sampling or {} for stage in run.stages if isinstance(stage, SamplingStage)]
    if not all(sampling):
        return
    evaluated: frozenset[str] = getattr(run.model, "evaluation_takes", frozenset())
    for key in sorted(set.intersection(*map(set, sampling)) - evaluated if sampling else ()):
        if list(given(run.model, ["sampling", key])):
            yield f"model.sampling.{key}: every stage that samples has its own; leave it out"


__all__ = ["of_stage", "refuse_own_sampling"]
