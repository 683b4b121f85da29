"""What a shell offers for the words of a command: configs that ship, files, and keys of the config that was named."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from mmrl.config import Config, ConfigError
from mmrl.config.places import keys
from mmrl.config.reading import values_of
from mmrl.modalities.load import DEFAULTS
from mmrl.share import share


def config_words(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Configs and files for the first word; behind a config, or with --modality, its keys with their `=`."""
    words = [str(word) for word in context.params.get("words") or () if "=" not in str(word)]
    source = words[0] if words else None
    modality = context.params.get("modality")
    if source is None and modality is None:
        root = share("configs")
        names = sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))
        ships = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return ships or [CompletionItem(incomplete, type="file")]
    return [CompletionItem(f"{key}=", type="nospace") for key in _keys(source, modality) if key.startswith(incomplete)]


def _keys(source: str | None, modality: Any) -> list[str]:
    try:
        values = values_of(DEFAULTS.get(str(modality), "") if source is None else source)
    except ConfigError:
        return []
    return list(keys(Config, values))
