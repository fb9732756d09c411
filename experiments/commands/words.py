"""The words of `fedlab` as click reads them: listed in their order, loaded when said, completed in the shell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from fedlab.errors import unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

VARIABLE = "_FEDLAB_COMPLETE"
"""The environment variable through which a shell asks for completions."""


class Word(click.Command):
    """A command whose options may take several values at once: `--client 3 7` is `--client 3 --client 7`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each of its values."""
        several = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        spread: list[str] = []
        name = None
        for word in args:
            if word.startswith("--"):
                name = word if word in several else None
            elif name and spread[-1] != name:
                spread.append(name)
            spread.append(word)
        return super().parse_args(ctx, spread)


class Words(click.Group):
    """A group whose unknown word is met with the known ones.

    Args:
        modules: Names of further words, each the `command` of a module of `experiments.commands`.
    """

    command_class = Word

    def __init__(self, *args: Any, modules: Sequence[str] = (), **options: Any):
        super().__init__(*args, no_args_is_help=False, **options)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the words in the order in which they were written."""
        return [*self._modules, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a word; its module is loaded now."""
        if cmd_name in self._modules:
            return import_module(f"experiments.commands.{cmd_name}").command
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the word that comes first and what follows it.

        Raises:
            BadInput: There is no such word.
        """
        if not (ctx.resilient_parsing or args[0] in self.list_commands(ctx) or args[0].startswith("-")):
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the words with all that their first paragraph says."""
        words = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, " ".join((word.help or "").split("\n\n")[0].split())) for name, word in words.items() if word]
            )


def completion(shell: str) -> str:
    """Return the script that makes a shell complete the words of `fedlab`.

    Raises:
        BadInput: The shell is unknown.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise unknown("shell", shell, ("bash", "fish", "zsh"))
    script = kind(click.Command("fedlab"), {}, "fedlab", VARIABLE).source()
    if shell == "bash":  # key=value is one word, and its value goes on after the key
        return "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}\n" + script.replace("nosort", "nosort -o nospace")
    return script


def console() -> Console:
    """Return where commands print: texts and paths may hold square brackets, so there is no markup."""
    from rich.console import Console

    return Console(markup=False, highlight=False)


def facts(rows: Iterable[Sequence[str]], **options: Any) -> Table:
    """Return a table of names and what is true of each; long values are folded."""
    from rich.table import Column, Table

    table = Table(Column(no_wrap=True), Column(overflow="fold"), show_header=False, **options)
    for row in rows:
        table.add_row(*row)
    return table
