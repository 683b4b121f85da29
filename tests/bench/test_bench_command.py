"""`mmrl bench`: whole evaluations of the tiny model, stopped, gone on with, changed, and of pictures that are there."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from PIL import Image

import mmrl.bench.drawing as drawing
from mmrl.bench.source import Source
from mmrl.bench.unigenbench.evaluation import evaluate
from mmrl.config import ConfigError, load
from mmrl.rewarding.chat import Judge
from mmrl.share import share

FILE = "share://datasets/drawn_bench/unigenbench_en.csv"
TASKS = "share://datasets/drawn_bench/geneval.jsonl"
EYES = "share://rewards/composition.py:objects"
POINTS = [2, 2, 1, 2, 2, 1]  # test points of the six prompts
MODEL = ("image/tiny", "model.evaluation.steps=4")


def marks(request, said=None):
    """What a judge says to a request: 1 for each point but the first of a prompt with two."""
    text = next(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")
    points = re.search(r"in this order: (\[.*\])", text)[1]
    count = points.count("', '") + 1
    return f"<checkpoint>{points}</checkpoint><score>{said or [0, 1][-count:]}</score>"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of two pictures for each prompt of both files, drawn once by the tiny model."""
    from mmrl.bench.geneval import evaluation as geneval
    from mmrl.bench.geneval.reading import read as tasks
    from mmrl.bench.unigenbench import evaluation as unigenbench
    from mmrl.bench.unigenbench.reading import read

    folder = tmp_path_factory.mktemp("drawn")
    source = Source(config=load(MODEL[0], MODEL[1:]))
    for name, bench, items in (("u", unigenbench, read(FILE).items), ("g", geneval, tasks(TASKS))):
        gallery = source.gallery(folder / name, bench.names, 2)
        source.fill(gallery, items)
    return folder


@pytest.fixture
def pictures(drawn, tmp_path):
    """A copy of UniGenBench's pictures."""
    return shutil.copytree(drawn / "u" / "pictures", tmp_path / "there")


@pytest.fixture
def command(main, chat_server, tmp_path, monkeypatch):
    """command(words) -> (code, out, err) of unigenbench on the synthetic file with the scripted judge."""
    chat_server.answer = marks
    monkeypatch.setenv("OPENAI_API_KEY", "")

    def call(*words, file=FILE, model="judge", out=tmp_path / "out"):
        judge = ("--judge", chat_server.url, "--judge-model", model, "-o", "attempts=1")
        return main("bench", "unigenbench", file, *words, *judge, "--out", out)

    return call


def verdicts(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]


# -------------------------------------------------------------------- a whole evaluation


def test_a_model_is_drawn_judged_and_scored(command, chat_server, drawn, tmp_path, monkeypatch):
    words = (*MODEL, "--pictures", 2)
    code, out, err = command(*words)
    assert code == 0, err
    assert len(chat_server.requests) == 12 and len(verdicts(tmp_path)) == 12
    # By hand. Colour first of prompt 0, second of 1; Shape second of 0 and 3: one right of two pictures' points each...
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
    assert scores["Attribute - Color"] == {"score": 0.5, "over_all": 0.5, "right": 2, "judged": 4, "asked": 4}
    assert scores["Attribute - Quantity"]["right"] == 0 and scores["Attribute - Shape"]["right"] == 4
    assert scores["Attribute"] == {"score": 0.5, "over_all": 0.5, "right": 6, "judged": 12, "asked": 12}
    wanted = {"Attribute": 6 / 12, "Entity Layout": 1, "Compound": 0, "Grammar": 1, "Relationship": 1}
    assert scores["overall"]["score"] == pytest.approx(sum(wanted.values()) / 5)
    assert out.splitlines()[1].split() == ["overall", "0.7000", "mean", "of", "5"]
    # The pictures are those of the same seed, wherever they are drawn, in the benchmark's names.
    there = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert there == sorted(f"{i}_{k}.png" for i in range(6) for k in range(2))
    for name in there:
        assert (tmp_path / "out" / "pictures" / name).read_bytes() == (drawn / "u" / "pictures" / name).read_bytes()
    # Once more: nothing is drawn, nothing is asked, and the same is told.
    monkeypatch.setattr(drawing, "load_adapter", None)
    assert command(*words) == (0, out, err)
    assert len(chat_server.requests) == 12


def test_a_stopped_evaluation_goes_on_where_it_was(command, chat_server, pictures, tmp_path):
    whole = command("--from", pictures, "--pictures", 2)
    path = tmp_path / "out" / "verdicts.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:40])  # killed while it wrote the sixth
    chat_server.requests.clear()
    assert command("--from", pictures, "--pictures", 2) == whole
    assert len(chat_server.requests) == 12 - 5
    assert len(path.read_text().splitlines()) == 12 + 1  # the broken one stays, alone on its line
    chat_server.requests.clear()
    assert command("--from", pictures, "--pictures", 2) == whole and not chat_server.requests


@pytest.fixture
def run(tmp_path):
    """run(lora) -> the folder of a run as a training leaves it, with a checkpoint of the whole model or of LoRA."""
    import yaml
    from safetensors.torch import save_file

    def make(lora):
        config = load(MODEL[0], [*MODEL[1:], *(["model.train=lora"] if lora else [])]).model_dump(mode="json")
        folder = tmp_path / "run"
        policy = folder / "checkpoints" / "latest" / "policy"
        if lora:
            policy.mkdir(parents=True)
            save_file({"w": torch.zeros(2)}, policy / "adapter_model.safetensors")
        else:
            shutil.copytree(share("assets", "image-tiny"), policy)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


@pytest.mark.parametrize("lora", [False, True])
def test_what_pictures_depend_on_changes_with_a_runs_checkpoint(run, lora):
    """A run that trained on has the same config and the same path."""
    from safetensors.torch import load_file, save_file

    folder = run(lora)
    before = drawing.model_of(load(folder), folder, 0)
    assert drawing.model_of(load(folder), folder, 0) == before
    file = next(folder.rglob("*.safetensors"))
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    after = drawing.model_of(load(folder), folder, 0)
    assert {key for key in after if after[key] != before[key]} == {"weights"}
    assert drawing.model_of(load(folder), folder, 1)["seed"] == 1


def test_a_runs_checkpoint_draws(command, run, drawn, tmp_path):
    folder = run(False)
    assert command(folder, "--pictures", 2, "--limit", 4)[0] == 0
    for name in ("0_0.png", "3_1.png"):  # its weights are those of the model that ships
        assert (tmp_path / "out" / "pictures" / name).read_bytes() == (drawn / "u" / "pictures" / name).read_bytes()


def test_a_ledger_that_was_cut_anywhere_has_every_whole_line(tmp_path):
    from mmrl.bench.ledger import Ledger

    lines = [{"id": str(k), "picture": k % 2, "said": "words\u2028 " * k} for k in range(4)]
    for line in lines:
        Ledger(tmp_path, {"a": 1}).add(line)
    whole = (tmp_path / "verdicts.jsonl").read_bytes()
    ends = [k for k, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        (tmp_path / "verdicts.jsonl").write_bytes(whole[:cut])
        ledger = Ledger(tmp_path, {"a": 1})
        there = [line for line in lines if ledger.get(line["id"], line["picture"]) is not None]
        assert there == lines[: sum(end <= cut for end in ends)]
        for line in lines:
            if line not in there:
                ledger.add(line)
        again = Ledger(tmp_path, {"a": 1})
        assert [again.get(line["id"], line["picture"]) for line in lines] == lines


def test_a_picture_that_is_missing_is_drawn_again_to_the_bit(drawn, tmp_path):
    from mmrl.bench.unigenbench.evaluation import names
    from mmrl.bench.unigenbench.reading import read

    shutil.copytree(drawn / "u" / "pictures", tmp_path / "pictures")
    source = Source(config=load(MODEL[0], MODEL[1:]))
    gallery = source.gallery(tmp_path, names, 2)
    path, other = tmp_path / "pictures" / "1_1.png", tmp_path / "pictures" / "1_0.png"
    before = path.read_bytes()
    path.unlink()
    other.write_bytes(b"mine")  # what is there is left alone
    source.fill(gallery, read(FILE).items)
    assert path.read_bytes() == before and other.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "other"}, "judge.model: 'judge' -> 'other'"),
        ({"words": ("-o", "max_tokens=7")}, "judge.max_tokens: 4096 -> 7"),
        ({"words": ("--pictures", 1)}, "pictures_a_prompt: 2 -> 1"),
        ({"words": ("--template", "t.txt")}, "wording: "),
        ({"file": "f.csv"}, "file: "),
        ({"from": "there2"}, "pictures.folder: "),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_settings_are_refused_with_what_differs(
    command, chat_server, pictures, tmp_path, monkeypatch, changed, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("{prompt} {test_explanation}")
    (tmp_path / "f.csv").write_text(
        share("datasets", "drawn_bench", "unigenbench_en.csv").read_text().replace("two", "2")
    )
    shutil.copytree(pictures, tmp_path / "there2")
    assert command("--from", pictures, "--pictures", 2)[0] == 0
    chat_server.requests.clear()
    given = {"from": pictures, "words": (), **changed}
    rest = {key: given[key] for key in ("model", "file") if key in given}
    code, _, err = command("--from", given["from"], "--pictures", 2, *given["words"], **rest)
    assert code == 1 and "was begun with other settings" in err and told in err, err
    assert len(re.findall(r" -> ", err)) == 1 and not chat_server.requests
    if "model" in changed:
        assert command("--from", pictures, "--pictures", 2, "--allow", "judge.model", model="other")[0] == 0
        assert "did you mean 'judge.model'" in command("--from", pictures, "--allow", "judge.modl")[2]


def test_verdicts_of_other_test_points_are_told_though_the_file_may_differ(command, chat_server, pictures, tmp_path):
    """Marks are kept by their places: those of one point would be counted as another's."""
    words = ("--from", pictures, "--pictures", 2)
    assert command(*words)[0] == 0
    table = share("datasets/drawn_bench/unigenbench_en.csv").read_text(encoding="utf-8-sig")
    other = tmp_path / "other.csv"
    assert "Attribute - Color" in table
    other.write_text(table.replace("Attribute - Color", "Attribute - Shape", 1), encoding="utf-8")
    code, _, err = command(*words, "--allow", "file", file=other)
    assert code == 1 and "what is asked about it, is not what was judged" in err


def test_a_limit_may_grow(command, chat_server, pictures):
    command("--from", pictures, "--pictures", 2, "--limit", 2)
    assert len(chat_server.requests) == 4
    code, out, _ = command("--from", pictures, "--pictures", 2)
    assert code == 0 and len(chat_server.requests) == 12 and "Grammar" in out


# -------------------------------------------------------------------- judges and pictures that fail


def test_what_has_no_verdict_is_counted_and_asked_again(command, chat_server, pictures, tmp_path):
    def odd(request):
        """Nonsense for prompt 2, an error for prompt 4."""
        text = json.dumps(request)
        if "a red circle above" in text:
            return marks(request, "[1, 1, 1]")
        return (400, b"no") if "three yellow" in text else marks(request)

    chat_server.answer = odd
    code, out, _ = command("--from", pictures, "--pictures", 2)
    assert code == 0
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["failed"] == {"unread": 2, "unanswered": 2}
    assert told["scores"]["Attribute - Quantity"] == {"score": 0, "over_all": 0, "right": 0, "judged": 2, "asked": 4}
    # Two dimensions have no verdict at all: a mean of the others would be of another benchmark.
    assert told["scores"]["overall"]["score"] is None
    # Attribute: 6 of 12, of which prompt 4's two are not judged; then Compound 0, Relationship 1, and two of nothing.
    assert told["scores"]["overall"]["over_all"] == pytest.approx((6 / 12 + 0 + 1 + 0 + 0) / 5)
    assert "4 of 12 pictures have no verdict: 2 answers could not be read and 2 requests were not answered" in out
    chat_server.answer = marks
    # What was not answered is asked about as a matter of course, what could not be read where that is wanted.
    chat_server.requests.clear()
    code, out, _ = command("--from", pictures, "--pictures", 2)
    assert len(chat_server.requests) == 2 and "2 of 12 pictures have no verdict: 2 answers could not be read" in out
    code, out, _ = command("--from", pictures, "--pictures", 2, "--again")
    assert len(chat_server.requests) == 4 and "no verdict" not in out and out.splitlines()[1].split()[1] == "0.7000"


def test_a_judge_that_is_gone_ends_the_evaluation_and_what_was_judged_stays(command, chat_server, pictures, tmp_path):
    def leaves(request):
        return marks(request) if len(chat_server.requests) <= 3 else (400, b"gone")

    chat_server.answer = leaves
    code, out, err = command("--from", pictures, "--pictures", 2, "-o", "threads=1")
    assert code == 1 and "8 requests in a row were not answered" in err and "gone" in err and not out
    assert len(verdicts(tmp_path)) == 3 and len(chat_server.requests) >= 3 + 8
    chat_server.answer = marks
    chat_server.requests.clear()
    assert command("--from", pictures, "--pictures", 2)[0] == 0 and len(chat_server.requests) == 9


def test_an_answer_in_another_order_counts_in_its_own(command, chat_server, pictures, tmp_path):
    def turned(request):
        said = marks(request)
        points = re.search(r"<checkpoint>\[(.*)\]</checkpoint>", said)[1].split(", '")
        scores = re.search(r"<score>\[(.*)\]</score>", said)[1].split(", ")
        named = [name.strip("'") for name in points]
        return f"<checkpoint>{named[::-1]}</checkpoint><score>[{', '.join(scores[::-1])}]</score>"

    _, straight, _ = command("--from", pictures, "--pictures", 2)
    chat_server.answer = turned
    _, other, _ = command("--from", pictures, "--pictures", 2, out=tmp_path / "other")
    assert other.partition("page:")[0] == straight.partition("page:")[0] != ""


def test_each_picture_is_shown_once_with_its_own_points(command, chat_server, pictures):
    command("--from", pictures, "--pictures", 2)
    seen = set()
    for request in chat_server.requests:
        kinds = [part["type"] for part in request["messages"][0]["content"]]
        assert kinds == ["image_url", "text"] and request["temperature"] == 0 and request["max_tokens"] == 4096
        seen.add(request["messages"][0]["content"][0]["image_url"]["url"])
    assert len(seen) == 12


@pytest.mark.parametrize("spoil", ["missing", "broken"])
def test_pictures_that_cannot_be_judged_are_told_before_anything_is_asked(command, chat_server, pictures, spoil):
    path = pictures / "3_1.png"
    path.unlink() if spoil == "missing" else path.write_bytes(b"no picture")
    code, _, err = command("--from", pictures, "--pictures", 2)
    assert code == 1 and "3_1.png" in err and not chat_server.requests


def test_another_picture_in_the_place_of_a_judged_one_is_told(command, pictures):
    command("--from", pictures, "--pictures", 2)
    Image.new("RGB", (8, 8)).save(pictures / "3_1.png")
    code, _, err = command("--from", pictures, "--pictures", 2)
    assert code == 1 and "3_1.png is not the picture that was judged" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "whose pictures?"),
        (("--from", ".", "image/tiny"), "leave the config"),
        (("--from", ".", "--seed", 1), "--seed is of pictures that are drawn"),
        (("image/tiny", "-o", "max_token=3"), "did you mean 'max_tokens'"),
        (("image/tiny", "-o", "threads=0"), "threads"),
        (("--modality", "text"), "not pictures|no pictures|makes"),
    ],
    ids=["none", "both", "seed", "option", "value", "text"],
)
def test_words_that_contradict_are_refused(command, chat_server, tmp_path, words, told):
    code, _, err = command(*words)
    assert code == 1 and re.search(told, err), err
    assert not chat_server.requests


def test_a_judge_needs_a_name(main, chat_server, tmp_path):
    code, _, err = main("bench", "unigenbench", FILE, "image/tiny", "--judge", chat_server.url, "--out", tmp_path)
    assert code == 1 and "--judge-model" in err


def test_a_judge_of_ones_own(pictures, tmp_path):
    class Kind:
        identity = "kind"

        def complete(self, messages, temperature, seed):
            return marks({"messages": messages}).replace("0", "1")

    found = evaluate(FILE, Source(folder=pictures), Judge(Kind()), out=tmp_path / "own", pictures=2)
    assert found.score("overall") == 1.0 and found.notices == []
    with pytest.raises(ConfigError, match=r"judge.identity: not there -> |judge.identity: 'kind' -> 'kinder'"):
        Kind.identity = "kinder"
        evaluate(FILE, Source(folder=pictures), Judge(Kind()), out=tmp_path / "own", pictures=2)


# -------------------------------------------------------------------- GenEval


def geneval(main, tmp_path, *words, detector=EYES):
    return main("bench", "geneval", TASKS, *words, "--detector", detector, "--pictures", 2, "--out", tmp_path / "g")


def test_geneval_of_the_tiny_model_by_its_own_detector(main, drawn, tmp_path, monkeypatch):
    code, out, err = geneval(main, tmp_path, *MODEL)
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "g" / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    scores = json.loads((tmp_path / "g" / "results.json").read_text())["scores"]
    tags = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    by_tag = {tag: [line["right"] for line in lines if line["tag"] == tag] for tag in tags}
    assert all(scores[tag]["right"] == sum(said) for tag, said in by_tag.items())
    assert scores["overall"]["score"] == pytest.approx(sum(map(sum, by_tag.values())) / 12)  # as many of each
    for line in lines:  # the simple tasks by hand, from what was found
        found = [(one["label"], one["colour"]) for one in line["found"]]
        if line["tag"] == "single_object":
            assert line["right"] == any(label == "circle" for label, _ in found)
        if line["tag"] == "counting":
            assert line["right"] == (sum(label == "triangle" for label, _ in found) == 2)
    # The benchmark's own scripts find their way in the folder.
    told = json.loads((tmp_path / "g" / "pictures" / "00004" / "metadata.jsonl").read_text())
    assert told["tag"] == "position" and (tmp_path / "g" / "pictures" / "00004" / "samples" / "00001.png").is_file()
    # Again, without the model; and of a folder that is named as the benchmark's page has it.
    monkeypatch.setattr(drawing, "load_adapter", None)
    assert geneval(main, tmp_path, *MODEL) == (0, out, err)
    other = shutil.copytree(tmp_path / "g" / "pictures", tmp_path / "other")
    for path in list(other.rglob("*.png")):
        path.rename(path.with_name(f"{int(path.stem):04}.png"))
    shutil.rmtree(tmp_path / "g")
    assert geneval(main, tmp_path, "--from", other) == (0, out, err)
    code, _, err = geneval(main, tmp_path, "--from", other, "--rule", "margin=0.2")
    assert code == 1 and "rules.margin: 0.1 -> 0.2" in err
    (other / "00004" / "metadata.jsonl").write_text('{"prompt": "a cat"}')
    shutil.rmtree(tmp_path / "g")
    code, _, err = geneval(main, tmp_path, "--from", other)
    assert code == 1 and "pictures of 'a cat'" in err


def test_colours_need_somebody_who_tells_them(main, drawn, tmp_path):
    (tmp_path / "d.py").write_text("def see(picture):\n    return []\n")
    there = ("--from", drawn / "g" / "pictures")
    code, _, err = geneval(main, tmp_path, *there, detector=tmp_path / "d.py:see")
    assert code == 1 and "asks for a colour" in err and "--clip" in err
    assert geneval(main, tmp_path, *there, "--limit", 3, detector=f"{tmp_path}/d.py:see")[0] == 0
    code, _, err = geneval(main, tmp_path, *there, "--clip", tmp_path)
    assert code == 1 and "names colours itself" in err
