"""The words of a command: a config with overrides, a run's folder, options as KEY=VALUE."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmrl.near import short

if TYPE_CHECKING:
    from mmrl.config import Config
    from mmrl.config.reading import Override

Words = tuple[str, ...]
Command = Callable[..., Any]


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from mmrl.completion import config_words

    return config_words(context, parameter, incomplete)


def with_config(command: Command) -> Command:
    """CONFIG, --modality and overrides, as every command that runs a config takes them."""
    command = click.argument(
        "words", nargs=-1, metavar="[CONFIG | RUN_FOLDER] [KEY.SUB=VALUE]...", shell_complete=_complete
    )(command)
    return click.option(
        "--modality",
        "-m",
        help="text, cad, vision, audio, image, or path/file.py:Class; without CONFIG, runs its default.",
    )(command)


def is_override(word: str) -> bool:
    """Whether a word is KEY.SUB=VALUE; a file or folder that is there is a config, whatever its name."""
    return "=" in word and not os.path.exists(word)


def read_config(words: Words, modality: str | None, extra: Iterable[Override] = ()) -> Config:
    """The config of a command's words; `extra` are overrides on top of theirs."""
    from mmrl.config import ConfigError, load

    overrides: list[Override] = [word for word in words if is_override(word)]
    sources = [word for word in words if not is_override(word)]
    if len(sources) > 1:
        raise ConfigError(f"expected one config, got {' and '.join(map(short, sources))}")
    if sources and modality:
        overrides.insert(0, ("modality", modality))
    if sources:
        return load(sources[0], [*overrides, *extra])
    if modality is None:
        raise ConfigError(
            "which run? give a CONFIG file or name (`mmrl list configs`), a run's folder, or --modality image"
        )
    return load(_default(modality), [*overrides, *extra])


def _default(modality: str) -> str | dict[str, Any]:
    from mmrl import api
    from mmrl.modalities.load import adapter_class

    if modality.rpartition(":")[0].endswith(".py"):
        from mmrl.config import ConfigError

        try:
            default = getattr(adapter_class(modality), "default_config", None)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if default is None:
            raise ConfigError(f"{modality} has no `default_config`; give a CONFIG as well")
        return {"modality": modality, **default}
    return api.default_config(modality)


def with_run(words: Words, modality: str | None, run: Path | None) -> tuple[Words, Path | None]:
    """(words, run): a run's folder as the config means its last checkpoint, and a --run alone brings its config."""
    from mmrl.config import is_run

    sources = [word for word in words if not is_override(word)]
    if run is not None and not sources and not modality:
        return (str(run), *words), run
    if run is None and len(sources) == 1 and is_run(Path(sources[0])):
        return words, Path(sources[0])
    return words, run


def key_values(words: Words) -> dict[str, Any]:
    """What KEY=VALUE words say, values read as YAML. Raises ConfigError for another word."""
    from mmrl.config.overrides import read

    return dict(read(word) for word in words)
