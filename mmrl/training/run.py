"""What never changes in a run: the policy's adapter, rewards with their weights, data, processes, folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mmrl.config import Config, RewardModelStage
from mmrl.data.records import Records
from mmrl.media import Heard, Perceived
from mmrl.modalities.adapter import Adapter
from mmrl.reporting.disk import WriteError
from mmrl.reporting.samples import SampleStore
from mmrl.rewarding.load import LoadedReward
from mmrl.training.processes import Processes
from mmrl.training.stopping import Stops
from mmrl.types import Group, Prompt, Sample


@dataclass(frozen=True)
class Data:
    """What the config's `data:` names; a stage may take its own instead.

    known: how many of the first prompts were looked at: the adapter can roll them out. Of the others nobody knows
    before they are drawn (mmrl.training.fitting).
    """

    prompts: Sequence[Prompt] = ()
    eval_prompts: Sequence[Prompt] = ()
    records: Records | None = None
    known: int = 0


def _met(adapter: Adapter, sample: Sample, media: Perceived) -> Any:
    """What a sample saw or heard, for the sample store."""
    return adapter.sound(sample, media) if isinstance(media, Heard) else adapter.picture(sample, media)


@dataclass(frozen=True)
class Run:
    """What every part of a training may use. No method trains."""

    config: Config
    adapter: Adapter
    rewards: Sequence[LoadedReward]
    eval_rewards: Sequence[LoadedReward]
    data: Data
    processes: Processes
    stops: Stops

    @property
    def folder(self) -> Path:
        return self.config.run_dir

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def weights(self) -> dict[str, float]:
        """Name of a reward -> its weight; 0 is a monitor, which is counted and decides nothing."""
        return {reward.name: section.weight for reward, section in zip(self.rewards, self.config.rewards)}

    @property
    def measured_stage(self) -> RewardModelStage | None:
        """The stage as whose model a scalar head is measured: of several the last, whose model the run makes."""
        return next((s for s in reversed(self.config.stages) if isinstance(s, RewardModelStage)), None)

    @property
    def heldout_metrics(self) -> list[str]:
        """Names that every evaluation tells, the main one first: each reward, and what stages measure by themselves."""
        stages = self.config.stages if self.data.eval_prompts else []
        own = [s.heldout_metric() for s in stages if not isinstance(s, RewardModelStage) or s is self.measured_stage]
        return list(dict.fromkeys([*(f"eval/{r.name}" for r in self.eval_rewards), *(name for name in own if name)]))

    @cached_property
    def store(self) -> SampleStore:
        """Where all samples of the run are written, so that a checkpoint can have them on the disk before itself.

        Every process writes its part of a tag, also without any groups.
        """
        return SampleStore(self.folder, partial(_met, self.adapter), self.processes.rank, self.processes.world)

    def shows(self, step: int) -> bool:
        """Whether samples of this step, from 1 over all stages, are stored for the report."""
        every = self.config.report.samples_every
        return every > 0 and (step % every == 0 or step == 1)

    def keep(self, tag: str, groups: Sequence[Group], count: int, extra: Mapping[str, Any] | None = None) -> None:
        """Store the first `count` groups of a step or an evaluation, by their indices over all processes.

        Every process calls, with its own, also with none. Raises WriteError on all where the disk of one is full.
        """
        everywhere = sorted(i for some in self.processes.gather([group.index for group in groups]) for i in some)
        chosen = set(everywhere[:count])
        mine = sorted((group for group in groups if group.index in chosen), key=lambda group: group.index)
        with self.processes.failing_alike(WriteError):
            self.store.write(tag, mine, extra)
        kind, _, number = tag.partition("_")
        every = self.config.report.samples_every if kind == "step" else self.config.eval.every
        if number.isdecimal() and every:
            with self.processes.failing_alike(WriteError):  # all have written it
                self.store.thin_out(kind, int(number), every, self.config.report.keep)

    def keep_offending(self, groups: Sequence[Group], why: str) -> str:
        """Store groups that broke a step; returns where they are, in words. A full disk hides no other reason."""
        try:
            return f"in {self.store.offending(groups, why)}"
        except WriteError as error:
            return f"not stored ({error})"

    def point(self, name: str) -> None:
        """A place where the run can be cut; see Stops.point."""
        self.stops.point(name)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Around all rollouts between two updates. An engine with a copy of the weights gets them once, on entering.

        Every process enters, also one that has nothing to sample: an engine they share is brought up to date by one of
        them while the others wait. What needs the policy's weights comes behind it (`whole`), as inside they may be
        divided.
        """
        with self.processes.presence.doing("sampling"):
            if not self.adapter.samples_divided:
                with self.whole(), self.adapter.synced(self.processes.once):
                    yield
                return
            with self.adapter.synced(self.processes.once):
                yield
            with self.whole():
                self.adapter.replay_sampled()

    def whole(self) -> AbstractContextManager[None]:
        """Around forwards without gradient of which processes may run different numbers. Every process enters."""
        if self.adapter.shards is None:
            return nullcontext()
        self.processes.barrier()  # a slow process is waited for here, where it is counted, and not inside of the model
        return self.adapter.shards.whole()
