"""How a command is registered: its shared options, its examples, the arguments it receives.

Every module of `commands/` has one object called `commands`, and registers with it:

    commands = Commands("scenario", "Create, follow, start and stop scenarios.")

    @commands.command("list", examples='''
        vidan scenario list --status failed
    ''')
    def list_scenarios(out: Output, settings: Settings, task: TaskOption = None) -> None: ...

    commands.include(create.commands)   # a group takes in the other modules of its folder

One line in `COMMANDS` of `main.py` names the module of each command and each group.

`--json`, `--quiet` and `--debug` are accepted before and after a command's name; they reach the
command as `out`. A command with a parameter `settings` gets `--database-url`, and with
`broker=True` also `--bootstrap-servers`. A parameter `filters: FilterOptions` stands for all
options that narrow scenarios down.
"""

from __future__ import annotations

import copy
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from vidan.cli.options import filters
from vidan.cli.options.coercion import Coercion
from vidan.cli.terminal.output import Output

if TYPE_CHECKING:
    from vidan.config import Settings

F = TypeVar("F", bound=Callable[..., int | None])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@dataclass
class Flags:
    """The shared options, gathered from every level of the command line."""

    json: bool = False
    quiet: bool = False
    debug: bool = False


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, errors included.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="PostgreSQL database [DATABASE_URL, else the embedded stack's]."
    ),
]
BootstrapOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Kafka [KAFKA_BOOTSTRAP_SERVERS, else the embedded stack's]."
    ),
]


class Command(TyperCommand):
    """A command whose words become values by `Coercion`, and whose help ends in examples."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Arguments and options, `--help` among them."""
        return coerced(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the usage line: each argument by its metavar."""
        return ["[OPTIONS]", *(param.metavar or param.name for param in _arguments(self.params))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        write_options(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples below a heading, without wrapping them."""
        write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help ends in examples."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Arguments and options, `--help` among them."""
        return coerced(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands before the options."""
        self.format_commands(ctx, formatter)
        write_options(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands, each with the first sentence of its help."""
        rows = [
            (name, str(command.help).partition("\n")[0]) for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples below a heading, without wrapping them."""
        write_examples(self.epilog, formatter)


def coerced(params: list[Any]) -> list[Any]:
    """Give each parameter a `Coercion`, which makes its values and checks their bounds."""
    for param in params:
        if not isinstance(param._runtime_param, Coercion):
            param._runtime_param = Coercion.of(param)
            if hasattr(param, "min"):
                # with bounds the help would show 1<=x<=9223372036854775807
                param.min = param.max = None
    return params


def _arguments(params: list[Any]) -> list[Any]:
    return [param for param in params if param.param_type_name == "argument"]


def write_options(params: list[Any], ctx: Any, formatter: Any) -> None:
    """Write a help text's arguments and options."""
    arguments = [(param.metavar or param.name, param.help or "") for param in _arguments(params)]
    options = [p.get_help_record(ctx) for p in params if p.param_type_name == "option"]
    for heading, rows in (("Arguments", arguments), ("Options", [row for row in options if row])):
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)


def write_examples(examples: str | None, formatter: Any) -> None:
    """Write examples, one command per line, as the end of a help text."""
    if examples:
        with formatter.section("Examples"):
            formatter.write(textwrap.indent(inspect.cleandoc(examples), "  ") + "\n")


class Commands:
    """The commands of one module: a single command, a group, or a part of a group.

    A group has a summary. A part of a group is taken in by the group's module with `include`.
    """

    def __init__(self, name: str, summary: str = "", *, examples: str = "") -> None:
        self.name = name
        self.app = typer.Typer(
            name=name,
            help=summary,
            epilog=examples,
            cls=Group,
            context_settings=CONTEXT,
            add_completion=False,
            rich_markup_mode=None,
        )
        if summary:
            self.app.callback()(_group_flags)

    def command(
        self,
        name: str,
        *,
        examples: str,
        json: bool = True,
        quiet: bool = True,
        database: bool = True,
        broker: bool = False,
        dashes: bool = False,
    ) -> Callable[[F], F]:
        """Register a function as a command; its docstring is the help, its result the exit code.

        `json`: whether its output can be JSON (errors always can). `quiet`, `database`, `broker`:
        whether the command has these options. `dashes`: whether an argument may look like `-1`.
        """

        def register(function: F) -> F:
            settings = {**CONTEXT, "ignore_unknown_options": dashes}
            self.app.command(name, cls=Command, epilog=examples, context_settings=settings)(
                _prepared(function, json=json, quiet=quiet, database=database, broker=broker)
            )
            return function

        return register

    def include(self, part: Commands) -> None:
        """Add the commands of another module to this group, after those that it has."""
        self.app.registered_commands += part.app.registered_commands

    def build(self, *, only: str | None = None) -> Any:
        """Return the object that Typer runs: a group, or a single command.

        If the group has a command called `only`, the others are not made, which would take time.
        """
        named = [one for one in self.app.registered_commands if one.name == only]
        if named:
            part = copy.copy(self.app)
            part.registered_commands = named
            return typer.main.get_command(part)
        return typer.main.get_command(self.app)


def _group_flags(
    ctx: typer.Context, json: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False
) -> None:
    note_flags(ctx, json=json, quiet=quiet, debug=debug)


def note_flags(ctx: typer.Context, *, json: bool, quiet: bool, debug: bool) -> Flags:
    """Add the flags given at one level of the command line to those of the whole line."""
    flags = ctx.find_object(Flags)
    if flags is None:
        flags = ctx.obj = Flags()
    flags.json |= json
    flags.quiet |= quiet
    flags.debug |= debug
    return flags


def _prepared(
    function: Callable[..., int | None], *, json: bool, quiet: bool, database: bool, broker: bool
) -> Any:
    """Wrap a command so that it receives `out` and `settings`, made from the shared options."""
    own = inspect.signature(function, eval_str=False)
    hints = inspect.get_annotations(function, eval_str=False)
    wants_settings = "settings" in hints
    added = _shared_parameters(quiet=quiet, database=database and wants_settings, broker=broker)

    @functools.wraps(function)
    def run(ctx: typer.Context, **values: Any) -> None:
        flags = note_flags(
            ctx,
            json=values.pop("json"),
            quiet=values.pop("quiet", False),
            debug=values.pop("debug"),
        )
        out = Output(json=flags.json and json, quiet=flags.quiet, debug=flags.debug)
        url = values.pop("database_url", None)
        servers = values.pop("bootstrap_servers", None)
        if wants_settings:
            values["settings"] = _load(url, servers)
        if "filters" in hints:
            given = {name: values.pop(name) for name in filters.OPTIONS}
            values["filters"] = filters.FilterOptions(**given)
        code = function(out=out, **values)
        if code:
            raise typer.Exit(code)

    module = inspect.getmodule(function)
    names = vars(module) if module else {}
    parameters = []
    for name, parameter in own.parameters.items():
        if name == "filters":
            parameters += _filter_parameters()
        elif name not in ("out", "settings"):
            kind = _resolved(parameter.annotation, names)
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signature = inspect.Signature([context, *parameters, *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    return run


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    # only annotations that Typer needs are evaluated: `Settings` and services stay unimported
    return eval(annotation, names) if isinstance(annotation, str) else annotation


def _filter_parameters() -> list[inspect.Parameter]:
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in filters.OPTIONS.items()
    ]


def _shared_parameters(*, quiet: bool, database: bool, broker: bool) -> list[inspect.Parameter]:
    chosen: dict[str, Any] = {}
    if database:
        chosen["database_url"] = DatabaseOption
    if broker:
        chosen["bootstrap_servers"] = BootstrapOption
    chosen["json"] = JsonFlag
    if quiet:
        chosen["quiet"] = QuietFlag
    chosen["debug"] = DebugFlag
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name in ("database_url", "bootstrap_servers") else False,
            annotation=kind,
        )
        for name, kind in chosen.items()
    ]


def _load(database_url: str | None, bootstrap_servers: str | None) -> Settings:
    from vidan import config

    return config.load(database_url=database_url, bootstrap_servers=bootstrap_servers)
