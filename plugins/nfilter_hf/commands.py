"""Commands that this plugin adds to ``nfilter``; each loads torch only when it runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--arm", default="cleaned", show_default=True, help="The arm whose adapter is merged."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, readable=False),
    help="The folder of the merged model.  [default: RUN/merged/ARM]",
)
@click.option(
    "--model",
    help="The base: a folder, a GGUF file or a hub id.  [default: the base that the adapter names]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="The type of the weights.  [default: the type of the base during training]",
)
def merge(run: Path, arm: str, out: Path | None, model: str | None, dtype: str | None) -> None:
    """Merge the adapter of RUN into its base model.

    The result needs no PEFT: safetensors weights and the tokenizer. The sum is computed in float32; the rounding error of
    another type is printed.
    """
    from nfilter_hf.merge import merge_run

    merged = merge_run(run, arm, out, model, dtype)
    click.echo(str(merged.folder))
    click.echo(merged.message, err=True)
