"""Bad servers are refused before a run does anything: by `mmrl train` and `--resume`, in one line."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import standin_server
import torch
import yaml
from rollout_servers import Served

from mmrl.engines.rollout_wire import PROTOCOL
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.share import resolve

TEXT = "share://assets/text-tiny"
BUILD = {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4, "corpus": ["a red circle"]}
IMAGE = {"path": "built", "family": "sd3", "build": BUILD, "sampling": {"steps": 2, "size": 32}}
COUNTED = "def counted(samples):\n    open({path!r}, 'a').write('x')\n    return [0.0] * len(samples)\n"


@pytest.fixture
def config(tmp_path):
    """config(url, ...) -> the file of a run of text, or of pictures, whose evaluation and reward leave a trace."""
    (tmp_path / "mine.py").write_text(COUNTED.format(path=str(tmp_path / "asked")), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")

    def write(url, modality="text", options=None, engine=None, **changes):
        options = {"url": url, **(options or {})}
        if modality == "text":
            sampler = {"name": "vllm", "options": {"mode": "server", "options": options, **(engine or {})}}
            model = {"path": TEXT, "chat": "off", "sampling": {"max_tokens": 4}}
        else:
            sampler, model = {"name": "servers", "options": options}, IMAGE
        told = {
            "name": "run",
            "out": str(tmp_path / "runs"),
            "modality": modality,
            "model": {**model, "engine": sampler, **changes},
            "data": {"prompts": str(tmp_path / "prompts.txt"), "eval_prompts": str(tmp_path / "prompts.txt")},
            "rewards": [{"name": f"{tmp_path / 'mine.py'}:counted"}],
            "stages": [{"kind": "grpo", "steps": 1, "groups": 1, "samples": 2, "optim": {"lr": 1e-3}}],
            "threads": 1,
            "device": "cpu",
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(told), encoding="utf-8")
        return path

    return write


@pytest.fixture
def refused(main, tmp_path):
    """Runs a config, and returns the line by which it is refused; nothing was evaluated, scored or written before."""

    def run(path):
        code, out, err = main("train", path, "--quiet")
        assert code == 1 and out == "", (out, err)
        line = [said for said in err.splitlines() if not said.startswith("warning: ")]
        assert len(line) == 1 and line[0].startswith("error: model") and len(line[0]) < 600, err
        assert not (tmp_path / "asked").exists()
        left = {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()}
        assert not {"metrics.jsonl", "config.yaml", "summary.json"} & left
        return line[0]

    return run


@pytest.fixture
def gone():
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def deaf():
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as at:
        yield f"http://127.0.0.1:{at.getsockname()[1]}"


@pytest.fixture
def fake(monkeypatch):
    """fake(**told) -> a stand-in for vLLM that serves the run's own model, but for what is told."""
    monkeypatch.setattr("mmrl.engines.load.ASK_S", 0.2)  # that a model that is loaded waits for what it serves
    started = []

    def start(**told):
        about = {"longest": 64, "dtype": "float32", "transfer": "gloo"} | told.pop("told", {})
        server = standin_server.started(**{"root": str(resolve(TEXT))} | told, told=about)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.mark.parametrize("modality", ["text", "image"])
def test_servers_that_are_not_there_or_say_nothing(modality, config, refused, gone, deaf, monkeypatch):
    monkeypatch.setattr("mmrl.engines.load.ASK_S", 0.2)
    line = refused(config(gone, modality))
    assert line.startswith("error: model.engine: ") and f"{gone}/" in line and "cannot be reached" in line
    assert "did not answer within 0.5 s" in refused(config([deaf], modality, {"timeout": 0.5}))
    assert "twice" in refused(config([gone, f"{gone}/"], modality))
    for wrong in ({"timeout": "long"}, {"concurrency": 0}, {"colour": 1}, {"url": []}, {"url": [5]}, {"url": "here"}):
        assert next(iter(wrong)) in refused(config(gone, modality, wrong))


@pytest.mark.parametrize(
    ("told", "options", "words"),
    [
        ({"lacks": {"/server_info"}}, {}, "VLLM_SERVER_DEV_MODE=1"),
        ({"lacks": {"/inference/v1/generate"}}, {}, "--enable-scale-out"),
        ({"lacks": {"/pause"}}, {}, "no route /pause"),
        ({"lacks": {"/collective_rpc"}}, {}, "no route /collective_rpc"),
        ({"lacks": {"/init_weight_transfer_engine"}}, {"transfer": "gloo"}, "no route /init_weight_transfer_engine"),
        ({"told": {"transfer": "nccl"}}, {"transfer": "gloo"}, "--weight-transfer-config of nccl"),
        ({"mode": "raw_logprobs"}, {}, "--logprobs-mode processed_logprobs"),
        ({"told": {"dtype": "bfloat16"}}, {}, "computes in bfloat16"),
        ({"told": {"tokens": [1, 2, 3]}}, {}, "another tokenizer"),
        ({"told": {"longest": 4}}, {}, "leave no prompt"),
        ({"hangs": True}, {"timeout": 0.5}, "did not answer within"),
    ],
)
def test_a_text_server_that_was_started_otherwise(told, options, words, config, refused, fake):
    server = fake(**told)
    assert words in refused(config(server.url, options=options))
    assert not server.posts and server.weights == "default"


def test_a_text_server_of_another_model(config, refused, fake, tmp_path):
    from transformers import AutoConfig

    size = {"vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    for kind, words in {"qwen2": "hidden_size 64 there", "llama": "model_type llama there"}.items():
        AutoConfig.for_model(kind, **size).save_pretrained(tmp_path / kind)
        assert words in refused(config(fake(root=str(tmp_path / kind)).url))


def test_text_servers_that_are_not_alike(config, refused, fake):
    for key, values in {"version": ("0.32.0", "0.33.1"), "longest": (64, 48), "transfer": ("nccl", "gloo")}.items():
        urls = [fake(told={key: value}).url for value in values]
        assert "start all servers of a run alike" in refused(config(urls))
    adapters = config(fake(lacks={"/v1/load_lora_adapter"}).url, engine={"lora": True}, train="lora")
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refused(adapters)


def test_a_resume_asks_servers_before_it_changes_anything(config, main, gone, tmp_path, monkeypatch):
    monkeypatch.setattr("mmrl.engines.load.ASK_S", 0.2)
    path = config(gone)
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    served = told["model"].pop("engine")
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    assert main("train", path, "--quiet")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file() and p.stat().st_size}
    told["model"]["engine"], told["stages"][0]["steps"] = served, 2
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    code, _, err = main("train", path, "--quiet", "--resume", "--allow", "model.engine")
    assert code == 1 and err.startswith("error: model.engine: vllm: ") and len(err.splitlines()) == 1
    assert all(file.read_bytes() == content for file, content in before.items())


@pytest.fixture(scope="module")
def drawing():
    """A server of the pictures' model."""
    torch.manual_seed(0)
    server = Served(ImageAdapter(ModelConfig(**IMAGE)))
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build": {**BUILD, "layers": 2}}, "another shape"),
        ({"family": "flux", "build": {"corpus": ["a red circle"]}}, "another shape"),
        ({"dtype": "bfloat16"}, "model.dtype='float32'"),
        ({"train": "lora"}, "another shape"),
    ],
)
def test_an_image_server_of_another_model(changes, words, config, refused, drawing):
    assert words in refused(config(drawing.url, "image", **changes))
    assert drawing.service.mark == "default"


def test_an_image_server_of_another_version_or_tokenizer(config, refused, drawing, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mmrl.serving.rollouts.PROTOCOL", PROTOCOL - 1)
        assert "speaks protocol" in refused(config(drawing.url, "image"))
    with monkeypatch.context() as patch:
        patch.setattr("mmrl.serving.rollouts.mmrl", SimpleNamespace(__version__="0.0.1"))
        assert "is mmrl 0.0.1, and this run" in refused(config(drawing.url, "image"))
    with monkeypatch.context() as patch:
        patch.setattr("mmrl.modalities.image.alike.PROBE", "another tokenizer makes other ids of a text")
        assert "tokenizers, by what they make of a text" in refused(config(drawing.url, "image"))


def test_what_is_refused_above_is_refused_for_what_is_told_there_alone(config, main, drawing, fake, tmp_path):
    assert main("train", config(drawing.url, "image"), "--quiet")[0] == 0
    server = fake(vocabulary=200, tokens=3)
    code, _, err = main("train", config(server.url, options={"transfer": "gloo"}), "--quiet", "--fresh")
    assert "log-probs differ" in err or code == 0, err  # a stand-in samples nothing that is the policy's
    assert any(path == "/update_weights" for path, _ in server.posts)


def test_an_evaluation_needs_no_servers(config, main, gone, monkeypatch):
    """It is the policy here that is evaluated, also when servers have long been stopped."""
    monkeypatch.setattr("mmrl.engines.load.ASK_S", 0.2)
    for modality in ("text", "image"):
        code, out, err = main("eval", config(gone, modality))
        assert code == 0 and "counted" in out, err


def test_a_port_in_use(config, main, gone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = main("serve-rollouts", config(gone, "image"), "--port", port)
    assert code == 1 and len(err.splitlines()) == 1 and f"cannot listen at 127.0.0.1:{port}" in err
