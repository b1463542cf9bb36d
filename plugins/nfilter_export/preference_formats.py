"""Export formats of preference pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Final

from nfilter import JSON, Exported, Message, Sample, StageConfig, Verdict
from nfilter_export import trainer_configs
from nfilter_export.conversation_formats import FILE, NoSettings, lost_masks
from nfilter_export.turns import turn, with_tools

CARD: Final = "README.md"


class TrlDpo:
    """Format for TRL's DPOTrainer: train.jsonl with ``prompt``, ``chosen`` and ``rejected``, each a list of turns, and train.yaml.

    If a verdict leaves open which response of a pair is the better one, README.md says for how many pairs.

    If a row has a weight other than 1, all rows have a column ``weight``; DPOTrainer does not read it. Rows with one response are
    left out. Needs no tokenizer: the trainer tokenizes with the chat template of its model.
    """

    name: ClassVar[str] = "trl_dpo"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl, and train.yaml if the recipe trains."""
        weighted = sum(sample.weight != 1.0 for sample in run.samples)
        count = unsure = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for sample in run.samples:
                if sample.rejected is None:
                    continue
                row = _pair(sample, sample.rejected)
                row |= {"weight": sample.weight} if weighted else {}
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
                unsure += _is_unsure(sample)
        summary = [f"{FILE}: {count} preference pairs"]
        if unsure:
            fact = f"{unsure} of {count} pairs may be flipped: by the verdict, the probability of it can be below and above 0.5"
            (out / CARD).write_text(_card(count, fact), encoding="utf-8")
            summary.append(f"{CARD}: {fact}")
        if run.fine_tune is not None:
            config = trainer_configs.trl_dpo(run.fine_tune)
            command = "trl dpo --config train.yaml"
            summary.append(trainer_configs.write_config(out, config, command))
        if single := len(run.samples) - count:
            summary.append(f"{single} rows are left out: they have one response")
        if weighted:
            summary.append(
                f"{weighted} rows have a weight other than 1, in the column weight, which DPOTrainer does not read"
            )
        return [*summary, *lost_masks(run)]


def _is_unsure(sample: Sample) -> bool:
    """Whether the interval of the last verdict has both orders of the pair in it."""
    last = Verdict.last_of(sample)
    return last is not None and last[1].ends[0] < 0.5 < last[1].ends[1]


def _card(pairs: int, fact: str) -> str:
    """A dataset card in the form of the Hugging Face Hub: metadata, then the fact."""
    return (
        "---\ntags: [nfilter, dpo, preference]\n"
        "configs: [{config_name: default, data_files: [{split: train, path: train.jsonl}]}]\n---\n\n"
        f"# {pairs} preference pairs\n\n{fact}. Such pairs keep their order unless `pairs.decide` has another `swap_from`. Trusted pairs (`trusted: COLUMN` "
        "of robustft.check) or more pairs narrow the probability.\n"
    )


def _pair(sample: Sample, rejected: Message) -> dict[str, JSON]:
    prompt: list[JSON] = [turn(message) for message in sample.context]
    chosen: list[JSON] = [turn(sample.messages[-1])]
    row: dict[str, JSON] = {"prompt": prompt, "chosen": chosen, "rejected": [turn(rejected)]}
    return with_tools(row, sample)
