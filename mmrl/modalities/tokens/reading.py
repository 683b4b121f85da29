"""What a policy over tokens reads and says: prompts, replies and samples as rows of ids, ids as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.environments.base import Context, Environment, Episode, Reply, drawn_by
from mmrl.environments.load import load_environment, parts_of
from mmrl.media import IMAGE, Excerpt, Perceived, Place, Size, View, own_sounds
from mmrl.modalities.tokens.conversation import Opened
from mmrl.modalities.tokens.precise import Find, classes, digits, grown
from mmrl.modalities.tokens.prompts import PromptEncoder, Unfit
from mmrl.modalities.tokens.replay import trajectory_of
from mmrl.modalities.tokens.unclosed import Unclosed
from mmrl.types import Prompt, Sample, Turn

# Of special tokens: <think>, [/THINK], <|END_THINKING|>; channels of gpt-oss and Gemma 4, and what follows their names.
_THOUGHTS = re.compile("think|thought", re.IGNORECASE)
_CHANNEL, _SAYS = re.compile(r"<\|?channel\|?>"), "<|message|>"


class Reader:
    """Texts only; a modality with media overrides what it reads otherwise.

    prompts: messages as ids. skip_special_tokens: of the text that rewards see.
    environment: what the policy sees after each of its turns; None ends after the first.
    found: what of an answer has to be exact.
    """

    environment: Environment | None = None
    sees = hears = False

    def __init__(self, tokenizer: Any, prompts: PromptEncoder, skip_special_tokens: bool) -> None:
        self.tokenizer, self.prompts, self._skip = tokenizer, prompts, skip_special_tokens
        self.found: Find = digits
        self._environments: dict[str, Environment] = {}  # of records that name their own

    # ---------------------------------------------------------------- what the policy is shown

    def environment_of(self, prompt: Prompt) -> Environment | None:
        """The record's own environment (a name, or a mapping of `name` and options), or the run's; it sees thoughts
        that the chat template opens.

        Raises ValueError for a record's that is none.
        """
        environment = self._environment_of(prompt)
        if environment is None:
            return None
        opened, close = self.prompts.thoughts(prompt)
        return Unclosed(environment, opened, close) if opened else environment

    def _environment_of(self, prompt: Prompt) -> Environment | None:
        section = prompt.record.get("environment")
        if section is None:
            return self.environment
        key = json.dumps(parts_of(section), sort_keys=True, default=repr)
        if key not in self._environments:
            self._environments[key] = load_environment(section, files=False)  # data runs no code
        return self._environments[key]

    def sizes(self, prompt: Prompt) -> Sequence[Size]:
        """Sizes of a prompt's pictures."""
        return ()

    def opening(self, prompt: Prompt) -> Context:
        """What the policy is shown where there is no environment."""
        return self.prompts.opening(prompt)

    def context(self, prompt: Prompt) -> Context:
        """What the policy is shown first."""
        environment = self.environment_of(prompt)
        return environment.open(Episode(prompt, self.sizes(prompt))) if environment else self.opening(prompt)

    def drawn(self, prompt: Prompt, seed: int, step: int) -> Prompt:
        """The prompt with what its environment draws for a sample of that seed in that step, as columns."""
        environment = self.environment_of(prompt)
        names = drawn_by(environment)
        if environment is None or not names:
            return prompt
        episode = Episode(prompt, self.sizes(prompt), step=step, seed=seed, index=0)
        environment.open(episode)
        return replace(prompt, record={**prompt.record, **{name: episode.info[name] for name in names}})

    def info(self, prompt: Prompt) -> dict[str, Any]:
        """What the environment tells of the opening, for Sample.info."""
        environment, episode = self.environment_of(prompt), Episode(prompt, self.sizes(prompt))
        if environment is not None:
            environment.open(episode)
        return episode.info

    # ---------------------------------------------------------------- rows of ids

    def opened(self, prompt: Prompt, context: Context) -> Opened:
        """A context as the policy reads it. Raises Unfit for one that cannot be used."""
        if reason := self.prompts.unfit(context, prompt.record) or self.unmet(prompt, context):
            raise Unfit(prompt, reason)
        ids = self.prompts.ids(context, prompt.record)
        self.prompts.check_length(prompt, len(ids))
        return Opened(Row(ids), [], [Turn(m["role"], m["content"]) for m in context.messages])

    def unmet(self, prompt: Prompt, context: Context) -> str | None:
        """What of a prompt this policy has no sense for, in words that follow "prompt ...", or None."""
        marked = bool(prompt.record.get("images")) and any(IMAGE in message["content"] for message in context.messages)
        if not self.sees and (marked or any(isinstance(view, View) for view in context.views)):  # a video's frames, too
            return "shows pictures, which this modality does not read"
        if not self.hears and (own_sounds(prompt.record) or any(isinstance(v, Excerpt) for v in context.views)):
            return "has sounds, which this modality does not hear; leave the column out to ask without them"
        return None

    def replied(self, prompt: Prompt, reply: Reply, end: int | None, heard: int = 0) -> tuple[Row, list[Perceived]]:
        """What an environment adds behind a turn of the policy; end: the id that ended the turn, None for none; heard:
        sounds before it."""
        return self.observed(prompt, [{"role": reply.role, "content": reply.text}], reply.views, end, heard)

    def later(
        self, prompt: Prompt, messages: Sequence[Mapping[str, Any]], pictures: int, sounds: int
    ) -> list[tuple[Mapping[str, Any], list[Place]]]:
        """Messages of others behind an answer that is given, each with the views of what it marks: the record's
        pictures and sounds from these numbers on. The marks become as many as a sound has parts."""
        return [(message, []) for message in messages]

    def observed(
        self,
        prompt: Prompt,
        messages: Sequence[Mapping[str, Any]],
        views: Sequence[Place],
        end: int | None,
        heard: int = 0,
    ) -> tuple[Row, list[Perceived]]:
        """What messages of others add behind a turn of the policy; views: of the media that they mark; heard: sounds
        before them."""
        if views:
            raise ValueError("the environment shows pictures, which this modality does not read")
        return Row(self.prompts.reply_ids(messages, end, prompt.record)), []

    def rows(self, sample: Sample, length: int | None = None) -> tuple[Row, Row]:
        """(prompt, the first `length` ids behind it; None is all) of a sample, with what stands in them."""
        tensors = trajectory_of(sample).tensors
        return Row(tensors["prompt"]), Row(tensors["ids"][:length])

    def check_media(self, prompt: Prompt) -> None:
        """Raise MediaError for a picture or a sound of a prompt that cannot be shown; see Adapter.check_media."""

    # ---------------------------------------------------------------- text

    def text(self, ids: Tensor) -> str:
        """What rewards and environments read of ids.

        Where special tokens are left out, those that tell thoughts from the answer stay.
        """
        told, skip = ids.tolist(), self._skip
        if skip and self._of_thoughts:
            left_out = self.prompts.turns.special - self._of_thoughts
            told, skip = [i for i in told if i not in left_out], False
        return self.tokenizer.decode(told, skip_special_tokens=skip, clean_up_tokenization_spaces=False)

    def said(self, prompt: Prompt, turns: Sequence[str]) -> str:
        """Turns of the policy as the text that rewards read.

        Thoughts that the template opens and the policy never closes begin with their tag: they are no answer.
        """
        opened, close = self.prompts.thoughts(prompt)
        return "\n".join(opened + text if opened and close not in text else text for text in turns)

    @cached_property
    def _of_thoughts(self) -> frozenset[int]:
        """Special tokens that open and close thoughts, or name the channel that words are in."""
        special = sorted(self.prompts.turns.special)
        tokens = dict(zip(special, self.tokenizer.convert_ids_to_tokens(special)))
        channels = any(_CHANNEL.fullmatch(token) for token in tokens.values())
        of = (i for i, t in tokens.items() if _THOUGHTS.search(t) or _CHANNEL.fullmatch(t) or (channels and t == _SAYS))
        return frozenset(of)

    def words(self, ids: Tensor) -> list[str]:
        """Each id's text, for the report."""
        return [self.word_of[i] for i in ids.tolist()]

    @cached_property
    def word_of(self) -> list[str]:
        """The text of each id alone."""
        return self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])

    def precise(self, prompt: Prompt, ids: Tensor) -> Tensor:
        """[n] float32 for ids that the policy said: 1 where the token has to be exact (precise.py), otherwise 0.

        What finds them reads what rewards read: thoughts that the template opens begin with their tag, see `said`.
        """
        told, text = ids.tolist(), self.text(ids)
        silent = self.prompts.turns.special - self._of_thoughts if self._skip else frozenset()
        words = ["" if i in silent else self.word_of[i] for i in told]
        if "".join(words) != text:
            words = grown(told, lambda part: self.text(torch.tensor(part, dtype=torch.int64)))
        whole = self.said(prompt, [text])
        before = whole[: len(whole) - len(text)]
        return torch.tensor(classes(whole, [before, *words], self.found)[1:], dtype=torch.float32)
