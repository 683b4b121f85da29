"""What is installed: `mmrl list`, `mmrl env`, and completion for a shell."""

from __future__ import annotations

import warnings

import click


@click.command(name="list")
@click.argument("what", type=click.Choice(["configs", "rewards", "modalities", "presets", "plans"]), default="configs")
def list_(what: str) -> None:
    """What ships: configs, rewards, modalities, algorithm presets, step plans."""
    from mmrl.share import share

    if what == "configs":
        root = share("configs")
        names = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
    elif what == "rewards":
        from mmrl.rewarding.load import available

        names = available()
    elif what == "modalities":
        from mmrl.modalities.load import BUILT_IN

        names = sorted(BUILT_IN)
    elif what == "presets":
        from mmrl.core.presets import PRESETS

        names = sorted(PRESETS)
    else:
        from mmrl.modalities.image.plans import PLANS

        names = sorted(PLANS)
    for name in names:
        click.echo(name)


@click.command()
def env() -> None:
    """What this installation is made of: for a bug report."""
    from mmrl.sandbox import Sandbox, SandboxError
    from mmrl.versions import described

    for line in described():
        click.echo(line)
    try:
        with Sandbox("mmrl.sandbox.runners.python", strict=False) as sandbox, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is told here
            click.echo(f"sandbox: {sandbox.start()}")
    except SandboxError as error:
        click.echo(f"sandbox: none; {error}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what completes commands, configs and keys: `eval "$(mmrl completion bash)"`."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "mmrl", "_MMRL_COMPLETE").source())
