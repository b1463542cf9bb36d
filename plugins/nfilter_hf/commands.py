"""Commands that this plugin adds to ``nfilter``; each loads torch only when it runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--arm", default="cleaned", show_default=True, help="Whose adapter to fold in.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to write the model.  [default: RUN/merged/ARM]",
)
@click.option("--model", help="The base: a folder or a hub id.  [default: what the adapter names]")
def merge(run: Path, arm: str, out: Path | None, model: str | None) -> None:
    """Fold the adapter of RUN into its base model.

    The result runs without PEFT: safetensors weights in the type of the base, and its tokenizer.
    """
    from nfilter_hf.merge import merge_run

    click.echo(str(merge_run(run, arm, out, model)))
