"""Writes docs/configuration.md from the configuration classes: every key, its type, default and meaning.

With --check, nothing is written, and a page that is not current is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import operator
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mmrl.config import Config
from mmrl.core.algorithm import CHOICES, Algorithm
from mmrl.core.library import registries
from mmrl.core.presets import PRESETS
from mmrl.core.registry import Bound, Entry, Hook
from mmrl.environments.find import find
from mmrl.environments.load import BUILT_IN as ENVIRONMENTS
from mmrl.modalities.load import CONFIGS, config_class
from mmrl.strict import Strict

PAGE = Path(__file__).resolve().parent / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py (`make docs`); change the classes, not this page. -->

A run is one YAML file. An unknown key is an error that names the nearest known one, and so is an option that is given
and can change nothing beside the others (`final_lr` of a constant schedule): "needs", below, says when it can. A value
that is the default is never refused. Plain words mean what YAML 1.2 says: `1e-4` is a number, `off` is a text. Numbers
are finite unless a key says what `.inf` means.

`mmrl plan CONFIG` says in words what a file would do, and looks at all that it needs ([plan.md](plan.md)). In place of
a CONFIG, the folder of a run names the config that it was made with, wherever the folder is now:
`mmrl train runs/mine --resume`, `mmrl eval runs/mine`.

On the command line, `key.sub=value` changes a key, and a stage is named by its
name, kind or number: `mmrl train image/tiny stages.grpo.steps=20 stages.0.optim.lr=1e-4`. In Python the dots are
double underscores, and values are taken as they are: `mmrl.train("image/tiny", stages__grpo__steps=20, name="1e5")`.

`share://` in a path names a file that ships with mmrl, such as `share://datasets/scenes/prompts.jsonl`; any other path
is taken from the folder of the file that it stands in, where something is there, and else from the folder you are in.
"""

# A longer text is not shown as a default.
LONGEST = 80


class Table(NamedTuple):
    """A class of the configuration, and which of its keys are listed. above: the class whose keys it has, too."""

    title: str
    section: type[BaseModel]
    keys: list[str]
    above: type[BaseModel] | None


def page() -> str:
    """The whole page."""
    tables: dict[type[BaseModel], Table] = {}
    for table in tables_of("", {"": Config}):
        tables.setdefault(table.section, table)
    titles = {section: table.title for section, table in tables.items()}
    return "\n".join([HEAD, *[written(table, titles) for table in tables.values()], algorithm(), hooks(), presets()])


def tables_of(path: str, variants: Mapping[str, type[BaseModel]]) -> Iterator[Table]:
    """Tables of the classes, by name, that may stand at `path`, and then of the sections inside them.

    path: keys with dots, `*` for an item of a list. A class that several variants are built on has a table of its
    own, before what each adds.
    """
    users: dict[type[BaseModel], list[str]] = {}
    for name, variant in variants.items():
        for base in reversed(variant.__mro__[: variant.__mro__.index(Strict)]):
            users.setdefault(base, []).append(name)
    users = {base: names for base, names in users.items() if len(names) > 1 or base in variants.values()}
    nested: list[tuple[str, dict[str, type[BaseModel]]]] = []
    for section, names in users.items():
        above = next((base for base in section.__mro__[1:] if base in users), None)
        heirs = [variant for variant in variants.values() if issubclass(variant, section)]
        replaced = set.intersection(*[_declared(heir, section) for heir in heirs])
        keys = [key for key in section.model_fields if key in _declared(section, above) - replaced - {"kind"}]
        who = "all" if len(names) == len(variants) > 1 else " and ".join(names)
        yield Table(_title(path, who), section, keys, above)
        label = "" if who == "all" else who
        for key in keys:
            below = f"{path}.{key}{'.*' if _lists(section, key) else ''}".removeprefix(".")
            nested.append((below, {name or label: found for name, found in sections_in(section, key).items()}))
    for below, inside in nested:
        yield from tables_of(below, inside)


def sections_in(section: type[BaseModel], key: str) -> dict[str, type[BaseModel]]:
    """The classes that a key holds, by what tells them apart ("" for a single one)."""
    if (section, key) == (Config, "model"):
        return {name: config_class(name) for name in CONFIGS}
    if (section, key) == (Config, "environment"):
        return {f"`name: {name}`": find(name, ENVIRONMENTS, "environment").Options for name in ENVIRONMENTS}
    found = list(_classes(section.model_fields[key].annotation))
    if len(found) == 1:
        return {"": found[0]}
    return {f"`kind: {one.model_fields['kind'].default}`": one for one in found}


def written(table: Table, titles: Mapping[type[BaseModel], str]) -> str:
    besides = f"Besides the keys of {_link(titles[table.above], titles[table.above])}:" if table.above else ""
    said = " ".join([_plain(table.section.__dict__.get("__doc__")), besides]).strip()
    lines = [f"## {table.title}", "", *([said, ""] if said else []), *_head("key")]
    for key in table.keys:
        field, inside = table.section.model_fields[key], sections_in(table.section, key)
        cells = [
            f"`{key}`",
            _sections(table.section, key, inside, titles) if inside else _type(field.annotation),
            _default(field.default, field.default_factory),
            _meaning(table.section, key, inside),
        ]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _title(path: str, who: str) -> str:
    if not path:
        return "The top of the file"
    title = f"`{path.removesuffix('.*')}`" + (", a list" if path.endswith(".*") and who in ("", "all") else "")
    return f"{title}: what all share" if who == "all" else f"{title}, {who}" if who else title


def _declared(section: type[BaseModel], above: type[BaseModel] | None) -> set[str]:
    """Names that a class adds to `above`, or gives another meaning than there."""
    line = section.__mro__[: section.__mro__.index(above or Strict)]
    return {name for cls in line for name in inspect.get_annotations(cls)}


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _lists(section: type[BaseModel], key: str) -> bool:
    return str(section.model_fields[key].annotation).startswith("list[")


def _sections(
    section: type[BaseModel], key: str, inside: Mapping[str, type[BaseModel]], titles: Mapping[type[BaseModel], str]
) -> str:
    """The type of a key that holds sections: links to them."""
    word = "sections" if _lists(section, key) else "section"
    links = ", ".join(_link(name or word, titles[found]) for name, found in inside.items())
    said = f"list of {links}" if _lists(section, key) else links
    return f"{said} or null" if type(None) in get_args(section.model_fields[key].annotation) else said


def _meaning(section: type[BaseModel], key: str, inside: Mapping[str, type[BaseModel]]) -> str:
    said = section.model_fields[key].description
    if not said and list(inside) != [""]:
        raise ValueError(f"{section.__module__}.{section.__name__}.{key} has no description")
    said = said or _plain(inside[""].__doc__).partition(". ")[0].removesuffix(".") + "."
    when = section.effects.get(key) if issubclass(section, Strict) else None
    said += f" Needs {when.needs}." if when else ""
    return re.sub(r"\bdocs/(\w+\.md)\b", r"[\1](\1)", said)


def _link(text: str, title: str) -> str:
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{text}](#{anchor})"


def algorithm() -> str:
    """The fields of Algorithm, whose meanings stand in its docstring as `name, name: text`."""
    meaning = _meanings(Algorithm.__doc__ or "")
    lines = [
        "## `stages.*.algorithm`",
        "",
        "`preset` names a published algorithm (below); any of these fields may be changed beside it. A hook is a name,",
        "or a mapping with its options: `gate: cispo`, `gate: {name: cispo, cap: 4.0}`. The tables of hooks follow.",
        "",
        *_head("field"),
    ]
    for field in dataclasses.fields(Algorithm):
        kind = " or ".join(f"`{c}`" for c in CHOICES[field.name]) if field.name in CHOICES else _type(field.type)
        lines.append(_row([f"`{field.name}`", kind, _default(field.default, None), meaning[field.name]]))
    return "\n".join(lines) + "\n"


def hooks() -> str:
    """One table for each field that holds hooks: the functions of its registry and their options."""
    lines = [
        "## Hooks",
        "",
        "Certainty: A, as published; B, as published, read once or in a summary; C, formula or numbers from memory;",
        "D, our reading of an idea whose formula is not public. `needs` are numbers of samples or actions, which the",
        "records or the modality give.",
        "",
    ]
    for field, registry in registries().items():
        lines += [f"### `{field}`", "", "| name | options | needs | certainty | what it is |", "|---|---|---|---|---|"]
        for name in registry:
            entry = registry[name]
            options = ", ".join(_option(entry, option) for option in entry.options) or "-"
            needs = ", ".join(f"`{need}`" for need in entry.needs) or "-"
            lines.append(_row([f"`{name}`", options, needs, entry.certainty, entry.about]))
        lines.append("")
    return "\n".join(lines)


def _option(entry: Entry, name: str) -> str:
    default = entry.options[name].default
    bound: Bound | None = entry.bounds.get(name)
    said = f"`{name}`, to be given" if default is entry.options[name].empty else f"`{name}: {_plain_value(default)}`"
    return f"{said} ({bound.words})" if bound else said


def presets() -> str:
    lines = ["## Presets", "", "What each changes in the defaults above.", "", "| preset | changes |", "|---|---|"]
    for name, changes in PRESETS.items():
        said = ", ".join(f"`{key}: {_plain_value(value)}`" for key, value in changes.items())
        lines.append(_row([f"`{name}`", said or "nothing: these are the defaults"]))
    return "\n".join(lines) + "\n"


def _meanings(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.splitlines():
        entry = re.match(r"    ([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if entry:
            names = entry.group(1).split(", ")
            found |= dict.fromkeys(names, entry.group(2))
        elif names and line.startswith("        ") and line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def _head(first: str) -> list[str]:
    return [f"| {first} | type | default | meaning |", "|---|---|---|---|"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _bare(annotation: Any) -> Any:
    """The annotation without the bounds of what is inside it."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    arguments = get_args(annotation)
    if not arguments or get_origin(annotation) is Literal:
        return annotation
    inside = tuple(_bare(argument) for argument in arguments)
    return functools.reduce(operator.or_, inside) if _is_union(annotation) else get_origin(annotation)[inside]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _type(annotation: Any) -> str:
    annotation = _bare(annotation)
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if not text or "[" in str(annotation) or "|" in str(annotation):
        text = str(annotation)
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    choices = re.search(r"Literal\[(.*?)\]", text)
    if choices:
        text = text.replace(choices.group(0), " or ".join(choices.group(1).replace("'", "`").split(", ")))
    text = re.sub(r"Optional\[(.*)\]", r"\1 | None", text)
    return text.replace(" | None", " or null").replace(" | ", " or ").replace("'", "")


def _default(value: Any, factory: Any) -> str:
    if factory is not None:
        made = factory()
        return "the section's defaults" if isinstance(made, BaseModel) else f"`{_plain_value(made)}`"
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, str) and len(value) > LONGEST:
        return "a text of ours"
    return f"`{_plain_value(value)}`"


def _plain_value(value: Any) -> str:
    if isinstance(value, Hook):
        return value.name
    return json.dumps(value, default=list).replace('"', "") if value != "" else '""'


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/configuration.md is not current; run: make docs")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
