"""The adapter of language models. An action is one token that the policy sampled."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from mmrl.engines.base import Completion, Once, Sampling, here
from mmrl.engines.decoder import Decoder, Row, decoder_of
from mmrl.engines.folded_blocks import WORTH
from mmrl.engines.holding import Holder
from mmrl.engines.load import longest_row
from mmrl.engines.transformers import TransformersEngine
from mmrl.engines.ways import Ways, find_line, find_ways, likely_ways, trial_ids
from mmrl.environments.base import Environment, drawn_by
from mmrl.media import MediaError, pictures_of, sounds_of
from mmrl.modalities import hollow, unread
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.apart import Apart
from mmrl.modalities.compiling import compile_parts, tokenwise
from mmrl.modalities.quiet import quiet
from mmrl.modalities.shards import Divisible
from mmrl.modalities.tokens import given, loading, stepping
from mmrl.modalities.tokens.annealing import temperatures
from mmrl.modalities.tokens.apart import TokensApart
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.conversation import Rules, converse
from mmrl.modalities.tokens.locked import Locked
from mmrl.modalities.tokens.logprobs import Head, token_features, token_logprobs
from mmrl.modalities.tokens.outside import OutsideEngine, Shifts, prompt_room, section
from mmrl.modalities.tokens.precise import finder
from mmrl.modalities.tokens.prompts import PromptEncoder, Unfit
from mmrl.modalities.tokens.reading import Reader
from mmrl.modalities.tokens.replay import (
    Replayed,
    Way,
    cut_rows,
    end_states,
    recomputing,
    replayed,
    trained_length,
    trajectory_of,
)
from mmrl.modalities.tokens.rope import fix_longrope
from mmrl.modalities.tokens.scoring import ScoreHead, scored_places
from mmrl.modalities.tokens.supervised import OBJECTIVES, PRECISE, supervised_loss
from mmrl.modalities.tokens.truncation import kept_mass
from mmrl.modalities.tokens.trying import Divided
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory

Made = TypeVar("Made")


class TokenAdapter(Adapter):
    """A transformers language model as a policy over tokens; a modality says how it is loaded and what it reads.

    Trajectories store the ids of the prompt and of what is behind it, and nothing is ever encoded again: text is made
    for rewards only. With annealing they store each token's temperature too, in a conversation each token's turn.
    """

    Config: ClassVar[type[TokenModelConfig]] = TokenModelConfig
    config: TokenModelConfig
    objectives = OBJECTIVES
    provides = frozenset({"reference", "entropy"})
    holds_conversations = True
    # What find_line has found of weights that are divided; None where find_ways is asked.
    _line: int | None = None
    # Tokens of higher probability than exp(-this) have gradients that are mostly float32 rounding (`mmrl check`).
    certain_logp = 1e-3

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__(config)
        quiet("transformers")
        self.precision = getattr(torch, config.dtype)
        self.deterministic_evaluation = config.evaluation.temperature == 0
        self.model, self.tokenizer = self._load()
        self._hollow = hollow.is_wanted()
        hollow.fill([self.model])
        self.banned = self._never_sampled()
        self.head = ScoreHead.of(config, self._head().weight.shape[1])
        self.stop_ids = loading.stop_ids(self.model, self.tokenizer)
        self.context = fix_longrope(self.model, config) or loading.context(self.model)
        if not self._hollow and not unread.is_unread(self.model):
            self._check_model()
        if config.compile is not None and not self._hollow:
            name = type(self.model).__name__
            compile_parts(tokenwise(self._decoder().module, self._block_names()), config.compile, name)
        self._longest = longest_row(section(config))
        limit = loading.prompt_limit(config, self.context)
        self.reader = self._reader(prompt_room(config, limit, self._longest))
        self.reader.found = finder(config.precise)
        self.stop_ids = self.reader.prompts.stop_ids
        self._outside: OutsideEngine | None = None
        self._in_sync = False
        self._unreplayed: list[tuple[list[Sample], Sampling]] = []  # what the engine has sampled

    # ---------------------------------------------------------------- what a modality says

    def _load(self) -> tuple[Any, Any]:
        """(model, tokenizer); see loading.trained."""
        raise NotImplementedError

    def _write_base(self, folder: Path) -> None:
        """A model that was built, not loaded, as it was before training, for engines that load it from disk."""
        raise NotImplementedError

    def _engine_options(self) -> dict[str, Any]:
        """Options of an engine with its own copy of the model, where the config has none."""
        return {}

    def _never_sampled(self) -> tuple[int, ...]:
        """Ids without a share in the distribution."""
        return loading.unused_ids(self.model, self.tokenizer)

    def _reader(self, limit: int) -> Reader:
        """What the policy reads and says. limit: tokens of a prompt."""
        encoder = PromptEncoder(self.tokenizer, self.config, limit, self.stop_ids)
        return Reader(self.tokenizer, encoder, self.config.skip_special_tokens)

    def _decoder(self) -> Decoder:
        """The layers of the policy as it is now."""
        return Decoder(decoder_of(self.model))

    # ---------------------------------------------------------------- the policy

    def _check_model(self) -> None:
        """Raises ValueError for a model that computes something else than is thought of it here."""
        loading.check_head(self.model, self._head())
        if self.config.gradient_checkpointing:
            loading.check_train_mode(self.model)

    def check_divided(self) -> None:
        """See Adapter.check_divided. What is asked for a rollout alone, which has all weights, is tried there."""
        assert self.shards is not None
        with torch.no_grad():
            self._run(self._check_model)
        ids = trial_ids(self.model.get_output_embeddings().weight.shape[0], self.banned)
        with self._autocast():
            here = Divided(self.shards, self.model)
            self._line = find_line(self._decoder(), ids, self.config.gradient_checkpointing, here)

    def to(self, device: torch.device) -> None:
        unread.move(self.model, device)
        if self.head is not None:
            self.head.to(device)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Those of the model, and `head.weight` where there is a scalar head."""
        found = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return found | ({"head.weight": self.head.weight} if self.head is not None else {})

    def divisible(self) -> Sequence[Divisible]:
        """See Adapter.divisible: the layers of the decoder. Towers stay whole: not every row shows them something."""
        name, config = type(self.model).__name__, self.config
        if config.compile is not None:
            raise Unsupported("sharding: model.compile was not tried with divided weights; leave one of them out")
        if self._decoder().prefix_attention:
            raise Unsupported(
                f"sharding: {name} runs its prompts by themselves, as many times as a micro-batch has prompts; leave "
                "sharding.shards at 1"
            )
        if not unread.is_unread(self.model):
            _ = self._ways  # tried while no other process has to take part
        return [Divisible(self.model, self._block_names(), self._never_divided(), True, config.train == "full")]

    def _block_names(self) -> Sequence[str]:
        """Class names of the layers."""
        return sorted(getattr(self.model, "_no_split_modules", None) or ())

    def _never_divided(self) -> Sequence[nn.Module]:
        """Parts of the model that not every micro-batch runs."""
        return ()

    def _run(self, compute: Callable[[], Made]) -> Made:
        """What `compute` gives, which runs the model."""
        return compute() if self.shards is None else self.shards.run(self.model, compute)

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads, with the tokenizer; for LoRA, peft's own files. A scalar head is in
        its folder `head`."""
        self.model.save_pretrained(folder, safe_serialization=True)
        if self.config.train == "full":
            self.tokenizer.save_pretrained(folder)
        if self.head is not None:
            self.head.save(folder / "head")

    def state(self) -> dict[str, Any]:
        return {} if self.head is None else {"head": self.head.notes}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.head is not None:
            self.head.notes = dict(state.get("head", {}))

    @property
    def score_notes(self) -> Mapping[str, Any]:
        """See Adapter.score_notes."""
        return {} if self.head is None else self.head.notes

    @score_notes.setter
    def score_notes(self, notes: Mapping[str, Any]) -> None:
        self._scoring().notes = dict(notes)

    # ---------------------------------------------------------------- sampling

    @property
    def environment(self) -> Environment | None:
        """What the policy sees after each of its turns, where the record names none; None ends after the first."""
        return self.reader.environment

    @environment.setter
    def environment(self, environment: Environment | None) -> None:
        self.reader.environment = environment

    def usable(self, prompt: Prompt) -> str | None:
        """Why a prompt cannot be rolled out (too long, no chat template ...), or None; nothing is ever cut.

        Raises MediaError for a picture of it that cannot be used.
        """
        try:
            self.reader.opened(prompt, self.reader.context(prompt))
        except Unfit as error:
            return error.reason
        except MediaError:
            raise
        except ValueError as error:  # of the environment, or of the template
            return str(error)
        return None

    def check_media(self, prompt: Prompt) -> None:
        self.reader.check_media(prompt)

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """See Adapter.rollout. Outside of `synced`, an engine of its own gets the weights first."""
        s = self.config.sampling
        heat = temperatures(s.annealing, step, s.max_tokens) if s.annealing else ()
        sampling = Sampling(s.temperature, s.top_p, s.top_k, s.max_tokens, self.stop_ids, self.banned, heat)
        seeds = [[seed_of(seed, step, g.key, i) for i in range(n)] for g in groups]
        with self.synced(here):
            return self._sampled(
                groups, n, sampling, seeds, self._outside or self._own_engine(sampling.max_tokens), step
            )

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """Completions at the evaluation's temperature, 0 being greedy, by the policy itself."""
        e = self.config.evaluation
        budget = e.max_tokens or self.config.sampling.max_tokens
        sampling = Sampling(e.temperature, max_tokens=budget, stop_ids=self.stop_ids, banned=self.banned)
        groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
        seeds = [[seed_of(seed, "eval", p.id, i) for i in range(n)] for p in prompts]
        return self._sampled(groups, n, sampling, seeds, self._own_engine(sampling.max_tokens), None)

    def weights(self) -> Iterator[Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()
        if self.head is not None:
            yield self.head.weight

    def blank(self, prompt: Prompt) -> Sample:
        """See Adapter.blank: a completion (in a conversation, a first turn) that uses its whole budget."""
        opened = self.reader.opened(prompt, self.reader.context(prompt))
        count = max(1, min(self.config.sampling.max_tokens, self._rules().room - len(opened.row)))
        ids = torch.full((count,), self.stop_ids[0])
        tensors = {"prompt": opened.row.ids, "ids": ids}
        trajectory = Trajectory(torch.zeros(count), torch.ones(count, dtype=torch.bool), tensors)
        return Sample(prompt, 0, "", trajectory, "length", media=tuple(opened.media))

    def cost(self, prompt: Prompt) -> dict[str, int]:
        """See Adapter.cost: tokens of a prompt, and how many of them are pictures and sounds."""
        opened = self.reader.opened(prompt, self.reader.context(prompt))
        seen, heard = ([one.tokens for one in met] for met in (pictures_of(opened.media), sounds_of(opened.media)))
        costs = {f"tokens of {kind}": sum(met) for kind, met in (("pictures", seen), ("sounds", heard)) if met}
        return {"tokens": len(opened.row), **costs}

    def trial(self, samples: Sequence[Sample], n: int) -> None:
        """See Adapter.trial: as many rows as are decoded together."""
        s = self.config.sampling
        if any(drawn_by(self.reader.environment_of(sample.prompt)) for sample in samples):
            samples, n = [sample for sample in samples for _ in range(n)], 1  # each sample has a prompt of its own
        together = max(1, self.config.rollout_batch // n)
        prompts = [self.reader.rows(sample)[0] for sample in samples[:together]]
        sampling = Sampling(s.temperature, s.top_p, s.top_k, s.max_tokens, self.stop_ids, self.banned)
        with self._autocast():
            self._own_engine().longest_step(prompts, min(n, self.config.rollout_batch), sampling)

    @contextmanager
    def synced(self, once: Once) -> Iterator[None]:
        """Rollouts between two updates; see Adapter.synced."""
        if self.config.engine.name == "transformers" or self._in_sync:
            yield
            return
        engine = self._made_outside()
        engine.sync(self.model, self.save, once, self.shards)
        self._unreplayed = []
        self._in_sync = True
        try:
            yield
        finally:
            self._in_sync = False
            engine.rest()

    @property
    def samples_divided(self) -> bool:
        """See Adapter.samples_divided: an engine in each process, or adapters, which are small."""
        engine = self.config.engine
        served = engine.options.get("mode") == "server" and not engine.options.get("lora")
        return self.shards is not None and engine.name != "transformers" and not served

    def replay_sampled(self) -> None:
        """See Adapter.replay_sampled: chunk by chunk, as they were sampled."""
        waiting, self._unreplayed = self._unreplayed, []
        for samples, sampling in waiting:
            self._replay_sampled(samples, sampling)

    def _replay_sampled(self, samples: Sequence[Sample], sampling: Sampling) -> None:
        engine = self._made_outside()
        self._replace_logprobs(samples)
        cut = sampling.top_p < 1 or sampling.top_k > 0
        engine.compare(samples, self._cut_shifts(samples, sampling, engine.tolerance) if cut else None)

    def _made_outside(self) -> OutsideEngine:
        """The engine with a copy of the weights, made where it is not there."""
        if self._outside is None:
            longest = self._longest or self.context
            self._outside = OutsideEngine(
                self.config, self.model, self.tokenizer, self._write_base, self._engine_options(), longest
            )
        return self._outside

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """See Adapter.meet."""
        if self.config.engine.options.get("mode") == "server":
            self._made_outside().meet(run, title, claims)

    def apart(self) -> Apart:
        """See Adapter.apart: the engine's servers sample."""
        s = self.config.sampling
        sampling = Sampling(s.temperature, max_tokens=s.max_tokens, stop_ids=self.stop_ids, banned=self.banned)

        def send(once: Once) -> None:
            self._made_outside().sync(self.model, self.save, once, self.shards)

        def own(samples: Sequence[Sample]) -> None:
            self._replace_logprobs(samples)
            self._made_outside().compare(samples)

        if not isinstance(self.reader, Locked):  # from now on threads use it, too
            self.reader = cast(Any, Locked(self.reader))
        return TokensApart(self.config, self.reader, sampling, self._rules, self._made_outside, send, own)

    def close(self) -> None:
        """Give back what an engine of its own holds; the next rollout makes it anew."""
        if self._outside is not None:
            self._outside.close()
            self._outside = None

    def next_steps(
        self,
        items: Sequence[tuple[Prompt, Sequence[Completion]]],
        seeds: Sequence[Sequence[int]],
        greedy: bool,
        end: str,
        max_tokens: int,
    ) -> list[list[Completion]]:
        heat = 0.0 if greedy else self.config.sampling.temperature
        sampling = Sampling(heat, max_tokens=max_tokens, stop_ids=self.stop_ids, banned=self.banned)
        with self._autocast():
            return stepping.next_steps(self.reader, self._own_engine(), items, seeds, sampling, end)

    def stepped(self, prompt: Prompt, path: Sequence[Completion], steps: Sequence[Completion]) -> Sample:
        return stepping.stepped(self.reader, prompt, path, steps)

    def _own_engine(self, room: int = 0) -> TransformersEngine:
        """Of the weights as they are now. room: tokens that a row may get, where that is known."""
        head, decoder = self._head(), self._decoder()
        head = head.for_few_rows() if room >= WORTH and not self._hollow else head
        return TransformersEngine(self.model, head.logits, self.config.rollout_batch, decoder, self._ways)

    @cached_property
    def _ways(self) -> Ways:
        """How the decoder may be run, asked where it is first run: on its device, in its precision."""
        if self._hollow:  # no numbers to compare
            return likely_ways(self._decoder(), self.config.gradient_checkpointing)
        with self._autocast():
            ids = trial_ids(self._head().weight.shape[0], self.banned)
            ways = find_ways(
                self._decoder(), ids, self.config.gradient_checkpointing and self._line is None, self._line
            )
        if not ways.cached and self.config.engine.name == "transformers":
            warnings.warn(
                f"{type(self.model).__name__}: its state cannot be kept from token to token here ({ways.why}), so each "
                "token is computed from its whole row: sampling is slow",
                stacklevel=2,
            )
        return ways

    def _sampled(
        self,
        groups: Sequence[Group],
        n: int,
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        engine: TransformersEngine | OutsideEngine,
        step: int | None,
    ) -> list[Group]:
        def generate(rows: Sequence[Row], count: int, own: Sequence[Sequence[int]]) -> list[list[Completion]]:
            with self._autocast():
                return engine.generate(rows, count, sampling, own)

        room = engine.max_model_len if isinstance(engine, OutsideEngine) else None
        rules, budget, heat = self._rules(room), sampling.max_tokens, sampling.annealing
        filled = converse(self.reader, groups, n, seeds, generate, rules, per_turn=budget, heat=heat, step=step)
        if isinstance(engine, OutsideEngine):
            self._unreplayed.append(([s for g in filled for s in g.samples], sampling))
            if not self.samples_divided:
                self.replay_sampled()
        return filled

    def _rules(self, room: int | None = None) -> Rules:
        """room: tokens of a row that the engine takes, where it is not the policy itself."""
        return Rules(self.config.conversation, min(self.context or 2**31, room or 2**31), self.stop_ids)

    @torch.no_grad()
    def _replace_logprobs(self, samples: Sequence[Sample]) -> None:
        """Keep what another engine reported as `logp_sampler`; the trajectory's are the trainer's own."""
        for part in self.slices(samples, self.config.rollout_batch * 256):
            logp = self.logprobs([samples[r] for r in part.rows], part.columns).logp.cpu()
            for line, row in zip(logp, part.rows.tolist()):
                trajectory = trajectory_of(samples[row])
                trajectory.tensors["logp_sampler"] = trajectory.logp
                trajectory.logp = line[: len(trajectory.logp)] * trajectory.mask

    @torch.no_grad()
    def _cut_shifts(self, samples: Sequence[Sample], sampling: Sampling, slack: float) -> Shifts:
        """How much higher log-probs are in what top-k and top-p leave; slack: see kept_mass."""
        found = [(torch.zeros(0), torch.zeros(0)) for _ in samples]
        for part in self.slices(samples, self.config.rollout_batch * 256):
            tokens = self._replayed([samples[r] for r in part.rows], part.columns)
            least, most = kept_mass(tokens.hidden, self._head(), tokens.temperature, sampling, slack)
            ends = tokens.valid.sum(1).cumsum(0).tolist()
            for row, start, end in zip(part.rows.tolist(), [0, *ends], ends):
                found[row] = (-most[start:end].cpu(), -least[start:end].cpu())
        return found

    # ---------------------------------------------------------------- replay

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Rows of similar length together, whole, up to their last trained token; budget in tokens with prompts."""
        lengths = [trained_length(s) for s in samples]
        rows = [i for i, length in enumerate(lengths) if length]
        pairs = [self.reader.rows(samples[i], lengths[i]) for i in rows]
        for part in cut_rows([p for p, _ in pairs], [c for _, c in pairs], budget, self._way):
            chosen = [rows[i] for i in part]
            yield Slice(torch.tensor(chosen), torch.arange(max(lengths[i] for i in chosen)))

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        """See Adapter.logprobs; 0 at tokens that are not trained."""

        def compute() -> tuple[Replayed, Tensor, Tensor | None]:
            tokens = self._replayed(samples, columns)
            logp, spread = token_logprobs(tokens.hidden, tokens.ids, self._head(), tokens.temperature, entropy)
            return tokens, logp, spread

        tokens, logp, spread = self._run(compute)
        found = ActionLogProbs(tokens.by_row(logp), entropy=None if spread is None else tokens.by_row(spread))
        if reference:
            with self.reference():
                found.logp_reference = self.logprobs(samples, columns).logp
        return found

    @torch.no_grad()
    def features(self, samples: Sequence[Sample], columns: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Numbers of actions by name, each [b, t] float32, 0 where a token is not trained: those of
        mmrl.core.token_features at the sampling temperature, "logp_reference", and "token_class" (1: the token has to
        be exact, as `model.precise` finds, otherwise 0).

        Raises ValueError for an unknown name.
        """
        found: dict[str, Tensor] = {}
        rest = [name for name in names if name not in ("logp_reference", "token_class")]
        if "logp_reference" in names:
            with self.reference():
                found["logp_reference"] = self.logprobs(samples, columns).logp
        if "token_class" in names:
            found["token_class"] = self._precise(samples, columns).to(self.model.device)
        if rest:

            def compute() -> tuple[Replayed, dict[str, Tensor]]:
                tokens = self._replayed(samples, columns)
                return tokens, token_features(tokens.hidden, tokens.ids, self._head(), rest, tokens.temperature)

            tokens, flat = self._run(compute)
            found |= {name: tokens.by_row(values) for name, values in flat.items()}
        return found

    def _precise(self, samples: Sequence[Sample], columns: Tensor) -> Tensor:
        """[b, t] float32: 1 at trained tokens that have to be exact."""
        columns = columns.cpu()
        made = torch.zeros(len(samples), len(columns))
        for line, sample in zip(made, samples):
            stored = trajectory_of(sample)
            every = torch.zeros(len(stored.mask))
            every[stored.mask] = self.reader.precise(sample.prompt, stored.tensors["ids"][stored.mask])
            inside = columns < len(every)
            line[inside] = every[columns[inside]]
        return made

    # ---------------------------------------------------------------- scores

    def scores(self, samples: Sequence[Sample], reference: bool = False) -> Tensor:
        """See Adapter.scores: the scalar head on the state of the last trained token, once it is read, or of each in
        the trajectory's `ends`."""
        if reference:
            with self.reference():
                return self.scores(samples)
        head = self._scoring()
        rows = [self.reader.rows(s) for s in samples]

        def compute() -> Tensor:
            with recomputing(self.model, self.config.gradient_checkpointing), self._autocast():
                return end_states(self._decoder(), rows, [scored_places(s) for s in samples], self._way)

        return head(self._run(compute))

    def steps(self, prompt: Prompt, texts: Sequence[str]) -> Sample:
        """See Adapter.steps: each step is encoded by itself, as a search samples it, and no end of a turn follows."""
        return given.stepwise(self.reader, self._rules(), prompt, texts, self.banned)

    def _scoring(self) -> ScoreHead:
        if self.head is None:
            raise Unsupported("the model has no scalar head: set model.head: {outputs: 1}")
        return self.head

    @property
    def _way(self) -> Way:
        """How rows may be replayed together, with gradient or without as it is now."""
        if self._line is not None:
            return Way(False, self._line)
        recomputed = self.config.gradient_checkpointing and torch.is_grad_enabled()
        share = self._ways.recomputed if recomputed else self._ways.shared
        # Divided weights: each micro-batch has one forward, as on all processes.
        return Way(share and self.shards is None, self._ways.line)

    def _replayed(self, samples: Sequence[Sample], columns: Tensor) -> Replayed:
        rows = [self.reader.rows(s) for s in samples]
        heat = self.config.sampling.temperature
        with recomputing(self.model, self.config.gradient_checkpointing), self._autocast():
            return replayed(self._decoder(), samples, rows, columns.cpu(), self._way, heat)

    def _head(self) -> Head:
        compute = torch.float32 if self.config.fp32_head else self.precision
        return Head.of(self.model, compute, self.banned, self.config.logits_chunk)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self.precision)

    # ---------------------------------------------------------------- given answers and records

    def given(self, prompt: Prompt, completions: Sequence[given.Answer]) -> list[Sample]:
        """Samples of given answers: texts, ids that are taken as they are, or a conversation's turns as texts, between
        which the environment speaks. Their log-probs are not known: 0.

        Raises ValueError for an answer that does not fit the context, or whose turns do not fit the environment.
        """
        made: list[Sample] = []
        for index, answer in enumerate(completions):
            made += given.said(self.reader, self._rules(), prompt, index, answer, self.banned)
        return made

    def completion(self, sample: Sample) -> Any:
        """The answer as its text, or as ids where that text, given again, would be another: without the special tokens
        that stand before its end, or behind what the chat template writes before an answer."""
        if sum(turn.trained for turn in sample.turns) > 1:
            return super().completion(sample)
        ids = trajectory_of(sample).tensors["ids"].tolist()
        inside = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        if not self.reader.prompts.turns.special.isdisjoint(inside):
            return ids
        (again,) = given.ids_of(self.reader, sample.prompt.record, sample.artifact)
        said, meant = (self.tokenizer.decode(i, skip_special_tokens=True) for i in (inside, again.tolist()))
        return super().completion(sample) if meant.startswith(said) else ids

    def shown_as(self, sample: Sample) -> dict[str, Any]:
        """See Adapter.shown_as: what the environment drew."""
        drawn = drawn_by(self.reader.environment_of(sample.prompt))
        return {name: sample.info[name] for name in drawn if name in sample.info}

    def drawn(self, prompt: Prompt, seed: int, step: int) -> Prompt:
        """See Adapter.drawn: what the environment draws, as columns of the record."""
        return self.reader.drawn(prompt, seed, step)

    def record_columns(self, objective: str) -> Sequence[str]:
        """Columns that a supervised record must have, besides `prompt` or `messages`."""
        return ("completion",)

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        """Loss of records {"prompt" or "messages", "completion"} by one of supervised.OBJECTIVES."""
        samples: list[Sample] = []
        for record in records:
            prompt, answer = given.answer_of(record)
            samples += self.given(prompt, [answer])
        columns = torch.arange(max(len(trajectory_of(s).mask) for s in samples))

        def compute() -> tuple[Replayed, Tensor]:
            tokens = self._replayed(samples, columns)
            return tokens, token_logprobs(tokens.hidden, tokens.ids, self._head())[0]

        tokens, logp = self._run(compute)
        counts = tokens.valid.sum(1).tolist()
        weight = None
        if objective == PRECISE:
            marked = self._precise(samples, columns).to(logp.device)[tokens.valid]
            weight = 1 + (self.config.precise_weight - 1) * marked
        return supervised_loss(logp, objective, counts, self.config.first_share, weight)

    def supervised_weight(self, records: Sequence[dict[str, Any]]) -> float:
        """Tokens that the mean of `supervised_loss` is over."""
        return float(given.token_count(self.reader, records))
