"""A modality for tests: five numbers that flow from noise, spelled as `a` where they end above 0 and `b` below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmrl.core import flow_match
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.types import Candidate, Group, Noised, Prompt, Sample, Slice, Trajectory

SIZE, STEPS = 5, 4


class Flowing(Adapter):
    """Velocity gain * x + t * slope + shift of the prompt's kind, its text's length mod 3; Euler's method samples."""

    def __init__(self, config) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.3 * torch.randn(shape, generator=generator, dtype=torch.float64))

        self.gain, self.slope, self.shift = drawn(), drawn(SIZE), drawn(3, SIZE)
        self.start = self.table  # for tests to compare with

    @property
    def table(self) -> Tensor:
        """All its numbers, [n]."""
        return torch.cat([p.detach().flatten() for p in self.trainable_parameters().values()])

    def velocity(self, x: Tensor, times: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        kinds = torch.tensor([len(prompt.text) % 3 for prompt in prompts])
        return self.gain * x + times[:, None].to(x) * self.slope + self.shift[kinds]

    @torch.no_grad()
    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        return [
            Group(g.prompt, g.index, [self._flow(g.prompt, i, seed_of(seed, step, g.key, i)) for i in range(n)])
            for g in groups
        ]

    def _flow(self, prompt: Prompt, index: int, seed: int) -> Sample:
        x = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        way = [x[0]]
        for time in torch.linspace(1, 0, STEPS + 1)[:-1]:
            x = x - self.velocity(x, time[None], [prompt]) / STEPS
            way.append(x[0])
        nothing = Trajectory(torch.zeros(0), torch.zeros(0, dtype=torch.bool), {"clean": x[0], "way": torch.stack(way)})
        return Sample(prompt, index, "".join("a" if v > 0 else "b" for v in x[0]), nothing)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        return self.rollout([Group(p, i) for i, p in enumerate(prompts)], n, 0, seed)

    def velocities(
        self,
        samples: Sequence[Sample],
        times: Tensor,
        seeds: Sequence[int],
        clean: Tensor | None = None,
        guidance: float | None = None,
    ) -> Noised:
        if not samples:
            return Noised(*(torch.zeros(0, SIZE) for _ in range(4)))
        if clean is None:
            clean = torch.stack([s.actions.tensors["clean"] for s in samples])
        noise = torch.stack(
            [torch.randn(SIZE, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        )
        x = flow_match.noised(clean, noise, times)
        velocity = self.velocity(x, times, [s.prompt for s in samples])
        return Noised(clean, noise, x, velocity if guidance is None else guidance * velocity)

    def sampler_times(self) -> Tensor:
        return torch.linspace(1, 0, STEPS + 1)[:-1]

    def generated(self, samples: Sequence[Sample], places: Tensor) -> Tensor:
        if not samples:
            return torch.zeros(0, SIZE)
        step = (places * STEPS).long()
        x = torch.stack([s.actions.tensors["way"][i] for s, i in zip(samples, step.tolist())])
        times = 1 - step / STEPS
        return flow_match.clean_of(x, self.velocity(x, times, [s.prompt for s in samples]), times)

    def levels(self) -> Tensor:
        return torch.linspace(1, 0, STEPS + 1)[1:]

    def given(self, prompt: Prompt, completions: Sequence[Candidate]) -> list[Sample]:
        """Texts of letters, 0.5 for each `a` and -0.5 for another one."""
        none, samples = (torch.zeros(0), torch.zeros(0, dtype=torch.bool)), []
        for number, one in enumerate(completions):
            clean = torch.tensor([0.5 if letter == "a" else -0.5 for letter in one.answer.ljust(SIZE)[:SIZE]]).double()
            samples.append(Sample(prompt, number, one.answer, Trajectory(*none, {"clean": clean})))
        return samples

    def logprobs(self, samples, columns, reference=False, entropy=False):
        raise AssertionError("no log-probability is asked for")

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        raise AssertionError("no actions are replayed")

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {"gain": self.gain, "slope": self.slope, "shift": self.shift}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: p.detach().clone() for k, p in self.trainable_parameters().items()}, folder / "flow.safetensors")
