"""Linear merging of checkpoints: one tensor after the other, written in the layout of the first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmrl.training import merge_lora
from mmrl.training.merge_lora import MergeError

# Weights in formats that are not read here; a copy of the first checkpoint's would contradict the merged ones.
OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf"}

# A scalar head's notes, and what they say of its scores.
HEAD_NOTES, OF_SCORES = Path("head", "head.json"), ("mean", "std", "scores")


class _File:
    """An open .safetensors file that knows its place."""

    def __init__(self, file: Any, place: Path) -> None:
        self.file, self.place = file, place

    def metadata(self) -> dict[str, str] | None:
        return self.file.metadata()

    def shape(self, name: str) -> list[int]:
        return list(self.file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        return self.file.get_tensor(name)


# A checkpoint: (folder, tensor) -> the open file that holds the tensor; folders and files relative to its root.
Opened = dict[tuple[Path, str], _File]


def bai_weights(count: int, inner: float = 0.5, outer: float = 0.5) -> tuple[float, ...]:
    """Weights of BAI's two-level merge of (instruction, distilled, pretrained) checkpoints.

    theta = outer * (inner * instruction + (1 - inner) * distilled) + (1 - outer) * pretrained; with two checkpoints
    the inner level alone. That the mix is balanced is published, its ratios are not: 0.5 is a placeholder.
    Raises MergeError for another count.
    """
    if count == 2:
        return (inner, 1 - inner)
    if count == 3:
        return (outer * inner, outer * (1 - inner), 1 - outer)
    raise MergeError(f"{count} checkpoints have no default weights (2 and 3 do); give one weight for each")


def merge(out: Path, checkpoints: Sequence[Path], weights: Sequence[float] | None = None) -> Path:
    """Write sum_i weights[i] * checkpoints[i] into the folder `out` and return it.

    checkpoints: folders that `from_pretrained` takes, or runs (their last checkpoint's policy). Folder by folder,
        they must hold the same tensor names and shapes in .safetensors files, however these are sharded.
    weights: one for each, with sum 1; by default `bai_weights`.
    Floating tensors are summed in float32 (float64 where they are float64) and written in the first checkpoint's dtype;
    integer and boolean ones must be equal. Of LoRA it is the updates B·A that are summed (mmrl.training.merge_lora), so
    that the rank of the result is the sum of the ranks. Every other file is the first checkpoint's, but for the mean
    and the deviation of a scalar head's scores, which are not the result's, and merge.json says what was merged.
    Raises MergeError for checkpoints that do not fit, bad weights, and an `out` that exists; `out` then stays as it
    was.
    """
    places = [_policy(Path(c)) for c in checkpoints]
    if len(places) < 2:
        raise MergeError(f"merging takes two checkpoints or more, got {len(places)}")
    factors = tuple(bai_weights(len(places)) if weights is None else weights)
    if len(factors) != len(places):
        raise MergeError(f"{len(factors)} weights for {len(places)} checkpoints; give one for each")
    if not abs(sum(factors) - 1) < 1e-6:
        raise MergeError(f"weights {', '.join(f'{w:g}' for w in factors)} sum to {sum(factors):g}; they must sum to 1")
    out = Path(out)
    if out.exists():
        raise MergeError(f"{out} exists; take another name or remove it")
    with ExitStack() as stack:
        opened = [_open(place, stack) for place in places]
        _check(places, opened)
        temporary = out.with_name(f".{out.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _write(temporary, places, opened, factors)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    temporary.rename(out)
    return out


def _write(target: Path, places: Sequence[Path], opened: Sequence[Opened], factors: Sequence[float]) -> None:
    _copy_rest(places[0], target, {folder for folder, _ in opened[0]})
    for folder, files in _layout(opened[0]).items():
        lora = _Lora(folder, places, opened, factors)
        for file, names in files.items():
            tensors = {
                n: lora.joined(n) if n in lora.names else _sum(n, folder, places, opened, factors) for n in names
            }
            save_file(tensors, target / file, metadata=lora.header(opened[0][folder, names[0]].metadata()))
        lora.write_config(target / folder)
    _forget_spread(target / HEAD_NOTES)
    record = {"checkpoints": [str(p) for p in places], "weights": list(factors)}
    (target / "merge.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _forget_spread(notes: Path) -> None:
    """Of a scalar head: the mean and deviation of scores were those of the first checkpoint's, not of what is made."""
    if notes.is_file():
        kept = json.loads(notes.read_text(encoding="utf-8"))
        kept = {key: value for key, value in kept.items() if key not in OF_SCORES}
        notes.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


class _Lora:
    """The LoRA matrices of one folder of the checkpoints; `names` is empty where there are none.

    Raises MergeError for checkpoints of other base models, or whose updates are no plain products.
    """

    def __init__(
        self, folder: Path, places: Sequence[Path], opened: Sequence[Opened], factors: Sequence[float]
    ) -> None:
        self.files = [
            {name: file for (where, name), file in checkpoint.items() if where == folder and merge_lora.is_lora(name)}
            for checkpoint in opened
        ]
        self.names = set(self.files[0])
        self.rank, self.factors = 0, list(factors)
        self.options: list[dict[str, Any]] = [{}]
        if not self.names:
            return
        some = next(name for name in sorted(self.names) if merge_lora.is_down(name))
        self.options = [
            merge_lora.settings(place / folder, files[some].metadata(), some)
            for place, files in zip(places, self.files)
        ]
        bases = {str(options.get("base_model_name_or_path")) for options in self.options}
        if len(bases) > 1:
            raise MergeError(f"LoRA of other models cannot be merged: {', '.join(sorted(bases))}")
        ranks = [files[some].shape(some)[0] for files in self.files]
        self.rank = sum(ranks)
        self.factors = [f * merge_lora.scale(o, r) for f, o, r in zip(factors, self.options, ranks)]

    def joined(self, name: str) -> Tensor:
        tensors = [files[name].tensor(name) for files in self.files]
        return merge_lora.joined(name, tensors, self.factors).to(tensors[0].dtype)

    def header(self, metadata: dict[str, str] | None) -> dict[str, str] | None:
        return merge_lora.merged_header(metadata, self.rank) if self.names else metadata

    def write_config(self, folder: Path) -> None:
        if self.names and (folder / merge_lora.CONFIG).is_file():
            about = merge_lora.merged_config(self.options[0], self.rank)
            (folder / merge_lora.CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _policy(path: Path) -> Path:
    run = path / "checkpoints" / "latest" / "policy"
    found = run.resolve() if run.is_dir() else path
    if not found.is_dir():
        raise MergeError(f"{path}: no such folder")
    return found


def _open(root: Path, stack: ExitStack) -> Opened:
    found: Opened = {}
    for path in sorted(root.rglob("*.safetensors")):
        place = path.relative_to(root)
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise MergeError(f"{path} cannot be read as safetensors: {error}") from error
        for name in file.keys():  # noqa: SIM118 - not a mapping
            key = (place.parent, name)
            if key in found:
                raise MergeError(f"{root}: {found[key].place} and {place} both hold {name}; remove one of the files")
            found[key] = _File(file, place)
    if not found:
        raise MergeError(f"{root} holds no .safetensors file; save it with safe_serialization=True")
    return found


def _check(places: Sequence[Path], opened: Sequence[Opened]) -> None:
    """Every checkpoint holds the tensors of the first, in the same shapes."""
    first = opened[0]
    for root, other in zip(places[1:], opened[1:]):
        lacks = sorted(_named(key) for key in first.keys() - other.keys())
        extra = sorted(_named(key) for key in other.keys() - first.keys())
        if lacks or extra:
            raise MergeError(
                f"{root} and {places[0]} hold different tensors: {_few('it lacks', lacks)}{_few('it adds', extra)}"
                "only checkpoints of one architecture can be merged"
            )
        wrong = [
            f"{_named(key)} {other[key].shape(key[1])} instead of {first[key].shape(key[1])}"
            for key in sorted(first)
            if _shape(key[1], other[key]) != _shape(key[1], first[key])
        ]
        if wrong:
            raise MergeError(f"{root} has other shapes than {places[0]}: {_few('', wrong).rstrip('; ')}")


def _shape(name: str, file: _File) -> list[int]:
    """What must be alike."""
    found = file.shape(name)
    return merge_lora.shape(name, found) if merge_lora.is_lora(name) else found


def _named(key: tuple[Path, str]) -> str:
    return key[1] if key[0] == Path(".") else f"{key[0]}/{key[1]}"


def _few(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{what} {', '.join(names[:8])}{more}; ".lstrip()


def _layout(first: Opened) -> dict[Path, dict[Path, list[str]]]:
    """Folder -> file -> names of the tensors, as the first checkpoint keeps them."""
    found: dict[Path, dict[Path, list[str]]] = {}
    for (folder, name), file in first.items():
        found.setdefault(folder, {}).setdefault(file.place, []).append(name)
    return found


def _sum(name: str, folder: Path, places: Sequence[Path], opened: Sequence[Opened], factors: Sequence[float]) -> Tensor:
    tensors = [checkpoint[folder, name].tensor(name) for checkpoint in opened]
    first = tensors[0]
    if not first.is_floating_point():
        for place, other in zip(places[1:], tensors[1:]):
            if not torch.equal(first, other):
                raise MergeError(f"{_named((folder, name))} is {first.dtype} and differs in {place}; it has no mean")
        return first.contiguous()
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    total = torch.zeros_like(first, dtype=wide)
    for tensor, factor in zip(tensors, factors):
        total.add_(tensor.to(wide), alpha=factor)
    return total.to(first.dtype).contiguous()


def _copy_rest(root: Path, target: Path, merged: set[Path]) -> None:
    """Configuration, tokenizer and the like of the first checkpoint; weights of other formats only beside merged ones
    (there they are duplicates or trainer files), as a part left out would not load."""
    target.mkdir(parents=True)
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root)
        if path.is_dir():
            (target / place).mkdir(exist_ok=True)
        elif path.suffix in OTHER_WEIGHTS:
            if place.parent not in merged:
                raise MergeError(
                    f"{path} is not safetensors and cannot be merged; save it with safe_serialization=True"
                )
        elif path.suffix != ".safetensors":
            shutil.copyfile(path, target / place)
