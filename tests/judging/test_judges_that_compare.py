"""Judges that compare in words: a local model and a chat endpoint; pictures, orders, votes and failures."""

from __future__ import annotations

import base64
import inspect
import io
import json
import shutil

import pytest
import yaml
from PIL import Image

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.config import ConfigError, load
from mmrl.judging.asking import ask
from mmrl.judging.base import Showing
from mmrl.judging.generative import Generative, shown_prompt
from mmrl.judging.load import open_judge
from mmrl.judging.metrics import figures
from mmrl.types import Candidate, Group, Pair, Prompt, Sample

SHORT = {"template": "{question} {responses}", "response": "{number}: {answer}"}


class Reads:
    """An adapter that reads a prompt's candidates in their order and prefers the one that says "yes"."""

    deterministic_evaluation = False

    def __init__(self, says=None, usable=None):
        self.says, self.unfit, self.prompts = says, usable or (lambda prompt: None), []

    def usable(self, prompt):
        return self.unfit(prompt)

    def evaluate(self, prompts, n, seed):
        self.prompts += prompts
        return [
            Group(p, i, [Sample(p, 0, self._said(p), stop="length" if self.says else "done")])
            for i, p in enumerate(prompts)
        ]

    def _said(self, prompt):
        if self.says is not None:
            return self.says
        told = [prompt.record["candidates"][i]["answer"] for i in prompt.record["order"]]
        return f"<think>I see {told}.</think><answer>{1 + told.index('yes')}</answer>"


def test_a_verdict_is_of_the_candidate_wherever_it_stood(pair):
    adapter = Reads()
    pairs = [pair("a"), pair("b", better=1, answers=("no", "yes")), pair("c", better=2, answers=("x", "y", "yes"))]
    judged = list(ask(Generative(adapter, "reads"), pairs, votes=2))
    found = figures(judged)
    assert found.accuracy.value == found.every_order.value == 1.0
    assert "I see ['yes', 'no']" in {s.order: s.verdict.said for s in judged[0].shown}[0, 1]
    # Every showing and every vote is a prompt of its own, so that it has noise of its own.
    assert len({p.id for p in adapter.prompts}) == len(adapter.prompts) == 12


def test_what_does_not_fit_and_what_cannot_be_read_has_a_reason_and_the_others_stay_in_place(pair):
    judge = Generative(Reads(usable=lambda p: "its prompt has 9 tokens" if p.id.startswith("b") else None), "reads")
    judged = list(ask(judge, [pair("a"), pair("b"), pair("c")]))
    assert [[s.verdict.reason for s in one.shown] for one in judged] == [
        [""] * 2,
        ["its prompt has 9 tokens"] * 2,
        [""] * 2,
    ]
    [cut] = ask(Generative(Reads(says="<think>so I"), "reads"), [pair("a")])
    assert cut.shown[0].verdict.reason == "no verdict: no end of its thought; cut off by its budget"
    assert cut.shown[0].verdict.said == "<think>so I"


def test_a_showing_as_a_prompt_tells_nothing_of_the_answer():
    record = {"prompt": "Is it?", "answer": "yes", "environment": "zoom", "order": [1, 0], "hint": "h", "id": "p"}
    one = Pair(Prompt("p", "Is it?", record, "/root"), (Candidate("yes"), Candidate("no")), (1.0, 0.0))
    prompt = shown_prompt(Showing(one, (0, 1), 3))
    assert prompt.record["order"] == [0, 1]
    assert prompt.record["hint"] == "h"
    assert not {"answer", "environment"} & set(prompt.record)
    assert prompt.root == "/root"
    assert len({shown_prompt(Showing(one, order, seed)).id for order in ((0, 1), (1, 0)) for seed in (0, 1)}) == 4


# -------------------------------------------------------------------- from disk


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a text model that has learned nothing."""
    from mmrl.modalities.text.tiny import build

    folder = tmp_path_factory.mktemp("text")
    model, tokenizer = build("qwen3", seed=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_compares_and_its_votes_differ(checkpoint, pair):
    judge = open_judge(checkpoint, temperature=1.0, max_tokens=4, environment=SHORT)
    showings = [Showing(pair("a"), (0, 1), seed) for seed in (0, 1, 2, 3)]
    said = [verdict.said for verdict in judge.compare(showings)]
    assert len(set(said)) > 1
    assert [verdict.said for verdict in judge.compare(showings)] == said
    greedy = open_judge(checkpoint, max_tokens=4, environment=SHORT)
    assert len({verdict.said for verdict in greedy.compare(showings)}) == 1
    assert greedy.greedy and not judge.greedy
    assert all(verdict.reason for verdict in greedy.compare(showings))


def test_a_pair_that_is_too_long_is_refused_not_cut(checkpoint, pair):
    judge = open_judge(checkpoint, max_tokens=4, environment=SHORT)
    long = pair("long", answers=("yes", "no " * 20_000))
    short, refused = judge.compare([Showing(pair("a"), (0, 1)), Showing(long, (0, 1))])
    assert "tokens" in refused.reason and refused.said == ""
    assert short.said


def test_a_model_that_sees_is_shown_the_pictures_of_both(tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    judge = open_judge("share://assets/vision-tiny", max_tokens=3, environment=SHORT)
    candidates = (Candidate("", ("red.png",)), Candidate("", ("blue.png",)))
    one = Pair(Prompt("p", "red?", {"prompt": "red?"}, str(tmp_path)), candidates, (1.0, 0.0))
    missing = Pair(one.prompt, (candidates[0], Candidate("", ("green.png",))), (1.0, 0.0))
    seen, gone = judge.compare([Showing(one, (1, 0)), Showing(missing, (0, 1))])
    assert seen.said and "green.png" in gone.reason


def test_a_run_is_its_last_checkpoint_shown_pairs_as_it_was_trained(checkpoint, tmp_path, pair):
    told = {
        "modality": "text",
        "model": {"path": checkpoint, "sampling": {"max_tokens": 4}},
        "environment": {"name": "pairs", "template": "{question} so {responses}", "response": "{number} {answer}"},
        "stages": [{"kind": "grpo", "steps": 1}],
        "rewards": [{"name": "verdict.right"}],
        "data": {"prompts": "share://datasets/judged_scenes/judged_scenes.py:pair"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(load(told).model_dump(mode="json")))
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        open_judge(str(tmp_path))
    shutil.copytree(checkpoint, tmp_path / "checkpoints" / "latest" / "policy")
    judge = open_judge(str(tmp_path))
    assert judge.adapter.environment.options.template == "{question} so {responses}"
    other = open_judge(str(tmp_path), environment=SHORT)
    assert other.adapter.environment.options.template == SHORT["template"]
    showing = Showing(pair("a"), (1, 0))
    assert judge.compare([showing])[0].said != ""
    assert tmp_path.name in judge.identity and str(tmp_path) not in judge.identity
    assert judge.identity != other.identity
    shutil.copytree(tmp_path, tmp_path / "copy" / tmp_path.name)
    assert open_judge(str(tmp_path / "copy" / tmp_path.name)).identity == judge.identity
    with pytest.raises(ConfigError, match="those of the run"):
        open_judge(str(tmp_path), device="cpu")


def test_a_model_with_a_scalar_head_scores(tmp_path, pair):
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    build = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "context": 128}
    adapter = TextAdapter(ModelConfig(path="built", build=build, sampling={"max_tokens": 8}, head={"init": 0.1}))
    adapter.score_notes = {"modality": "text", "model": adapter.config.model_dump(mode="json"), "mean": 1.0, "std": 2.0}
    adapter.save(tmp_path)
    raw, normal = open_judge(str(tmp_path)), open_judge(str(tmp_path), normalise=True)
    [one], [other] = list(ask(raw, [pair("a")])), list(ask(normal, [pair("a")]))
    assert [s.value for s in other.scores] == pytest.approx([(s.value - 1) / 2 for s in one.scores])
    assert one.shown[0].order is None
    with pytest.raises(ConfigError, match="no option 'temperature'"):
        open_judge(str(tmp_path), temperature=1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "anser"}, "did you mean 'answer'"),
        ({"environment": {"template": "no marks"}}, "it is needed once"),
        ({"temperatur": 1}, "did you mean 'temperature'"),
    ],
)
def test_options_of_a_model_are_checked(checkpoint, options, said):
    with pytest.raises(ValueError, match=said):
        open_judge(checkpoint, **options)


WRONG = {
    "temperature": ("hot", -1, float("nan"), True),
    "max_tokens": (0, -3, "many", 1.5),
    "batch": (0, "all"),
    "form": (["answer"], 3),
    "environment": ("pairs", {"a": 1}, {"template": "no marks"}),
    "device": ("qpu", 3),
    "dtype": ("int3", 3),
    "timeout": (0, "long"),
    "attempts": (0, 1.5),
    "patience": (-1, float("inf"), "long"),
    "threads": (0, "all"),
    "cache": (3,),
    "key_env": (3,),
    "model": (None, ["a"]),
    "normalise": ("yes", 1),
}


@pytest.mark.parametrize("kind", ["of_model", "of_chat", "of_scalar"])
def test_no_option_of_a_judge_takes_what_it_cannot_use(checkpoint, monkeypatch, kind):
    """Every option, whatever its kind of judge, is refused in one line before anything is loaded or asked."""
    from mmrl.judging import load

    names = [p.name for p in inspect.signature(getattr(load, kind)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if kind == "of_scalar":
        monkeypatch.setattr(load, "scalar_folder", lambda folder: folder)
    needed = {"model": "small"} if kind == "of_chat" else {}
    for name in names:
        for value in WRONG[name]:
            with pytest.raises(ConfigError, match=rf"^[^\n]*({name}|environment)[^\n]*$"):
                open_judge("http://127.0.0.1:9/v1" if needed else checkpoint, **{**needed, name: value})


# -------------------------------------------------------------------- over HTTP


def words(request):
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "<picture>") for part in content)


def test_an_endpoint_compares_in_both_orders(chat_server, pair):
    def answer(request):
        first = words(request).partition("### Response 2")[0]
        return f"<answer>{1 if 'it is a cat' in first else 2}</answer>"

    chat_server.answer = answer
    judge = open_judge(chat_server.url, model="small")
    pairs = [pair("a", answers=("it is a cat", "no idea")), pair("b", better=1, answers=("a dog", "it is a cat"))]
    assert figures(list(ask(judge, pairs))).every_order.value == 1.0
    assert {request["temperature"] for request in chat_server.requests} == {0.0}


def test_pictures_travel_in_the_order_in_which_they_are_shown(chat_server, tmp_path):
    for name in ("red", "blue", "lime"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    prompt = Prompt("p", "Which is like it?", {"prompt": "?", "images": ["lime.png"]}, str(tmp_path))
    one = Pair(prompt, (Candidate("", ("red.png",)), Candidate("", ("blue.png",))), (1.0, 0.0))
    chat_server.answer = lambda request: "<answer>1</answer>"
    judge = open_judge(chat_server.url, model="small")
    first, second = judge.compare([Showing(one, (0, 1)), Showing(one, (1, 0))])
    assert (first.shares, second.shares) == ((1.0, 0.0), (0.0, 1.0))
    seen = set()
    for request in chat_server.requests:
        parts = request["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        files = [base64.b64decode(url.partition(",")[2]) for url in urls]
        seen.add(tuple(Image.open(io.BytesIO(file)).getpixel((0, 0)) for file in files))
    green, red, blue = (0, 255, 0), (255, 0, 0), (0, 0, 255)
    assert seen == {(green, red, blue), (green, blue, red)}


def test_votes_of_an_endpoint_have_seeds_and_a_temperature(chat_server, pair):
    chat_server.answer = lambda request: f"<answer>{1 + request['seed'] % 2}</answer>"
    judge = open_judge(chat_server.url, model="small", temperature=0.7)
    list(ask(judge, [pair("a")], orders="random", votes=4))
    assert {request["temperature"] for request in chat_server.requests} == {0.7}
    assert len({request["seed"] for request in chat_server.requests}) == 4


def test_an_answer_without_a_verdict_is_a_failure_and_is_not_asked_again(chat_server, pair):
    chat_server.answer = lambda request: "both are fine"
    [verdict] = open_judge(chat_server.url, model="small").compare([Showing(pair("a"), (0, 1))])
    assert verdict.reason == "no verdict" and verdict.said == "both are fine"
    assert len(chat_server.requests) == 1


def test_an_endpoint_that_is_down_is_a_failure(pair):
    judge = open_judge("http://127.0.0.1:9/v1", model="small", attempts=1, timeout=2)
    [verdict] = judge.compare([Showing(pair("a"), (0, 1))])
    assert verdict.shares is None and "cannot be asked" in verdict.reason


def test_a_pair_of_a_missing_picture_is_not_sent(chat_server, tmp_path):
    one = Pair(
        Prompt("p", "?", {"prompt": "?"}, str(tmp_path)), (Candidate("", ("a.png",)), Candidate("b")), (1.0, 0.0)
    )
    [verdict] = open_judge(chat_server.url, model="small").compare([Showing(one, (0, 1))])
    assert "a.png" in verdict.reason
    assert not chat_server.requests


def test_the_answers_of_an_endpoint_are_kept_with_a_cache(chat_server, pair, tmp_path):
    chat_server.answer = lambda request: "<answer>1</answer>"
    for _ in range(2):
        judge = open_judge(chat_server.url, model="small", cache=str(tmp_path / "kept.jsonl"))
        list(ask(judge, [pair("a")]))
    assert len(chat_server.requests) == 2
    assert len([json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]) == 2
