"""`mmrl reward`: the scores that a reward gives to files."""

from __future__ import annotations

from pathlib import Path

import click

from mmrl.commands.words import Words, key_values


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", "-p", "prompts", multiple=True, help="One for all files, or one per file.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the reward.")
@click.option("--set", "columns", multiple=True, metavar="COLUMN=VALUE", help="Columns of the record, as answer=5.")
def reward(name: str, files: tuple[Path, ...], prompts: Words, options: Words, columns: Words) -> None:
    """Score saved pictures (or texts) with a reward: `mmrl reward jpeg.compressible a.png b.png`.

    A reward that compares with a record wants its columns: `mmrl reward math.verify said.txt --set answer=5`.
    """
    from mmrl.config import ConfigError
    from mmrl.reporting.artifacts import load_artifact
    from mmrl.rewarding.load import load_reward
    from mmrl.rewarding.run import score_groups
    from mmrl.types import Group, Prompt, Sample

    if len(prompts) not in (0, 1, len(files)):
        raise ConfigError(f"{len(prompts)} prompts for {len(files)} files: give none, one, or one per file")
    texts = list(prompts) * (len(files) if len(prompts) == 1 else 1) or [""] * len(files)
    given, record = key_values(options), key_values(columns)
    loaded = load_reward(name, given)
    groups = []
    for i, (path, text) in enumerate(zip(files, texts)):
        try:
            artifact = load_artifact(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        prompt = Prompt(str(path), text, {"prompt": text, **record})
        groups.append(Group(prompt, i, [Sample(prompt, 0, artifact)]))
    score_groups(groups, [loaded])
    for group in groups:
        score = group.samples[0].scores[loaded.name]
        click.echo(f"{group.prompt.id}\t{f'{score.value:.4f}' if score.ok else f'{score.status}: {score.reason}'}")
