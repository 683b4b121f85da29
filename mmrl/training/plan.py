"""`mmrl plan`: the batch arithmetic of a config, in words."""

from __future__ import annotations

from mmrl.config import Config, FilterStage, GrpoStage, PreferenceStage, SftStage, Stage, resolve_algorithm
from mmrl.core.algorithm import MANY, OPTIONAL, in_words

_SHOWN = 40  # characters of a long option


def plan_text(config: Config, processes: int = 1) -> str:
    """What a run will do: groups, samples, micro-batches, updates, per stage. One line per fact."""
    lines = [f"run {config.name}: {config.modality}, seed {config.seed}, folder {config.run_dir}"]
    if config.about:
        lines += [f"  {line}" for line in config.about.strip().splitlines()]
    lines += _model_lines(config)
    for number, stage in enumerate(config.stages, 1):
        lines.append(f"stage {number}, {stage.name}: {stage.kind}, {stage.steps} steps")
        lines += [f"  {line}" for line in _stage_lines(config, stage, processes)]
    if config.data.eval_prompts:
        between = f"every {config.eval.every} steps, " if config.eval.every else ""
        count = config.eval.prompts or "all"
        lines.append(f"evaluation: {between}before and after: {count} held-out prompts x {config.eval.samples}")
    every = config.checkpoint.every
    when = f"every {every} steps and at the end of a stage" if every else "at the end of a stage"
    lines.append(f"checkpoints: {when}, {config.checkpoint.keep} kept")
    return "\n".join(lines) + "\n"


def _model_lines(config: Config) -> list[str]:
    described = getattr(config.model, "describe", None)
    lines = list(described()) if described else []
    if config.environment:
        said = {k: v if len(str(v)) <= _SHOWN else f"{str(v)[:_SHOWN]}..." for k, v in config.environment.items()}
        options = ", ".join(f"{key} {value}" for key, value in said.items() if key != "name")
        lines.append(f"environment: {said['name']}{f' ({options})' if options else ''}")
    return lines


def _stage_lines(config: Config, stage: Stage, processes: int) -> list[str]:
    optim = stage.optim
    clip = f"gradient norm clipped at {optim.max_grad_norm:g}"
    average = f", averaged weights with decay {optim.ema:g}" if optim.ema else ""
    names = {"adamw": "AdamW", "spam": "SPAM"}
    rate = f"{names[optim.name]}, lr {optim.lr:g} {optim.schedule}, {clip}{average}"
    if isinstance(stage, SftStage):
        micro = -(-stage.batch // stage.micro_batch)
        return [f"{stage.batch} records a step in {micro} micro-batches of at most {stage.micro_batch}", rate]
    if isinstance(stage, PreferenceStage):
        pairs = stage.pairs or f"what stage {stage.data_from} keeps"
        return [f"{stage.batch} pairs a step from {pairs}, objective {stage.objective}, beta {stage.beta:g}", rate]
    if isinstance(stage, FilterStage):
        return [
            f"{stage.groups} prompts x {stage.samples} samples a step over {processes} process(es); nothing is trained",
            f"keeps by rule {stage.rule}, in {config.run_dir / 'data' / (stage.name + '.jsonl')}",
        ]
    assert isinstance(stage, GrpoStage)
    algorithm = resolve_algorithm(stage.algorithm)
    samples = stage.groups * stage.samples
    actions = getattr(config.model, "actions_per_sample", None)
    per_sample = actions() if actions else None
    lines = [
        f"{stage.groups} prompts x {stage.samples} samples = {samples} samples a step over {processes} process(es)",
        f"{stage.updates * stage.epochs} optimizer steps per rollout, each on "
        f"{stage.groups // stage.updates} groups = {samples // stage.updates} samples",
    ]
    if stage.tree:
        tree, per_sample = stage.tree, None
        lines = [
            f"{stage.groups} prompts, each a tree of {tree.iterations} iterations x {tree.children} steps of at most "
            f"{tree.step_tokens} tokens, {tree.depth} deep, over {processes} process(es)",
            f"{stage.updates * stage.epochs} optimizer steps per rollout, together on at most "
            f"{stage.groups * tree.iterations} groups of {tree.children} steps, the branchings",
        ]
    if stage.staleness:
        lines.append(
            f"rollouts are used {stage.staleness} steps after they were sampled; the first step fills the queue"
        )
    if per_sample:
        rows = max(1, stage.micro_batch // per_sample)
        share = -(-(samples // stage.updates) // processes)
        lines.append(
            f"{per_sample} trained actions a sample: {samples * per_sample} a step; micro-batches of "
            f"{min(stage.micro_batch, rows * per_sample)} evaluations ({rows} samples), {-(-share // rows)} per update"
        )
    lines.append(
        f"advantage {in_words(algorithm.advantage)}, gate {in_words(algorithm.gate)}, "
        f"aggregation {algorithm.aggregate}, KL {algorithm.kl_coef:g}"
    )
    chosen = [(field, hook) for field, hook in algorithm.hooks if field in (*MANY, *OPTIONAL)]
    lines += [f"{field.removesuffix('s').replace('_', ' ')}: {in_words(hook)}" for field, hook in chosen]
    weights = ", ".join(f"{r.name} x {r.weight:g}" for r in config.rewards)
    return [
        *lines,
        f"rewards: {weights}{' (SHUFFLED: a control run)' if stage.shuffle_rewards else ''}",
        rate,
    ]
