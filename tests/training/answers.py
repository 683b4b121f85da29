"""A modality for tests: answers are short strings of `a`, `b`, `c`, spelled by a table of next letters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmrl.config import load
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.strict import Strict
from mmrl.training.assemble import load_rewards
from mmrl.training.loop import Loop
from mmrl.training.processes import Processes
from mmrl.training.run import Data, Run
from mmrl.training.stopping import Stopped, Stops
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory

LETTERS = "abc."  # the dot ends an answer
LONGEST = 5


class AnswersConfig(Strict):
    by_columns: bool = False


class Answers(Adapter):
    """The policy is a table [kinds of prompts, letter before, letter]; a prompt's kind is its text's length mod 3."""

    Config = AnswersConfig

    def __init__(self, config: AnswersConfig) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(3, 5, 4, generator=generator, dtype=torch.float64))
        self.start = self.table.detach().clone()  # for tests to compare with

    @torch.no_grad()
    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        return [
            Group(g.prompt, g.index, [self._speak(g.prompt, i, seed_of(seed, step, g.key, i)) for i in range(n)])
            for g in groups
        ]

    def _speak(self, prompt: Prompt, index: int, seed: int) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        text = ""
        while len(text) < LONGEST and not text.endswith("."):
            before = LETTERS.index(text[-1]) if text else 4
            chances = self.table[len(prompt.text) % 3, before].softmax(0)
            text += LETTERS[int(torch.multinomial(chances, 1, generator=generator))]
        return self._sample(prompt, index, text)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        return self.rollout([Group(p, i) for i, p in enumerate(prompts)], n, 0, seed)

    def given(self, prompt: Prompt, completions: Sequence[str]) -> list[Sample]:
        return [self._sample(prompt, i, text + ".") for i, text in enumerate(completions)]

    @torch.no_grad()
    def _sample(self, prompt: Prompt, index: int, text: str) -> Sample:
        ids = torch.tensor([LETTERS.index(letter) for letter in text])
        sample = Sample(prompt, index, text.removesuffix("."))
        sample.trajectory = Trajectory(torch.zeros(len(ids)), torch.ones(len(ids), dtype=torch.bool), {"ids": ids})
        sample.trajectory.logp = self.logprobs([sample], torch.arange(len(ids))).logp[0].float()
        return sample

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        """Columns past the end of an answer are NaN, as whoever reads them must notice."""

        def row(table: Tensor, sample: Sample) -> Tensor:
            ids = sample.trajectory.tensors["ids"]
            before = torch.cat([torch.tensor([4]), ids[:-1]])
            every = table[len(sample.prompt.text) % 3, before].log_softmax(-1).gather(1, ids[:, None])[:, 0]
            return torch.cat([every, every.new_full((100,), torch.nan)])[columns]

        found = ActionLogProbs(torch.stack([row(self.table, s) for s in samples]))
        if reference:
            with torch.no_grad(), self.reference():
                found.logp_reference = torch.stack([row(self.table, s) for s in samples])
        return found

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Whole answers in rows, or column by column."""
        longest = max((len(s.trajectory.logp) for s in samples), default=0)
        if not samples:
            return
        if self.config.by_columns:
            for column in range(longest):
                yield Slice(torch.arange(len(samples)), torch.tensor([column]))
            return
        for rows in torch.arange(len(samples)).split(max(1, budget // longest)):
            yield Slice(rows, torch.arange(max(len(samples[r].trajectory.logp) for r in rows)))

    def supervised_loss(self, records: Sequence[dict], objective: str, seed: int) -> Tensor:
        """Mean over records of the sum over letters of -logp."""
        losses = [
            -self.logprobs([s], torch.arange(len(s.trajectory.logp))).logp.sum()
            for r in records
            for s in self.given(Prompt(r["id"], r["prompt"], r), [r["completion"]])
        ]
        return torch.stack(losses).mean()

    # Numbers of a score: the sum of the table's entries that an answer goes through, and twice its sine.
    outputs = 1

    def scores(self, samples: Sequence[Sample], reference: bool = False) -> Tensor:
        return torch.cat([self._scores(sample) for sample in samples])

    def _scores(self, sample: Sample) -> Tensor:
        ids = sample.trajectory.tensors["ids"]
        before = torch.cat([torch.tensor([4]), ids[:-1]])
        sums = self.table[len(sample.prompt.text) % 3, before, ids].cumsum(0)
        found = sums[sample.trajectory.tensors.get("ends", torch.tensor([len(ids) - 1]))]
        return torch.stack([found, 2 * found.sin()], 1)[:, : self.outputs]

    def steps(self, prompt: Prompt, texts: Sequence[str]) -> Sample:
        sample = self._sample(prompt, 0, "".join(texts))
        sample.trajectory.tensors["ends"] = torch.tensor([len(text) for text in texts]).cumsum(0) - 1
        return sample

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {"table": self.table}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"table": self.table.detach().clone()}, folder / "table.safetensors")


def make(values: dict[str, Any], prompts: Sequence[Prompt] = (), **options: Any) -> Loop:
    """The loop of a config on Answers, with the config's rewards.

    options: `adapter`, `eval_prompts`, `records`, `processes`, `should_stop`, `allow` of one's own.
    """
    values = {"name": "run", "device": "cpu", "modality": f"{__file__}:Answers", **values}
    config = load(values)
    adapter = options.pop("adapter", None) or Answers(config.model)
    rewards, eval_rewards = load_rewards(config)
    processes = options.pop("processes", None) or Processes("cpu")
    stops = Stops(processes, options.pop("should_stop", None))
    data = Data(prompts, options.pop("eval_prompts", ()), options.pop("records", None))
    return Loop(Run(config, adapter, rewards, eval_rewards, data, processes, stops), quiet=True, **options)


def train_in_pieces(values: dict[str, Any], point: str, passing: int) -> int:
    """Train a config, stopping at the first `point` behind `passing` of them, and go on until it is done; the stops."""
    stops = 0
    while True:
        passed: list[str] = []

        def at(place: str, passed: list[str] = passed) -> bool:
            passed.append(place)
            return place == point and passed.count(point) > passing

        try:
            make(values, should_stop=at).train(resume=stops > 0)
            return stops
        except Stopped:
            stops += 1
            assert stops < 50


class Rank(Processes):
    """One of several ranks that are threads of this process; they meet at a barrier."""

    def __init__(self, rank: int, world: int, meet: Callable[[Any], list[Any]]) -> None:
        self.rank, self.world, self.device = rank, world, torch.device("cpu")
        self.accelerator: Any = SimpleNamespace(log_with=[], trackers=[], wait_for_everyone=lambda: meet(None))
        combine = {"sum": lambda x: x.sum(0), "max": lambda x: x.amax(0), "min": lambda x: x.amin(0)}
        self._reduce = lambda x, op="sum": combine[op](torch.stack(meet(x)))


class Meeting:
    """Where ranks that are threads bring a value each, and all leave with all of them.

    A barrier of threading would not do: who leaves it and aborts it at once breaks it for those still on their way out.
    """

    def __init__(self, world: int) -> None:
        self.world, self.brought, self.found = world, dict[int, Any](), list[Any]()
        self.count = 0  # meetings that are over
        self.aborted = False
        self.changed = threading.Condition()

    def meet(self, rank: int, x: Any) -> list[Any]:
        """Raises BrokenBarrierError where another rank comes no more, or not for two minutes."""
        with self.changed:
            number = self.count
            self.brought[rank] = x
            if len(self.brought) == self.world:
                self.found = [self.brought[each] for each in range(self.world)]
                self.brought, self.count = {}, number + 1
                self.changed.notify_all()
            self.changed.wait_for(lambda: self.count > number or self.aborted, 120)
            if self.count == number:
                raise threading.BrokenBarrierError
            return self.found  # of this meeting: the next one wants this rank, too

    def abort(self) -> None:
        with self.changed:
            self.aborted = True
            self.changed.notify_all()


def ranks(work: Callable[[Processes], Any], world: int = 2) -> list[Any]:
    """[work(processes) of each rank], side by side."""
    from concurrent.futures import ThreadPoolExecutor

    meeting = Meeting(world)

    def run(rank: int) -> Any:
        try:
            return work(Rank(rank, world, lambda x: meeting.meet(rank, x)))
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(run, rank) for rank in range(world)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error  # what broke the barrier before what it broke for the others
    return [future.result() for future in futures]


def assert_cuts_and_processes_agree(trained: Callable[..., dict[str, dict[str, Any]]], **tolerance: float) -> None:
    """`trained(processes, **stage)` gives each role's weights: the same in other micro-batches and by two processes."""
    alone = trained()
    for other in (trained(micro_batch=5), *ranks(lambda processes: trained(processes))):
        for name, weights in other.items():
            for key, weight in weights.items():
                torch.testing.assert_close(weight, alone[name][key], **tolerance)
