"""From a `model:` section to a transformers model that is ready for training, and what its ids mean."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmrl.engines.decoder import decoder_of
from mmrl.engines.norms import quicken
from mmrl.modalities import hollow, unread
from mmrl.modalities.files import check_weights, is_local, lora_folder
from mmrl.modalities.tokens import attention
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.tokens.logprobs import Head
from mmrl.modalities.tokens.lora import targets_of
from mmrl.modalities.tokens.reading_models import skeleton
from mmrl.modalities.tokens.unread_models import check_adapter, unread_model
from mmrl.share import resolve


def source(config: TokenModelConfig, example: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` that say where the model is.

    Raises FileNotFoundError for a local folder without a model.
    """
    local = resolve(config.path)
    looks_local = config.path.startswith(("share://", ".", "/", "~")) or local.exists()
    if looks_local and not (local / "config.json").is_file():
        raise FileNotFoundError(
            f"model.path {config.path!r}: no config.json in {local}; give a folder written by save_pretrained, or a "
            f"hub id such as {example}"
        )
    return {
        "pretrained_model_name_or_path": str(local) if looks_local else config.path,
        "revision": config.revision or "main",
        "trust_remote_code": config.trust_remote_code,
    }


def options(config: TokenModelConfig) -> dict[str, Any]:
    """The arguments of `from_pretrained` that say how the weights are read."""
    return {"dtype": frozen_dtype(config), "use_safetensors": True, **attention.options(config)}


def read(auto: Any, place: Mapping[str, Any], config: TokenModelConfig, what: str) -> Any:
    """The model in `place`, its weights read by `auto`, one of transformers' Auto classes or a class of its models (of
    a model that holds one of these, that part); what: the kind it reads.

    Raises ValueError, before any weight is read, for another kind of model, or one that cannot do what is asked of it,
    and FileNotFoundError for a folder whose weights are not whole; ValueError for files that lack some of its weights.
    """
    from transformers import AutoConfig

    named = auto if hasattr(auto, "config_class") else None
    try:
        numbers = (AutoConfig if named is None else named.config_class).from_pretrained(**place)
    except ValueError as error:
        if "model type" not in str(error):
            raise
        raise ValueError(
            f"path {config.path!r}: this version of transformers does not know its model_type; take a newer one, or "
            "set trust_remote_code where its code comes with it"
        ) from error
    remote = config.trust_remote_code and getattr(numbers, "auto_map", None)
    found = named if named is not None else None if remote else auto._model_mapping.get(type(numbers), None)
    found = found[0] if isinstance(found, tuple) else found
    if found is None and not remote:
        raise ValueError(f"path {config.path!r}: a {numbers.model_type} is no {what} of transformers; give another")
    _check_class(found or auto, numbers, config)
    if is_local(config.path):
        check_weights(Path(place["pretrained_model_name_or_path"]))
    if hollow.is_wanted():
        return skeleton(auto, numbers, place, options(config))
    if unread.is_wanted():
        try:
            check_adapter(config)
            with _without_draws():
                model, told = unread_model(found, auto, numbers, place, options(config))
            _check_names(model, told, config)
            return model
        except unread.NotAsStored as why:
            unread.tell(config.path, why)
    with attention.explained(found or auto, config), _without_draws():
        model, told = auto.from_pretrained(**place, **options(config), output_loading_info=True)
    _check_names(model, told, config)
    return model


def _without_draws() -> contextlib.AbstractContextManager[None]:
    """Some classes draw numbers for weights that are then read, where there is memory for them: what is drawn later
    must not depend on it."""
    return torch.random.fork_rng(devices=[])


def _check_names(model: Any, told: Mapping[str, Any], config: TokenModelConfig) -> None:
    """Raise ValueError where weights of the model were not in its files, and would be random; warn of those that are in
    its files for nothing."""
    missing, beside = (sorted(told[key]) for key in ("missing_keys", "unexpected_keys"))
    if missing:
        raise ValueError(
            f"path {config.path!r}: its files lack {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}, which would be random numbers; give a whole checkpoint of this architecture"
        )
    if beside:
        warnings.warn(
            f"path {config.path!r}: its files hold {len(beside)} weights that {type(model).__name__} has no place for, "
            f"such as {beside[0]}; they are not used",
            stacklevel=2,
        )


def _check_class(model_class: Any, numbers: Any, config: TokenModelConfig) -> None:
    name = model_class.__name__
    attention.check_class(model_class, config)
    if config.gradient_checkpointing and not getattr(model_class, "supports_gradient_checkpointing", True):
        raise ValueError(f"gradient_checkpointing: {name} cannot recompute its layers; leave it off")
    packed = getattr(numbers, "quantization_config", None)
    if packed and config.train == "full":
        how = packed.get("quant_method", "") if isinstance(packed, dict) else getattr(packed, "quant_method", "")
        raise ValueError(
            f"path {config.path!r}: its weights are quantised ({how}); set train: lora, or give 16-bit ones"
        )


def trained(model: Any, config: TokenModelConfig, frozen: Sequence[nn.Module] = ()) -> Any:
    """The model ready for training: what is trained is float32 and requires a gradient, the rest is frozen in
    config.dtype. frozen: parts that are left alone also where all weights are trained.

    Raises ValueError for a model that has no decoder apart from its head.
    """
    if decoder_of(model) is model:
        raise ValueError(f"{type(model).__name__} has no decoder apart from its head; it cannot be trained here")
    attention.settle(model, config)
    model.requires_grad_(False)
    if config.train == "lora":
        _add_lora(model, config)
    alone = {id(p) for module in frozen for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if (config.train == "full" and id(parameter) not in alone) or "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    for module in frozen:
        module.to(getattr(torch, config.dtype))
    if config.compile is None:  # a compiler makes less of them than of the library's own
        quicken(model.modules())
    if config.gradient_checkpointing:
        _check_class(type(model), model.config, config)
        _enable_checkpointing(model)
    return model.eval()  # no dropout: rollout and replay must be the same function


def frozen_dtype(config: TokenModelConfig) -> torch.dtype:
    """Type that weights are read in."""
    return torch.float32 if config.train == "full" else getattr(torch, config.dtype)


def _add_lora(model: Any, config: TokenModelConfig) -> None:
    from peft import LoraConfig

    lora = config.lora
    if lora.path is not None:
        folder = lora_folder(lora.path)
        if hollow.is_wanted():
            model.add_adapter(LoraConfig.from_pretrained(str(folder), inference_mode=False))
        else:
            with unread.standing_in(model):
                model.load_adapter(str(folder), is_trainable=True)
        return
    targets = targets_of(model, lora.targets)
    made = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    with unread.standing_in(model):
        model.add_adapter(made)


def _enable_checkpointing(model: Any) -> None:
    """Layers are recomputed in train mode only, so train mode must be the same function: no dropout anywhere."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)
        if hasattr(module, "_can_checkpoint_with_cache"):
            module._can_checkpoint_with_cache = True  # see engines.cache.Filled
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    # The backward begins at the last layer: what it would compute again at once need not be thrown away.
    decoder = decoder_of(model)
    layers = list(getattr(getattr(decoder, "language_model", decoder), "layers", []))
    if len(layers) > 1 and hasattr(layers[-1], "gradient_checkpointing"):
        layers[-1].gradient_checkpointing = False


@torch.no_grad()
def check_train_mode(model: Any) -> None:
    """Raises ValueError for a model that is another function in train mode, in which layers are recomputed."""
    ids = torch.arange(8, device=model.device)[None] + 1
    wanted = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    model.train()
    try:
        found = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        model.eval()
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    if not gap <= 1e-2:
        raise ValueError(
            f"gradient_checkpointing: {type(model).__name__} computes something else in train mode (hidden states off "
            f"by {gap:.1e}), in which layers are recomputed; leave it off"
        )


@torch.no_grad()
def check_head(model: Any, head: Head) -> None:
    """Raises ValueError where the model does more to its logits than the head knows of."""
    ids = torch.arange(2, device=model.device)[None] + 1
    wanted = model(input_ids=ids, use_cache=False).logits[0]
    exact = wanted.dtype == head.compute == torch.float32
    made = head.logits(decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]).float()
    gap = float((made - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1))
    if gap > (1e-3 if exact else 5e-2):
        raise ValueError(
            f"{type(model).__name__}: logits made from its hidden states are off by {gap:.1e}; its forward does more "
            "than a linear head with a scale and a soft cap, which this modality does not know"
        )


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: the tokenizer's EOS and all of the generation config's and the model's.

    Warns, in one line, where the tokenizer's EOS is not among the model's. Raises ValueError without any.
    """
    generation = getattr(model, "generation_config", None)
    of_model = {*_ids(getattr(generation, "eos_token_id", None)), *_ids(model.config.get_text_config().eos_token_id)}
    own = set(_ids(tokenizer.eos_token_id))
    if own and of_model and not own & of_model:
        warnings.warn(
            f"the tokenizer's EOS {tokenizer.eos_token!r} ({tokenizer.eos_token_id}) is not among the model's "
            f"({', '.join(map(str, sorted(of_model)))}); all of them end a completion",
            stacklevel=2,
        )
    if not own | of_model:
        raise ValueError("neither the tokenizer nor the model names an EOS token: completions would never end")
    return tuple(sorted(own | of_model))


def _ids(value: int | Sequence[int] | None) -> Sequence[int]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def unused_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Rows of the head behind the tokenizer's last id: padding of the vocabulary, which must never be sampled."""
    return tuple(range(len(tokenizer), model.get_output_embeddings().weight.shape[0]))


def context(model: Any) -> int | None:
    """Tokens that the model has positions for; None where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def prompt_limit(config: TokenModelConfig, context: int | None) -> int:
    """Tokens that a prompt may have beside the longest completion. Raises ValueError where no prompt fits."""
    budget = max(config.sampling.max_tokens, config.evaluation.max_tokens or 0)
    room = context - budget if context else None
    if room is not None and room < 1:
        raise ValueError(f"completions of {budget} tokens leave no prompt in a context of {context}; lower max_tokens")
    return min(n for n in (config.max_prompt_tokens, room, 2**31) if n is not None)
