"""An engine with its own copy of the policy: made once, brought up to date before every rollout, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from mmrl.engines.base import Completion, Once, OwnWeights, Sampling
from mmrl.engines.decoder import Row
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.replay import trajectory_of
from mmrl.share import resolve
from mmrl.types import Sample


class OutsideEngine:
    """The engine of config.engine. The first weights it loads are the base model's; `sync` sends the policy's.

    write_base: writes a base model that was built here, not loaded, into a folder. options: of the engine, from the
    modality; those of the config come first.
    """

    exact = False

    def __init__(
        self,
        config: TokenModelConfig,
        model: Any,
        tokenizer: Any,
        write_base: Callable[[Path], None],
        options: Mapping[str, Any],
    ) -> None:
        from mmrl.engines.load import load_engine

        section = {"name": config.engine.name, "dtype": config.dtype, **options, **config.engine.options}
        self._place = tempfile.TemporaryDirectory()
        base = _base_path(config, model, Path(self._place.name), write_base)
        self._engine = cast(OwnWeights, load_engine(section, model, tokenizer, base))
        self._version = 0
        tolerance = config.engine.tolerance
        self._tolerance = tolerance if tolerance is not None else 1e-3 if config.dtype == "float32" else 1.0

    def sync(self, model: Any, save: Callable[[Path], None], once: Once) -> None:
        """Send the weights of `model`, or, to an engine that takes LoRA files, what `save` writes; once: see Engine."""
        self._version += 1
        if self._engine.lora:
            self._engine.sync_lora(save, self._version, once)
        else:
            self._engine.sync(merged_weights(model), self._version, once)

    def close(self) -> None:
        self._engine.close()
        self._place.cleanup()

    def generate(
        self, prompts: Sequence[Row], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        return self._engine.generate(prompts, n, sampling, seeds)

    def compare(self, samples: Sequence[Sample], sampling: Sampling) -> None:
        """Hold the reported log-probs (`logp_sampler`) against the trainer's, where the engine asks for it.

        Not under top-k or top-p, where what an engine reports is of the distribution that was cut.
        """
        if self._engine.needs_verify and sampling.top_p == 1 and sampling.top_k == 0:
            stored = [trajectory_of(s) for s in samples]
            reported = [Completion(t.tensors["ids"][t.mask], t.tensors["logp_sampler"][t.mask], "") for t in stored]
            self._engine.verify(reported, [t.logp[t.mask] for t in stored], self._tolerance)


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's weights by a checkpoint's names, LoRA added in, and the head also where it is tied."""
    modules = dict(model.named_modules())
    head = next(name for name, module in modules.items() if module is model.get_output_embeddings())
    sent = set()
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and plain.endswith(".weight"):
            layer = modules[plain.removesuffix(".weight")]
            for adapter in layer.active_adapters:
                tensor = tensor + layer.get_delta_weight(adapter).to(tensor)
        sent.add(plain)
        yield plain, tensor.detach()
    if f"{head}.weight" not in sent:
        yield f"{head}.weight", modules[head].weight.detach()


def _base_path(config: TokenModelConfig, model: Any, place: Path, write_base: Callable[[Path], None]) -> str:
    """Where the engine finds the base model; one that was built here is written to `place`."""
    if config.build is None:
        local = resolve(config.path)
        return str(local) if local.exists() else config.path
    folder = place / "base"
    write_base(folder)
    if not (folder / "config.json").is_file():  # save_pretrained writes on the first process only, and all read this
        model.config.save_pretrained(folder)
    return str(folder)
