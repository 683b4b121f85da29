"""What adapters share of language models that see or hear: how they are loaded, adapted, run and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmrl.modalities import hollow
from mmrl.modalities.media.decoder import MediaDecoder
from mmrl.modalities.media.family import Family
from mmrl.modalities.media.features import Room, Tower
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.modalities.tokens.lora import adaptable
from mmrl.modalities.tokens.reading_models import located
from mmrl.modalities.tokens.replay import Way


class MediaAdapter(TokenAdapter):
    """A model of transformers that sees or hears, as a policy over tokens.

    Samples hold which views of the prompt's media were shown (`media`), not their numbers; those are made again from
    the record. In the ids of a trajectory a medium is as many placeholders as it has features.
    """

    _example: ClassVar[str]  # a hub id, for messages
    family: Family

    # ---------------------------------------------------------------- what a modality says

    def _check_packages(self) -> None:
        """Raises ImportError, with the command that installs it, for one that is missing."""

    def _read(self, kind: str, place: Mapping[str, Any]) -> Any:
        """The model in `place`, whose config's model_type is `kind`. Raises ValueError, before any weights, for one
        that no family reads."""
        raise NotImplementedError

    def _build(self) -> tuple[Any, Any]:
        """(model, processor) of `model.build`."""
        raise NotImplementedError

    def _family_of(self, model: Any) -> Family:
        raise NotImplementedError

    def _left_alone(self, model: Any) -> Sequence[nn.Module]:
        """Towers that are not trained where all weights are."""
        raise NotImplementedError

    def _rooms(self) -> Mapping[Tower, Room]:
        """Where the features of each tower are kept, for one decoder."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the model

    def _load(self) -> tuple[Any, Any]:
        config = self.config
        self._check_packages()
        if config.build is not None:
            model, self.processor = self._built()
        else:
            from transformers import AutoConfig, AutoProcessor

            place = located(loading.source(config, self._example), config)
            model = self._read(AutoConfig.from_pretrained(**place).model_type, place)
            self.processor = AutoProcessor.from_pretrained(**place)
        self.family = self._family_of(model)
        if config.gradient_checkpointing and self.family.prefix_attention:
            raise ValueError(
                f"gradient_checkpointing: prompts of {type(model).__name__} need a cache, which layers that are "
                "recomputed cannot fill; leave it off"
            )
        if config.engine.name == "vllm" and self.family.not_served:
            raise ValueError(
                f"engine.name=vllm: {type(model).__name__} {self.family.not_served}; leave it at transformers"
            )
        alone = self._left_alone(model)
        if config.train == "lora":
            targets = self._lora(model, config.lora.targets)
            config = config.model_copy(update={"lora": config.lora.model_copy(update={"targets": targets})})
        model = loading.trained(model, config, alone)
        return model, self.processor.tokenizer

    def _lora(self, model: nn.Module, wanted: Sequence[str] | None) -> list[str]:
        """The decoder's linear layers, those whose names end in one of `wanted`: engines cannot serve adapters on a
        tower, whose layers often have the same names. Raises ValueError where none is left.
        """
        decoder = self.family.language(model)
        layers = dict(decoder.named_modules())
        inside = {id(layers[name]) for name in adaptable(decoder)}
        names = [name for name, m in model.named_modules() if id(m) in inside]
        found = [n for n in names if wanted is None or any(n == w or n.endswith(f".{w}") for w in wanted)]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in names})
            raise ValueError(f"lora.targets {wanted}: no linear layer of the decoder; there are {', '.join(known)}")
        return found

    def _built(self) -> tuple[Any, Any]:
        with hollow.skeleton():
            model, processor = self._build()
        return model.to(loading.frozen_dtype(self.config)), processor

    def _write_base(self, folder: Path) -> None:
        model, processor = self._built()
        model.to(getattr(torch, self.config.dtype)).save_pretrained(folder)
        processor.save_pretrained(folder)

    def _never_sampled(self) -> tuple[int, ...]:
        return tuple(sorted({*super()._never_sampled(), *self.family.never_sampled(self.model)}))

    def _decoder(self) -> MediaDecoder:
        return MediaDecoder(self.model, self.family, self._rooms())

    def _block_names(self) -> Sequence[str]:
        decoder = self.family.language(self.model)
        return sorted({*super()._block_names(), *(getattr(decoder, "_no_split_modules", None) or ())})

    def _never_divided(self) -> Sequence[nn.Module]:
        return self._towers(self.model)

    def _towers(self, model: Any) -> Sequence[nn.Module]:
        """What sees and hears."""
        raise NotImplementedError

    def parts(self) -> Mapping[str, Sequence[Tensor]]:
        """See Adapter.parts."""
        towers = {id(t): t for m in self._towers(self.model) for t in (*m.parameters(), *m.buffers())}
        rest = [t for t in self.weights() if id(t) not in towers]
        return {"policy": rest, "towers": list(towers.values())}

    @property
    def _way(self) -> Way:
        way = super()._way
        return way if self.family.shares_prompts else Way()

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads, with the processor; for LoRA, peft's own files."""
        super().save(folder)
        if self.config.train == "full":
            self.processor.save_pretrained(folder)
