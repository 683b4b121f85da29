"""From a config to what trains: the adapter, rewards and data that it names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmrl.config import Config, ConfigError, RewardConfig
from mmrl.data.choices import check_shuffled
from mmrl.data.prompts import heldout_prompts, training_prompts
from mmrl.data.records import Records, record_columns
from mmrl.environments.load import load_environment
from mmrl.modalities import unread
from mmrl.modalities.adapter import Adapter
from mmrl.modalities.hollow import without_weights
from mmrl.modalities.load import adapter_class
from mmrl.rewarding.call import StopRun
from mmrl.rewarding.holding import parked
from mmrl.rewarding.lacking import without_what_is_lacking
from mmrl.rewarding.load import LoadedReward, RewardError, load_reward
from mmrl.training.fitting import check_prompts, usable
from mmrl.training.meeting import meet_servers
from mmrl.training.processes import Processes
from mmrl.training.run import Data, Run
from mmrl.training.sharding import divide, refuse_alike
from mmrl.training.stopping import Stops
from mmrl.training.wanted import refuse_unshown
from mmrl.types import Prompt

# Prompts that a dry run shows the model's tokenizer and processor; a training looks at all.
LOOKED_AT = 200


def assemble(
    config: Config,
    processes: Processes | None = None,
    should_stop: Callable[[str], bool] | None = None,
    training: bool = True,
    quiet: bool = True,
    weights: bool = True,
) -> Run:
    """Everything that a config names, loaded and checked; supervised records only for training. quiet: no bar.

    weights: whether the model is loaded; for `mmrl plan` it has shapes alone, its processor looks at some prompts, and
    rewards may lack what is not on this machine.
    Raises ConfigError, RewardError or DataError with one line that says what is wrong; NotDownloaded for a model of the
    hub where it is not to be loaded.
    """
    set_threads(config)
    processes = processes or Processes(config.device, config.trackers, str(config.run_dir))
    rewards, eval_rewards = load_rewards(config, lacking=not weights)
    divided = weights and training and config.sharding.shards > 1
    if divided:
        refuse_alike(config, processes)
    with unread.wanted() if divided else nullcontext():
        adapter = load_adapter(config, processes.device, weights)
    if weights and training:
        meet_servers(adapter, config, processes)
    try:
        if divided:
            divide(adapter, config, processes)
        return _assembled(config, adapter, (rewards, eval_rewards), processes, should_stop, training, quiet, weights)
    except BaseException:
        if weights and training:
            adapter.close()  # servers that it holds are free for others
        raise


def _assembled(
    config: Config,
    adapter: Adapter,
    loaded: tuple[list[LoadedReward], list[LoadedReward]],
    processes: Processes,
    should_stop: Callable[[str], bool] | None,
    training: bool,
    quiet: bool,
    weights: bool,
) -> Run:
    rewards, eval_rewards = loaded
    refuse_unshown([*rewards, *eval_rewards], adapter)
    told = None if quiet or not processes.is_main else "reading prompts"
    # The processes of a plan are not there to look at their share.
    some, sharing = (None, processes) if weights else (LOOKED_AT, None)
    data = load_prompts(config, adapter, some, told, sharing)
    known = data.known if weights else config.prompts_looked_at or len(data.prompts)
    check_prompts(data.prompts, rewards, config.data.on_bad_record, known)
    check_prompts(data.eval_prompts, eval_rewards, config.data.on_bad_record, len(data.eval_prompts))
    if weights:
        start_rewards([*rewards, *eval_rewards])
    if training:
        data = replace(data, records=load_records(config, adapter))
    return Run(config, adapter, rewards, eval_rewards, data, processes, Stops(processes, should_stop))


def set_threads(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)


def load_adapter(config: Config, device: torch.device | None = None, weights: bool = True) -> Adapter:
    """The adapter of a config on its device, its weights drawn or read; seeded by config.seed where they are made.

    weights: False makes one without any, of shapes alone (mmrl.modalities.hollow)."""
    torch.manual_seed(config.seed)
    try:
        with nullcontext() if weights else without_weights():
            adapter: Adapter = adapter_class(config.modality)(config.model)
    except (ValueError, OSError) as error:  # OSError: what the hub's clients raise for a name they cannot find
        raise ConfigError(f"model: {error}") from error
    if config.environment is not None:
        if not adapter.holds_conversations:
            raise ConfigError(f"environment: {type(adapter).__name__} holds no conversations; leave it out")
        adapter.environment = load_environment(config.environment)
    adapter.max_pixels, adapter.max_seconds = config.data.max_pixels, config.data.max_seconds
    if weights:
        adapter.to(Processes(config.device).device if device is None else device)
    return adapter


def load_rewards(config: Config, lacking: bool = False) -> tuple[list[LoadedReward], list[LoadedReward]]:
    """(training rewards, evaluation rewards), loaded.

    lacking: those whose packages or files are not on this machine are not loaded, and say so (LoadedReward.lacks).
    """
    made: dict[str, LoadedReward] = {}
    parks: dict[str, bool] = {}

    def get(section: RewardConfig) -> str:
        monitor = section.weight == 0
        how = f"{section.timeout} {monitor} {section.park}"
        key = f"{section.name} {section.alias} {sorted(section.options.items())} {how}"
        if key not in made:
            loaded = load_reward(section.name, section.options, section.timeout, monitor)
            made[key] = replace(loaded, name=section.alias) if section.alias else loaded
            parks[key] = section.park
        return key

    with without_what_is_lacking() if lacking else nullcontext():
        trained = [get(r) for r in config.rewards]
        held_out = trained if config.eval.rewards is None else [get(r) for r in config.eval.rewards]
    there = dict(zip(made, parked([*made.values()], [*parks.values()])))
    rewards = [there[key] for key in trained]
    return rewards, rewards if config.eval.rewards is None else [there[key] for key in held_out]


def start_rewards(rewards: Sequence[LoadedReward]) -> None:
    """Make ready what rewards run beside this process. Raises RewardError, in one line."""
    for reward in rewards:
        try:
            reward.start()
        except StopRun as error:
            raise RewardError(f"reward {reward.name!r}: {error}") from error


# -------------------------------------------------------------------- data


def load_records(config: Config, adapter: Adapter) -> Records | None:
    """The supervised records of the run, where a stage wants them."""
    objectives = [objective for stage in config.stages for objective in stage.record_objectives()]
    return Records(config.data, record_columns(adapter, objectives)) if objectives else None


def load_prompts(
    config: Config,
    adapter: Adapter,
    first: int | None = None,
    told: str | None = None,
    processes: Processes | None = None,
) -> Data:
    """The training prompts and the held-out prompts of a config; [] where it names none.

    first: how many of each the adapter is asked about at most; None: as many training prompts as the config says, and
    all that are held out. told: the words of a bar over them; None: no bar. processes: those that share the work.
    """
    columns, data, ask = adapter.prompt_columns(), config.data, config.prompts_looked_at
    if first is not None:
        ask = first if ask is None else min(first, ask)
    read = training_prompts(data, columns, config.prompts_looked_at)
    train, known = usable(adapter, read, data.on_bad_record, ask, told, processes)
    held, _ = usable(adapter, heldout_prompts(data, columns), data.on_bad_record, first, told, processes)
    if data.shuffle_options:
        check_shuffled(train, "data.shuffle_options")
    _tell_shared(train, held)
    return Data(train, held, known=known)


def _tell_shared(train: Sequence[Prompt], held: Sequence[Prompt]) -> None:
    """Warn of held-out prompts that are also training prompts."""
    asked = {_asked(p) for p in held}
    texts = {text for text, _ in asked}
    both = {same for p in train if p.text in texts and (same := _asked(p)) in asked} if asked else set()
    if both:
        text = min(text for text, _ in both)
        warnings.warn(f"{len(both)} held-out prompts are also training prompts, e.g. {text!r}", stacklevel=3)


def _asked(prompt: Prompt) -> tuple[str, tuple[Any, ...]]:
    """Equal for prompts that ask the same."""
    refs = [*(prompt.record.get("images") or ()), *(prompt.record.get("sounds") or ())]
    candidates = prompt.record.get("candidates")
    shown = tuple(map(_told, refs))
    return prompt.text, (*shown, repr(candidates)) if candidates else shown


def _told(ref: Any) -> Hashable:
    """Equal for references that name, or hold, the same."""
    if isinstance(ref, Hashable):
        return ref
    return ref["bytes"] if isinstance(ref, Mapping) and isinstance(ref.get("bytes"), bytes) else repr(ref)


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
