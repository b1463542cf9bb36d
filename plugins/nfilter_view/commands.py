"""The commands ``nfilter view`` and ``nfilter review``; the server's packages are imported only when it starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="RUN|DIR", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The port on 127.0.0.1.  [default: a free one]",
)
@click.option(
    "--who", default="", help="Your name beside your decisions.  [default: your user name]"
)
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser.")
def view(path: Path, port: int, who: str, opens: bool) -> None:
    """Look at runs in a browser, and review their rows.

    The page is served on this machine alone, and loads nothing from elsewhere. Its address holds a secret token: whoever has the
    address can read the runs and decide about rows.
    """
    from nfilter import NfilterError, missing_package

    try:
        from nfilter_view.server import serve
    except ModuleNotFoundError as error:
        module = (error.name or "starlette").partition(".")[0]
        raise NfilterError(f"nfilter view {missing_package(module, 'nfilter[view]')}") from error

    def opened(address: str) -> None:
        click.echo(f"{address}\nCtrl-C ends it.", err=False)
        if opens:
            click.launch(address)

    # Ctrl-C is how the server is ended: nothing is interrupted that could go on.
    with suppress(KeyboardInterrupt):
        serve(path, port, who, opened)


@click.group()
def review() -> None:
    """Take reviews of rows to other tools and back."""


@review.command(name="export")
@click.argument("run", type=click.Path(path_type=Path, readable=False))
@click.argument("out", type=click.Path(path_type=Path, readable=False))
@click.option("--format", "name", required=True, help="argilla, label-studio or csv.")
@click.option(
    "--n",
    "most",
    type=click.IntRange(min=1),
    help="How many rows, in the order of the source.  [default: all]",
)
def export_reviews(run: Path, out: Path, name: str, most: int | None) -> None:
    """Write the rows of RUN with the decisions so far to OUT, for another tool."""
    from nfilter_view.exchange import export_rows

    click.echo(export_rows(run, out, name, most))


@review.command(name="import")
@click.argument("run", type=click.Path(path_type=Path, readable=False))
@click.argument("data", type=click.Path(path_type=Path, readable=False))
@click.option("--format", "name", required=True, help="argilla, label-studio or csv.")
@click.option("--who", default="", help="The name beside decisions that have none.")
def import_reviews(run: Path, data: Path, name: str, who: str) -> None:
    """Read decisions that were made in another tool from DATA into RUN/review.jsonl."""
    from nfilter_view.exchange import import_rows

    click.echo(import_rows(run, data, name, who))
