"""Writes docs/models.md: every text architecture that is tried, what was found about it, and whether it trains.

    python docs/make_models.py            all of them, a few minutes on a CPU
    python docs/make_models.py Jamba OPT  these lines anew, the others stay

Ends with 1 where something fails. tests/modalities/text/test_architectures.py is the same, one architecture at a time.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.training.check import check_adapter
from mmrl.training.check_tools import LOGP_ROUNDING, all_columns, gradient_of, one_slice, stored_logp
from mmrl.types import Group, Prompt

HERE = Path(__file__).resolve().parent
PAGE = HERE / "models.md"

HEAD = """\
# Models

<!-- Written by docs/make_models.py (`make models`); change the script, not this page. -->

`modality: text` loads what transformers' `AutoModelForCausalLM` does, and tries how it may be run before it trusts it.
A tiny model of each architecture below, made from its own configuration class with random weights, makes a step of GRPO
with all weights and with LoRA, in float32 and bfloat16, with and without gradient checkpointing. In float32 it passes
every clause of `mmrl check`, and its log-probabilities are those of the plain transformers model, one row at a time.
Nothing here was run on a GPU or with trained weights. Others are likely to work: a model that cannot is refused in one
line. Image models are families, each of which a pipeline of diffusers belongs to: [Text-to-image](image.md).

- **Attention** is what `attention: auto` takes: sdpa where the class has it, else eager. Asking for what would leave a
  soft cap or sinks out is refused.
- **Sampling**: *cache* is one forward a token, prompts of unequal length padded together. *equal lengths*: the cache is
  right for prompts of one length only, so these are sampled together. *recomputed*: the state cannot be kept from token
  to token in this version of transformers, so each is computed from its whole row; right, but slow.
- **Shared prompt**: whether a group's prompt is computed once in training. A model with a recurrent state changes it in
  place, which a gradient cannot go back through: it replays whole rows.
- **In line**: whether rows are replayed one behind the other, without padding, each prompt once
  (mmrl/engines/packing.py). It takes attention by sdpa, positions that are given, and a model whose layers know of rows
  by their mask alone; a micro-batch with a row that is longer than a layer's window is padded instead.
- **LoRA layers** are those that `lora.targets: null` adapts: linear layers, without the head, routers and gates of
  experts, and layers whose weights the model's kernels read themselves. Experts that are one tensor for all are no
  layers: to train them, take `train: full`.
- Auxiliary losses of routers are off: the loss is the algorithm's alone.
- In 16 bit nine tokens of ten agree to 0.1 nats, which is what is asked there. All did in every row but one: of
  Qwen3-Next with LoRA one token was off by 0.94, most likely as its router, undecided, chose another expert than in the
  rollout (not traced). Training warns of such tokens.

Ways are found by running a few short rows when a model is first used, not by its name (mmrl/engines/ways.py). With
LongRoPE a run takes one of the two sets of frequencies and keeps it (docs/text.md).

"""
COLUMNS = ("architecture", "class", "attention", "sampling", "shared prompt", "in line", "LoRA layers", "full", "LoRA")
SETTINGS = list(itertools.product(("float32", "bfloat16"), (False, True)))
TEXTS = ("a+b=", "What is three times five?")
TOKENS = 10


def architectures() -> Any:
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("mmrl_docs_architectures", HERE / "architectures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policy(folder: Path, **model: Any) -> TextAdapter:
    sampling = {"max_tokens": TOKENS, **model.pop("sampling", {})}
    lora = {"rank": 2, "alpha": 4, **model.pop("lora", {})}
    if model.get("train") == "lora":
        model["lora"] = lora
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TextAdapter(ModelConfig(path=str(folder), chat="off", sampling=sampling, **model))


def found(folder: Path) -> tuple[str, ...]:
    """(class, attention, sampling, shared prompt, in line, LoRA layers) of a checkpoint."""
    made = policy(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways = made._ways
    sampling = "cache" if ways.padded else "cache, equal lengths" if ways.cached else "recomputed"
    lora = policy(folder, train="lora")
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in lora.trainable_parameters()}
    attention = made.model.config._attn_implementation
    attends = any("Attention" in type(module).__name__ for module in made.model.modules())
    return (
        type(made.model).__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel"),
        attention if attends else "none",
        sampling,
        "yes" if ways.shared else "no",
        "no" if not ways.line else "yes" if ways.line == sys.maxsize else "within its window",
        ", ".join(sorted(names)),
    )


def trains(folder: Path, train: str, dtype: str, checkpointing: bool) -> str:
    """What is wrong with a step of GRPO and, in float32, the contract; "" where nothing is."""
    sampling = {"max_tokens": 6}
    made = policy(folder, train=train, dtype=dtype, gradient_checkpointing=checkpointing, sampling=sampling)
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    if dtype == "float32":
        results = check_adapter(made, prompts, reload=lambda place: TextAdapter(made.config.at(place)))
        wrong = [f"{r.name}: {r.detail}" for r in results if not r.passed]
        if wrong:
            return "; ".join(wrong)
    samples = [s for g in made.rollout([Group(p, i) for i, p in enumerate(prompts)], 2, 0, 0) for s in g.samples]
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        gaps = (made.logprobs(samples, columns).logp.cpu() - stored)[mask].abs()
    gap = float(gaps.max() if dtype == "float32" else gaps.quantile(0.9))
    if gap > max(1e-3, LOGP_ROUNDING[made.precision]):
        return f"replay is off by {gap:.1e}"
    gradients = gradient_of(made, samples, one_slice(samples))
    if not all(bool(torch.isfinite(g).all()) for g in gradients) or not any(bool(g.any()) for g in gradients):
        return "the gradient is not finite, or 0"
    parameters = list(made.trainable_parameters().values())
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient
    torch.optim.AdamW(parameters, lr=1e-2).step()
    moved = made.logprobs(samples, columns).logp.detach()
    return "" if bool(torch.isfinite(moved).all()) else "log-probs are not finite after a step"


def line(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """(cells of an architecture's line, what is wrong)."""
    cells, wrong = [name, *found(folder)], []
    for train in ("full", "lora"):
        bad = [(d, c, why) for d, c in SETTINGS if (why := _tried(folder, train, d, c))]
        wrong += [f"{name}, {train}, {d}{', checkpointing' if c else ''}: {why}" for d, c, why in bad]
        cells.append("fails" if bad else "works")
    return cells, wrong


def _tried(folder: Path, train: str, dtype: str, checkpointing: bool) -> str:
    try:
        return trains(folder, train, dtype, checkpointing)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(names: Sequence[str]) -> int:
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    zoo = architectures()
    known = PAGE.read_text(encoding="utf-8").splitlines() if names else []
    lines = {text.split("|")[1].strip(): text for text in known if text.startswith("| ")}
    wrong: list[str] = []
    for name in names or zoo.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as place:
            cells, bad = line(name, zoo.write(name, Path(place)))
        lines[name] = row(cells)
        wrong += bad
        print(lines[name], *bad, sep="\n  ", flush=True)
    table = [row(COLUMNS), row(["---"] * len(COLUMNS)), *(lines[name] for name in zoo.ARCHITECTURES if name in lines)]
    PAGE.write_text(HEAD + "\n".join(table) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
