"""`mmrl plan`: the batch arithmetic of a config, in words."""

from __future__ import annotations

from mmrl.config import Config

_SHOWN = 40  # characters of a long option


def plan_text(config: Config, processes: int = 1) -> str:
    """What a run will do: groups, samples, micro-batches, updates, per stage. One line per fact."""
    lines = [f"run {config.name}: {config.modality}, seed {config.seed}, folder {config.run_dir}"]
    if config.about:
        lines += [f"  {line}" for line in config.about.strip().splitlines()]
    lines += _model_lines(config)
    for number, stage in enumerate(config.stages, 1):
        lines.append(f"stage {number}, {stage.name}: {stage.kind}, {stage.steps} steps")
        own = getattr(stage, "sampling", None) or {}
        if own:
            lines.append(f"  sampling here: {', '.join(f'{key} {value}' for key, value in own.items())}")
        lines += [f"  {line}" for line in stage.plan_lines(config.of_stage(stage), processes)]
    if config.data.eval_prompts:
        between = f"every {config.eval.every} steps, " if config.eval.every else ""
        count = config.eval.prompts or "all"
        lines.append(f"evaluation: {between}before and after: {count} held-out prompts x {config.eval.samples}")
    every = config.checkpoint.every
    when = f"every {every} steps and at the end of a stage" if every else "at the end of a stage"
    sections = {r.name: r for r in (*config.rewards, *(config.eval.rewards or ()))}
    if parked := [r.alias or r.name for r in sections.values() if r.park]:
        lines.append(f"rewards in main memory, on the GPU while they score, beside rollouts too: {', '.join(parked)}")
    behind = ", written in the background" if config.checkpoint.background else ""
    lines.append(f"checkpoints: {when}, {config.checkpoint.keep} kept{behind}")
    return "\n".join(lines) + "\n"


def _model_lines(config: Config) -> list[str]:
    described = getattr(config.model, "describe", None)
    lines = list(described()) if described else []
    if config.environment:
        said = {k: v if len(str(v)) <= _SHOWN else f"{str(v)[:_SHOWN]}..." for k, v in config.environment.items()}
        options = ", ".join(f"{key} {value}" for key, value in said.items() if key != "name")
        lines.append(f"environment: {said['name']}{f' ({options})' if options else ''}")
    return lines
