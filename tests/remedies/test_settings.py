"""What the error about a setting says to write is written, and the settings are taken."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from nfilter import StageConfig
from nfilter.answers.config import AnswerConfig
from nfilter.noise.labels import NoiseConfig
from nfilter_entp.mixing.pair import PairConfig
from nfilter_entp.purging.perplexity import Perplexity
from nfilter_entp.rating.rate import RateConfig
from nfilter_robustft.answer import AnswerConfig as AskConfig
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.column import ColumnConfig
from nfilter_robustft.select import SelectConfig
from nfilter_tokens.excess import ExcessLossConfig

# A setting that stands in the message is written; "-x" leaves x out, which the message names too.
CASES: list[tuple[type[StageConfig], str, list[str]]] = [
    (AnswerConfig, "kind: text", ["encoder: MODEL", "judge: MODEL"]),
    (NoiseConfig, "seed: 1", ["ratio: 0.3", "tokens: 0.3"]),
    (PairConfig, "{size: 40, links: 32}", ["links: 39", "size: 33"]),
    (Perplexity, "{low: 5, high: 100}", ["unit: absolute"]),
    (RateConfig, "{}", ["llm: NAME", "column: NAME"]),
    (RateConfig, "{llm: m, column: q}", ["-llm", "-column"]),
    (AskConfig, "{samples: 5, llm: m, into: x}", ["temperature: 0.7", "samples: 1"]),
    (AskConfig, "{llm: m, into: x, settled: {vote: any, views: [base]}, only: flagged}", ["-settled", "-only"]),
    (CheckConfig, "{views: [a], vote: judge}", ["llm: expert"]),
    (CheckConfig, "{views: [a], target_precision: 0.8, budget_of_flags: 5%}", ["-target_precision", "-budget_of_flags"]),
    (CheckConfig, "{views: [a], target_precision: 0.8, vote: any}", ["-target_precision", "-vote"]),
    (CheckConfig, "{views: [a, b], preset: official, vote: any}", ["-preset", "-vote"]),
    (CheckConfig, "{views: [a, b], vote: probability, sure: {view: a}}", ["-sure"]),
    (CheckConfig, "{views: [a], budget_of_flags: 5}", ["budget_of_flags: 5%", "budget_of_flags: 0.05"]),
    (ColumnConfig, "{column: gpt4, into: x, length: tokens}", ["nll: COLUMN"]),
    (SelectConfig, "{preset: official, keep: 0.5}", ["-keep"]),
    (SelectConfig, "{preset: official, rank: agreement}", ["-rank"]),
    (SelectConfig, "{preset: official, by: random}", ["-by"]),
    (ExcessLossConfig, "{}", ["reference: MODEL", "warmup: 0.2"]),
]  # fmt: skip


@pytest.mark.types(
    "encoder: MODEL", "type links:", "unit: absolute", "name one: llm: NAME", "leave out llm:",
    "set temperature: 0.7", "only: flagged after it; leave out", "name it: llm: expert", "leave out one of the two",
    "sure needs vote: any or all", "is more than all labels; write", "name its column: nll: COLUMN",
    "leave out keep, rank and by: random", "reference: MODEL",
)  # fmt: skip
@pytest.mark.parametrize(("config", "given", "told"), CASES, ids=range(len(CASES)))
def test_each_way_out_is_taken(config: type[StageConfig], given: str, told: list[str]) -> None:
    values = yaml.safe_load(given)
    values = values if isinstance(values, dict) else {}
    with pytest.raises(ValidationError) as error:
        config.model_validate(values)
    (fault,) = error.value.errors()
    assert fault["type"] == "value_error"
    said = f"{fault['loc']}: {fault['msg']}"
    for remedy in told:
        written: dict[str, Any] = dict(values)
        if remedy.startswith("-"):
            assert remedy[1:] in said
            del written[remedy[1:]]
        else:
            _assert_named(remedy, said)
            written.update(yaml.safe_load(remedy))
        config.model_validate(written)


def _assert_named(remedy: str, said: str) -> None:
    setting, _, value = remedy.partition(": ")
    assert remedy in said or (setting in said and value in said), (remedy, said)


@pytest.mark.types("a view cannot settle itself; remove")
def test_view_that_settles_itself_is_removed() -> None:
    settled = {"vote": "any", "views": ["base", "mine"]}
    with pytest.raises(ValidationError, match="remove 'mine' from its views"):
        AskConfig(llm="m", into="mine", settled=settled)
    settled["views"] = ["base"]
    assert AskConfig(llm="m", into="mine", settled=settled).settled is not None


@pytest.mark.types("no rule is named; name some of")
def test_a_rule_that_is_named_runs_and_so_do_the_usual_ones() -> None:
    from nfilter_entp.purging.purge import PurgeConfig

    with pytest.raises(ValidationError, match="no rule is named; name some of") as error:
        PurgeConfig.model_validate({"rules": []})
    names = str(error.value).split("name some of ")[1].split(", or leave out rules")[0].split(", ")
    assert len(names) > 5
    for name in names:
        rules: Any = [name]
        if name == "perplexity":  # it asks for more, and says what
            with pytest.raises(ValidationError, match=r"such as low: 0\.01, high: 0\.99"):
                PurgeConfig.model_validate({"rules": rules})
            rules = {name: {"low": 0.01, "high": 0.99}}
        assert getattr(PurgeConfig.model_validate({"rules": rules}).rules, name) is not None
    assert list(PurgeConfig().rules.row_rules())
