"""The command line: its commands, and how a failure is told. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import click

from mmrl.commands.bench import bench
from mmrl.commands.installed import completion, env, list_
from mmrl.commands.judge import judge
from mmrl.commands.nearest import Nearest
from mmrl.commands.one_voice import to_tell
from mmrl.commands.policy import evaluate, sample
from mmrl.commands.reward import reward
from mmrl.commands.runs import compare, merge, report
from mmrl.commands.serve_reward import serve_reward
from mmrl.commands.serve_rollouts import serve_rollouts
from mmrl.commands.training import check, plan, train
from mmrl.terminal import own_warnings

COMMANDS = (
    *(train, plan, check),
    *(evaluate, sample),
    *(report, compare, merge),
    *(reward, judge, bench, serve_reward, serve_rollouts),
    *(list_, env, completion),
)


@click.group(cls=Nearest, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmrl")
def cli() -> None:
    """Reinforcement learning for multimodal and generative models.

    \b
    mmrl train --modality image          train the tiny model that ships with mmrl
    mmrl train CONFIG key.sub=value      train a config, with overrides
    mmrl train RUN_FOLDER --resume       go on with a run
    mmrl list configs                    what ships
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Entry point: expected problems are one message, not a traceback."""
    with own_warnings():
        _run()


def _is_meant(error: BaseException) -> bool:
    """Whether the message was written for a user: an error of mmrl's own, or a ValueError that a line of mmrl raises.

    Others have a traceback, which a bug report needs.
    """
    if type(error).__module__.startswith("mmrl"):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
    return isinstance(error, ValueError) and ours and (frames[-1].line or "").startswith("raise ")


def _run() -> None:
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        click.echo("ended by Ctrl-C", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if to_tell(error.format_message()) is not None:
            error.show()
        sys.exit(error.exit_code)
    except BaseException as error:
        from mmrl.training.notes import is_told

        if is_told(error):
            sys.exit(1)
        if not (_is_meant(error) or isinstance(error, FileNotFoundError | ImportError)):
            raise
        if (message := to_tell(str(error))) is not None:
            click.echo(f"error: {message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
