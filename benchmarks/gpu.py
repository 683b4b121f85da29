"""What mmrl does on a GPU: parity of log-probs, memory against `mmrl plan`, speed, and the share of the GPU's peak.

    python benchmarks/gpu.py              on one GPU, all cases, under ten minutes on an H100
    python benchmarks/gpu.py --only SD    those whose name has these letters
    python benchmarks/gpu.py --tiny       the same code on a CPU, with models of kilobytes

Models have the shapes of Qwen2.5-VL-3B and the denoiser of SD3.5 medium and random weights: nothing is downloaded. Each
case is a process of its own. Without a GPU it says what it would measure. README.md says how to read the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense 16-bit operations a second, as NVIDIA says
GOAL = 0.45
STEPS = 3  # the first warms up
COLUMNS = ("case", "log-prob gap, mean", "largest", "memory GB", "plan GB", "s rollout", "made a s", "s update", "MFU")

REWARD = """
def noise(samples):
    return [hash((s.prompt.id, s.index)) % 97 / 97 for s in samples]
"""

QWEN = {
    "text": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "layer_types": ["full_attention"] * 36,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "vocab": 151936,
}  # fmt: skip
SD = {
    "layers": 24, "heads": 24, "head_dim": 64, "text_width": 1024, "latent_channels": 16, "grid": 64, "patch_size": 2,
    "dual_attention": list(range(13)), "vae_widths": [128, 256, 512, 512], "max_length": 77,
}  # fmt: skip
TINY_SD = {"layers": 2, "heads": 2, "head_dim": 16, "text_width": 16, "vae_widths": [8, 8], "grid": 8}
LORA = {"train": "lora", "lora": {"rank": 32, "alpha": 64}}


@dataclass(frozen=True)
class Case:
    """sees: the vision-language model, else the denoiser. engine: what samples."""

    sees: bool
    train: str
    engine: str = "transformers"

    @property
    def name(self) -> str:
        shape = "Qwen2.5-VL-3B" if self.sees else "SD3.5-Medium"
        return f"{shape}, {self.train}" + (f", {self.engine} colocated, sleeping" if self.engine == "vllm" else "")


CASES = [Case(True, "lora"), Case(True, "full"), Case(True, "lora", "vllm"), Case(False, "lora"), Case(False, "full")]


# ---- models, prompts, configs -----------------------------------------------------------------------------


def write_vision(folder: Path, tiny: bool) -> None:
    """A random Qwen2.5-VL in 16 bits with a processor, as `from_pretrained` loads it."""
    import torch

    from mmrl.modalities.vision.tiny import build

    corpus = ["what is in the picture, and where is it"]
    model, processor = build("qwen2_5_vl", hidden=32, heads=2, kv_heads=1, max_pixels=2**18, corpus=corpus)
    if not tiny:
        config, tokenizer = model.config, processor.tokenizer
        extra = QWEN["vocab"] - len(tokenizer)
        tokenizer.add_tokens([f"<w{i}>" for i in range(extra)])
        for section, values in ((config.text_config, QWEN["text"]), (config.vision_config, QWEN["vision"])):
            for key, value in values.items():
                setattr(section, key, value)
        config.text_config.vocab_size = QWEN["vocab"]
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            model = type(model)(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_prompts(place: Path, side: int) -> Path:
    """Four questions about a picture each."""
    import numpy as np
    from PIL import Image

    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
        rows.append({"id": str(number), "prompt": "<image> what is in the picture", "images": [f"{number}.png"]})
    file = place / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def config_of(case: Case, place: Path, tiny: bool, dtype: str = "bfloat16") -> dict[str, Any]:
    (place / "noise.py").write_text(REWARD, encoding="utf-8")
    stage = {"kind": "grpo", "steps": STEPS, "groups": 4, "samples": 8, "optim": {"lr": 1e-6}}
    if case.sees:
        model = {"path": str(place / "model"), "dtype": dtype, "rollout_batch": 64}
        model |= {"sampling": {"max_tokens": 8 if tiny else 512}, "gradient_checkpointing": case.train == "full"}
        if case.engine == "vllm":
            options = {"sleep": 2, "options": {"gpu_memory_utilization": 0.4}}
            model["engine"] = {"name": "vllm", "options": options}
        stage["micro_batch"] = 256 if tiny else 8192
        data = str(write_prompts(place, 28 if tiny else 448))
    else:
        build = {**(TINY_SD if tiny else SD), "corpus": ["a red dot", "a blue dot"]}
        model = {"path": "built", "family": "sd3", "build": build, "dtype": dtype, "rollout_batch": 32}
        model |= {"sampling": {"steps": 3 if tiny else 10, "size": 16 if tiny else 512, "noise_level": 0.7}}
        model |= {"evaluation": {"steps": 2}, "gradient_checkpointing": case.train == "full"}
        stage["micro_batch"] = 8
        data = str(place / "prompts.txt")
        Path(data).write_text("a red dot\na blue dot\ntwo dots\na dot\n", encoding="utf-8")
    return {
        "name": "gpu",
        "out": str(place / "runs"),
        "modality": "vision" if case.sees else "image",
        "model": {**model, **(LORA if case.train == "lora" else {})},
        "data": {"prompts": data},
        "rewards": [{"name": f"{place / 'noise.py'}:noise"}],
        "stages": [stage],
        **({"device": "cpu", "threads": 1} if tiny else {}),
    }


# ---- one case, in a process of its own --------------------------------------------------------------------


def measure(case: Case, tiny: bool) -> dict[str, Any]:
    import torch

    from mmrl.config import load
    from mmrl.training.assemble import assemble
    from mmrl.training.dry_run import made_stages
    from mmrl.training.estimate.stages import estimate
    from mmrl.training.estimate.work import work_of

    gpu = torch.cuda.is_available() and not tiny
    with tempfile.TemporaryDirectory(prefix="mmrl-gpu-") as folder:
        place = Path(folder)
        if case.sees:
            write_vision(place / "model", tiny)
            if gpu:
                torch.cuda.empty_cache()
        config = load(config_of(case, place, tiny))
        ((planned, prompts),) = made_stages(load(config_of(Case(case.sees, case.train), place, tiny)))
        plan, work = estimate(planned, prompts).peak, work_of(planned, prompts)
        gap = parity(case, place, tiny) if case.engine == "transformers" else {}
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run = assemble(config, training=True)
        rows = list(steps(run))
        run.adapter.close()
        memory = torch.cuda.max_memory_reserved() if gpu else 0
        counts = [float(row["made"]) if case.sees else 32.0 for row in rows]
    measured = rows[1:]
    rollout = sum(row["time/rollout"] for row in measured) / len(measured)
    update = sum(row["time/update"] for row in measured) / len(measured)
    assert work is not None
    operations = work.update_flops * work.groups * work.samples / update
    peak = next((p for name, p in PEAK.items() if gpu and name in torch.cuda.get_device_name()), None)
    return {
        **gap,
        "memory": memory,
        "plan": plan,
        "rollout": rollout,
        "made": sum(counts[1:]) / len(measured) / rollout,
        "update": update,
        "operations": operations,
        "mfu": operations / peak if peak else None,
    }


def steps(run: Any) -> Iterator[dict[str, Any]]:
    """Rows of the steps of the run's only stage, without the loop around them, which would write checkpoints."""
    from mmrl.training.cursor import Cursor
    from mmrl.training.policy import Policy
    from mmrl.training.stages.kinds import made_stage

    policy, cursor = Policy(run.adapter), Cursor()
    (options,) = run.config.stages
    policy.select(options.components, options.name)
    cursor.begin_stage(0)
    stage = made_stage(run, options, policy, cursor)
    stage.begin()
    for _ in range(options.steps):
        before = cursor.actions
        row = stage.step()
        stage.close_step()
        cursor.end_step(row)
        cursor.row = None
        yield row | {"made": cursor.actions - before}


def parity(case: Case, place: Path, tiny: bool) -> dict[str, float]:
    """How far log-probs of the same actions in 16 bits are from those in float32."""
    import torch

    from mmrl.config import load
    from mmrl.training.assemble import assemble
    from mmrl.types import Group

    found, samples = {}, []
    for dtype in ("bfloat16", "float32"):
        run = assemble(load(config_of(Case(case.sees, "lora"), place, tiny, dtype)))
        if not samples:
            groups = [Group(prompt, index) for index, prompt in enumerate(run.data.prompts[:2])]
            samples = [s for group in run.adapter.rollout(groups, 2, 0, 0) for s in group.samples]
        found[dtype] = []
        with torch.no_grad():
            for part in run.adapter.slices(samples, run.config.stages[0].micro_batch):
                some = run.adapter.logprobs([samples[row] for row in part.rows], part.columns).logp
                found[dtype].append(some.double().cpu().flatten())
        del run
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    gap = (torch.cat(found["bfloat16"]) - torch.cat(found["float32"])).abs()
    return {"gap": float(gap.mean()), "largest": float(gap.max())}


# ---- the table --------------------------------------------------------------------------------------------


def cells(name: str, found: dict[str, Any]) -> list[str]:
    if "error" in found:
        return [name, found["error"][:120], *[""] * (len(COLUMNS) - 2)]
    gap = [f"{found[key]:.1e}" if key in found else "-" for key in ("gap", "largest")]
    share = "-" if found["mfu"] is None else f"{found['mfu']:.0%} (goal {GOAL:.0%})"
    memory = f"{found['memory'] / 1e9:.1f}" if found["memory"] else "-"
    numbers = [f"{found['rollout']:.2f}", f"{found['made']:.1f}", f"{found['update']:.2f}"]
    return [name, *gap, memory, f"{found['plan'] / 1e9:.1f}", *numbers, share]


def would() -> list[list[str]]:
    """What is measured of each case, where there is no GPU."""
    told = [
        "bfloat16 - float32, same actions",
        "",
        "reserved",
        "mmrl plan",
        "3 steps, the last 2",
        "tokens or pictures",
    ]
    return [[case.name, *told, "the same", f"of {GOAL:.0%}"] for case in CASES]


def table(rows: list[list[str]]) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def has_vllm() -> bool:
    import importlib.util

    return importlib.util.find_spec("vllm") is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="models of kilobytes on a CPU: is the script in order?")
    parser.add_argument("--only", default="", help="cases whose name has these letters")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is not None:
        print(json.dumps(measure(CASES[given.case], given.tiny)))
        return 0
    import torch

    if not torch.cuda.is_available() and not given.tiny:
        print(f"no GPU here; on one it would measure:\n\n{table(would())}")
        return 0
    device = "CPU, tiny" if given.tiny else torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}\n")
    rows, began, failed = [], time.monotonic(), False
    for number, case in enumerate(CASES):
        if given.only not in case.name or (case.engine == "vllm" and (given.tiny or not has_vllm())):
            continue
        words = [sys.executable, __file__, "--case", str(number), *(["--tiny"] if given.tiny else [])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = done.stdout.splitlines()[-1:]
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        failed |= done.returncode != 0
        rows.append(cells(case.name, json.loads(said[0]) if done.returncode == 0 else {"error": last}))
        print(f"  {case.name}: {time.monotonic() - began:.0f} s since the start", file=sys.stderr, flush=True)
    print(table(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
