"""What rewards of frozen models share: where a model's files are, one load a process, pictures, batches.

Weights are read from .safetensors files on this machine: a folder, a file, or a hub name that is in the local cache.
Nothing is downloaded.
"""

from __future__ import annotations

import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmrl.pictures import PictureError, open_image
from mmrl.share import resolve
from mmrl.types import Sample, Score

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_PIXELS = 50_000_000

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_loaded: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
_loading = threading.Lock()


# -------------------------------------------------------------------- files


def folder_of(name: str, option: str) -> Path:
    """The folder of a model: `name` itself, or what the local cache of the hub has under that name.

    Raises FileNotFoundError, which names the option and what to download.
    """
    folder = resolve(name)
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"{option}: there is no folder {name}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        told = f"{option}={name!r} is no folder and not in the local cache; download it first: hf download {name}"
        raise FileNotFoundError(told) from None


def weights_of(name: str, option: str, published: str) -> Path:
    """The .safetensors file `name`. published: where the model's weights are, for the message where it is not there.

    Raises FileNotFoundError then, and ValueError for a file of another kind.
    """
    path = resolve(name)
    if path.suffix != ".safetensors":
        raise ValueError(f"{option}: {path.name} may hold a pickle; convert it to .safetensors (docs/image_rewards.md)")
    if not path.is_file():
        raise FileNotFoundError(f"{option}: there is no file {path}; the published weights are {published}")
    return path


def place_of(device: str | None, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Where a model goes, the accelerator by default, and the type of its weights. Scores are float32 all the same."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}")
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), DTYPES[dtype]


def load_once(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` makes; the same as long as somebody holds it, so that two rewards of one model share its memory."""
    with _loading:
        found: T | None = _loaded.get(key)
        if found is None:
            _loaded[key] = found = load()
        return found


# -------------------------------------------------------------------- pictures and scores


def rgb(picture: Any) -> Image.Image:
    """The sample's picture in RGB, what is transparent white, as mmrl opens any. Raises PictureError."""
    if not isinstance(picture, Image.Image):
        raise PictureError(f"the sample has no picture, but {type(picture).__name__}")
    return open_image(picture, None, MAX_PIXELS)


def score_pictures(
    drawn: Sequence[Sample],
    values: Callable[[list[Image.Image], list[str]], list[Any]],
    details: Callable[[str], Mapping[str, Any]] = lambda text: {},
) -> list[Score]:
    """A score for each of the samples: values(pictures, prompts) of those that have a picture; the others are invalid.

    values: gives a number or a Score for each.
    details: of a prompt, which the scores carry.
    """
    failed: dict[int, Score] = {}
    pictures: dict[int, Image.Image] = {}
    for place, sample in enumerate(drawn):
        try:
            pictures[place] = rgb(sample.artifact)
        except PictureError as error:
            failed[place] = Score.invalid(str(error))
    texts = [drawn[place].prompt.text for place in pictures]
    found = values(list(pictures.values()), texts) if pictures else []
    about = {text: details(text) for text in dict.fromkeys(texts)}
    scored = {place: Score.of(value, **about[text]) for place, value, text in zip(pictures, found, texts)}
    return [failed.get(place) or scored[place] for place in range(len(drawn))]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    if size < 1:
        raise ValueError(f"batch={size} must be 1 or more")
    return (items[start : start + size] for start in range(0, len(items), size))


def cut_of(tokens: int, context: int) -> dict[str, Any]:
    """Details of a prompt of that many tokens: whether the model sees all of it."""
    return {"truncated": True, "tokens": tokens} if tokens > context else {}


class Towers(ABC):
    """A tower for pictures and one for texts, frozen, that embed into one space.

    batch: pictures, or texts, a forward pass. context: tokens that the text tower reads, both marks included; longer
    texts are cut there.
    """

    batch: int
    context: int

    @abstractmethod
    def embed_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[N, D] of RGB pictures, one forward pass."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D], one forward pass."""

    @abstractmethod
    def tokens(self, text: str) -> int:
        """Tokens of `text` with its start and end marks, before it is cut to the context."""

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[N, D] float32 embeddings of unit length."""
        rows = [self.embed_images(part).float() for part in batches(pictures, self.batch)]
        return F.normalize(torch.cat(rows), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32 embeddings of unit length; each different text is encoded once."""
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        rows = [self.embed_texts(part).float() for part in batches(list(place), self.batch)]
        return F.normalize(torch.cat(rows), dim=-1)[[place[text] for text in texts]]

    def scores(self, samples: Sequence[Sample], scale: float) -> list[Score]:
        """cosine(picture, prompt) * scale of each sample; a prompt that was cut is told in the details."""
        return score_pictures(
            samples,
            lambda pictures, texts: ((self.images(pictures) * self.texts(texts)).sum(-1) * scale).tolist(),
            lambda text: cut_of(self.tokens(text), self.context),
        )
