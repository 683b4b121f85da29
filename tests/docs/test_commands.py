"""Every `mmrl ...` line of the pages is one that the command line takes, and names what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from every import every

from mmrl.cli import cli
from mmrl.commands.words import is_override, read_config
from mmrl.share import share

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _lines() -> list:
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "-m" in words and words[words.index("-m") + 1] == "mmrl":
                    words = words[words.index("-m") + 1 :]
                if words[:1] == ["mmrl"]:
                    found.append(pytest.param(words[1:], id=f"{page.stem}: {shlex.join(words)}"))
    return found


def test_there_are_such_lines():
    assert len(_lines()) > 40


def test_the_page_of_commands_has_all_of_them():
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert set(re.findall(r"`mmrl ([a-z-]+)", table)) == set(cli.commands)


@every("words", _lines())
def test_the_command_line_takes_it(words):
    command: click.Command = cli
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    parser = command.make_parser(click.Context(command))
    options, rest, _ = parser.parse_args(list(words))  # raises for an option that there is not
    # What was not given is no word: click has a mark for it.
    options = {name: value for name, value in options.items() if isinstance(value, str | tuple | list | bool | int)}
    wanted = [p for p in command.params if isinstance(p, click.Argument)]
    assert not rest and all(options.get(p.name) for p in wanted if p.required), (
        "an argument is missing, or one too many"
    )
    if "words" not in {p.name for p in wanted}:
        return
    given = options.get("words") or ()
    sources = [word for word in given if not is_override(word)]
    if sources and (share("configs") / f"{sources[0]}.yaml").is_file():
        read_config(given, options.get("modality"))
    elif sources:
        assert "/" not in sources[0] or sources[0].startswith("runs/") or Path(sources[0]).suffix, "no such config"
    else:
        assert any(options.get(name) for name in ("modality", "run", "predictions"))


@every("words", [p for p in _lines() if p.values[0][0] == "reward"])
def test_rewards_that_are_asked_by_hand_exist(words):
    from mmrl.rewarding.load import available

    assert words[1] in available() or words[1].rpartition(":")[0].endswith(".py") or words[1] == "NAME"
