"""An engine with its own copy of the policy: made once, brought up to date before every rollout, and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmrl.engines.agreement import default_tolerance
from mmrl.engines.base import Completion, Once, OwnWeights, Sampling
from mmrl.engines.decoder import Row
from mmrl.engines.folders import WeightsFolder
from mmrl.engines.holding import Holder
from mmrl.modalities.shards import Shards, as_whole
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.replay import trajectory_of
from mmrl.share import resolve
from mmrl.types import Sample

# For each sample, what a range of log-probs is away from the trainer's: (least, most) [t] of its trained tokens.
Shifts = Sequence[tuple[Tensor, Tensor]]


class OutsideEngine:
    """The engine of config.engine. The first weights it loads are the base model's; `sync` sends the policy's.

    write_base: writes a base model that was built here, not loaded, into a folder. options: of the engine, from the
    modality; those of the config come first. longest: tokens of the longest row that will be asked for, None for any.
    """

    exact = False

    def __init__(
        self,
        config: TokenModelConfig,
        model: Any,
        tokenizer: Any,
        write_base: Callable[[Path], None],
        options: Mapping[str, Any],
        longest: int | None,
    ) -> None:
        from mmrl.engines.load import load_engine

        self._folder = WeightsFolder()
        self._version = 0
        tolerance = config.engine.tolerance
        self.tolerance = tolerance if tolerance is not None else default_tolerance(config.dtype)
        try:
            base = _base_path(config, self._folder, write_base)
            self._engine = cast(OwnWeights, load_engine({**options, **section(config)}, model, tokenizer, base))
        except BaseException:
            self._folder.close()
            raise
        if longest is not None and self.max_model_len < longest:
            room = self.max_model_len
            self.close()
            raise ValueError(
                f"engine {config.engine.name} takes rows of {room} tokens, and prompts were chosen for rows of "
                f"{longest}; set model.engine.options.max_model_len to {room}, so that longer ones are dropped"
            )

    @property
    def max_model_len(self) -> int:
        """Tokens of a row, prompt and completion."""
        return self._engine.max_model_len

    @property
    def version(self) -> int:
        """The number of the last sync."""
        return self._version

    @property
    def flows(self) -> bool:
        """Whether weights may change while requests are under way; see VllmEngine.flows."""
        return self._engine.flows

    @flows.setter
    def flows(self, on: bool) -> None:
        self._engine.flows = on

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """See VllmEngine.meet."""
        self._engine.meet(run, title, claims)

    def returned(self) -> bool:
        """Whether a server that was lost answers again."""
        return self._engine.returned()

    def counts(self) -> dict[str, float]:
        """Numbers of the servers."""
        return self._engine.counts()

    def sync(self, model: Any, save: Callable[[Path], None], once: Once, shards: Shards | None = None) -> None:
        """Send the weights of `model`, or, to an engine that takes LoRA files, what `save` writes; once: see Engine.

        shards: how they are divided. Then every process comes, and takes part in gathering them."""
        self._version += 1
        if self._engine.lora:
            self._engine.sync_lora(_gathered(model, save, shards), self._version, once)
        else:
            self._engine.sync(_Merged(model, shards), self._version, once)

    def rest(self) -> None:
        """Nothing is sampled before the next sync."""
        self._engine.rest()

    def close(self) -> None:
        self._engine.close()
        self._folder.close()

    def generate(
        self, prompts: Sequence[Row], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        return self._engine.generate(prompts, n, sampling, seeds)

    def compare(self, samples: Sequence[Sample], shifts: Shifts | None = None) -> None:
        """Hold the reported log-probs (`logp_sampler`) against the trainer's: of every chunk, as they are there anyway,
        and weights may be exchanged at any time by what else uses the engine.

        shifts: under top-k or top-p, how much higher the reported ones are.
        """
        stored = [t for s in samples if bool((t := trajectory_of(s)).mask.any())]
        if not stored:
            return
        reported = [Completion(t.tensors["ids"][t.mask], t.tensors["logp_sampler"][t.mask], "") for t in stored]
        low = high = own = [t.logp[t.mask] for t in stored]
        if shifts is not None:
            some = [shift for shift in shifts if len(shift[0])]
            low = [logp + least for logp, (least, _) in zip(own, some, strict=True)]
            high = [logp + most for logp, (_, most) in zip(own, some, strict=True)]
        self._engine.verify(reported, low, high, self.tolerance)


def section(config: TokenModelConfig) -> dict[str, Any]:
    """The engine's section of the config, its options beside its name."""
    return {"name": config.engine.name, "dtype": config.dtype, **config.engine.options}


def prompt_room(config: TokenModelConfig, limit: int, longest: int | None) -> int:
    """Tokens that a prompt may have where the policy allows `limit` and the engine rows of `longest` (None: any).

    Raises ValueError where no prompt fits.
    """
    if longest is None:
        return limit
    if longest <= config.sampling.max_tokens:
        raise ValueError(
            f"completions of {config.sampling.max_tokens} tokens leave no prompt in engine {config.engine.name}, whose "
            f"rows have {longest}; raise model.engine.options.max_model_len (or the server's), or lower "
            "model.sampling.max_tokens"
        )
    return min(limit, longest - config.sampling.max_tokens)


# What transformers below 5.20 writes of Qwen2-Audio's decoder and its kin's, and what their checkpoints have.
_DOUBLED = ("language_model.model.model.", "language_model.model.")


def merged_weights(model: Any, shards: Shards | None = None) -> Iterator[tuple[str, Tensor]]:
    """A model's weights by the names and in the shapes of its checkpoint, LoRA added in, and the head also where it is
    tied. Layer by layer: merged ones never exist all at once. shards: how they are divided, see merged_layers.

    transformers keeps some weights in another form than files have them (all experts of a layer in one tensor);
    `save_pretrained` turns them back by the same function.
    """
    from transformers.core_model_loading import revert_weight_conversion

    modules = dict(model.named_modules())
    head = next(name for name, module in modules.items() if module is model.get_output_embeddings())
    sent: set[str] = set()
    for layer in merged_layers(model, shards):
        sent |= set(layer)  # by the model's own names: files may have the head under another
        for name, tensor in revert_weight_conversion(model, layer).items():
            yield name.replace(*_DOUBLED), tensor.detach()
    if f"{head}.weight" not in sent:
        yield f"{head}.weight", modules[head].weight.detach()


class _Merged:
    """`merged_weights`, from the first one each time: servers that were all lost get them again."""

    def __init__(self, model: Any, shards: Shards | None) -> None:
        self._model, self._shards = model, shards

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return merged_weights(self._model, self._shards)


def _state(model: Any) -> dict[str, Tensor]:
    """`state_dict`; of divided weights that are gathered, which it would divide again, the same by other means."""
    if not any(hasattr(module, "unshard") for module in model.modules()):
        state: dict[str, Tensor] = model.state_dict()
        return state
    passing = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    kept = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in kept if name not in passing}


@torch.no_grad()
def merged_layers(model: Any, shards: Shards | None = None) -> Iterator[dict[str, Tensor]]:
    """A model's state, LoRA added in, a layer at a time, by the names and in the shapes of the model without LoRA.

    shards: how its weights are divided over processes, which all iterate: each layer is gathered for itself, and what
    is yielded is a copy.
    """
    deltas = _deltas(dict(model.named_modules()))
    divided = shards is not None and not shards.is_whole
    for names in _by_layer(_state(model)):
        layer = {}
        with shards.whole_of(model, names) if shards is not None else nullcontext():
            for name, tensor in (_now(model, names) if divided else names).items():
                if ".lora_" not in name:
                    plain = name.replace(".base_layer", "")
                    for adapted, adapter in deltas.get(plain, ()):
                        tensor = tensor + adapted.get_delta_weight(adapter).to(tensor)
                    layer[plain] = tensor.detach().clone() if divided and plain not in deltas else tensor.detach()
        yield layer


def _now(model: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """A model's weights and buffers by name, as they are now: gathered ones are other tensors than divided ones."""
    found = {}
    for name in names:
        inside, _, own = name.rpartition(".")
        found[name] = getattr(model.get_submodule(inside), own)
    return found


def _gathered(model: Any, save: Callable[[Path], None], shards: Shards | None) -> Callable[[Path], None]:
    """What writes an adapter: `save`, with the adapter's weights gathered before where they are divided."""
    gathered = shards.gathered(keep=True) if shards is not None else ()

    def write(folder: Path) -> None:
        with as_whole(gathered), _written_here():
            save(folder)

    return write


@contextmanager
def _written_here() -> Iterator[None]:
    """Inside, transformers writes on this process, where it would leave that to the first of a group: an engine in each
    reads what its own process has written."""
    from transformers import PreTrainedModel

    name = "should_save_on_this_rank"
    setattr(PreTrainedModel, name, lambda *_, **__: True)
    try:
        yield
    finally:
        delattr(PreTrainedModel, name)  # that of its base is there again


def _deltas(modules: Mapping[str, Any]) -> dict[str, list[tuple[Any, str]]]:
    """What LoRA adds to each weight: (layer of peft, adapter) by the weight's name without LoRA."""
    found: dict[str, list[tuple[Any, str]]] = {}
    for name, module in modules.items():
        if hasattr(module, "get_delta_weight"):
            plain = f"{name.replace('.base_layer', '')}.{getattr(module, 'parameter_name', 'weight')}"
            found.setdefault(plain, []).extend((module, adapter) for adapter in module.active_adapters)
    return found


def _by_layer(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A state in parts: each numbered layer, and all that is outside of them."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        numbered = re.match(r".*?\.\d+\.", name)
        parts.setdefault(numbered[0] if numbered else "", {})[name] = tensor
    yield from parts.values()


def _base_path(config: TokenModelConfig, place: WeightsFolder, write_base: Callable[[Path], None]) -> str:
    """Where the engine finds the base model; one that was built here is written to `place`."""
    if config.build is None:
        local = resolve(config.path)
        return str(local) if local.exists() else config.path
    folder = place.empty("base")
    with _written_here():
        write_base(folder)
    return str(folder)
