"""Runs with `sharding` start with weights that stay in their files until they are divided: what each process then holds
is, bit for bit, what it would hold of a model that was read whole."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compared import described, distance, exported, rows, trained
from divided import GRPO, LORA, Runs
from every import every
from safetensors.torch import load_file, save_file

from mmrl.modalities import unread
from mmrl.modalities.load import adapter_class
from mmrl.training.assemble import load_adapter

ASSETS = Path(__file__).parents[2] / "assets"
SHORT = {"sampling": {"max_tokens": 6}}
HALF = {**LORA, "dtype": "bfloat16"}
SCRIPT = Path(__file__).with_name("starting.py")


def saved(config, folder: Path) -> str:
    """The built model of a config, in a folder."""
    from mmrl.config import load

    load_adapter(load(config)).save(folder)
    return str(folder)


def asset(runs, modality: str, name: str, **model):
    base = runs.text("x", GRPO)
    if modality == "image":
        base = runs.image("x", "sd3", GRPO)
        return {**base, "model": {"path": name, "sampling": {"steps": 2}, "evaluation": {"steps": 2}, **model}}
    return {**base, "modality": modality, "model": {"path": name, "chat": "off", **SHORT, **model}}


def text(runs, **model):
    return asset(runs, "text", str(ASSETS / "text-tiny"), **model)


def scored(runs):
    rows = [{"prompt": "one", "chosen": "two", "rejected": "six"}]
    stage = {"kind": "reward_model", "pairs": runs.jsonl("pairs", rows), "steps": 1, "batch": 1}
    return {**text(runs, head={"init": 0.1}), "stages": [stage], "data": {}, "rewards": []}


def seen(runs, **model):
    found = asset(runs, "vision", str(ASSETS / "vision-tiny"), **model)
    del found["model"]["chat"]
    return found


def heard(runs, **model):
    found = asset(runs, "audio", str(ASSETS / "audio-tiny"), **model)
    del found["model"]["chat"]
    return found


def drawn(runs, **model):
    return asset(runs, "image", str(ASSETS / "image-tiny"), **model)


def experts(runs, **model):
    """Experts that are stored one by one, and are one tensor for all in the model; in several files."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = runs.folder / "experts"
    if not folder.is_dir():
        numbers = Qwen3MoeConfig(
            vocab_size=400, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=2,
        )  # fmt: skip
        torch.manual_seed(1)
        Qwen3MoeForCausalLM(numbers).save_pretrained(folder, max_shard_size="30KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        copy_tokenizer(folder)
    return {**text(runs, **model), "model": {**text(runs, **model)["model"], "path": str(folder)}}


def twice(runs, **model):
    """Tied embeddings of which the file holds both."""
    folder = runs.folder / "twice"
    if not folder.is_dir():
        copy_model(ASSETS / "text-tiny", folder)
        found = load_file(folder / "model.safetensors")
        name = next(name for name in found if name.endswith("embed_tokens.weight"))
        save_file({**found, "lm_head.weight": found[name].clone()}, folder / "model.safetensors", {"format": "pt"})
    return {**text(runs, **model), "model": {**text(runs, **model)["model"], "path": str(folder)}}


def copy_model(source: Path, folder: Path) -> None:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def copy_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ASSETS / "text-tiny" / name).read_bytes())


CASES = {
    "text": lambda runs: text(runs),
    "text_half": lambda runs: text(runs, **HALF),
    "text_scored": lambda runs: scored(runs),
    "recomputed": lambda runs: text(runs, gradient_checkpointing=True, dtype="bfloat16"),
    "experts": lambda runs: experts(runs),
    "experts_half": lambda runs: experts(runs, **HALF),
    "twice": lambda runs: twice(runs),
    "seen": lambda runs: seen(runs, vision="trained"),
    "seen_half": lambda runs: seen(runs, **HALF),
    "heard": lambda runs: heard(runs),
    "heard_half": lambda runs: heard(runs, **HALF),
    "drawn": lambda runs: drawn(runs),
    "drawn_half": lambda runs: drawn(runs, **HALF),
}


def started(helpers, folder: Path, cases) -> dict[str, dict[int, SimpleNamespace]]:
    """Case -> process -> (count of unread tensors, share of bytes, what is wrong)."""
    given = [[name, {**config, "sharding": {"shards": 2}}] for name, config in cases.items()]
    (folder / "cases.json").write_text(json.dumps(given), encoding="utf-8")
    process = helpers.two_processes(str(SCRIPT), str(folder / "cases.json"))
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[:3000] + err[-3000:]
    found: dict[str, dict[int, SimpleNamespace]] = {}
    for line in out.splitlines():
        if line.startswith("["):
            name, rank, count, share, wrong = json.loads(line)
            found.setdefault(name, {})[rank] = SimpleNamespace(unread=count, share=share, wrong=wrong)
    return found


@pytest.fixture(scope="module")
def starts(helpers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unread")
    runs = Runs(folder)
    return started(helpers, folder, {name: case(runs) for name, case in CASES.items()})


@every("case", list(CASES))
def test_what_was_left_in_files_is_what_a_whole_start_reads(starts, case):
    assert set(starts[case]) == {0, 1}
    for found in starts[case].values():
        assert found.unread > 0
        assert found.wrong == []


# ---------------------------------------------------------------- whole runs

RUN = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, mmrl, mmrl.training.reports
from mmrl.modalities import unread
torch.set_num_threads(1)
mmrl.training.reports.write_report = lambda folder: folder
wanted = unread.is_wanted
for config in json.loads(Path(sys.argv[1]).read_text()):
    unread.is_wanted = (lambda: False) if config["name"].endswith("_whole") else wanted
    mmrl.train(config, quiet=True)
"""
RUNS = {
    "text": lambda runs: text(runs),
    "experts_half": lambda runs: experts(runs, **HALF),
    "drawn": lambda runs: drawn(runs, **LORA),
}


def test_a_run_is_the_one_that_started_whole_bit_for_bit(helpers, tmp_path):
    """Two steps, each with a rollout in which all weights are gathered, and the policy that is saved."""
    runs = Runs(tmp_path)
    jobs = {}
    for name, case in RUNS.items():
        stage = {**GRPO, "epochs": 1, "steps": 2, "micro_batch": 60 if name != "drawn" else 4}
        for way in ("unread", "whole"):
            jobs[f"{name}_{way}"] = {
                **case(runs),
                "name": f"{name}_{way}",
                "stages": [stage],
                "sharding": {"shards": 2},
            }
    (tmp_path / "jobs.json").write_text(json.dumps(list(jobs.values())), encoding="utf-8")
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    process = helpers.two_processes(str(tmp_path / "run.py"), str(tmp_path / "jobs.json"))
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[:3000] + err[-3000:]
    assert "every process reads all weights" not in err
    for name in RUNS:
        one, other = (jobs[f"{name}_{way}"] for way in ("unread", "whole"))
        assert distance(trained(one), trained(other)) == 0.0
        assert distance(exported(one), exported(other)) == 0.0
        assert described(one) == described(other)
        told = [
            [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows(run)] for run in (one, other)
        ]
        assert told[0] == told[1] and len(told[0]) == 2


# ---------------------------------------------------------------- what is read whole


def made(config, want: bool = True):
    """The adapter of a config, as a run with shards makes it."""
    torch.manual_seed(0)
    with unread.wanted() if want else nullcontext():
        return adapter_class(config["modality"])(adapter_class(config["modality"]).Config(**config["model"]))


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def untied(folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    name = next(name for name in found if name.endswith("embed_tokens.weight"))
    save_file({**found, "lm_head.weight": found[name] + 1}, folder / "model.safetensors", {"format": "pt"})


def eight_bits(folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    wide = {name: t.to(torch.float8_e4m3fn) if "q_proj" in name else t for name, t in found.items()}
    save_file(wide, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "why"),
    [(untied, "stored besides as something else"), (eight_bits, "is stored as F8_E4M3")],
    ids=["untied", "eight_bits"],
)
def test_a_model_that_is_not_as_its_files_is_read_whole_and_says_why(tmp_path, change, why):
    copy_model(ASSETS / "text-tiny", tmp_path / "model")
    change(tmp_path / "model")
    config = text(Runs(tmp_path), path=str(tmp_path / "model"))
    with pytest.warns(UserWarning, match=f"every process reads all weights of .*{why}"):
        found = made(config)
    assert not unread.is_unread(found.model) and same(found, made(config, want=False))


def test_adapters_that_ask_for_weights_are_put_on_whole_ones(tmp_path):
    base = text(Runs(tmp_path), **LORA)
    made(base, want=False).save(tmp_path / "lora")
    again = {**base, "model": {**base["model"], "lora": {"path": str(tmp_path / "lora")}}}
    found = made(again)
    assert unread.is_unread(found.model)  # read from there without it, as it is
    told = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    told["init_lora_weights"] = "pissa"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(told))
    with pytest.warns(UserWarning, match="init_lora_weights, which may ask for the weights"):
        assert not unread.is_unread(made(again).model)


def test_files_that_lack_a_weight_are_refused_as_ever(tmp_path):
    copy_model(ASSETS / "text-tiny", tmp_path / "model")
    found = load_file(tmp_path / "model" / "model.safetensors")
    found.pop(next(name for name in found if "q_proj" in name))
    save_file(found, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    config = text(Runs(tmp_path), path=str(tmp_path / "model"))
    for want in (False, True):
        with pytest.raises(ValueError, match=r"its files lack 1 weights of Qwen3ForCausalLM, such as .*q_proj"):
            made(config, want)


# ---------------------------------------------------------------- without models


@pytest.fixture
def numbers(tmp_path):
    tensors = {"a": torch.arange(21.0).view(7, 3), "b": torch.arange(6.0).view(2, 3)}
    save_file(tensors, tmp_path / "some.safetensors")
    return tensors, unread.tensors([tmp_path / "some.safetensors"])


def test_what_torch_makes_of_unread_tensors_is_made_of_those_that_are_read(numbers):
    tensors, stored = numbers

    def make(a, b):
        joined = torch.cat([a[:2], b], dim=0).transpose(0, 1)
        return [joined.contiguous(), *a.chunk(2, dim=0), torch.stack([b, b * 2])]

    wanted = make(**tensors)
    found = make(**{name: unread.Unread.of(one) for name, one in stored.items()})
    for one, other in zip(wanted, found, strict=True):
        assert other.is_meta and other.shape == one.shape
        assert torch.equal(other.source.rows(), one)
        assert torch.equal(other.source.rows(1, 2), one[1:2])


@every(
    "change",
    [
        lambda one: one.add_(1),
        lambda one: one.__setitem__(0, 1.0),
        lambda one: one.chunk(2)[0].zero_() + 1,
        lambda one: setattr(one, "data", one + 1),
    ],
)
def test_what_is_changed_in_its_place_is_refused(numbers, change):
    _, stored = numbers
    module = torch.nn.Linear(3, 7, bias=False)
    one = unread.Unread.of(stored["a"])
    made = change(one)
    module.weight = torch.nn.Parameter(one if made is None else made, requires_grad=False)
    with pytest.raises(unread.NotAsStored, match="weight is changed in its place"):
        unread.settle(module)


def test_what_stands_in_for_a_weight_takes_no_memory_and_goes_again(numbers):
    _, stored = numbers
    module = torch.nn.Linear(3, 7, bias=False)
    module.weight = weight = unread.parameter(stored["a"])
    with unread.standing_in(module):
        assert module.weight.device.type == "cpu" and module.weight.untyped_storage().nbytes() == 4
        assert not torch.equal(module.weight, stored["a"].rows())
        module.weight.requires_grad_(True)
    assert module.weight is weight and weight.is_meta and weight.requires_grad
    unread.read(unread.places(module), torch.device("cpu"), lambda rows: (0, rows))
    assert torch.equal(module.weight, stored["a"].rows()) and module.weight.requires_grad
