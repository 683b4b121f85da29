"""`mmrl plan` about processes: what each of them has to do in a step, and what does not divide."""

from __future__ import annotations

from collections.abc import Iterator

from mmrl.config import ConfigError, FilterStage, SampledStage
from mmrl.config import Stage as StageConfig


def check_rows(shards: int, rows: int) -> None:
    """Raise ConfigError for more shards than the longest of the model's weights has rows, along which it is split."""
    if shards > rows:
        raise ConfigError(f"sharding.shards={shards} is more than any of the model's weights has rows: {rows} at most")


def batch_lines(options: StageConfig, processes: int) -> Iterator[str]:
    """What a step gives to each of several processes, and what does not divide, with the numbers that do."""
    if processes == 1:
        return
    if isinstance(options, SampledStage | FilterStage):
        yield from _shares(options, options.groups, "groups", "prompts", processes)
        each = -(-options.groups // processes)
        samples = getattr(options, "samples", None)
        if samples:
            yield (
                f"stage {options.name} on {processes} processes: {options.groups} prompts x {samples} samples, at most "
                f"{each} x {samples} = {each * samples} of each process"
            )
        updates = getattr(options, "updates", 1)
        if updates > 1 and options.groups // updates % processes:
            yield (
                f"stage {options.name}: an update is over {options.groups // updates} prompts of {options.groups}, and "
                f"some of {processes} processes have more of them than others; take a groups that updates x processes "
                f"divides, such as {updates * processes}"
            )
    elif batch := getattr(options, "batch", None):
        yield from _shares(options, int(batch), "batch", "records", processes)


def _shares(options: StageConfig, count: int, option: str, what: str, processes: int) -> Iterator[str]:
    if count < processes:
        doing = "sample" if what == "prompts" else "do"
        yield (
            f"warning: stage {options.name}: {count} {what} on {processes} processes: {processes - count} of them have "
            f"nothing to {doing}; take {option}={processes} or more"
        )
    elif count % processes:
        low = count // processes
        yield (
            f"stage {options.name}: {count} {what} on {processes} processes: some have {low + 1}, some {low}, and wait "
            f"for the others; {option}={low * processes} or {(low + 1) * processes} divides evenly"
        )
