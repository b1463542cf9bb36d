"""The card of a cleaned dataset, for those who have only the files: what was changed, by which recipe, with which effect.

No text of a row stands in it: numbers, and names from the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nfilter.report import text


def dataset_card(
    name: str,
    metrics: Mapping[str, Any],
    stages: list[Mapping[str, Any]],
    *,
    licence: str | None,
) -> str:
    """README.md of a dataset repository: metadata that the Hugging Face Hub reads, then the changes and the figures.

    ``stages`` are those of manifest.json. ``licence`` is the hub's identifier, such as ``cc-by-4.0``.
    """
    head = [f"license: {json.dumps(licence)}"] if licence else []
    head += [
        "tags: [nfilter]",
        "configs: [{config_name: default, data_files: [{split: train, path: train.jsonl}]}]",
    ]
    counts = metrics["samples"]
    changed = (
        f"Cleaned with nfilter: {counts['kept']:,} of {counts['read']:,} rows are kept, {counts['relabelled']:,} of them with another "
        f"label; {counts['dropped']:,} are dropped. `recipe.yaml` has every setting."
    )
    lines = [
        "---", *head, "---", "",
        f"# {_plain(name)}", "",
        changed, "",
        *_stages(stages),
        *_figures(metrics),
    ]  # fmt: skip
    if licence is None:
        lines += ["No licence is stated: the one of the source applies.", ""]
    return "\n".join(lines)


def _stages(stages: list[Mapping[str, Any]]) -> Iterator[str]:
    if not stages:
        return
    yield from ("| stage | rows left | dropped so far | relabelled |", "| --- | --- | --- | --- |")
    for stage in stages:
        counts = (stage["kept"], stage["dropped"], stage["relabelled"])
        yield f"| {_plain(stage['stage'])} | {' | '.join(f'{count:,}' for count in counts)} |"
    yield ""


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    found = metrics.get("detection")
    if isinstance(found, Mapping):
        told = [
            f"{key} {found[key]:.3f}"
            for key in ("precision", "recall")
            if found.get(key) is not None
        ]
        if told:
            yield from (f"Wrong labels found, against the known truth: {', '.join(told)}.", "")
    arms = metrics.get("arms")
    if isinstance(arms, Mapping) and arms:
        yield from (
            "| trained on | share of test rows answered right | 95% interval |",
            "| --- | --- | --- |",
        )
        for arm, figures in arms.items():
            low, high = figures.get("low"), figures.get("high")
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            yield f"| {_plain(arm)} | {figures['mean']:.3f} | {interval} |"
        yield ""


def _plain(value: Any) -> str:
    """One line that is no markup of a table."""
    return text.one_line(str(value), 120).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
