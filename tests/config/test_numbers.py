"""Every numeric option of every section: NaN, infinities, bools, texts and huge numbers are refused, with the key."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from every import every

from mmrl.config import ConfigError, OptimConfig, load, validate
from mmrl.environments.load import BUILT_IN as ENVIRONMENTS
from mmrl.modalities.load import CONFIGS
from mmrl.strict import Strict

for module in [*CONFIGS.values(), *(name.partition(":")[0] for name in ENVIRONMENTS.values())]:
    importlib.import_module(module)

# (section, field, value) that has a meaning, which the field's description says.
MEANT = [(OptimConfig, "spam_threshold", math.inf)]

WRONG = [math.nan, math.inf, -math.inf, True, False, "3", "1e-4", 10**40, -(10**40), 10**5000]


def sections(above: type[Strict] = Strict) -> Iterator[type[Strict]]:
    for section in above.__subclasses__():
        if section.__module__.startswith("mmrl."):
            yield section
        yield from sections(section)


def values(annotation: Any, wrong: Any) -> Iterator[Any]:
    """`wrong` in every place of what is annotated that holds a number."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield wrong
    elif origin is Annotated:
        yield from values(arguments[0], wrong)
    elif origin in (Union, UnionType):
        for arm in arguments:
            yield from values(arm, wrong)
    elif origin is list:
        yield from ([value] for value in values(arguments[0], wrong))
    elif origin is tuple:
        for place in range(len(arguments)):
            yield from (
                [0.5] * place + [v] + [0.5] * (len(arguments) - place - 1)
                for v in values(annotation=arguments[place], wrong=wrong)
            )


FIELDS = [
    (section, name)
    for section in dict.fromkeys(sections())
    for name, field in section.model_fields.items()
    if list(values(field.annotation, 0))
]


def test_there_are_numbers_in_all_rooms():
    assert len(FIELDS) > 100
    assert {section.__module__.split(".")[1] for section, _ in FIELDS} == {"config", "modalities", "environments"}


@every(("section", "name"), FIELDS, ids=lambda part: getattr(part, "__qualname__", part))
def test_what_is_no_number_is_refused_with_the_key(section, name):
    for wrong in WRONG:
        for value in values(section.model_fields[name].annotation, wrong):
            if (section, name, value) in MEANT:
                continue
            with pytest.raises(ConfigError) as caught:
                validate(section, {name: value})
            lines = str(caught.value).splitlines()
            assert any(line.startswith((f"{name}:", f"{name}.")) for line in lines), (value, lines)
            assert max(map(len, lines)) < 300


def test_infinity_is_taken_where_it_means_something(config):
    made = load(config(), ["stages.0.optim={name: spam, spam_threshold: .inf}"])
    assert made.stages[0].optim.spam_threshold == math.inf
    again = load(made.model_dump(mode="json"))
    assert again == made


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4", "+1e-4", ".1e-3"])
def test_a_number_is_one_however_it_is_written(config, text, tmp_path):
    assert load(config(), [f"stages.0.optim.lr={text}"]).stages[0].optim.lr == 1e-4
    path = tmp_path / "run.yaml"
    path.write_text(f"lr: {text}\n")
    from mmrl.config.markup import parse

    assert parse(path.read_text(), "run.yaml") == {"lr": 1e-4}


def test_a_whole_float_is_an_integer(config):
    made = load(config(), ["stages.0.steps=1e3", "seed=7.0"])
    assert (made.stages[0].steps, made.seed) == (1000, 7)
    with pytest.raises(ConfigError, match=r"^stages\.0\.steps: "):
        load(config(), ["stages.0.steps=1.5"])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("stages.0.groups=true", "stages.0.groups"),
        ("stages.0.optim.eps=.inf", "stages.0.optim.eps"),
        ("stages.0.optim.betas=[-0.1, 0.9]", "stages.0.optim.betas.0"),
        ("stages.0.optim.betas=[0.9, 1.0]", "stages.0.optim.betas.1"),
        ("stages.0.hints={reward: a, threshold: .nan}", "stages.0.hints.threshold"),
        ("stages.0.hints={reward: a, fractions: [0.5, 0.25]}", "stages.0.hints"),
        ("rewards.0.weight=.nan", "rewards.0.weight"),
        ("rewards.0.weight=-.inf", "rewards.0.weight"),
        (f"seed={2**100}", "seed"),
        (f"eval.seed={2**63}", "eval.seed"),
        ("eval.seed=-1", "eval.seed"),
        ("model.sampling.temperature=.nan", "model.sampling.temperature"),
        ("model.lora.rank='8'", "model.lora.rank"),
        (f"seed={'9' * 5000}", "override 'seed'"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_in_one_line(config, override, key):
    with pytest.raises(ConfigError) as caught:
        load(config(), [override])
    assert str(caught.value).startswith(f"{key}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_the_largest_seed_is_taken(config):
    assert load(config(), [f"seed={2**63 - 1}"]).seed == 2**63 - 1


def test_weights_of_mpo_are_weights(config):
    mpo = config(stages=("preference",))
    assert load(mpo, ["stages.0.objective=mpo", "stages.0.weights=[0, 0, 1]"]).stages[0].weights == (0, 0, 1)
    for wrong in ("[-1, 1, 1]", "[0, 0, 0]"):
        with pytest.raises(ConfigError, match="weights"):
            load(mpo, ["stages.0.objective=mpo", f"stages.0.weights={wrong}"])
