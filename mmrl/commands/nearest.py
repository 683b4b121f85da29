"""A command group that says what a mistyped command may have meant."""

from __future__ import annotations

import click

from mmrl.near import near, short


class Nearest(click.Group):
    """A command group that names the nearest command on a typo."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {short(args[0])}; {near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
