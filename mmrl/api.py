"""The Python API: what the CLI does, in a few calls."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrl.config import Config, ConfigError, GrpoStage, SftStage, load
from mmrl.pictures import PictureError
from mmrl.share import share

Source = str | Path | Mapping[str, Any] | Config


class RunFolderError(RuntimeError):
    """The run's folder is in use, or holds a run that would be overwritten."""


def train(
    config: Source,
    *,
    resume: bool = False,
    fresh: bool = False,
    should_stop: Callable[[str], bool] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Train a config and return its summary (the content of summary.json).

    config: a Config, a mapping, a YAML file, or the name of a shipped config such as "image/tiny".
    resume: go on from the run's last checkpoint. fresh: move an existing run of that name aside first.
    overrides: keys with `__` for the dots, e.g. `seed=1`, `eval__every=10`, `stages__grpo__steps=20`.
    Raises ConfigError, RunFolderError, and Stopped when a signal ended the run after it was saved.
    """
    return trainer(_config(config, overrides), resume=resume, fresh=fresh, should_stop=should_stop, quiet=quiet).train(
        resume=resume
    )


def trainer(
    config: Config,
    *,
    resume: bool = False,
    fresh: bool = False,
    should_stop: Callable[[str], bool] | None = None,
    quiet: bool = False,
):
    """The Trainer of a config with everything loaded, its run folder claimed and described."""
    from mmrl.data.records import Records, record_columns
    from mmrl.training.processes import Processes
    from mmrl.training.trainer import Trainer

    _set_threads(config)
    processes = Processes(config.device, config.trackers, str(config.run_dir))
    if processes.is_main:
        _claim(config.run_dir, resume, fresh)
    processes.barrier()
    adapter = load_adapter(config)
    rewards, eval_rewards = load_rewards(config)
    prompts, eval_prompts = load_prompts(config, adapter)
    check_prompts(prompts, rewards, config.data.on_bad_record)
    check_prompts(eval_prompts, eval_rewards, config.data.on_bad_record)
    objectives = [s.objective for s in config.stages if isinstance(s, SftStage) and not s.data_from]
    objectives += [s.expert.objective for s in config.stages if isinstance(s, GrpoStage) and s.expert]
    records = Records(config.data, record_columns(adapter, objectives)) if objectives else None
    if processes.is_main:
        _describe(config, resume)
    return Trainer(
        config,
        adapter,
        rewards=rewards,
        eval_rewards=eval_rewards,
        prompts=prompts,
        eval_prompts=eval_prompts,
        records=records,
        processes=processes,
        should_stop=should_stop,
        quiet=quiet,
    )


def evaluate(config: Source, *, run: str | Path | None = None, **overrides: Any) -> dict[str, float]:
    """Held-out scores of a config's model, or of the last checkpoint of `run`."""
    from mmrl.training.processes import Processes
    from mmrl.training.trainer import Trainer

    config = with_checkpoint(_config(config, overrides), run)
    _set_threads(config)
    adapter = load_adapter(config)
    rewards, eval_rewards = load_rewards(config)
    _, eval_prompts = load_prompts(config, adapter)
    if not eval_prompts:
        raise ConfigError("eval needs `data.eval_prompts:`")
    config = config.model_copy(update={"report": config.report.model_copy(update={"eval_prompts": 0})})
    made = Trainer(
        config, adapter, rewards, eval_rewards, eval_prompts=eval_prompts, processes=Processes(config.device)
    )
    made.average = None
    return made.evaluate("now")


def sample(
    config: Source,
    prompts: Sequence[str],
    *,
    n: int = 1,
    seed: int = 0,
    run: str | Path | None = None,
    **overrides,
) -> list[list[Any]]:
    """n artifacts for each prompt, sampled as in evaluation, by a config's model or a run's last checkpoint."""
    from mmrl.types import Prompt

    config = with_checkpoint(_config(config, overrides), run)
    _set_threads(config)
    adapter = load_adapter(config)
    wanted = [Prompt(f"{i}:{text}", text, {"prompt": text}) for i, text in enumerate(prompts)]
    return [[s.artifact for s in group.samples] for group in adapter.evaluate(wanted, n, seed)]


# -------------------------------------------------------------------- the parts


def load_adapter(config: Config):
    """The adapter of a config, its weights drawn or read; seeded by config.seed where weights are made."""
    import torch

    from mmrl.environments.load import load_environment
    from mmrl.modalities.load import adapter_class

    torch.manual_seed(config.seed)
    try:
        adapter = adapter_class(config.modality)(config.model)
    except (ValueError, OSError) as error:  # OSError: what the hub's clients raise for a name they cannot find
        raise ConfigError(f"model: {error}") from error
    if config.environment is not None:
        if not hasattr(adapter, "environment"):
            raise ConfigError(f"environment: {type(adapter).__name__} holds no conversations; leave it out")
        adapter.environment = load_environment(config.environment)
    if hasattr(adapter, "max_pixels"):
        adapter.max_pixels = config.data.max_pixels
    return adapter


def load_rewards(config: Config):
    """(training rewards, evaluation rewards), loaded."""
    from mmrl.rewarding.load import load_reward

    made: dict[str, Any] = {}

    def get(section):
        key = f"{section.name} {section.alias} {sorted(section.options.items())} {section.timeout}"
        if key not in made:
            loaded = load_reward(section.name, section.options, section.timeout)
            made[key] = replace(loaded, name=section.alias) if section.alias else loaded
        return made[key]

    rewards = [get(r) for r in config.rewards]
    eval_rewards = rewards if config.eval.rewards is None else [get(r) for r in config.eval.rewards]
    return rewards, eval_rewards


def load_prompts(config: Config, adapter: Any):
    """(training prompts, held-out prompts) of a config; [] where it names none."""
    from mmrl.data.records import heldout_prompts, training_prompts

    columns = adapter.prompt_columns() if hasattr(adapter, "prompt_columns") else ()
    data = config.data
    train_ = _usable(adapter, training_prompts(data, columns), data.on_bad_record)
    held = _usable(adapter, heldout_prompts(data, columns), data.on_bad_record)
    both = {_asked(p) for p in train_} & {_asked(p) for p in held}
    if both:
        text = min(text for text, _ in both)
        warnings.warn(f"{len(both)} held-out prompts are also training prompts, e.g. {text!r}", stacklevel=2)
    return train_, held


def _asked(prompt: Any) -> tuple[str, tuple[Any, ...]]:
    """Equal for prompts that ask the same."""
    refs = prompt.record.get("images") or ()
    return prompt.text, tuple(ref if isinstance(ref, Hashable) else id(ref) for ref in refs)


def _usable(adapter: Any, prompts: Sequence[Any], on_bad: str) -> list[Any]:
    """The prompts that the adapter can roll out; the others are counted and told.

    Raises ConfigError without any, and for a picture that cannot be used unless `on_bad` is skip.
    """
    if not hasattr(adapter, "usable"):
        return list(prompts)
    reasons = {p.id: why for p in prompts if (why := _unusable(adapter, p, on_bad))}
    if reasons:
        first, why = next(iter(reasons.items()))
        message = f"{len(reasons)} of {len(prompts)} prompts cannot be used, first {first!r}: {why}"
        if len(reasons) == len(prompts):
            raise ConfigError(message)
        warnings.warn(f"{message}; dropped", stacklevel=2)
    return [p for p in prompts if p.id not in reasons]


def _unusable(adapter: Any, prompt: Any, on_bad: str) -> str | None:
    try:
        return adapter.usable(prompt)
    except PictureError as error:
        if on_bad == "stop":
            raise ConfigError(f"prompt {prompt.id!r}: {error}; mend it, or set data.on_bad_record: skip") from None
        return str(error)


def check_prompts(prompts: Sequence[Any], rewards: Sequence[Any], on_bad: str) -> None:
    """Ask each reward whether it can score the prompts, before anything is trained."""
    for reward in rewards:
        if reward.check_prompt is None:
            continue
        problems = [(p, why) for p in prompts if (why := reward.check_prompt(p))]
        if not problems:
            continue
        prompt, why = problems[0]
        message = f"reward {reward.name}: {len(problems)} prompts do not suit it, first {prompt.id!r}: {why}"
        if on_bad == "stop":
            raise ConfigError(f"{message}; mend them, or set data.on_bad_record: skip to leave them unscored")
        warnings.warn(message, stacklevel=2)


def with_checkpoint(config: Config, run: str | Path | None) -> Config:
    """The config with its model read from the last checkpoint of a run folder."""
    if run is None:
        return config
    policy = Path(run) / "checkpoints" / "latest" / "policy"
    if not policy.exists():
        raise ConfigError(f"{run} holds no checkpoint (looked for {policy})")
    if not hasattr(config.model, "at"):
        raise ConfigError(
            f"{type(config.model).__name__} needs a method `at(folder)`: its copy that reads the policy there"
        )
    return config.model_copy(update={"model": config.model.at(policy)})


def default_config(modality: str) -> str:
    """The config that `mmrl train --modality NAME` runs."""
    from mmrl.modalities.load import DEFAULTS

    if modality not in DEFAULTS:
        raise ConfigError(f"modality {modality!r} has no embedded default; known: {', '.join(DEFAULTS)}")
    return str(share("configs", f"{DEFAULTS[modality]}.yaml"))


def _config(source: Source, overrides: Mapping[str, Any]) -> Config:
    changes = [(key.replace("__", "."), value) for key, value in overrides.items()]
    if isinstance(source, Config):
        return load(source.model_dump(mode="json"), changes) if changes else source
    return load(source, changes)


def _set_threads(config: Config) -> None:
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)


# -------------------------------------------------------------------- the run folder

_locks: dict[Path, Any] = {}


def _claim(run_dir: Path, resume: bool, fresh: bool) -> None:
    """Take the folder for this process; refuse one in use, or one whose run would be overwritten."""
    used = (run_dir / "metrics.jsonl").exists() or (run_dir / "checkpoints").exists()
    if used and fresh and not resume:
        _lock(run_dir)
        number = next(n for n in range(1, 10**6) if not run_dir.with_name(f"{run_dir.name}.{n}").exists())
        os.rename(run_dir, run_dir.with_name(f"{run_dir.name}.{number}"))
        _locks.pop(run_dir.resolve(), None)
    elif used and not resume:
        raise RunFolderError(
            f"{run_dir} already holds a run: go on with it (--resume), move it aside (--fresh), or take another name "
            "(name=...)"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make the run folder {run_dir}: {error}") from None
    _lock(run_dir)


def _lock(run_dir: Path) -> None:
    key = run_dir.resolve()
    if key in _locks:
        _locks.pop(key).close()
    file = open(run_dir / ".lock", "w", encoding="utf-8")  # noqa: SIM115 - held as long as the process lives
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RunFolderError(
            f"{run_dir} is being written by another run; stop that one, or take another name"
        ) from None
    _locks[key] = file


@contextmanager
def released(run_dir: Path) -> Iterator[None]:
    """Give the folder up at the end of the block (a process that trains several runs)."""
    try:
        yield
    finally:
        file = _locks.pop(Path(run_dir).resolve(), None)
        if file:
            file.close()


def _describe(config: Config, resume: bool) -> None:
    from mmrl.training.plan import plan_text

    if not resume or not (config.run_dir / "config.yaml").exists():
        (config.run_dir / "config.yaml").write_text(config.dump(), encoding="utf-8")
    (config.run_dir / "plan.txt").write_text(plan_text(config), encoding="utf-8")


__all__ = ["RunFolderError", "evaluate", "sample", "train", "trainer"]
