"""OCR engines behind one interface: a picture in, its text out, and which scripts the engine reads.

Nothing is downloaded: an engine's models are those of its package, or files of yours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmrl.importing import import_file
from mmrl.near import near
from mmrl.share import resolve

from .writing import scripts_in


@dataclass(frozen=True)
class Language:
    """scripts: beside Latin, which all engines read. rapidocr: the first word of its model's file; "": it is in the
    package. easyocr: its own code; "": it has none."""

    scripts: tuple[str, ...]
    rapidocr: str = ""
    easyocr: str = ""


LANGUAGES = {
    "en": Language((), "", "en"),
    "zh": Language(("Han",), "", "ch_sim"),
    "zh-hant": Language(("Han",), "", "ch_tra"),
    "ja": Language(("Han", "Hiragana", "Katakana"), "", "ja"),
    "ko": Language(("Hangul",), "korean", "ko"),
    "ru": Language(("Cyrillic",), "eslav", "ru"),
    "bg": Language(("Cyrillic",), "cyrillic", "bg"),
    "el": Language(("Greek",), "el", ""),
    "ar": Language(("Arabic",), "arabic", "ar"),
    "fa": Language(("Arabic",), "arabic", "fa"),
    "hi": Language(("Devanagari",), "devanagari", "hi"),
    "th": Language(("Thai",), "th", "th"),
    "ta": Language(("Tamil",), "ta", "ta"),
    "te": Language(("Telugu",), "te", "te"),
}


@dataclass(frozen=True)
class Reader:
    """read: an RGB picture -> its text, lines joined by spaces. scripts: that it reads; None: not told, any."""

    read: Callable[[Image.Image], str]
    scripts: frozenset[str] | None = None

    def knows(self, text: str) -> bool:
        """Whether it reads all letters of a text."""
        return self.scripts is None or scripts_in(text) <= self.scripts


def open_engine(engine: str, languages: Sequence[str], options: Mapping[str, Any]) -> list[Reader]:
    """The readers of an engine, one or several: an engine may have a model for each script.

    engine: "rapidocr" (options: `models`, {language: .onnx file}, and `params` of the package), "easyocr" (options:
    those of its Reader, `model_storage_directory` among them), or `file.py:name`: a function of an RGB picture, or a
    class that is made with `languages` and the options and then called with one; it returns a text, or lines, and may
    have an attribute `scripts`. Raises ValueError, FileNotFoundError for a model's file, and
    ModuleNotFoundError without the engine's package.
    """
    if ":" in engine.removeprefix("share://"):
        return [_of_file(engine, languages, options)]
    engines = {"rapidocr": _rapidocr, "easyocr": _easyocr}
    if engine not in engines:
        raise ValueError(f"engine={engine!r}: {near(engine, engines)}; one of your own is file.py:name")
    if not languages:
        raise ValueError("languages: at least one, such as [en]")
    if unknown := next((name for name in languages if name not in LANGUAGES), None):
        raise ValueError(f"languages: {unknown!r}: {near(unknown, LANGUAGES)}; others need an engine of your own")
    return engines[engine](languages, dict(options))


def _scripts(languages: Sequence[str]) -> frozenset[str]:
    return frozenset({"Latin", *(script for name in languages for script in LANGUAGES[name].scripts)})


def _rapidocr(languages: Sequence[str], options: dict[str, Any]) -> list[Reader]:
    """One reader for all that the package's own model reads, and one for each other model."""
    from rapidocr import LangRec, OCRVersion, RapidOCR

    models, params = dict(options.pop("models", {})), dict(options.pop("params", {}))
    if options:
        raise ValueError(f"engine_options: rapidocr takes models and params, not {next(iter(options))!r}")
    if wrong := next((name for name in models if name not in languages or not LANGUAGES[name].rapidocr), None):
        why = "is none of `languages`" if wrong not in languages else "needs no model: the package has it"
        raise ValueError(f"engine_options: models: {wrong!r} {why}")
    whole = {"Global.log_level": "error", **params}  # its messages would drown the progress of a training
    readers = []
    if own := [name for name in languages if not LANGUAGES[name].rapidocr]:
        readers.append(Reader(_rapid(RapidOCR(params=whole)), _scripts(own)))
    for name in languages:
        if not (kind := LANGUAGES[name].rapidocr):
            continue
        wanted = f"{kind}_PP-OCRv5_rec_mobile.onnx"
        path = resolve(str(models[name])) if name in models else None
        if path is None or not path.is_file():
            there = f"there is no file {path}" if path else f"rapidocr's package reads no {name!r}"
            kind = FileNotFoundError if path else ValueError
            raise kind(f"languages: {there}; set engine_options: {{models: {{{name}: path/to/{wanted}}}}}")
        own_model = {"Rec.model_path": str(path), "Rec.lang_type": LangRec(kind), "Rec.ocr_version": OCRVersion.PPOCRV5}
        readers.append(Reader(_rapid(RapidOCR(params=whole | own_model)), _scripts([name])))
    return readers


def _rapid(engine: Any) -> Callable[[Image.Image], str]:
    return lambda picture: " ".join(engine(_bgr(picture)).txts or ())


def _easyocr(languages: Sequence[str], options: dict[str, Any]) -> list[Reader]:
    from easyocr import Reader as EasyReader

    if unread := next((name for name in languages if not LANGUAGES[name].easyocr), None):
        raise ValueError(f"languages: easyocr reads no {unread!r}")
    made = EasyReader(
        [LANGUAGES[name].easyocr for name in languages], **{"download_enabled": False, "verbose": False, **options}
    )
    return [Reader(lambda picture: " ".join(made.readtext(_bgr(picture), detail=0)), _scripts(languages))]


def _of_file(spec: str, languages: Sequence[str], options: Mapping[str, Any]) -> Reader:
    file, _, name = spec.rpartition(":")
    made: Any = getattr(import_file(resolve(file)), name, None)
    if not callable(made):
        raise ValueError(f"engine: {file} has no function or class {name!r}")
    if not inspect.isclass(made) and options:
        raise ValueError(f"engine_options: {name} is a function, which takes a picture alone")
    read = made(languages=list(languages), **options) if inspect.isclass(made) else made
    scripts = getattr(read, "scripts", None)
    return Reader(lambda picture: _text(read(picture), spec), None if scripts is None else frozenset(scripts))


def _text(said: Any, spec: str) -> str:
    if isinstance(said, str):
        return said
    if isinstance(said, Sequence) and all(isinstance(line, str) for line in said):
        return " ".join(said)
    raise TypeError(f"engine {spec} gave {type(said).__name__}, expected a text or lines of it")


def _bgr(picture: Image.Image) -> np.ndarray:
    """Both engines expect OpenCV's order of channels of an array."""
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])
