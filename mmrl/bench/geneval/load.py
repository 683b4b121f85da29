"""From a word to a detector: a local model's folder, or a function of a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mmrl.bench.geneval.found import Detector, Found
from mmrl.config import ConfigError
from mmrl.content import mark_of
from mmrl.importing import import_file
from mmrl.near import near, short
from mmrl.share import resolve


def open_detector(spec: str, labels: Sequence[str], floor: float, options: Mapping[str, Any]) -> Detector:
    """The detector that `spec` names.

    A folder: a model of transformers (local.Local, with its options), which is to find `labels`, with scores of `floor`
    or more. `file.py:name`: a function of a picture, or a class that is made with the options and then called with one;
    it returns {"box", "label", "score"} each, with or without "colour"; its attribute `names_colours` says that all
    have one. Raises ConfigError for options that it does not have, FileNotFoundError where nothing is.
    """
    file, colon, name = spec.removeprefix("share://").rpartition(":")
    if colon and file.endswith(".py"):
        return OfFile(resolve(spec.rpartition(":")[0]), name, options)
    folder = resolve(spec)
    if not folder.is_dir():
        raise FileNotFoundError(f"detector {short(spec)}: there is no such folder; give a model's, or file.py:name")
    from mmrl.bench.geneval.local import Local

    _check(spec, Local.OPTIONS, options)
    return Local(folder, labels, floor, **options)


class OfFile:
    """A detector of the user's, see open_detector."""

    def __init__(self, file: Path, name: str, options: Mapping[str, Any]) -> None:
        try:
            module = import_file(file)
        except ValueError as error:
            raise ConfigError(f"detector: {error}") from None
        made: Any = getattr(module, name, None)
        if not callable(made):
            names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            raise ConfigError(f"detector: {file} has no function {short(name)}; {near(name, names)}")
        self.names_colours = bool(getattr(made, "names_colours", False))
        self.identity = f"{file.name}:{name} {mark_of(file)} {dict(sorted(options.items()))}"
        made_first = inspect.isclass(made)  # with the options, and then called
        _check(name, list(inspect.signature(made).parameters)[0 if made_first else 1 :], options)
        self.call: Callable[[Image.Image], Any] = made(**options) if made_first else partial(made, **options)

    def detect(self, picture: Image.Image) -> list[Found]:
        return [self._found(one) for one in self.call(picture)]

    def _found(self, told: Any) -> Found:
        """Raises ConfigError for what is no such object."""
        try:
            left, top, right, bottom = (float(value) for value in told["box"])
            colour = told.get("colour")
            score = float(told["score"])
            if not isinstance(told["label"], str) or not 0 <= score <= 1 or (self.names_colours and not colour):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            wanted = "{box: [left, top, right, bottom], label: text, score: 0 to 1"
            wanted += ", colour: text}" if self.names_colours else "}"
            raise ConfigError(
                f"the detector {self.identity.split()[0]} gave {short(told)}; expected {wanted}"
            ) from None
        return Found((left, top, right, bottom), told["label"], score, colour)


def _check(name: str, known: Sequence[str], options: Mapping[str, Any]) -> None:
    if wrong := next((option for option in options if option not in known), None):
        hint = near(wrong, known) if known else "it has no options"
        raise ConfigError(f"detector {short(name)} has no option {short(wrong)}; {hint}")
