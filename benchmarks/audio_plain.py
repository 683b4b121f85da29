"""The other side of the benchmark of an audio step: GRPO on transformers' processor, `generate` and forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
import torch
from sides import HIGH, LOW, LR, SEED, Clock, Task, taken_gradients, vowels
from torch import Tensor, nn

from mmrl.config import OptimConfig
from mmrl.media import AUDIO
from mmrl.sounds import RATE
from mmrl.training import optim
from mmrl.types import Prompt

STD_EPS = 1e-4  # as TRL's


class PlainLoop:
    """A step in which every sample has a sound of its own: it is processed once for each row, and the tower encodes it
    once for each row to generate, and once for each row to train.

    What the processor made is kept for training. Rows are one batch, to generate and to train; only completions reach
    the vocabulary; one update a rollout, so that old log-probs are those of the loss itself, without a forward.

    kind: name of the model's class in transformers. trained: parameters that are; the others get no gradient. banned:
    ids that are not sampled. once: the processor is called once for a prompt, and its rows are repeated.
    """

    name = "plain loop"

    def __init__(
        self,
        folder: Path,
        kind: str,
        task: Task,
        samples: int,
        trained: Sequence[str],
        banned: Sequence[int],
        once: bool = False,
    ) -> None:
        import transformers

        self.model: Any = getattr(transformers, kind).from_pretrained(folder)
        self.processor: Any = transformers.AutoProcessor.from_pretrained(folder)
        self.task, self.samples, self.banned, self.once = task, samples, list(banned), once
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in set(trained))
        self.model.eval()  # there is no dropout
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad
        }
        self.optimizer = optim.build(OptimConfig(lr=LR), self.parameters)
        self.clock = Clock()

    # ---------------------------------------------------------------- one step

    def step(self, prompts: Sequence[Prompt], number: int) -> dict[str, float]:
        """One whole step; returns its times."""
        self.clock = Clock()
        with self.clock.phase("rollout"):
            inputs = self.rollout(prompts, number)
        self.clock.counts["tokens"] = int(inputs["completion_mask"].sum())
        with self.clock.phase("forward"), self.clock.backwards():
            self.loss(inputs, inputs["advantages"]).backward()
        with self.clock.phase("optimizer"):
            nn.utils.clip_grad_norm_(self.parameters.values(), OptimConfig().max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.clock.row()

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], number: int = 0) -> dict[str, Any]:
        """Completions of all rows, prompt by prompt, with advantages, masks and what the processor made."""
        torch.manual_seed(SEED + number)
        made = self.processed(prompts)
        length = self.task.max_tokens
        ids = self.model.generate(
            **made,
            do_sample=True,
            top_k=0,
            max_new_tokens=length,
            min_new_tokens=length,
            suppress_tokens=self.banned,
        )
        before = made["input_ids"].shape[1]
        texts = self.processor.tokenizer.batch_decode(ids[:, before:], skip_special_tokens=True)
        rewards = torch.tensor([vowels(text) for text in texts]).view(-1, self.samples)
        spread = rewards.std(1, keepdim=True) if self.samples > 1 else torch.ones(len(rewards), 1)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (spread + STD_EPS)
        return {
            "prompt_ids": made.pop("input_ids"),
            "prompt_mask": made.pop("attention_mask"),
            "completion_ids": ids[:, before:],
            "completion_mask": torch.ones_like(ids[:, before:]),
            "advantages": (advantages if self.samples > 1 else rewards).flatten(),
            "sounds": made,
        }

    def processed(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """What the model takes of `samples` rows of each prompt, left-padded."""
        texts, sounds = [], []
        for prompt in prompts:
            parts = [{"type": "audio", "audio": "sound"}, {"type": "text", "text": prompt.text.replace(AUDIO, "")}]
            chat = [{"role": "user", "content": parts}]
            texts.append(self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
            sounds.append(soundfile.read(Path(str(prompt.root)) / prompt.record["sounds"][0], dtype="float32")[0])
        rows = 1 if self.once else self.samples
        made = self.processor(
            text=[text for text in texts for _ in range(rows)],
            audio=[sound for sound in sounds for _ in range(rows)],
            padding=True,
            return_tensors="pt",
            audio_kwargs={"sampling_rate": RATE},
        )
        kept = {name: made[name] for name in self._inputs if name in made}
        again = self.samples // rows
        return {name: value.repeat_interleave(again, 0) if again > 1 else value for name, value in kept.items()}

    _inputs = ("input_ids", "attention_mask", "input_features", "feature_attention_mask")

    # ---------------------------------------------------------------- loss

    def loss(self, inputs: dict[str, Any], advantages: Tensor) -> Tensor:
        """DAPO's: PPO's clip, and the mean over all tokens."""
        logp = self._logprobs(inputs)
        mask = inputs["completion_mask"]
        ratio = (logp - inputs.get("old_per_token_logps", logp.detach())).exp()
        gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - LOW, 1 + HIGH) * advantages[:, None])
        return -(gain * mask).sum() / mask.sum()

    def evaluate(self, inputs: dict[str, Any], loss_type: str) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradient by parameter). Rows are equally long, for which other means than DAPO's are the same."""
        loss = self.loss(inputs, inputs["advantages"])
        loss.backward()
        return loss.detach(), taken_gradients(self.model.named_parameters())

    @torch.no_grad()
    def logprobs(self, inputs: dict[str, Any]) -> Tensor:
        """[N, T] as the loss has them."""
        return self._logprobs(inputs)

    def _logprobs(self, inputs: dict[str, Any]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with self._only_last(inputs["completion_ids"].shape[1] + 1):
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **inputs["sounds"]).logits
        found = logits[:, :-1].log_softmax(-1)
        return found.gather(-1, inputs["completion_ids"][..., None])[..., 0]

    @contextmanager
    def _only_last(self, count: int):
        """Hidden states of the last tokens alone reach the vocabulary, which neither class has an option for."""
        hook = self.model.lm_head.register_forward_pre_hook(lambda _, given: (given[0][:, -count:],))
        try:
            yield
        finally:
            hook.remove()


def watch(side: Any, model: Any, processor: Any) -> None:
    """Count the sounds that go through the processor and through the tower, and time both."""

    def process(audio: Any, *args: Any, **kwargs: Any) -> Any:
        side.clock.counts["processed"] += len(audio)
        with side.clock.part("processor"):
            return inner(audio, *args, **kwargs)

    def encode(*args: Any, **kwargs: Any) -> Any:
        lengths = kwargs.get("feature_lens")
        side.clock.counts["encoded"] += (
            len(args[0] if args else kwargs["input_features"]) if lengths is None else len(lengths)
        )
        with side.clock.part("tower"):
            return forward(*args, **kwargs)

    tower = model.base_model.audio_tower
    inner: Callable[..., Any] = processor._process_audio
    forward: Callable[..., Any] = tower.forward
    processor._process_audio, tower.forward = process, encode
