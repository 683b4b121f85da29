"""YAML that attacks, repeats or confuses is refused in one line, at once; what a user means is read as meant."""

from __future__ import annotations

import time

import pytest
import yaml

from mmrl.config import ConfigError, load
from mmrl.config.markup import parse, write

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}], z{new}: 1}}\n" for old, new in zip("abcdefgh", "bcdefghi")
)
WIDE = "[" + "a, " * 30_000 + "a]"

ATTACKS = {
    "bomb": (BOMB, "unfolds to more than"),
    "merges": (MERGES, "unfolds to more than"),
    "wide": (WIDE, "unfolds to more than"),
    "brackets": ("[" * 10_000, "nested more than"),
    "braces": ("{a: " * 10_000, "nested more than"),
    "dashes": ("- " * 10_000 + "a", "nested more than"),
    "itself": ("a: &a [*a]", "alias"),
    "itself in a mapping": ("&a {b: {c: *a}}", "alias"),
    "twice": ("seed: 1\nname: a\nseed: 2\n", "the key 'seed' twice (line 3)"),
    "twice inside": ("data: {where: {a: 1, a: 2}}", "the key 'a' twice"),
    "number as a key": ("1: a", "key '1' is no text"),
    "null as a key": ("null: a", "is no text"),
    "bool as a key": ("{true: a}", "is no text"),
    "list as a key": ("? [a]\n: b", "is no text"),
    "open": ("seed: [1", "not readable as YAML"),
    "tab": ("a:\n\t- b", "not readable as YAML"),
    "unknown alias": ("a: *b", "not readable as YAML"),
    "python": ("a: !!python/object/apply:os.system [ls]", "not readable as YAML"),
    "binary": ("a: !!binary aGk=", "bytes"),
    "set": ("a: !!set {b}", "set"),
    "date": ("a: !!timestamp 2024-01-01", "date"),
    "two documents": ("a: 1\n---\nb: 2", "not readable as YAML"),
    "digits": (f"a: {'9' * 5000}", "no number that can be read"),
    "control": ("a: \x07", "not readable as YAML"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["file", "override"])
def test_an_attack_is_one_line_within_a_second(config, tmp_path, attack, place):
    text, told = ATTACKS[attack]
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load(path) if place == "file" else load(config(), [f"data.where={text}"])
    assert time.process_time() - began < 3  # a second on an idle machine
    message = str(caught.value)
    assert told in message
    assert message.startswith(f"{path}: " if place == "file" else "override 'data.where': ")
    assert len(message.splitlines()) == 1
    assert len(message) < 400


@pytest.mark.parametrize(
    "values",
    [
        {"seed": {1: 2}},
        {1: 2},
        {"name": b"a"},
        {"data": {"where": {"a": {1, 2}}}},
        {"data": {"where": {"a": object()}}},
        {"about": "\ud800"},
    ],
)
def test_a_mapping_from_python_is_held_to_the_same(config, values):
    with pytest.raises(ConfigError) as caught:
        load({**config(), **values})
    assert len(str(caught.value).splitlines()) == 1


def test_a_mapping_inside_itself_is_refused(config):
    values = config()
    values["data"]["where"] = values["data"]
    with pytest.raises(ConfigError, match="nested more than"):
        load(values)


@pytest.mark.parametrize(
    "words",
    [
        [f"data.where.{'a.' * 10_000}b=1"],
        [f"{'x' * 100_000}=1"],
        [f"seed={'x' * 100_000}"],
        [f"stages.{'9' * 5000}.steps=1"],
        ["stages.\u00b2.steps=1"],
        [f"stages.0.kind={'x' * 100_000}"],
        [f"model.{'x' * 100_000}=1"],
        [f"modality={'x' * 100_000}"],
        [f"name={'x' * 100_000}"],
        [f"stages.0.algorithm.preset={'x' * 100_000}"],
        ["=1"],
        ["seed=[1"],
        ["stages=[]", "stages.0.steps=1"],
    ],
)
def test_values_in_messages_are_cut_short(config, words):
    with pytest.raises(ConfigError) as caught:
        load(config(), words)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("source", ["x" * 100_000, "a\0b", "", "/", "/dev/null", "/dev/zero"])
def test_a_config_that_is_no_file_is_told(source):
    with pytest.raises(ConfigError) as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: b\n" * 400_000)
    with pytest.raises(ConfigError, match="too many for a config"):
        load(path)


def test_a_file_that_is_not_utf8_is_told(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"about: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: not readable as YAML: no UTF-8 at byte 10"):
        load(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("010", 10),
        ("0x1f", 31),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("'1'", "1"),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(text, value):
    found = parse(text, "here")
    assert (found, type(found)) == (value, type(value))


TEXTS = ["1e5", "1e-4", "null", "~", "true", "off", "yes", "2024", "2024-01-01", "12:30", "010", "0x1f", ".inf", "1.0"]
TEXTS += ["", " a ", "a: b", "# a", "- a", "<<", "=", "*a", "a\nb", "\u2028", "\u00e9", "@a", "0o17", "1_000"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_that_text_for_every_reader(text):
    """What we write is read back by us, and by readers of YAML 1.1 such as PyYAML's own."""
    assert parse(write({"a": text}), "here") == {"a": text}
    assert yaml.safe_load(write({"a": text})) == {"a": text}


def test_anchors_and_merges_are_read(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {<<: [*a, {z: 4}]}"
    a = {"x": 1, "y": 2}
    assert parse(text, "here") == {"a": a, "b": {"x": 1, "y": 3}, "c": [a, a], "d": {**a, "z": 4}}
