"""The image adapter: text-to-image diffusion and flow models. An action is one trained denoising step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from mmrl.media import IMAGE
from mmrl.modalities import hollow
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.image import lora
from mmrl.modalities.image.conditions import Conditions
from mmrl.modalities.image.config import COMPONENTS, ModelConfig
from mmrl.modalities.image.families.base import Condition, Schedule
from mmrl.modalities.image.kernels import Transition, ratio_norm, sample
from mmrl.modalities.image.loading import load_family, note_float32
from mmrl.modalities.image.pixels import to_pictures
from mmrl.modalities.image.plans import StepPlan, make_plan
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.image.records import OBJECTIVES, RecordLosses
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory

# What the VAE's config says of its latents, which a stage that trains it sets anew.
LATENTS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


class ImageAdapter(Adapter):
    """A diffusers pipeline as a policy over denoising steps.

    Trajectories store, per trained step, the latents before and after it (float32) and the step's index; under
    guidance also the unconditional output, which a replay with the same weights need not compute again.
    Prompt embeddings are made once per prompt and kept; the schedule is recomputed from the config.
    """

    Config = ModelConfig
    objectives = OBJECTIVES

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.family = load_family(config)
        self.policy = StepPolicy(self.family, config)
        self.default_clip = (self.policy.clip_range, self.policy.clip_range)
        self.precision = self.policy.dtype
        self.train_size = self._size(config.sampling.size)
        self.eval_size = self._size(config.evaluation.size or config.sampling.size)
        self._conditions = Conditions(self.family, self.policy, config.embedding_cache << 20)
        self._records = RecordLosses(self.policy, self._conditions, config, self.train_size)
        if config.train == "lora":
            lora.add(self.family, config.lora)
        if config.gradient_checkpointing:
            self.family.denoiser.enable_gradient_checkpointing()
        # Made now, so that a scheduler that cannot make them is refused before anything is sampled.
        self._schedule(config.sampling.steps, self.train_size)
        self._schedule(config.evaluation.steps, self.eval_size)
        self._warned = False
        self.select(None)
        hollow.fill(self.modules().values())

    # ---------------------------------------------------------------- what is trained

    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.family.denoiser, "vae": self.family.vae, **self.family.text_encoders}

    def select(self, components: Sequence[str] | None) -> None:
        """Choose the trained parts: denoiser, text_encoders, vae. The rest is frozen, everything in eval mode.

        Trained weights are float32 and stay so when they are frozen again: rounding them would undo small updates.
        """
        chosen = set(self.config.components if components is None else components)
        if unknown := chosen - set(COMPONENTS):
            raise Unsupported(f"components: unknown {sorted(unknown)}; known: {', '.join(COMPONENTS)}")
        if self.config.train == "lora" and chosen != {"denoiser"}:
            raise Unsupported(f"components: {sorted(chosen)} with model.train lora, which trains the denoiser only")
        self._chosen = chosen
        for name, module in self.modules().items():
            module.eval()  # no dropout: rollout and replay must be the same function
            part = "text_encoders" if name in self.family.text_encoders else name
            for key, parameter in module.named_parameters():
                trained = part in chosen and (self.config.train == "full" or lora.is_lora(key))
                parameter.requires_grad_(trained)
                if trained and parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
        # The weights that a log-probability depends on.
        self._acting = [p for name, p in self.trainable_parameters().items() if not name.startswith("vae.")]
        self._reference = None
        self._conditions.trained = "text_encoders" in chosen
        self._forget()

    def _forget(self) -> None:
        """Drop what frozen parts computed: they may be other ones now."""
        self._conditions.clear()
        self._records.clear()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}": parameter
            for name, module in self.modules().items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def to(self, device: torch.device) -> None:
        self.family.pipeline.to(device)

    # ---------------------------------------------------------------- sizes and schedules

    def _size(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        pair = self.family.native_size() if size is None else (size, size) if isinstance(size, int) else size
        self.family.check_size(pair)
        return pair

    def _unconditional(self, n: int, guidance: float, size: tuple[int, int]) -> Condition | None:
        """Embeddings of the negative prompt, or None where the output is the conditional one: at 1 and below, as in
        diffusers, and where guidance is an input of the denoiser."""
        if guidance <= 1.0 or self.family.guidance_embeds:
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.policy.both_branches):
            empty = self._conditions([self.config.sampling.negative_prompt], size)
        return {key: value.expand(n, *value.shape[1:]) for key, value in empty.items()}

    @lru_cache(maxsize=8)  # noqa: B019  one adapter lives as long as the process
    def _schedule(self, steps: int, size: tuple[int, int]) -> Schedule:
        return self.family.schedule(steps, size)

    # ---------------------------------------------------------------- sampling

    def plan(self, step: int, seed: int) -> StepPlan:
        options = dict(self.config.sampling.plan)
        return make_plan(options.pop("name", "full"), self.config.sampling.steps, step, seed, **options)

    def usable(self, prompt: Prompt) -> str | None:
        """All are but those that show pictures or videos; warns, once, where no text encoder reads the end of one."""
        if prompt.record.get("images") and IMAGE in prompt.text:
            return "shows pictures, which this modality does not read"
        read = None if self._warned else self.family.unread(prompt.text)
        if read is not None:
            self._warned = True
            warnings.warn(
                f"prompt {prompt.id!r:.60} is longer than the {read} tokens that the text encoders read; of it, and of "
                "others as long, the end is not seen"
                + ("" if self.family.long_tokenizer is None else " (model.max_sequence_length)"),
                stacklevel=2,
            )
        return None

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
        return [replace(g, samples=samples[i * n : (i + 1) * n]) for i, g in enumerate(groups)]

    def _denoise(
        self,
        prompts: Sequence[Prompt],
        noise: Sequence[_Noise],
        plan: StepPlan | None,
        steps: int,
        guidance: float,
        size: tuple[int, int],
    ) -> tuple[Tensor, Sequence[Trajectory | None]]:
        policy, device = self.policy, self.family.device
        schedule = self._schedule(steps, size)
        condition = self._conditions([p.text for p in prompts], size)
        unconditional = self._unconditional(len(prompts), guidance, size)
        shape = self.family.latent_shape(size)
        latents = torch.stack([source.start(shape) for source in noise]).to(device)
        storing = plan is not None and unconditional is not None and not policy.both_branches
        tag = self._weights_tag() if storing else None
        kept: list[dict[str, Tensor]] = []
        for i in range(steps):
            index = torch.full((len(prompts),), i, device=device)
            time = schedule.time[i].float().to(device).expand(len(prompts))
            output, empty = policy.predict(latents, time, condition, guidance, size, unconditional)
            stochastic = plan is not None and i in plan.stochastic
            transition = policy.transition(latents, output, schedule, index, stochastic)
            if not stochastic:
                latents = transition.mean.to(policy.storage).float()
                continue
            draw = torch.stack([source.next(shape) for source in noise]).to(device)
            after = sample(transition, draw, policy.storage)
            if plan is not None and i in plan.trained:
                kept.append(self._keep(latents, after, transition, index, empty, tag))
            latents = after
        return latents, self._trajectories(kept, len(prompts)) if plan else [None] * len(prompts)

    def _keep(
        self,
        latents: Tensor,
        after: Tensor,
        transition: Transition,
        index: Tensor,
        empty: Tensor | None,
        tag: int | None,
    ) -> dict[str, Tensor]:
        stored = {
            "x": latents,
            "x_next": after,
            "step": index,
            "logp": self.policy.log_prob(after, transition),
        }
        if self.config.sampling.ratio_norm:
            stored["mean"] = transition.mean
        if tag is not None and empty is not None:
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
    def _decode(self, latents: Tensor, size: tuple[int, int]) -> list[Image]:
        pictures: list[Image] = []
        for part in latents.split(self.config.decode_batch):
            pictures += to_pictures(self.family.decode(part, size))
        return pictures

    # ---------------------------------------------------------------- what `mmrl plan` estimates from

    def weights(self) -> Iterator[Tensor]:
        for module in self.modules().values():
            yield from module.parameters()
            yield from module.buffers()

    def blank(self, prompt: Prompt) -> Sample:
        """See Adapter.blank: the trained steps of a plan."""
        trained = self.plan(0, 0).trained
        names = ("x", "x_next", *(("mean",) if self.config.sampling.ratio_norm else ()))
        latents = torch.zeros(len(trained), *self.family.latent_shape(self.train_size))
        tensors = {**dict.fromkeys(names, latents), "step": torch.tensor(trained)}
        mask = torch.ones(len(trained), dtype=torch.bool)
        return Sample(prompt, 0, None, Trajectory(torch.zeros(len(trained)), mask, tensors))

    @torch.no_grad()
    def trial(self, samples: Sequence[Sample], n: int) -> None:
        """See Adapter.trial: a denoising step of the pictures that are denoised together, then those decoded together.
        Prompts are encoded one by one."""
        texts = [s.prompt.text for s in samples for _ in range(n)][: self.config.rollout_batch]
        size, guidance = self.train_size, self.config.sampling.guidance
        shape = (len(texts), *self.family.latent_shape(size))
        condition, unconditional = self._conditions(texts, size), self._unconditional(len(texts), guidance, size)
        time = self._schedule(self.config.sampling.steps, size).time[:1].float().expand(len(texts))
        output, _ = self.policy.predict(torch.zeros(shape), time, condition, guidance, size, unconditional)
        self.family.decode(output[: self.config.decode_batch], size)

    # ---------------------------------------------------------------- replay

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Rows first: all trained steps of a sample stay together unless they alone are over the budget."""
        if not samples:
            return
        columns = torch.arange(len(_trajectories(samples)[0].logp))
        rows = torch.arange(len(samples))
        for part in rows.split(max(1, budget // len(columns))):
            for some in columns.split(min(len(columns), budget)):
                yield Slice(part, some)

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        if entropy:
            raise Unsupported("entropy: that of a denoising step depends on its noise only, not on the policy")
        if not self._acting:
            raise Unsupported("components: [vae] has no log-probability; train the denoiser or the text_encoders")
        policy, device, size = self.policy, self.family.device, self.train_size
        trajectories = _trajectories(samples)
        b, t = len(samples), len(columns)

        def gather(key: str) -> Tensor:
            return torch.stack([kept.tensors[key][columns] for kept in trajectories]).flatten(0, 1).to(device)

        schedule = self._schedule(self.config.sampling.steps, size)
        index, latents, after = gather("step"), gather("x"), gather("x_next")
        time = schedule.time.to(device)[index].float()
        texts = [s.prompt.text for s in samples for _ in range(t)]
        guidance = self.config.sampling.guidance

        def transition() -> Transition:
            """Of the weights as they are now, text encoders included: the policy's, or the reference's."""
            empty = gather("unconditional") if self._unconditional_holds(trajectories) else None
            unconditional = self._unconditional(b * t, guidance, size) if empty is None else None
            condition = self._conditions(texts, size)
            output, _ = policy.predict(latents, time, condition, guidance, size, unconditional, empty)
            return policy.transition(latents, output, schedule, index)

        step = transition()
        logp = policy.log_prob(after, step)
        found = ActionLogProbs(logp=logp.view(b, t))
        if self.config.sampling.ratio_norm:
            old = torch.stack([kept.logp[columns] for kept in trajectories]).flatten().to(device)
            log_ratio, weight = ratio_norm(logp, old, step.mean, gather("mean"), step.std, step.dt)
            found.log_ratio, found.weight = log_ratio.view(b, t), weight.view(b, t)
        if reference:
            with torch.no_grad(), self.reference():
                frozen = transition()
            found.kl = policy.kl(step, frozen).view(b, t)
            found.logp_reference = policy.log_prob(after, frozen).view(b, t)
        return found

    def _unconditional_holds(self, trajectories: Sequence[Trajectory]) -> bool:
        """Whether all have stored unconditional outputs, and those are of the weights as they are now."""
        if any("unconditional" not in kept.tensors for kept in trajectories):
            return False
        tag = self._weights_tag()
        return all(bool((kept.tensors["weights"] == tag).all()) for kept in trajectories)

    def _weights_tag(self) -> int:
        """A number made of the bits of the trained weights that act: an update changes it, as do the reference's;
        saving and resuming do not."""
        sums = [p.detach().view(torch.int32).sum() for p in self._acting]
        return seed_of(*(torch.stack(sums).tolist() if sums else ()))

    # ---------------------------------------------------------------- supervised

    def record_columns(self, objective: str) -> Sequence[str]:
        return ("image",)

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        """Mean loss over records {"prompt", "image"}: "sft" (flow matching or denoising), "autoencoder"."""
        if objective not in self.objectives:
            raise ValueError(f"objective {objective!r}: the image adapter knows {', '.join(self.objectives)}")
        parts = {"vae"} if objective == "autoencoder" else {"denoiser", "text_encoders"}
        if not parts & self._chosen:
            raise Unsupported(
                f"components: {sorted(self._chosen)} get no gradient from objective {objective}, which trains "
                f"{' and '.join(sorted(parts))}"
            )
        return getattr(self._records, objective)(records, seed)

    def finish(self, objective: str, records: Sequence[dict[str, Any]]) -> None:
        """After an autoencoder stage: the latents' scale and shift."""
        if objective == "autoencoder":
            self._records.standardise(records)

    # ---------------------------------------------------------------- disk

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights: the latents' scale and shift."""
        config = self.family.vae.config
        return {key: config[key] for key in LATENTS if key in config}

    def load_state(self, state: dict[str, Any]) -> None:
        self.family.vae.register_to_config(**state)
        self._forget()

    def save(self, folder: Path) -> None:
        """A pipeline folder (full training), or LoRA weights that `load_lora_weights` takes."""
        if self.config.train == "full":
            self.family.pipeline.save_pretrained(folder, safe_serialization=True)
            note_float32(folder, self.family.pipeline)
        else:
            lora.save(self.family, folder)


def _trajectories(samples: Sequence[Sample]) -> list[Trajectory]:
    """Those of rolled-out samples; evaluation's have none."""
    kept = [sample.trajectory for sample in samples if sample.trajectory is not None]
    if len(kept) < len(samples):
        raise ValueError("a sample has no trajectory: only rollouts can be replayed, not evaluations")
    return kept


class _Noise:
    """The random numbers of one sample: its first latent, then one draw per stochastic step."""

    def __init__(self, start_seed: int, step_seed: int) -> None:
        self._start = torch.Generator().manual_seed(start_seed)
        self._steps = torch.Generator().manual_seed(step_seed)

    def start(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._start)

    def next(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._steps)
