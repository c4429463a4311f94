"""`vidan models`: the detection models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vidan.cli.command import Commands
from vidan.cli.options import completion
from vidan.cli.terminal.output import Output
from vidan.detection import catalogue

commands = Commands(
    "models",
    "Show the models that the parameter `model` accepts. It also accepts your own, as"
    " module:factory.",
    examples="""
        vidan models list
        vidan models show nanodet-g
    """,
)


@commands.command(
    "list",
    examples="""
        vidan models list
        vidan models list --quiet
    """,
)
def list_models(out: Output) -> None:
    """List the models, the default first.

    In a pipe: name, number of labels, size, licence, summary, separated by tabs.
    """
    out.listing(
        catalogue.models(),
        {
            "NAME": lambda m: m.name,
            "LABELS": lambda m: len(m.labels),
            "SIZE": lambda m: m.size,
            "LICENCE": lambda m: m.licence,
            "SUMMARY": lambda m: m.summary,
        },
        record=_record,
        id=lambda m: m.name,
        name="models",
        spare=("LICENCE", "SIZE"),
    )


@commands.command(
    "show",
    examples="""
        vidan models show nanodet-g
        vidan models show nanodet-g --json | jq -r '.labels[]'
    """,
)
def show(
    out: Output,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=completion.models, help="Name of the model."
        ),
    ],
) -> None:
    """Show one model and its labels."""
    found = catalogue.find_model(model)
    out.details(_record(found), id=found.name)


def _record(model: catalogue.Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "default": model.name == catalogue.DEFAULT_MODEL,
        "size": model.size,
        "weights": model.weights and str(model.weights),
        "licence": model.licence,
        "summary": model.summary,
        "labels": list(model.labels),
    }
