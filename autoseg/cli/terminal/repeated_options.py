"""Refuses a second value of an option that takes one here and several in other commands: the last would count alone."""

from collections import Counter
from typing import Any, Final

import typer
from typer.core import TyperCommand

TAKEN_SEVERAL_TIMES: Final = ("--configuration", "--format", "--series")
"""Options that some commands take several times and others once."""


class SingleValueCommand(TyperCommand):
    """A command that refuses a second value of such an option, unless its help is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the words of a call; while one is completed, nothing is refused.

        Raises:
            BadParameter: An option is given several times that takes one value.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        asks_for_help = self.get_help_option(ctx) in given
        for option, count in Counter([] if asks_for_help else given).items():
            if count > 1 and option.opts[0] in TAKEN_SEVERAL_TIMES and not getattr(option, "multiple", False):
                msg = f"it takes one value here, found {count}; run the command once for each"
                raise typer.BadParameter(msg, ctx=ctx, param_hint=f"'{option.opts[0]}'")
        return super().parse_args(ctx, args)
