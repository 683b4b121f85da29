"""The image adapter: diffusion and flow models that draw. An action is one trained denoising step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmrl.engines.base import Once, here
from mmrl.engines.holding import Holder
from mmrl.engines.rollout_pool import Push
from mmrl.engines.rollout_wire import Policy
from mmrl.grids import as_grid
from mmrl.media import IMAGE
from mmrl.modalities import hollow, unread
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.apart import Apart
from mmrl.modalities.compiling import compile_parts
from mmrl.modalities.image import lora, replay, told
from mmrl.modalities.image.alike import alike
from mmrl.modalities.image.blocks import spread
from mmrl.modalities.image.branching import Branches
from mmrl.modalities.image.conditions import Conditions
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.elsewhere import Elsewhere, ImageApart, options_of
from mmrl.modalities.image.ended import ends
from mmrl.modalities.image.families.asked import Asked, Extent
from mmrl.modalities.image.forward import Forward
from mmrl.modalities.image.given import given_pictures
from mmrl.modalities.image.loading import load_family, note_float32
from mmrl.modalities.image.parking import PARKED, Parking
from mmrl.modalities.image.parts import Parts
from mmrl.modalities.image.plans import StepPlan, make_plan
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.image.records import OBJECTIVES, RecordLosses
from mmrl.modalities.image.sampling import Noise, Run, Sampler
from mmrl.modalities.image.sources import Sources, refs
from mmrl.modalities.shards import Divisible
from mmrl.near import short
from mmrl.pictures import is_video
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Noised, Prompt, Sample, Slice

# Pixels of a picture that a prompt shows, where the run names no bound.
MAX_PIXELS = 50_000_000


class ImageAdapter(Adapter):
    """A diffusers pipeline as a policy over denoising steps.

    Trajectories store, per trained step, the latents before and after it (float32), the step's index and the standard
    deviation of its noise; under guidance also the unconditional output, which a replay with the same weights need not
    compute again. Those of a plan that trains no step store the picture's latent.
    Prompt embeddings are made once per prompt and kept; the schedule is recomputed from the config.
    """

    Config = ModelConfig
    objectives = OBJECTIVES
    shows = frozenset({"artifact", "latents"})

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.family = load_family(config)
        self._parts = Parts(self.family, config)
        self._sources = Sources(MAX_PIXELS)
        self._parking = Parking(self.family) if config.park else None
        bringing = partial(self._parking.using, "text_encoders") if self._parking else nullcontext
        self._conditions = Conditions(
            self.family, StepPolicy(self.family, config), config.embedding_cache << 20, bringing
        )
        self._sample()
        drawn, shown = config.sampling, config.evaluation
        self.eval_size = self._size(shown.size or drawn.size, shown.frames or drawn.frames)
        self._evaluation, self._evaluator = self._evaluated(), self._sampler
        if config.train == "lora":
            lora.add(self.family, config.lora)
        if config.gradient_checkpointing:
            for module in self.family.denoisers.values():
                module.enable_gradient_checkpointing()
        if config.compile is not None and not hollow.is_wanted():
            compile_parts(self.family.blocks, config.compile, type(self.family.denoiser).__name__)
        # Made now, so that a scheduler that cannot make them is refused before anything is sampled.
        self._evaluator.schedule(self._evaluation.steps, self._evaluation.size)
        self._warned = self._warned_of_pictures = self._in_sync = False
        self._elsewhere: Elsewhere | None = None
        options_of(config)
        self.select(None)
        hollow.fill(self.modules().values())

    def _sample(self) -> None:
        """What rolls out and replays, of the config as it is now."""
        config = self.config
        self.policy = StepPolicy(self.family, config)
        self.default_clip = (self.policy.clip_range, self.policy.clip_range)
        self.precision = self.policy.dtype
        self.sampling_guidance = self.policy.scales.guidance
        self.renoises = self.policy.kernel == "renoise"
        drawn = config.sampling
        self.train_size = self._size(drawn.size, drawn.frames)
        supervised = [self._size(size, drawn.frames) for size in config.supervised_sizes or (drawn.size,)]
        self._records = RecordLosses(
            self.policy, self._conditions, config, self.train_size, supervised, self._asked_of_record
        )
        self._sampler = Sampler(self.policy, self._conditions, config, self._tag, self._asked)
        self._replay = replay.Replay(self._sampler, self.reference)
        self._forward = Forward(self._sampler)
        self._branches = Branches(self._sampler)
        self.provides = type(self).provides | ({"divergence"} if self._sampler.keeps_mean else set())
        # Made now, so that a scheduler that cannot make them is refused before anything is sampled.
        run = self._training(None)
        self._sampler.schedule(run.steps, run.size)

    def sample_as(self, config: ModelConfig) -> None:
        """See Adapter.sample_as. Raises Unsupported for what does not fit the model."""
        if config != self.config:
            self.config = config
            try:
                self._sample()
            except ValueError as error:
                raise Unsupported(f"the stage's sampling: {error}") from error

    # ---------------------------------------------------------------- what is trained

    def modules(self) -> dict[str, nn.Module]:
        return self._parts.modules()

    def select(self, components: Sequence[str] | None) -> None:
        """Choose the trained parts: denoiser, text_encoders, vae. See Parts.select."""
        self._parts.select(components)
        if self.config.keep_graph and "text_encoders" in self._parts.chosen:
            raise Unsupported(
                "model.keep_graph with components: text_encoders: prompts are encoded without a graph in a rollout; "
                "leave one of them out"
            )
        if self._parking and self._parking.device.type != "cpu":
            self._parking.settle(self._parking.device)
        self._reference = None
        self._conditions.trained = "text_encoders" in self._parts.chosen
        if self._elsewhere is not None:
            self._elsewhere.renew()
        self._forget()

    def divisible(self) -> Sequence[Divisible]:
        """See Adapter.divisible: the denoiser. Text encoders and autoencoder stay whole, trained or not."""
        denoisers, name = self.family.denoisers, self.family.name
        if "denoiser" not in self._parts.chosen:
            raise Unsupported(
                f"sharding: of components {sorted(self._parts.chosen)} none is divided; train the denoiser, or leave "
                "sharding.shards at 1"
            )
        if len(denoisers) > 1:
            raise Unsupported(
                f"sharding: family {name} has {len(denoisers)} denoisers, of which each step runs another; leave "
                "sharding.shards at 1"
            )
        if self.config.compile is not None:
            raise Unsupported("sharding: model.compile was not tried with divided weights; leave one of them out")
        if self.config.keep_graph:
            raise Unsupported(
                "sharding: model.keep_graph goes back through a rollout's own forwards, whose gathered weights are "
                "given back by then; leave it off, or sharding.shards at 1"
            )
        full, blocks = self.config.train == "full", self.family.block_names
        return [Divisible(module, blocks, saves_frozen=full) for module in denoisers.values()]

    def _tag(self) -> int | None:
        """Of the weights as they are now; None where no process has all of them."""
        return self._parts.tag() if self.shards is None else None

    def _forget(self) -> None:
        """Drop what frozen parts computed: they may be other ones now."""
        self._conditions.clear()
        self._records.clear()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return self._parts.trainable()

    def to(self, device: torch.device) -> None:
        if self._parking:
            self._parking.settle(device)
        else:
            for module in self.family.pipeline.components.values():
                if isinstance(module, nn.Module):
                    unread.move(module, device)

    # ---------------------------------------------------------------- how it samples

    def _size(self, size: int | tuple[int, int] | None, frames: int | None) -> Extent:
        pair = self.family.native_size() if size is None else (size, size) if isinstance(size, int) else size
        found = Extent(*pair, frames or self.family.native_frames)
        self.family.check_size(found)
        self.family.check_frames(found.frames)
        return found

    def plan(self, step: int, seed: int) -> StepPlan:
        options = dict(self.config.sampling.plan)
        return make_plan(options.pop("name", "full"), self.config.sampling.steps, step, seed, **options)

    def _training(self, plan: StepPlan | None) -> Run:
        return Run(self.config.sampling.steps, self.policy.scales, self.train_size, plan)

    def _evaluated(self) -> Run:
        """How evaluation samples, of the config as it is now."""
        steps, plan = self.config.evaluation_steps, None
        if self.config.evaluates_by_renoise:
            plan = StepPlan(steps, stochastic=tuple(range(steps)), trained=())
        return Run(steps, self.policy.eval_scales, self.eval_size, plan, stores=False)

    def unlike(self, other: Self) -> str | None:
        """See Adapter.unlike: another scale of LoRA's matrices, or of latents."""
        mine, theirs = (lora.scales(adapter.family) for adapter in (self, other))
        for name, scale in mine.items():
            if theirs.get(name) != scale:
                return f"alpha / rank of {name} is {theirs.get(name)}, not {scale:g}"
        if self.state() != other.state():
            return f"its latents' scale and shift are {short(other.state())}, not {short(self.state())}"
        return None

    # ---------------------------------------------------------------- prompts

    def usable(self, prompt: Prompt) -> str | None:
        """Why its pictures do not fit the family, or its grid the sizes, or None; warns, once each, where no text
        encoder reads the end of a text, and where the family reads no pictures."""
        problem = self._unfit(prompt) or self._undivided(prompt)
        if problem is None:
            self._warn(prompt)
            self._warn_of_pictures(prompt)
        return problem

    def _warn_of_pictures(self, prompt: Prompt) -> None:
        if self.family.pictures[1] == 0 and refs(prompt) and not self._warned_of_pictures:
            self._warned_of_pictures = True
            warnings.warn(
                f"prompt {prompt.id!r:.60}, and maybe others, has pictures (column images), which family "
                f"{self.family.name} does not read: only rewards see them",
                stacklevel=3,
            )

    def _unfit(self, prompt: Prompt) -> str | None:
        least, most = self.family.pictures
        shown, name = len(refs(prompt)), self.family.name
        if most == 0:
            named = shown > 0 and IMAGE in prompt.text
            return f"shows pictures, which family {name} does not read" if named else None
        if not least <= shown <= most:
            return f"shows {shown} pictures (column images); family {name} takes {least} to {most}"
        if shown and self.shards is not None:
            raise Unsupported(
                f"sharding: prompt {prompt.id!r:.60} shows pictures; family {name} runs rows whose pictures differ in "
                "size one after the other, which processes would not do alike; leave sharding.shards at 1"
            )
        if any(is_video(ref) for ref in refs(prompt)):
            return f"shows a video, which family {name} does not read"
        self._sources.bound = self.max_pixels or MAX_PIXELS
        found = [self.family.picture_problem(size) for size in self._sources.sizes(prompt)]
        return next((problem for problem in found if problem is not None), None)

    def _undivided(self, prompt: Prompt) -> str | None:
        """Why the record's grid (column grid) does not divide the pictures that are drawn of it, or None."""
        if prompt.record.get("grid") is None:
            return None
        try:
            grid = as_grid(prompt.record["grid"])
        except ValueError:  # rewards that cut pictures say so
            return None
        sizes = {"model.evaluation.size": self.eval_size[:2], "model.sampling.size": self.train_size[:2]}
        return next((f"has {found} ({name})" for name, size in sizes.items() if (found := grid.misfit(*size))), None)

    def _warn(self, prompt: Prompt) -> None:
        read = None if self._warned else self.family.unread(prompt.text)
        if read is not None:
            self._warned = True
            hint = " (model.max_sequence_length)" if self.family.takes_length else ""
            warnings.warn(
                f"prompt {prompt.id!r:.60} is longer than the {read} tokens that the text encoders read; of it, and of "
                f"others as long, the end is not seen{hint}",
                stacklevel=3,
            )

    def _asked(self, prompt: Prompt) -> Asked:
        if not self.family.pictures[1]:
            return Asked(prompt.text)
        # These pipelines say themselves where a picture stands.
        return Asked(prompt.text.replace(IMAGE, "").strip(), self._sources(prompt))

    def _asked_of_record(self, prompt: Prompt) -> Asked:
        """Raises ValueError for pictures that do not fit the family."""
        problem = self._unfit(prompt)
        if problem is not None:
            raise ValueError(f"record {prompt.id!r:.60} {problem}")
        return self._asked(prompt)

    # ---------------------------------------------------------------- sampling

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """See Adapter.rollout. The plan of stochastic and trained steps is shared by all groups of a step."""
        if self.config.engine.name == "servers":
            with self.synced(here):
                filled, _ = self._made_elsewhere().rollout(groups, n, step, seed, self.wanted)
                self._made_elsewhere().compare([sample for group in filled for sample in group.samples])
                return filled
        same = self.config.sampling.same_noise
        noise = [
            Noise(seed_of(seed, step, g.key, "start" if same else i, "start"), seed_of(seed, step, g.key, i, "steps"))
            for g in groups
            for i in range(n)
        ]
        return self._sampler.fill(groups, n, noise, self._wanted(self._training(self.plan(step, seed))))

    def _wanted(self, run: Run) -> Run:
        return replace(run, decodes="artifact" in self.wanted, shows="latents" in self.wanted)

    def branches(self, groups: Sequence[Group], n: int, width: int, step: int, seed: int) -> list[list[Group]]:
        """See Adapter.branches. With `same_noise` all ways of a group are one."""
        if self.config.engine.name == "servers":
            raise Unsupported("branches: servers draw whole samples; leave the stage's `branches` or the engine out")
        same = self.config.sampling.same_noise
        ways = [
            [
                Noise(seed_of(seed, step, g.key, "start" if same else way, "start"), seed_of(seed, step, g.key, way, k))
                for k in range(width)
            ]
            for g in groups
            for way in range(n // width)
        ]
        return self._branches(groups, n, ways, self._wanted(self._training(self.plan(step, seed))))

    @contextmanager
    def synced(self, once: Once) -> Iterator[None]:
        """See Adapter.synced: servers get the weights."""
        if self.config.engine.name != "servers" or self._in_sync:
            yield
            return
        self._made_elsewhere().push(once)
        self._in_sync = True
        try:
            yield
        finally:
            self._in_sync = False

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """See Adapter.meet."""
        if self.config.engine.name == "servers":
            self._made_elsewhere().pool.meet(run, title, claims)

    def apart(self) -> Apart:
        """See Adapter.apart: servers sample."""
        if self.config.engine.name != "servers":
            raise Unsupported(
                "asynchronous: the policy cannot sample while it is trained; set model.engine.name to servers "
                "(docs/async_rollouts.md)"
            )
        return ImageApart(self._made_elsewhere)

    def served(self) -> Policy:
        """See Adapter.served."""

        def weights() -> dict[str, nn.Parameter]:
            return {f"{n}.{key}": p for n, module in self.modules().items() for key, p in module.named_parameters()}

        return Policy.of(weights, alike(self.family, self.config))

    def _made_elsewhere(self) -> Elsewhere:
        """The way to the servers, made where it is not there."""
        if self._elsewhere is None:
            read = Sources(self.max_pixels or MAX_PIXELS) if self.family.pictures[1] else None  # threads use it

            def push() -> Push:
                return Push(list(self.trainable_parameters()), sorted(self._parts.chosen), self.state())

            @torch.no_grad()
            def own(samples: Sequence[Sample]) -> Tensor:
                columns = torch.arange(len(samples[0].actions.logp))
                parts = [self.logprobs([sample], columns).logp for sample in samples]
                return torch.cat(parts).float().cpu()

            self._elsewhere = Elsewhere(
                lambda: self.config, self.served(), push, lambda prompt: read(prompt) if read else (), own
            )
        return self._elsewhere

    def close(self) -> None:
        """Leave the servers; the next rollout asks them anew."""
        if self._elsewhere is not None:
            self._elsewhere.close()
            self._elsewhere = None

    @property
    def branch_steps(self) -> int:
        return len(self.plan(0, 0).trained)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """The ODE (or DDIM with eta 0), or re-noise steps, with the evaluation's steps, guidance and size; no
        trajectories."""
        return self._drawn(prompts, n, seed, self._evaluation)

    def evaluate_in(
        self, prompts: Sequence[Prompt], n: int, seed: int, steps: int, guidance: float | None
    ) -> list[Group]:
        """See Adapter.evaluate_in."""
        scales = self._evaluation.scales if guidance is None else self._evaluation.scales._replace(guidance=guidance)
        return self._drawn(prompts, n, seed, Run(steps, scales, self.eval_size))

    def _drawn(self, prompts: Sequence[Prompt], n: int, seed: int, run: Run) -> list[Group]:
        groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
        noise = [
            Noise(seed_of(seed, "eval", g.prompt.id, i), seed_of(seed, "eval", g.prompt.id, i, "steps"))
            for g in groups
            for i in range(n)
        ]
        return self._evaluator.fill(groups, n, noise, self._wanted(run))

    # ---------------------------------------------------------------- what `mmrl plan` estimates from

    def weights(self) -> Iterator[Tensor]:
        for module in self.modules().values():
            yield from module.parameters()
            yield from module.buffers()

    def parts(self) -> Mapping[str, Sequence[Tensor]]:
        """See Adapter.parts."""
        family = self.family
        apart = {"text encoders": list(family.text_encoders.values()), "autoencoder": [family.vae]}
        found = {name: [t for m in some for t in (*m.parameters(), *m.buffers())] for name, some in apart.items()}
        beside = {id(t) for tensors in found.values() for t in tensors}
        return {"policy": [t for t in self.weights() if id(t) not in beside], **found}

    def parked(self) -> Mapping[str, Sequence[Tensor]]:
        """See Adapter.parked."""
        found = self._parking.at_rest() if self._parking else {}
        return {name: found[part] for part, name in PARKED.items() if part in found}

    def kept_graphs(self, sample: Sample) -> tuple[int, Callable[[], Any]] | None:
        """See Adapter.kept_graphs: the trained steps' forwards, with `keep_graph`."""
        if not self.config.keep_graph or not len(sample.actions.mask):
            return None
        return int(sample.actions.mask.sum()), lambda: self.logprobs([sample], torch.zeros(1, dtype=torch.long))

    def cost(self, prompt: Prompt) -> dict[str, int]:
        """Tokens of the pictures that it shows, which the denoiser sees beside those of each that is drawn."""
        return told.shown_tokens(self.family, self._sources.sizes(prompt)) if self.family.pictures[1] else {}

    def plan_lines(self) -> list[str]:
        """See Adapter.plan_lines."""
        return [
            *told.weight_lines(self.config, self.family),
            *told.run_lines(self.policy, "training", self._training(self.plan(0, 0))),
            *told.run_lines(self.policy, "evaluation", self._evaluation),
            *told.denoiser_lines(self.policy, self._training(self.plan(0, 0))),
        ]

    def blank(self, prompt: Prompt) -> Sample:
        """See Adapter.blank: the trained steps of a plan."""
        return self._sampler.blank(prompt, self._training(self.plan(0, 0)))

    def deep_modules(self) -> Iterable[nn.Module]:
        """See Adapter.deep_modules."""
        return self.family.denoisers.values()

    def forwards(self, sample: Sample) -> int:
        """See Adapter.forwards: the steps of a trajectory, trained or not; branches of guidance count as one."""
        return self.config.sampling.steps

    def trial(self, samples: Sequence[Sample], n: int) -> None:
        """See Adapter.trial."""
        self._sampler.trial([s.prompt for s in samples for _ in range(n)], self._training(None))

    # ---------------------------------------------------------------- replay

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """See replay.slices."""
        return replay.slices(samples, budget)

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        if entropy:
            raise Unsupported("entropy: that of a denoising step depends on its noise only, not on the policy")
        if not self._parts.act:
            raise Unsupported("components: [vae] has no log-probability; train the denoiser or the text_encoders")
        return self._replay(samples, columns, self._training(None), reference)

    def velocities(
        self,
        samples: Sequence[Sample],
        times: Tensor,
        seeds: Sequence[int],
        clean: Tensor | None = None,
        guidance: float | None = None,
    ) -> Noised:
        """See Adapter.velocities, and Forward."""
        return self._forward(samples, times, seeds, self._acting_run(), clean, guidance)

    def sampler_times(self) -> Tensor:
        """See Adapter.sampler_times, and Forward."""
        return self._forward.sampler_times(self._training(None))

    def generated(self, samples: Sequence[Sample], places: Tensor) -> Tensor:
        """See Adapter.generated, and Forward."""
        return self._forward.generated(samples, places, self._acting_run())

    def levels(self) -> Tensor:
        """See Adapter.levels, and Forward."""
        return self._forward.levels(self._acting_run())

    def block_widths(self, count: int) -> list[int]:
        return [self.family.block_width] * len(spread(self.family, count))

    def block_features(
        self, samples: Sequence[Sample], times: Tensor, seeds: Sequence[int], clean: Tensor, count: int
    ) -> list[Tensor]:
        """See Adapter.block_features, and blocks.py."""
        found = self._forward.features(samples, times, seeds, self._acting_run(), clean, count)
        if self.shards is not None:
            self.shards.seen(self.family.denoiser, found)
        return found

    def solved(self, groups: Sequence[Group], n: int, seed: int, steps: int, guidance: float | None) -> list[Group]:
        """See Adapter.solved; no pictures, only latents."""
        plan = StepPlan(steps, stochastic=(), trained=())
        scales = self.policy.scales if guidance is None else self.policy.scales._replace(guidance=guidance)
        run = Run(steps, scales, self.train_size, plan, decodes=False)
        noise = [Noise(seed_of(seed, g.key, i, "solved"), 0) for g in groups for i in range(n)]
        return self._sampler.fill(groups, n, noise, run)

    def encoded(self, records: Sequence[dict[str, Any]]) -> list[Sample]:
        """See Adapter.encoded."""
        return self._records.samples(records)

    def ends(self, samples: Sequence[Sample]) -> Tensor:
        """See Adapter.ends."""
        return ends(samples)

    def _acting_run(self) -> Run:
        if not self._parts.act:
            raise Unsupported("components: [vae] has no velocity; train the denoiser or the text_encoders")
        return self._training(self.plan(0, 0))

    # ---------------------------------------------------------------- supervised

    def record_columns(self, objective: str) -> Sequence[str]:
        column = self.family.draws.column
        return (column, "images") if self.family.pictures[0] else (column,)

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        """Mean loss over records {"prompt", "image" or "video"}: "sft" (flow matching or denoising), "autoencoder"."""
        if objective not in self.objectives:
            raise ValueError(f"objective {objective!r}: the image adapter knows {', '.join(self.objectives)}")
        trained = {"vae"} if objective == "autoencoder" else {"denoiser", "text_encoders"}
        if not trained & self._parts.chosen:
            raise Unsupported(
                f"components: {sorted(self._parts.chosen)} get no gradient from objective {objective}, which trains "
                f"{' and '.join(sorted(trained))}"
            )
        return getattr(self._records, objective)(records, seed)

    def finish(self, objective: str, records: Sequence[dict[str, Any]]) -> None:
        """After an autoencoder stage: the latents' scale and shift."""
        if objective == "autoencoder":
            self._records.standardise(records)

    def given(self, prompt: Prompt, completions: Sequence[Any]) -> list[Sample]:
        """See Adapter.given: pictures, scaled and cropped to the training size; for stages on the forward process."""
        if self.family.native_frames > 1:
            raise Unsupported(f"family {self.family.name} draws films, and candidates of pairs are single pictures")
        if (problem := self._unfit(prompt)) is not None:
            raise ValueError(f"prompt {prompt.id!r:.60} {problem}")
        return given_pictures(prompt, completions, self._records.latents, self.max_pixels or MAX_PIXELS)

    # ---------------------------------------------------------------- disk

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights: the latents' scale and shift."""
        return self.family.latent_state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.family.load_latent_state(state)
        self._forget()

    def save(self, folder: Path) -> None:
        """A pipeline folder (full training), or LoRA weights that `load_lora_weights` takes."""
        if self.config.train == "full":
            self.family.pipeline.save_pretrained(folder, safe_serialization=True)
            note_float32(folder, self.family.pipeline)
        else:
            lora.save(self.family, folder)
