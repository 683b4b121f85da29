"""The adapter of language models. An action is one token that the policy sampled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.engines.base import Completion, Once, Sampling, here
from mmrl.engines.decoder import Decoder, Row
from mmrl.engines.transformers import TransformersEngine
from mmrl.environments.base import Context, Environment, Episode, Reply
from mmrl.environments.load import load_environment
from mmrl.media import Media, Size
from mmrl.modalities.adapter import Adapter
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.annealing import temperatures
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.conversation import Generate, Opened, converse
from mmrl.modalities.tokens.logprobs import Head, token_features, token_logprobs
from mmrl.modalities.tokens.outside import OutsideEngine
from mmrl.modalities.tokens.prompts import PromptEncoder, Unfit
from mmrl.modalities.tokens.replay import action_states, cut_rows
from mmrl.modalities.tokens.supervised import OBJECTIVES, supervised_loss
from mmrl.pictures import PictureError
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory, Turn


class TokenAdapter(Adapter):
    """A transformers language model as a policy over tokens; a modality says how it is loaded and what it reads.

    Trajectories store the ids of the prompt and of what is behind it, and nothing is ever encoded again: text is made
    for rewards only. With annealing they store each token's temperature too, in a conversation each token's turn.
    environment: what the policy sees after each of its turns; None ends after the first.
    """

    Config: type[TokenModelConfig] = TokenModelConfig
    environment: Environment | None = None
    objectives = OBJECTIVES
    provides = frozenset({"reference", "entropy"})
    holds_conversations = True
    # Tokens of higher probability than exp(-this) have gradients that are mostly float32 rounding (`mmrl check`).
    certain_logp = 1e-3

    def __init__(self, config: TokenModelConfig) -> None:
        self.config = config
        self.model, self.tokenizer = self._load()
        self.banned = self._never_sampled()
        self.stop_ids = loading.stop_ids(self.model, self.tokenizer)
        loading.check_head(self.model, self._head())
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.prompts = self._encoder(self._prompt_limit())
        self._environments: dict[str, Environment] = {}  # of records that name their own
        self._outside: OutsideEngine | None = None
        self._in_sync = False

    # ---------------------------------------------------------------- what a modality says

    def _load(self) -> tuple[nn.Module, Any]:
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

    def _encoder(self, limit: int) -> PromptEncoder:
        return PromptEncoder(self.tokenizer, self.config, limit)

    def _decoder(self) -> Decoder:
        """The layers of the policy as it is now."""
        return Decoder(self.model.base_model)

    def sizes(self, prompt: Prompt) -> Sequence[Size]:
        """Sizes of a prompt's pictures."""
        return ()

    def opened(self, prompt: Prompt, context: Context) -> Opened:
        """A context as the policy reads it. Raises Unfit for one that cannot be used."""
        if reason := self.prompts.unfit(context):
            raise Unfit(prompt, reason)
        ids = self.prompts.ids(context)
        self.prompts.check_length(prompt, len(ids))
        return Opened(Row(ids), [], [Turn(m["role"], m["content"]) for m in context.messages])

    def replied(self, prompt: Prompt, reply: Reply, ended: bool) -> tuple[Row, list[Media]]:
        """What an environment adds behind a turn of the policy; ended: the turn ended with an EOS."""
        if reply.views:
            raise ValueError("the environment shows pictures, which this modality does not read")
        return Row(self.prompts.reply_ids(reply.text, reply.role, ended)), []

    def rows(self, sample: Sample, length: int | None = None) -> tuple[Row, Row]:
        """(prompt, the first `length` ids behind it; None is all) of a sample, with what stands in them."""
        tensors = sample.trajectory.tensors
        return Row(tensors["prompt"]), Row(tensors["ids"][:length])

    def words(self, ids: Tensor) -> list[str]:
        """Each id's text, for the report."""
        return [self._word_of[i] for i in ids.tolist()]

    @property
    def precision(self) -> torch.dtype:
        """What the forward computes in."""
        return getattr(torch, self.config.dtype)

    @property
    def deterministic_evaluation(self) -> bool:
        """Whether every seed gives the same evaluation samples."""
        return self.config.evaluation.temperature == 0

    def _prompt_limit(self) -> int:
        budget = max(self.config.sampling.max_tokens, self.config.evaluation.max_tokens or 0)
        room = self.context - budget if self.context else None
        if room is not None and room < 1:
            raise ValueError(
                f"completions of {budget} tokens leave no prompt in a context of {self.context}; lower max_tokens"
            )
        asked = self.config.max_prompt_tokens
        return min(n for n in (asked, room, 2**31) if n is not None)

    # ---------------------------------------------------------------- what is trained

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    # ---------------------------------------------------------------- prompts

    def prompt_columns(self) -> Sequence[str]:
        return ()

    def record_columns(self, objective: str) -> Sequence[str]:
        """Columns that a supervised record must have, besides `prompt` or `messages`."""
        return ("completion",)

    def usable(self, prompt: Prompt) -> str | None:
        """Why a prompt cannot be rolled out (too long, no chat template ...), or None; nothing is ever cut.

        Raises PictureError for a picture of it that cannot be used.
        """
        try:
            self.opened(prompt, self._context(prompt))
        except Unfit as error:
            return error.reason
        except PictureError:
            raise
        except ValueError as error:  # of the environment
            return str(error)
        return None

    # ---------------------------------------------------------------- sampling

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """See Adapter.rollout. Outside of `synced`, an engine of its own gets the weights first."""
        s = self.config.sampling
        heat = temperatures(s.annealing, step, s.max_tokens) if s.annealing else ()
        sampling = Sampling(s.temperature, s.top_p, s.top_k, s.max_tokens, self.stop_ids, self.banned, heat)
        seeds = [[seed_of(seed, step, g.key, i) for i in range(n)] for g in groups]
        with self.synced():
            return self._sampled(groups, n, sampling, seeds, self._outside or self._own_engine(), step)

    @contextmanager
    def synced(self, once: Once = here) -> Iterator[None]:
        """Rollouts between two updates; see Adapter.synced."""
        if self.config.engine.name == "transformers" or self._in_sync:
            yield
            return
        if self._outside is None:
            self._outside = OutsideEngine(
                self.config, self.model, self.tokenizer, self._write_base, self._engine_options()
            )
        self._outside.sync(self.model, self.save, once)
        self._in_sync = True
        try:
            yield
        finally:
            self._in_sync = False

    def close(self) -> None:
        """Give back what an engine of its own holds; the next rollout makes it anew."""
        if self._outside is not None:
            self._outside.close()
            self._outside = None

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """Completions at the evaluation's temperature, 0 being greedy, by the policy itself."""
        e = self.config.evaluation
        budget = e.max_tokens or self.config.sampling.max_tokens
        sampling = Sampling(e.temperature, max_tokens=budget, stop_ids=self.stop_ids, banned=self.banned)
        groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
        seeds = [[seed_of(seed, "eval", p.id, i) for i in range(n)] for p in prompts]
        return self._sampled(groups, n, sampling, seeds, self._own_engine(), None)

    def next_steps(
        self,
        items: Sequence[tuple[Prompt, Sequence[Completion]]],
        seeds: Sequence[Sequence[int]],
        *,
        greedy: bool,
        end: str,
        max_tokens: int,
    ) -> list[list[Completion]]:
        """For each (prompt, path of steps so far) as many next steps as it has seeds; every item has equally many.

        A step ends behind the first `end` in its text (stop "step"), with an end token ("eos") or with its budget.
        """
        heat = 0.0 if greedy else self.config.sampling.temperature
        sampling = Sampling(heat, max_tokens=max_tokens, stop_ids=self.stop_ids, banned=self.banned)
        rows = [self._opened(prompt).row.then(_joined(path)) for prompt, path in items]
        with self._autocast():
            made = self._own_engine().generate(rows, len(seeds[0]), sampling, seeds)
        return [[self._cut_step(step, end) for step in steps] for steps in made]

    def stepped(self, prompt: Prompt, path: Sequence[Completion], steps: Sequence[Completion]) -> Sample:
        """The sample of steps behind a path: only the steps are trained."""
        opened, rest = self._opened(prompt), _joined(steps)
        tensors = {"prompt": opened.row.then(_joined(path)).ids, "ids": rest.ids}
        logp = torch.cat([step.logp for step in steps])
        trajectory = Trajectory(logp, torch.ones(len(logp), dtype=torch.bool), tensors)
        said = self.text(rest.ids)
        before = [Turn("assistant", self.text(_joined(path).ids))] if path else []
        turns = (*opened.turns, *before, Turn("assistant", said, trained=True))
        stop, words = steps[-1].stop, self.words(rest.ids)
        return Sample(prompt, 0, said, trajectory, stop, words=words, turns=turns, media=tuple(opened.media))

    def _opened(self, prompt: Prompt) -> Opened:
        return self.opened(prompt, self._context(prompt))

    def _cut_step(self, step: Completion, end: str) -> Completion:
        """The step up to the id with which its text has `end`."""
        if end not in self.text(step.ids):
            return step
        count = next(k for k in range(1, len(step.ids) + 1) if end in self.text(step.ids[:k]))
        stop = step.stop if count == len(step.ids) and step.stop == "eos" else "step"
        return Completion(step.ids[:count], step.logp[:count], stop)

    def _own_engine(self) -> TransformersEngine:
        return TransformersEngine(self.model, self._head().logits, self.config.rollout_batch, self._decoder())

    def _opening(self, prompt: Prompt) -> Context:
        """What the policy is shown where there is no environment."""
        return self.prompts.opening(prompt)

    def _environment_of(self, prompt: Prompt) -> Environment | None:
        """The record's own environment (a name, or a mapping of `name` and options), or the run's."""
        section = prompt.record.get("environment")
        if section is None:
            return self.environment
        key = json.dumps(section, sort_keys=True)
        if key not in self._environments:
            self._environments[key] = load_environment(section, files=False)  # data runs no code
        return self._environments[key]

    def _context(self, prompt: Prompt) -> Context:
        """What the policy is shown first."""
        environment = self._environment_of(prompt)
        return environment.open(Episode(prompt, self.sizes(prompt))) if environment else self._opening(prompt)

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

        filled = self._converse(
            groups, n, seeds, generate, per_turn=sampling.max_tokens, heat=sampling.annealing, step=step
        )
        if isinstance(engine, OutsideEngine):
            samples = [s for g in filled for s in g.samples]
            self._replace_logprobs(samples)
            engine.compare(samples, sampling)
        return filled

    def _converse(
        self, groups: Sequence[Group], n: int, seeds: Sequence[Sequence[int]], generate: Generate, **options: Any
    ) -> list[Group]:
        return converse(
            self,
            groups,
            n,
            seeds,
            generate,
            environment=self._environment_of,
            opening=self._opening,
            limits=self.config.conversation,
            room=self.context or 2**31,
            stop_ids=self.stop_ids,
            **options,
        )

    def text(self, ids: Tensor) -> str:
        """What rewards and environments read of ids."""
        return self.tokenizer.decode(
            ids.tolist(), skip_special_tokens=self.config.skip_special_tokens, clean_up_tokenization_spaces=False
        )

    @torch.no_grad()
    def _replace_logprobs(self, samples: Sequence[Sample]) -> None:
        """Keep what another engine reported as `logp_sampler`; the trajectory's are the trainer's own."""
        for part in self.slices(samples, self.config.rollout_batch * 256):
            logp = self.logprobs([samples[r] for r in part.rows], part.columns).logp.cpu()
            for line, row in zip(logp, part.rows.tolist()):
                trajectory = samples[row].trajectory
                trajectory.tensors["logp_sampler"] = trajectory.logp
                trajectory.logp = line[: len(trajectory.logp)] * trajectory.mask

    def given(self, prompt: Prompt, completions: Sequence[str | Sequence[int] | Sequence[str]]) -> list[Sample]:
        """Samples of given answers: texts, ids that are taken as they are, or a conversation's turns as texts, between
        which the environment speaks. Their log-probs are not known: 0.

        Raises ValueError for an answer that does not fit the context, or whose turns do not fit the environment.
        """
        return [sample for i, answer in enumerate(completions) for sample in self._said(prompt, i, answer)]

    def _said(self, prompt: Prompt, index: int, answer: str | Sequence[int] | Sequence[str]) -> list[Sample]:
        turns = _turns(answer)
        left = [self.prompts.answer_ids(turn) for turn in turns]
        for wrong in {i for ids in left for i in ids.tolist()} & set(self.banned):
            raise ValueError(
                f"prompt {prompt.id!r}: answer {index} has the token {self._word(wrong)} ({wrong}), which stands for "
                "something that is shown, or for nothing, and is never sampled; take it out"
            )

        def read_out(rows: Sequence[Row], count: int, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
            if not left:
                raise ValueError(
                    f"prompt {prompt.id!r}: answer {index} has {len(turns)} turns, its environment wants more"
                )
            ids = left.pop(0)
            if self.context and len(rows[0]) + len(ids) > self.context:
                raise ValueError(
                    f"prompt {prompt.id!r} with answer {index} has {len(rows[0]) + len(ids)} tokens, the context has "
                    f"{self.context}; leave it out"
                )
            return [[Completion(ids, torch.zeros(len(ids)), "eos")]]

        (group,) = self._converse([Group(prompt, 0)], 1, [[0]], read_out, per_turn=0)
        if left:
            raise ValueError(
                f"prompt {prompt.id!r}: answer {index} has {len(turns)} turns, its environment ended before"
            )
        for sample in group.samples:
            sample.index = index
        return group.samples

    # ---------------------------------------------------------------- replay

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Rows of similar length together, whole, up to their last trained token; budget in tokens with prompts."""
        lengths = [_trained_length(s) for s in samples]
        rows = [i for i, length in enumerate(lengths) if length]
        pairs = [self.rows(samples[i], lengths[i]) for i in rows]
        for part in cut_rows([p for p, _ in pairs], [c for _, c in pairs], budget, self._sharing):
            chosen = [rows[i] for i in part]
            yield Slice(torch.tensor(chosen), torch.arange(max(lengths[i] for i in chosen)))

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        """See Adapter.logprobs; 0 at tokens that are not trained. entropy: also return it, differentiable."""
        hidden, ids, heat, valid = self._states(samples, columns)
        logp, spread = token_logprobs(hidden, ids, self._head(), heat, entropy)
        found = ActionLogProbs(_spread_out(logp, valid))
        if spread is not None:
            found.entropy = _spread_out(spread, valid)
        if reference:
            with torch.no_grad(), self.reference():
                hidden, ids, heat, valid = self._states(samples, columns)
                found.logp_reference = _spread_out(token_logprobs(hidden, ids, self._head(), heat)[0], valid)
        return found

    @torch.no_grad()
    def features(self, samples: Sequence[Sample], columns: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Numbers of actions by name, each [b, t] float32, 0 where a token is not trained: those of
        mmrl.core.token_features at the sampling temperature, "logp_reference", and "token_class" (1: the token has a
        digit, otherwise 0).

        Raises ValueError for an unknown name.
        """
        found: dict[str, Tensor] = {}
        rest = [name for name in names if name not in ("logp_reference", "token_class")]
        if "logp_reference" in names:
            found["logp_reference"] = self.logprobs(samples, columns, reference=True).logp_reference
        if rest or "token_class" in names:
            hidden, ids, heat, valid = self._states(samples, columns)
            flat = token_features(hidden, ids, self._head(), rest, heat) if rest else {}
            if "token_class" in names:
                flat["token_class"] = self._token_classes[ids.cpu()].to(ids.device)
            found |= {name: _spread_out(values, valid) for name, values in flat.items()}
        return found

    @property
    def _sharing(self) -> bool:
        return not self.config.gradient_checkpointing  # layers that are recomputed cannot fill a cache

    def _states(self, samples: Sequence[Sample], columns: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """(hidden [k, D], ids [k], temperature [k], valid [b, t]) of the chosen tokens that are trained, row by row."""
        stored = [s.trajectory.tensors for s in samples]
        prompts, completions = zip(*(self.rows(s) for s in samples))
        columns = columns.cpu()
        with self._recomputing(), self._autocast():
            trained = [s.trajectory.mask for s in samples]
            hidden, valid = action_states(self._decoder(), prompts, completions, columns, self._sharing, trained)
        device = hidden.device
        ids = torch.cat([row.ids[columns[v]] for row, v in zip(completions, valid)]).to(device)
        heat = torch.full((len(ids),), self.config.sampling.temperature, device=device)
        if any("temperature" in t for t in stored):
            heat = torch.cat([t["temperature"][columns[v]] for t, v in zip(stored, valid)]).to(device)
        return hidden, ids, heat, valid.to(device)

    def _head(self) -> Head:
        compute = torch.float32 if self.config.fp32_head else self.precision
        return Head.of(self.model, compute, self.banned, self.config.logits_chunk)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self.precision)

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Train mode where layers are to be recomputed in the backward; it has no dropout (see loading)."""
        if not (self.config.gradient_checkpointing and torch.is_grad_enabled()):
            yield
            return
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    def _word(self, token: int) -> str:
        return repr(self._word_of[token]) if token < len(self._word_of) else "without a text"

    @cached_property
    def _word_of(self) -> list[str]:
        """The text of each id alone."""
        return self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])

    @cached_property
    def _token_classes(self) -> Tensor:
        return torch.tensor([float(any(c.isdigit() for c in word)) for word in self._word_of])

    # ---------------------------------------------------------------- supervised

    def supervised_loss(self, records: Sequence[dict], objective: str, seed: int) -> Tensor:
        """Token mean over records {"prompt" or "messages", "completion"}: "sft", or "sft_phi" (see supervised)."""
        samples = []
        for record in records:
            samples += self._answered(record)
        columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
        hidden, ids, _, _ = self._states(samples, columns)
        return supervised_loss(token_logprobs(hidden, ids, self._head())[0], objective)

    def _answered(self, record: dict) -> list[Sample]:
        text, completion = record.get("prompt") or "", record.get("completion")
        prompt = Prompt(str(record.get("id", text)), text, record)
        if not isinstance(completion, str | list):
            raise ValueError(f"record {prompt.id!r}: needs a text (or ids) in `completion`, got {completion!r}")
        return self.given(prompt, [completion])

    def supervised_weight(self, records: Sequence[dict]) -> float:
        """Tokens that the mean of `supervised_loss` is over."""
        turns = [t for r in records for t in (_turns(r["completion"]))]
        return float(sum(len(self.prompts.answer_ids(turn)) for turn in turns))

    # ---------------------------------------------------------------- disk

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads, with the tokenizer; for LoRA, peft's own files."""
        self.model.save_pretrained(folder, safe_serialization=True)
        if self.config.train == "full":
            self.tokenizer.save_pretrained(folder)


def _joined(steps: Sequence[Completion]) -> Row:
    return Row(torch.cat([torch.zeros(0, dtype=torch.int64), *(step.ids for step in steps)]))


def _turns(answer: str | Sequence[int] | Sequence[str]) -> Sequence[Any]:
    """The turns of an answer: one, or the texts of a list."""
    return answer if not isinstance(answer, str) and len(answer) and isinstance(answer[0], str) else [answer]


def _trained_length(sample: Sample) -> int:
    """Tokens up to the last trained one."""
    trained = torch.nonzero(sample.trajectory.mask)
    return int(trained[-1]) + 1 if len(trained) else 0


def _spread_out(values: Tensor, valid: Tensor) -> Tensor:
    """[k] -> [b, t] with 0 where `valid` is not."""
    return values.new_zeros(valid.shape).masked_scatter(valid, values)
