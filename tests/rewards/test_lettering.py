"""Texts of several scripts in pictures: `lettering.written`, with an engine that says what is told."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from mmrl.rewarding import RewardError, load_reward
from mmrl.types import Prompt

ENGINE = """
def read(picture):
    return picture.info["text"]


class some:
    def __init__(self, languages, scripts):
        self.scripts = scripts

    def __call__(self, picture):
        return picture.info["text"].split("|")
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The file of an engine that reads what a picture's `info` says."""
    path = tmp_path_factory.mktemp("engine") / "eyes.py"
    path.write_text(ENGINE)
    return path


@pytest.fixture
def reward(engine):
    return lambda **options: load_reward("lettering.written", {"engine": f"{engine}:read", **options})


@pytest.fixture(scope="module")
def writing(engine):
    load_reward("lettering.written", {"engine": f"{engine}:read"})
    return next(module for name, module in sys.modules.items() if name.endswith(".writing") and "mmrl_rewards" in name)


def saying(text: str) -> Image.Image:
    picture = Image.new("RGB", (8, 8))
    picture.info["text"] = text
    return picture


# script, what is asked, what is read, agreement by hand
SCRIPTS = [
    ("Latin", "Straße", "STRASSE", 1.0),  # ß in capitals
    ("Latin", "café", "cafe\u0301", 1.0),  # composed or not
    ("Latin", "abcd", "abed", 0.75),
    ("Latin", "ＯＰＥＮ", "open", 1.0),  # full width
    ("Cyrillic", "ПРИВЕТ", "Привет", 1.0),
    ("Cyrillic", "вода", "вода́", 4 / 5),  # an accent is a letter that nobody asked for: 4 of 5 letters read
    ("Cyrillic", "йод", "иод", 2 / 3),
    ("Greek", "ΣΟΦΟΣ", "σοφος", 1.0),
    ("Greek", "λόγος", "ΛΌΓΟΣ", 1.0),  # two small sigmas, one capital
    ("Han", "北京欢迎你", "北京欢迎", 4 / 5),
    ("Hangul", "안녕", "\u110b\u1161\u11ab\u1102\u1167\u11bc", 1.0),  # of its parts
    ("Hangul", "안녕", "안냥", 1 / 2),
    ("Katakana", "カフェ", "ｶﾌｪ", 1.0),  # half width
    ("Arabic", "سلام", "\ufeb3\ufefc\ufee1", 1.0),  # forms of a place in the word, with the ligature of lam and alef
    ("Arabic", "سلام", "سلم", 3 / 4),
    ("Hebrew", "שלום", "שלום", 1.0),
    ("Devanagari", "नमस्ते", "नमस्त", 5 / 6),  # of six signs the last vowel is missing
    ("Thai", "สวัสดี", "สวัสดี", 1.0),
]


@pytest.mark.parametrize(
    ("script", "asked", "read", "value"), SCRIPTS, ids=[f"{s}-{n}" for n, (s, *_) in enumerate(SCRIPTS)]
)
def test_agreement_by_script(sample, reward, writing, script, asked, read, value):
    [score] = reward().call([sample(f'a sign that says "{asked}"', saying(read))])
    assert score.value == pytest.approx(value), score.details
    assert script in writing.scripts_in(asked)


@pytest.mark.parametrize(
    ("asked", "read", "value"),
    [
        ("СОН", "COH", 0.0),  # Cyrillic is asked for, Latin letters of the same shapes are read
        ("COH", "СОН", 0.0),
        ("СОН", "СOН", 2 / 3 * 1.0),  # one of three is Latin: it is left out, and not more than was asked was read
        ("ABC 12", "АВС 12", 2 / 5),  # digits are of every script
        ("Ω1", "Ω1", 1.0),
        ("日本", "日夲", 1 / 2),
    ],
)
def test_right_letters_of_the_wrong_script_count_for_nothing(sample, reward, asked, read, value):
    [score] = reward().call([sample(f'"{asked}"', saying(read))])
    assert score.value == pytest.approx(value), score.details


def test_letters_of_the_wrong_script_are_told_and_may_be_permitted(sample, reward):
    one = sample('"СОН"', saying("COH"))
    [strict] = reward().call([one])
    assert strict.details["wrong_script"] == {"Latin": 3}
    [alone] = reward(script="any").call([one])
    [permitted] = reward(script="any", permit=["lookalikes"]).call([one])
    assert (alone.value, permitted.value) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "asked", "read", "without", "value"),
    [
        ({"permit": ["vowels"]}, "سَلَام", "سلام", 4 / 6, 1.0),
        ({"permit": ["vowels"]}, "שָׁלוֹם", "שלום", 4 / 7, 1.0),
        ({"permit": ["accents"]}, "Čapek", "Capek", 4 / 5, 1.0),
        ({"permit": ["accents"]}, "नमस्ते", "नमस्त", 5 / 6, 5 / 6),  # vowel signs of Devanagari are no accents
        ({"permit": ["punctuation"]}, "don't", "dont", 4 / 5, 1.0),
        ({"equivalent": ["0O", "1lI"]}, "ILO1", "l101", 1 / 2, 1.0),
        ({"equivalent": ["اأإآ"]}, "أحمد", "احمد", 3 / 4, 1.0),
        ({"equivalent": ["ab", "bc"]}, "abc", "ccc", 1 / 3, 1.0),  # sets that share a letter are one
        ({"case": True}, "Abc", "abc", 1.0, 2 / 3),
        ({"case": True}, "İzmir", "izmir", 1.0, 4 / 5),  # Turkish capitals of i and ı
        ({"case": True}, "ışık", "IŞIK", 1.0, 0.0),
        ({"case": True}, "Straße", "STRASSE", 1.0, 1 / 6 * 6 / 7),
        ({"spaces": True}, "to day", "today", 1.0, 5 / 6),
        ({"form": "NFC"}, "x²", "x2", 1.0, 1 / 2),
    ],
)
def test_what_counts_as_the_same(sample, reward, options, asked, read, without, value):
    one = sample(f'"{asked}"', saying(read))
    (plain,), (permitted,) = reward().call([one]), reward(**options).call([one])
    assert (plain.value, permitted.value) == (pytest.approx(without), pytest.approx(value))


def test_simplified_and_traditional_characters(sample, reward):
    pytest.importorskip("opencc")
    one = sample("「歡迎」", saying("欢迎"))
    (plain,), (permitted,) = reward().call([one]), reward(permit=["chinese"]).call([one])
    assert (plain.value, permitted.value) == (0.5, 1.0)


# -------------------------------------------------------------------- several texts


@pytest.mark.parametrize(
    ("prompt", "read", "value"),
    [
        ('"Cat" above "Dog"', "DOG CAT", 1.0),  # in any order
        ('"Cat" above "Dog"', "Cat", 1 / 2),
        ('"Cat" and "Cat"', "Cat", 1 / 2),  # one part of the text serves one of them
        ('"Cat" and "Cat"', "Cat Cat", 1.0),
        ('"ab" “cd” «ef» 「gh」 „ij“', "ab cd ef gh ij", 1.0),
        ('"ab" and "cd"', "abed", (1 + 1 / 2) / 2),
        ("»ab« und »cd«", "ab cd", 1.0),  # and not the word between
        ("«ab» et «cd»", "ab cd", 1.0),
        ("”ab” och ”cd”", "ab cd", 1.0),
        ("＂ab＂和＂cd＂", "ab cd", 1.0),
        ('"abcd" and "ab"', "abcd", 1 / 2),  # of two that fit as well the longer one takes its part first
    ],
)
def test_every_quotation_counts(sample, reward, prompt, read, value):
    [score] = reward().call([sample(prompt, saying(read))])
    assert score.value == pytest.approx(value), score.details


def test_a_record_may_admit_several_texts(sample, reward):
    texts = [["Hello", "Hi"], "World"]
    for read, value in (("HI WORLD", 1.0), ("Hello World", 1.0), ("Hex World", (1 / 2 + 1) / 2 * 7 / 8)):
        [score] = reward().call([sample("a greeting", saying(read), texts=texts)])
        assert score.value == pytest.approx(value), score.details  # "Hi" to "He": one of two letters; 7 of 8 were asked


@pytest.mark.parametrize(
    ("read", "counted", "free"),
    [("OPEN", 1.0, 1.0), ("OPENOPEN", 0.5, 1.0), ("OPEN 24 hours", 4 / 11, 1.0), ("", 0, 0)],
)
def test_more_than_was_asked_for_counts(sample, reward, read, counted, free):
    one = sample('"open"', saying(read))
    values = [reward(surplus=name).call([one])[0].value for name in ("counted", "free")]
    assert values == [pytest.approx(counted), pytest.approx(free)]


def test_all_words_at_once_earn_little(sample, reward):
    spam = " ".join(["open", "closed", "exit", "sale", "hello", "world"] * 20)
    [score] = reward().call([sample('"exit"', saying(spam))])
    assert score.value < 0.01


def test_nothing_is_compared_that_is_not_asked_for(sample, reward):
    for text in ("a sign", "it's a dog's bone", 'an empty "  " sign', "\N{LEFT DOUBLE QUOTATION MARK}open"):
        one = sample(text, saying("open"))
        [score] = reward().call([one])
        assert (score.status, score.value) == ("na", None)
        assert "quotes no text" in reward().check_prompt(one.prompt)
    assert "nothing of '!?' counts" in reward(permit=["punctuation"]).check_prompt(Prompt("p", '"!?"'))


@pytest.mark.parametrize("texts", ["open", [], [[]], ["open", 3], [["a", ""]]])
def test_a_column_that_is_no_list_of_texts_is_told(reward, texts):
    assert "column 'texts'" in reward().check_prompt(Prompt("p", '"open"', {"texts": texts}))


# -------------------------------------------------------------------- engines


def test_a_text_that_the_engine_cannot_read_is_told_before_training(sample, engine):
    options = {"engine": f"{engine}:some", "engine_options": {"scripts": ["Latin"]}}
    reward = load_reward("lettering.written", options)
    assert "reads no Cyrillic" in reward.check_prompt(Prompt("p", '"СОН"'))
    assert reward.check_prompt(Prompt("p", "", {"texts": [["СОН", "DREAM"]]})) is None  # one of them can be
    [score] = reward.call([sample("", saying("sweet|dream"), texts=[["СОН", "DREAM"]])])  # lines
    assert score.value == pytest.approx(5 / 10)


def test_each_script_has_its_reader(sample, monkeypatch, tmp_path):
    """RapidOCR reads Latin with its own model and Cyrillic with another: each finds its texts, and none is surplus."""
    said = {None: "HELLO NPNBET", "ru.onnx": "НЕLLО ПРИВЕТ"}
    made = []

    class Engine:
        def __init__(self, params):
            made.append(params)
            self.model = params.get("Rec.model_path")

        def __call__(self, pixels):
            assert pixels[0, 0].tolist() == [3, 2, 1]  # OpenCV's order
            return SimpleNamespace(txts=(said[self.model and "ru.onnx"],))

    lang = {"eslav": "eslav"}.__getitem__
    fake = SimpleNamespace(RapidOCR=Engine, LangRec=lang, OCRVersion=SimpleNamespace(PPOCRV5="v5"))
    monkeypatch.setitem(sys.modules, "rapidocr", fake)
    model = tmp_path / "ru.onnx"
    model.write_bytes(b"")
    with pytest.raises(RewardError, match=r"reads no 'ru'.*eslav_PP-OCRv5_rec_mobile\.onnx"):
        load_reward("lettering.written", {"languages": ["en", "ru"]})
    reward = load_reward(
        "lettering.written", {"languages": ["en", "ru"], "engine_options": {"models": {"ru": str(model)}}}
    )
    assert [params.get("Rec.lang_type") for params in made[-2:]] == [None, "eslav"]
    [score] = reward.call([sample('"hello" and "привет"', Image.new("RGB", (4, 4), (1, 2, 3)))])
    assert score.value == 1.0, score.details


def test_an_engine_of_its_own_package_reads(sample):
    pytest.importorskip("rapidocr")
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((20, 25), "Hello World", fill="black", font=ImageFont.load_default(36))
    [score] = load_reward("lettering.written").call([sample('a sign that says "Hello World"', picture)])
    assert score.value == 1.0, score.details


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "rapidorc"}, "rapidocr"),
        ({"languages": ["de-x"]}, "languages"),
        ({"languages": []}, "at least one"),
        ({"engine_options": {"model": "x"}}, "models and params, not 'model'"),
        ({"engine_options": {"models": {"en": "x"}}}, "the package has it"),
        ({"script": "loose"}, "strict or any"),
        ({"surplus": True}, "counted or free"),
        ({"permit": ["case"]}, "none of lookalikes"),
        ({"permit": ["lookalikes"]}, "script='strict' leaves out"),
        ({"equivalent": ["a"]}, "no set of two"),
        ({"form": "NFD"}, "NFKC or NFC"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    pytest.importorskip("rapidocr")
    with pytest.raises(RewardError, match=said):
        load_reward("lettering.written", options)


def test_an_engine_that_is_missing_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "easyocr", None)
    with pytest.raises(RewardError, match=r'pip install "mmrl\[easyocr\]"'):
        load_reward("lettering.written", {"engine": "easyocr"})


# -------------------------------------------------------------------- the nearest part

LETTERS = st.text("abc", max_size=7)


@settings(deadline=None, derandomize=True)
@given(LETTERS.filter(bool), LETTERS)
def test_no_part_of_a_text_is_nearer(writing, target, text):
    """Against all parts, by another library's distance."""
    levenshtein = pytest.importorskip("rapidfuzz.distance").Levenshtein
    distance, start, end = writing.nearest(target, text)
    parts = [text[a:b] for a in range(len(text) + 1) for b in range(a, len(text) + 1)]
    assert distance == min(levenshtein.distance(target, part) for part in parts)
    assert levenshtein.distance(target, text[start:end]) == distance


@settings(deadline=None, derandomize=True)
@given(st.text("aAßéСОНВσςΣ北ｶ가اسَلनमस् ते1!'\u0301", max_size=12))
def test_one_spelling_is_its_own(writing, text):
    for options in ({}, {"permit": ("lookalikes", "vowels", "accents")}, {"case": True, "spaces": True}):
        alike = writing.Alike(**options)
        assert alike(alike(text)) == alike(text)
