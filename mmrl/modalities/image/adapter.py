"""The image adapter: text-to-image diffusion and flow models. An action is one trained denoising step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mmrl.modalities.adapter import Adapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.base import Condition, Schedule
from mmrl.modalities.image.kernels import ratio_norm, sample
from mmrl.modalities.image.loading import load_family
from mmrl.modalities.image.pixels import to_pictures, to_pixels
from mmrl.modalities.image.plans import StepPlan, make_plan
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.image.supervised import (
    autoencoder_loss,
    denoising_loss,
    flow_matching_loss,
    logit_normal_times,
)
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory


class ImageAdapter(Adapter):
    """A diffusers pipeline as a policy over denoising steps.

    Trajectories store, per trained step, the latents before and after it (float32) and the step's index; under
    guidance also the unconditional output, which a replay with the same weights need not compute again.
    Prompt embeddings are made once per prompt and kept; the schedule is recomputed from the config.
    """

    Config = ModelConfig
    objectives = ("sft", "autoencoder")

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.family = load_family(config)
        self.policy = StepPolicy(self.family, config)
        self.train_size = self._size(config.sampling.size)
        self.eval_size = self._size(config.evaluation.size or config.sampling.size)
        self._conditions: dict[tuple[str, tuple[int, int]], Condition] = {}
        self._latents: dict[str, Tensor] = {}
        self._in_reference = False
        if config.train == "lora":
            self._add_lora()
        if config.gradient_checkpointing:
            self.family.denoiser.enable_gradient_checkpointing()
        self.select()

    @property
    def default_clip(self) -> tuple[float, float]:
        """The clip range that belongs to the kernel's log-probability."""
        return self.policy.spec.clip_range, self.policy.spec.clip_range

    @property
    def precision(self) -> torch.dtype:
        """What the forward computes in; 16-bit ones round differently from batch to batch."""
        return self.policy.autocast_dtype or torch.float32

    # ---------------------------------------------------------------- what is trained

    def _add_lora(self) -> None:
        from peft import LoraConfig

        lora = self.config.lora
        if lora.path is not None:
            self.family.pipeline.load_lora_weights(lora.path, adapter_name="default")
            return
        targets = list(lora.targets or self.family.lora_targets)
        self.family.denoiser.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, init_lora_weights="gaussian", target_modules=targets)
        )

    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.family.denoiser, "vae": self.family.vae, **self.family.text_encoders}

    def select(self, components: Sequence[str] | None = None) -> None:
        """Choose the trained parts: denoiser, text_encoders, vae. The rest is frozen, everything in eval mode."""
        chosen = set(components or self.config.components)
        if "text_encoders" in chosen:
            chosen = (chosen - {"text_encoders"}) | set(self.family.text_encoders)
        for name, module in self.modules().items():
            module.eval()  # no dropout: rollout and replay must be the same function
            for key, parameter in module.named_parameters():
                trained = name in chosen and (self.config.train == "full" or "lora_" in key)
                parameter.requires_grad_(trained)
                if trained and parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
        self._chosen = chosen
        self._trained = list(self.trainable_parameters().values())
        self._conditions.clear()
        self._latents.clear()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}": parameter
            for name, module in self.modules().items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def to(self, device: torch.device) -> None:
        self.family.pipeline.to(device)

    # ---------------------------------------------------------------- prompts and sizes

    def prompt_columns(self) -> Sequence[str]:
        return ()

    def record_columns(self, objective: str) -> Sequence[str]:
        """Columns that a supervised record must have, besides `prompt`."""
        return ("image",)

    def _size(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        pair = self.family.native_size() if size is None else (size, size) if isinstance(size, int) else tuple(size)
        self.family.check_size(pair)
        return pair

    def _condition(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        """Stacked embeddings [len(texts), ...]; each text is encoded alone, so that its embedding does not depend
        on its neighbours, and once, unless the encoders are being trained."""
        if any(name in self._chosen for name in self.family.text_encoders):
            return self.family.encode(texts, size)
        for text in texts:
            if (text, size) not in self._conditions:
                with torch.no_grad(), self.policy.autocast():
                    self._conditions[text, size] = self.family.encode([text], size)
        found = [self._conditions[text, size] for text in texts]
        return {key: torch.cat([c[key] for c in found]) for key in found[0]}

    def _unconditional(self, n: int, guidance: float, size: tuple[int, int]) -> Condition | None:
        if guidance == 1.0 or self.family.guidance_embeds:
            return None
        return {key: value.expand(n, *value.shape[1:]) for key, value in self._condition([""], size).items()}

    @lru_cache(maxsize=8)  # noqa: B019  one adapter lives as long as the process
    def _schedule(self, steps: int, size: tuple[int, int]) -> Schedule:
        return self.family.schedule(steps, size)

    # ---------------------------------------------------------------- sampling

    def plan(self, step: int, seed: int) -> StepPlan:
        options = dict(self.config.sampling.plan)
        return make_plan(options.pop("name", "full"), self.config.sampling.steps, step, seed, **options)

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """See Adapter.rollout. The plan of stochastic and trained steps is shared by all groups of a step."""
        plan = self.plan(step, seed)
        sampling = self.config.sampling
        noise = [
            _Noise(
                seed_of(seed, step, g.key, "start" if sampling.same_noise else i, "start"),
                seed_of(seed, step, g.key, i, "steps"),
            )
            for g in groups
            for i in range(n)
        ]
        return self._fill(groups, n, noise, plan, sampling.steps, sampling.guidance, self.train_size)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """The ODE (or DDIM with eta 0) with the evaluation's steps, guidance and size; no trajectories."""
        evaluation = self.config.evaluation
        guidance = self.config.sampling.guidance if evaluation.guidance is None else evaluation.guidance
        groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
        noise = [_Noise(seed_of(seed, "eval", g.prompt.id, i), 0) for g in groups for i in range(n)]
        return self._fill(groups, n, noise, None, evaluation.steps, guidance, self.eval_size)

    @torch.no_grad()
    def _fill(
        self,
        groups: Sequence[Group],
        n: int,
        noise: Sequence[_Noise],
        plan: StepPlan | None,
        steps: int,
        guidance: float,
        size: tuple[int, int],
    ) -> list[Group]:
        prompts = [group.prompt for group in groups for _ in range(n)]
        samples: list[Sample] = []
        for start in range(0, len(prompts), self.config.rollout_batch):
            rows = slice(start, start + self.config.rollout_batch)
            latents, trajectories = self._denoise(prompts[rows], noise[rows], plan, steps, guidance, size)
            pictures = self._decode(latents, size)
            samples += [
                Sample(prompt, (start + i) % n, picture, trajectory)
                for i, (prompt, picture, trajectory) in enumerate(zip(prompts[rows], pictures, trajectories))
            ]
        return [Group(g.prompt, g.index, samples[i * n : (i + 1) * n]) for i, g in enumerate(groups)]

    def _denoise(self, prompts, noise, plan, steps, guidance, size) -> tuple[Tensor, list[Trajectory | None]]:
        policy, device = self.policy, self.family.device
        schedule = self._schedule(steps, size)
        condition = self._condition([p.text for p in prompts], size)
        unconditional = self._unconditional(len(prompts), guidance, size)
        shape = self.family.latent_shape(size)
        latents = torch.stack([source.start(shape) for source in noise]).to(device)
        storing = (
            plan is not None and self.config.sampling.guidance_gradient == "conditional" and not self._in_reference
        )
        tag = self._weights_tag() if storing and unconditional is not None else None
        kept: list[dict[str, Tensor]] = []
        for i in range(steps):
            index = torch.full((len(prompts),), i, device=device)
            time = schedule.time[i].float().to(device).expand(len(prompts))
            output, empty = policy.predict(latents, time, condition, unconditional, guidance, size)
            stochastic = plan is not None and i in plan.stochastic
            transition = policy.transition(latents, output, schedule, index, stochastic)
            if not stochastic:
                latents = transition.mean.to(policy.storage).float()
                continue
            draw = torch.stack([source.next(shape) for source in noise]).to(device)
            after = sample(transition, draw, policy.storage)
            if i in plan.trained:
                kept.append(self._keep(latents, after, transition, index, empty, tag))
            latents = after
        return latents, self._trajectories(kept, len(prompts)) if plan else [None] * len(prompts)

    def _keep(self, latents, after, transition, index, empty, tag) -> dict[str, Tensor]:
        stored = {
            "x": latents,
            "x_next": after,
            "step": index,
            "logp": self.policy.log_prob(after, transition),
        }
        if self.config.sampling.ratio_norm:
            stored["mean"] = transition.mean
        if tag is not None:
            stored["unconditional"] = empty
            stored["weights"] = torch.full_like(index, tag)
        return {key: value.cpu() for key, value in stored.items()}

    @staticmethod
    def _trajectories(kept: list[dict[str, Tensor]], rows: int) -> list[Trajectory]:
        columns = {key: torch.stack([step[key] for step in kept], dim=1) for key in kept[0]}
        logp = columns.pop("logp")
        return [
            Trajectory(
                logp=logp[i].clone(),
                mask=torch.ones(len(kept), dtype=torch.bool),
                tensors={key: value[i].clone() for key, value in columns.items()},
            )
            for i in range(rows)
        ]

    @torch.no_grad()
    def _decode(self, latents: Tensor, size: tuple[int, int]) -> list:
        pictures = []
        for part in latents.split(self.config.decode_batch):
            pictures += to_pictures(self.family.decode(part, size))
        return pictures

    # ---------------------------------------------------------------- replay

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Rows first: all trained steps of a sample stay together while they fit the budget."""
        if not samples:
            return
        columns = torch.arange(len(samples[0].trajectory.logp))
        rows = torch.arange(len(samples))
        for part in rows.split(max(1, budget // len(columns))):
            for some in columns.split(min(len(columns), budget)):
                yield Slice(part, some)

    def logprobs(self, samples: Sequence[Sample], columns: Tensor, reference: bool = False) -> ActionLogProbs:
        policy, device, size = self.policy, self.family.device, self.train_size
        b, t = len(samples), len(columns)

        def gather(key: str) -> Tensor:
            return torch.stack([s.trajectory.tensors[key][columns] for s in samples]).flatten(0, 1).to(device)

        schedule = self._schedule(self.config.sampling.steps, size)
        index, latents, after = gather("step"), gather("x"), gather("x_next")
        time = schedule.time.to(device)[index].float()
        texts = [s.prompt.text for s in samples for _ in range(t)]
        condition = self._condition(texts, size)
        guidance = self.config.sampling.guidance
        unconditional = self._unconditional(b * t, guidance, size)

        def step_distribution(empty: Tensor | None = None):
            output, _ = policy.predict(latents, time, condition, unconditional, guidance, size, empty)
            return policy.transition(latents, output, schedule, index)

        transition = step_distribution(gather("unconditional") if self._unconditional_holds(samples) else None)
        logp = policy.log_prob(after, transition)
        found = ActionLogProbs(logp=logp.view(b, t))
        if self.config.sampling.ratio_norm:
            old = torch.stack([s.trajectory.logp[columns] for s in samples]).flatten().to(device)
            log_ratio, weight = ratio_norm(logp, old, transition.mean, gather("mean"), transition.std, transition.dt)
            found.log_ratio, found.weight = log_ratio.view(b, t), weight.view(b, t)
        if reference:
            with torch.no_grad(), self.reference():
                frozen = step_distribution()
            found.kl = policy.kl(transition, frozen).view(b, t)
            found.logp_reference = policy.log_prob(after, frozen).view(b, t)
        return found

    def _unconditional_holds(self, samples: Sequence[Sample]) -> bool:
        """Whether the stored unconditional outputs are those of the weights as they are now."""
        if self._in_reference or any("unconditional" not in s.trajectory.tensors for s in samples):
            return False
        tag = self._weights_tag()
        return all(bool((s.trajectory.tensors["weights"] == tag).all()) for s in samples)

    def _weights_tag(self) -> int:
        """A number made of the trained weights' bits: an update changes it, saving and resuming do not."""
        sums = [p.detach().view(torch.int32).sum() for p in self._trained]
        return seed_of(*(torch.stack(sums).tolist() if sums else ()))

    @contextmanager
    def reference(self) -> Iterator[None]:
        """See Adapter.reference; nothing that the reference computes is kept as the policy's."""
        with super().reference():
            self._in_reference = True
            try:
                yield
            finally:
                self._in_reference = False

    # ---------------------------------------------------------------- supervised

    def supervised_loss(self, records: Sequence[dict], objective: str, seed: int) -> Tensor:
        """Mean loss over records {"id", "prompt", "image"}: "sft" (flow matching or denoising), "autoencoder"."""
        generator = torch.Generator().manual_seed(seed)
        size, device = self.train_size, self.family.device
        if objective == "autoencoder":
            pixels = to_pixels([r["image"] for r in records], size).to(device)
            factor = self.family.pipeline.vae_scale_factor
            shape = (self.family.vae.config.latent_channels, size[0] // factor, size[1] // factor)
            noise = torch.randn((len(records), *shape), generator=generator)
            return autoencoder_loss(self.family.vae, pixels, noise.to(device))
        if objective != "sft":
            raise ValueError(f"objective {objective!r}: the image adapter knows {', '.join(self.objectives)}")
        clean = torch.stack([self._latent(r) for r in records]).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        dropped = torch.rand(len(records), generator=generator) < self.config.caption_dropout
        texts = ["" if drop else r["prompt"] for r, drop in zip(records, dropped.tolist())]
        draws = torch.randn(len(records), generator=generator)
        with self.policy.autocast():
            condition = self._condition(texts, size)
            if not self.family.is_flow:
                return denoising_loss(self.family, clean, noise, torch.special.ndtr(draws), condition, size)
            shift = self.config.time_shift or self.family.shift()
            times = logit_normal_times(draws, shift).to(device)
            t = times.view(-1, *[1] * (clean.ndim - 1))
            velocity = self.family.predict((1 - t) * clean + t * noise, times * 1000, condition, size)
            return flow_matching_loss(velocity, clean, noise)

    @torch.no_grad()
    def _latent(self, record: dict) -> Tensor:
        """The picture's latent, made once per record and alone (see _condition)."""
        if record["id"] not in self._latents:
            pixels = to_pixels([record["image"]], self.train_size).to(self.family.device)
            self._latents[record["id"]] = self.family.encode_pixels(pixels)[0].cpu()
        return self._latents[record["id"]]

    @torch.no_grad()
    def finish(self, objective: str, records: Sequence[dict]) -> None:
        """After an autoencoder stage: set the latents' scale and shift, as the denoiser expects unit variance."""
        if objective == "autoencoder":
            pixels = to_pixels([r["image"] for r in records], self.train_size).to(self.family.device)
            latents = self.family.vae.encode(pixels).latent_dist.mean
            self.family.vae.register_to_config(
                scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean())
            )

    # ---------------------------------------------------------------- disk

    def state(self) -> dict:
        """What a checkpoint must hold besides weights: the latents' scale and shift."""
        config = self.family.vae.config
        return {"scaling_factor": config.scaling_factor, "shift_factor": config.shift_factor}

    def load_state(self, state: dict) -> None:
        self.family.vae.register_to_config(**state)
        self._latents.clear()

    def save(self, folder: Path) -> None:
        """A pipeline folder (full training), or LoRA weights that `load_lora_weights` takes."""
        if self.config.train == "full":
            self.family.pipeline.save_pretrained(folder, safe_serialization=True)
        else:
            self.family.save_lora(folder)


class _Noise:
    """The random numbers of one sample: its first latent, then one draw per stochastic step."""

    def __init__(self, start_seed: int, step_seed: int) -> None:
        self._start = torch.Generator().manual_seed(start_seed)
        self._steps = torch.Generator().manual_seed(step_seed)

    def start(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._start)

    def next(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._steps)
