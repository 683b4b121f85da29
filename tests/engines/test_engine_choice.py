"""What holds of the vLLM engine without vLLM: its choice by a config, its checks, and the client of a server."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from standin_server import connect

import mmrl  # noqa: F401  (hooks torchvision before transformers is imported)
from mmrl.engines.agreement import EngineMismatch
from mmrl.engines.base import Completion, Sampling
from mmrl.engines.decoder import Row
from mmrl.engines.http_client import ServerError
from mmrl.engines.load import load_engine
from mmrl.engines.transformers import TransformersEngine
from mmrl.engines.vllm import VllmEngine

SAMPLING = Sampling(temperature=0.5, stop_ids=(9,), banned=(3,), max_tokens=4)


class Layers(torch.nn.Linear):
    """A model with its layers not apart."""

    device = torch.device("cpu")

    def get_input_embeddings(self):
        return None


def test_the_section_chooses_the_engine():
    model = Layers(2, 2)
    engine = load_engine({}, model, None, None)
    assert isinstance(engine, TransformersEngine) and engine.decoder.module is model
    assert isinstance(load_engine({"name": "transformers", "rows": 3}, model, None, None), TransformersEngine)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "vlm"}, "'vlm' is unknown; there are: transformers, vllm"),
        ({"name": "vllm", "dtyp": "float32"}, "vllm has no option dtyp; it has: mode, dtype"),
        ({"name": "transformers", "mode": "server"}, "transformers has no option mode"),
        ({"name": "vllm", "mode": "remote"}, "mode is 'remote'; write colocated or server"),
    ],
)
def test_a_wrong_section_is_refused(section, message, folder):
    with pytest.raises(ValueError, match=message):
        load_engine(section, None, None, folder)


def test_vllm_needs_a_folder():
    with pytest.raises(ValueError, match="save the model there"):
        load_engine({"name": "vllm"}, None, None, None)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_command_is_named(folder):
    with pytest.raises(ImportError, match=r"pip install 'mmrl\[vllm\]'"):
        load_engine({"name": "vllm"}, None, None, folder)


def test_completions_come_back_in_their_places(folder, server):
    engine = connect(folder, server)
    rows = engine.generate([torch.tensor([1, 2]), torch.tensor([4])], 2, SAMPLING, [[11, 12], [13, 2**63 + 14]])
    assert [[c.ids.tolist() for c in row] for row in rows] == [[[11, 9], [12, 9]], [[13, 9], [14, 9]]]
    assert [[c.logp.tolist() for c in row] for row in rows] == [[[-11, -0.5], [-12, -0.5]], [[-13, -0.5], [-14, -0.5]]]
    assert rows[0][0].stop == "eos" and not engine.exact
    body = next(b for _, b in server.posts if b["sampling_params"]["seed"] == 13)
    said = body["sampling_params"]
    assert body["token_ids"] == [4] and body["content_parts"] is None
    assert said["stop_token_ids"] == [9] and said["logit_bias"] == {"3": -1e30}
    assert (said["temperature"], said["max_tokens"], said["n"]) == (0.5, 4, 1)
    engine.close()


@dataclass(frozen=True)
class Shown:
    """A picture between two marks, of three features."""

    key: str
    image: Image.Image
    expansion: torch.Tensor = field(default_factory=lambda: torch.tensor([5, 7, 7, 7, 6]))
    placeholder: int = 7
    media: object = None


def test_pictures_are_sent_whole_and_ids_with_one_placeholder_each(folder, server):
    engine = connect(folder, server)
    pictures = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    pictures[0].putpixel((1, 1), (1, 2, 3))
    shown = [Shown(str(i), picture) for i, picture in enumerate(pictures)]
    ids = torch.cat([torch.tensor([1]), shown[0].expansion, torch.tensor([2]), shown[1].expansion])
    (row,) = engine.generate([Row(ids, tuple(shown))], 2, SAMPLING, [[11, 12]])
    assert [c.ids.tolist() for c in row] == [[11, 9], [12, 9]]
    for _, body in server.posts:
        assert body["token_ids"] == [1, 7, 2, 7]
        for part, picture in zip(body["content_parts"], pictures, strict=True):
            prefix, _, data = part["url"].partition(",")
            assert part["type"] == "image_url" and prefix == "data:image/png;base64"
            assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == picture.tobytes()
    server.features = 4
    with pytest.raises(RuntimeError, match=r"made 14 ids of a prompt with 2 pictures and sounds of which .* 12"):
        engine.generate([Row(ids, tuple(shown))], 1, SAMPLING, [[11]])


def test_weights_go_through_a_folder_with_the_head_by_name(folder, server, tmp_path):
    engine = connect(folder, server, options={"folder": tmp_path})
    for version in (1, 2):
        embedding = torch.full((4, 2), float(version), requires_grad=True)
        engine.sync([("model.embed_tokens.weight", embedding)], version)
    assert [path for path, _ in server.posts] == ["/collective_rpc", "/reset_prefix_cache"] * 2
    written = Path(server.posts[2][1]["kwargs"]["weights_path"])
    assert written.name == "version_2" and written.parent.parent == tmp_path.resolve()
    assert [p.name for p in written.parent.iterdir() if p.is_dir()] == ["version_2"]
    saved = load_file(written / "model.safetensors")
    assert set(saved) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert saved["lm_head.weight"].tolist() == [[2.0, 2.0]] * 4
    with pytest.raises(ValueError, match=r"neither lm_head\.weight nor"):
        engine.sync([("model.norm.weight", torch.ones(2))], 3)
    with pytest.raises(ValueError, match="merge the adapter"):
        engine.sync([("base_model.model.lm_head.weight", torch.ones(2))], 3)


def saves(rank: int):
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))


def test_an_adapter_goes_through_the_folder_too(folder, server, tmp_path):
    shared = tmp_path / "shared"
    engine = connect(folder, server, lora=True, options={"folder": shared})
    with pytest.raises(FileNotFoundError, match="adapter_config"):
        engine.sync_lora(lambda folder: None, 1)
    engine.generate([torch.tensor([1])], 1, SAMPLING, [[5]])
    assert server.posts[-1][1]["model"] == "base"
    for version in (1, 2):
        engine.sync_lora(saves(version), version)
    (own,) = shared.iterdir()
    adapter = {"lora_name": "policy", "lora_path": str((own / "lora_2").resolve()), "load_inplace": True}
    assert [post for post in server.posts if post[0] == "/v1/load_lora_adapter"][1][1] == adapter
    assert [p.name for p in own.iterdir() if p.is_dir()] == ["lora_2"]
    assert json.loads((own / "lora_2" / "adapter_config.json").read_text()) == {"r": 2}
    engine.generate([torch.tensor([1])], 1, SAMPLING, [[5]])
    assert server.posts[-1][1]["model"] == "policy"
    with pytest.raises(RuntimeError, match="sync_lora"):
        engine.sync([], 2)
    with pytest.raises(RuntimeError, match="lora=True"):
        connect(folder, server).sync_lora(saves(1), 1)


def test_a_process_that_waits_while_another_sends_knows_what_the_server_holds(folder, server):
    for extra, model in (({}, "base"), ({"lora": True}, "policy")):
        engine = connect(folder, server, **extra)
        asked = []

        def once(action, asked=asked, model=model):
            asked.append(action)
            server.weights = f"mmrl {model} 3"

        if extra:
            engine.sync_lora(saves(1), 3, once=once)
        else:
            engine.sync([("lm_head.weight", torch.ones(2, 2))], 3, once=once)
        assert len(asked) == 1 and engine.version == 3
        assert not [path for path, _ in server.posts if path != "/inference/v1/generate"]
        engine.generate([torch.tensor([1])], 1, SAMPLING, [[5]])
        assert server.posts[-1][1]["model"] == model


def test_several_processes_may_not_all_send(folder, server, monkeypatch):
    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(RuntimeError, match="several processes share the server"):
        connect(folder, server).sync([("lm_head.weight", torch.ones(2, 2))], 1)
    assert not server.posts


def test_errors_of_the_server_keep_their_words(folder, server):
    engine = connect(folder, server)
    server.refuse = "/inference/v1/generate"
    with pytest.raises(ServerError, match=r"answered 503: .*out of blocks"):
        engine.generate([torch.tensor([1])], 1, SAMPLING, [[5]])
    server.refuse, server.success = None, False
    with pytest.raises(ServerError, match="could not drop prefixes"):
        engine.sync([("lm_head.weight", torch.ones(2, 2))], 1)
    assert engine.version == 0
    with pytest.raises(ServerError, match="cannot be reached"):
        VllmEngine(folder, mode="server", options={"url": "http://127.0.0.1:1"})
    server.mode = "raw_logprobs"
    with pytest.raises(ServerError, match="--logprobs-mode processed_logprobs"):
        connect(folder, server)


def test_answers_that_cannot_be_used_are_refused(folder, server):
    engine = connect(folder, server)
    server.token = 3
    with pytest.raises(RuntimeError, match=r"sampled the banned ids \[3\]"):
        engine.generate([torch.tensor([1])], 1, SAMPLING, [[5]])


@pytest.mark.parametrize(
    ("sampling", "seeds", "message"),
    [
        (Sampling(annealing=(1.2, 1.0)), [[1]], "annealing is not supported"),
        (Sampling(temperature=0.001), [[1]], r"write 0, or from 0\.01 to 2\.0"),
        (Sampling(temperature=2.5), [[1]], r"write 0, or from 0\.01 to 2\.0"),
        (Sampling(max_tokens=4), [[1, 2]], "need one seed each"),
        (Sampling(max_tokens=14), [[1]], r"3 tokens \+ max_tokens 14 exceeds max_model_len 16"),
        (Sampling(max_tokens=4, stop_ids=(2, 5), banned=(5,)), [[1]], r"stop ids \{5\} are banned"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_it_is_sent(sampling, seeds, message, folder, server):
    engine = connect(folder, server)
    with pytest.raises(ValueError, match=message):
        engine.generate([torch.tensor([1, 2, 3])], 1, sampling, seeds)
    assert not server.posts
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate([torch.tensor([1])], 1, SAMPLING, [[1]])


def completion(*logp: float) -> Completion:
    return Completion(torch.arange(len(logp)), torch.tensor(logp), "length")


def test_verify_says_how_far_where_and_why(folder, server):
    engine = connect(folder, server)
    made, trainer = [completion(-1.0), completion(-1.0, -2.0)], [torch.tensor([-1.0]), torch.tensor([-1.0, -2.5])]
    assert engine.verify(made, trainer, trainer, 0.7) == 0.5  # their mean is 1/6
    place = r"up to 0\.5 nats .*up to 0\.5, tolerated are 0\.01; their mean is 0\.167, .* at token 1 of completion 1"
    with pytest.raises(EngineMismatch, match=place) as tied:
        engine.verify(made, trainer, trainer, 0.01)
    assert "Likely causes: the output head is tied" in str(tied.value)
    half, off = connect(folder, server, dtype="bfloat16"), [torch.tensor([-1.05])]
    with pytest.raises(EngineMismatch, match="Likely causes: the engine computes in bfloat16"):
        half.verify(made[:1], off, off, 0.01)


def test_verify_never_passes_what_it_cannot_compare(folder, server):
    engine = connect(folder, server)
    unknown, short = [torch.tensor([float("nan")])], [torch.tensor([-1.0])]
    with pytest.raises(EngineMismatch, match="up to inf nats"):
        engine.verify([completion(-1.0)], unknown, unknown, 1e9)
    with pytest.raises(ValueError, match="0 completions"):
        engine.verify([], [], [], 1.0)
    with pytest.raises(ValueError, match="completion 0 has"):
        engine.verify([completion(-1.0, -1.0)], short, short, 1.0)
