"""What encoding did to the rows: counted by hand, said before training, and tokenizers that differ refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nfilter import (
    Encodes,
    Message,
    NothingLeftError,
    RecipeError,
    Sample,
    TokenizerDigest,
    Tokenizes,
    TokenSample,
)
from nfilter.engine.lint import lint
from nfilter.recipe.sections import EncodeConfig
from nfilter.store.tokens import tokenizer_of


def row(name: str, *said: str, roles: str = "ua", weight: float = 1.0) -> Sample:
    full = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    pairs = zip(roles, said, strict=True)
    return Sample(name, tuple(Message(full[r], t) for r, t in pairs), weight=weight)  # type: ignore[arg-type]


def tokens(sample: Sample, limit: int = 99, opened: str = "", end: str = "$") -> TokenSample:
    """A token a character; a user's turn is ``text|``, an answer ``opened text end``, and only answers are response."""
    text, response, turn = "", [], []
    for index, message in enumerate(sample.messages):
        mine = message.role == "assistant"
        shown = f"{opened}{message.content}{end}" if mine else f"{message.content}|"
        text += shown
        response += [mine] * len(shown)
        turn += [index] * len(shown)
    ids = np.array([ord(char) for char in text], dtype=np.int64)
    starts = np.arange(len(ids), dtype=np.int32)
    mask = np.array(response, dtype=np.bool_)
    return TokenSample(
        id=sample.id,
        ids=ids[:limit],
        response=mask[:limit],
        turn=np.array(turn, dtype=np.int16)[:limit],
        spans=np.stack([starts, starts + 1], axis=1)[:limit],
        weights=(mask * np.float32(sample.weight))[:limit].astype(np.float32),
        text=text,
        cut=mask[limit:],
    )


def decode(ids: Sequence[Any]) -> list[str]:
    return ["".join(map(chr, part)) for part in ids]


def look(samples: Sequence[Sample], limit: int = 99, **more: Any) -> Any:
    encoded = [tokens(sample, limit, **more) for sample in samples]
    return lint(EncodeConfig(max_length=limit), samples, encoded, decode)


def test_rows_that_fit_are_counted_and_nothing_is_said() -> None:
    # "ab|cd$" is six tokens, three of them response; "a|b$c|d$" is eight, four of them.
    found = look([row("a", "ab", "cd"), row("b", "a", "b", "c", "d", roles="uaua")])
    assert (found.warnings, found.dropped, [s.id for s in found.kept]) == ([], [], ["a", "b"])
    assert found.figures == {
        "rows": 2, "tokens": 14, "response_tokens": 7, "max_length": 99,
        "lengths": {"median": 6, "p99": 8, "max": 8},
        "truncated": {"rows": 0, "tokens": 0, "response_tokens": 0, "responses": 0, "without_end": 0},
        "all_masked": {"truncated": 0, "template": 0, "no_answer": 0, "weight": 0},
        "mask": {"prompt": 0, "rewritten": 0, "opened": 0, "followed": 0, "unended": 0},
        "decoded_otherwise": 0,
    }  # fmt: skip


def test_what_is_cut_is_counted_and_the_warning_says_what_to_type() -> None:
    # Of "u|abc$" (six tokens) five fit; of "uuuuu|ab$" (nine) none of the response; of "u|ab$" (five) all.
    found = look([row("cut", "u", "abc"), row("gone", "uuuuu", "ab"), row("fits", "u", "ab")], 5)
    assert found.figures["truncated"] == {
        "rows": 2, "tokens": 5, "response_tokens": 4, "responses": 2, "without_end": 1,
    }  # fmt: skip
    assert found.figures["all_masked"]["truncated"] == 1
    assert [sample.id for sample in found.kept] == ["cut", "fits"]
    assert found.dropped == [
        ("gone", "no token of the response is left: it begins at token 7 of 9, and encode.max_length is 5")
    ]  # fmt: skip
    (said,) = found.warnings
    assert said == (
        "2 of 3 rows are longer than 5 tokens (the longest has 9): 4 tokens of responses cut off, 1 response without "
        "an end, 1 row without any response, which are dropped; encode.max_length: 9 keeps them whole"
    )


def test_a_few_long_rows_are_told_apart_from_the_rest() -> None:
    samples = [row(f"r{n}", "u", "abcdef") for n in range(200)] + [row("long", "u", "a" * 90)]
    (said,) = look(samples, 7).warnings
    assert said.endswith("encode.max_length: 9 keeps 99% of the rows whole, 93 all")
    (said,) = look(samples, 10).warnings
    assert said.endswith("encode.max_length: 93 keeps them whole")
    encoded = [tokens(sample, 5) for sample in samples]
    (said,) = lint(EncodeConfig(max_length=2048), samples, encoded, decode).warnings
    assert said.endswith(
        "the model's context is 5: shorten the rows, or choose a model with a longer one"
    )


def test_each_reason_for_a_row_without_a_token_is_its_own() -> None:
    refused = row("refused", "a", "b", "c", roles="uta")
    nothing = np.zeros(0, dtype=np.int64)
    empty = TokenSample(
        "refused", nothing, nothing.astype(bool), nothing.astype(np.int16),
        np.zeros((0, 2), np.int32), nothing.astype(np.float32),
    )  # fmt: skip
    asked, weightless = row("asked", "only", roles="u"), row("light", "a", "b", weight=0.0)
    found = lint(
        EncodeConfig(),
        [refused, asked, weightless],
        [empty, tokens(asked), tokens(weightless)],
        decode,
    )
    assert dict(found.dropped) == {
        "refused": "the chat template rejects its turns (user, tool, assistant)",
        "asked": "its last message is not an assistant's, so it has no response",
        "light": "every token has weight 0 (sample weight 0.0)",
    }
    assert found.figures["all_masked"] == {"truncated": 0, "template": 1, "no_answer": 1, "weight": 1}  # fmt: skip
    first, second = found.warnings
    assert first.startswith("1 row has no token, because the chat template rejects the turns")
    assert "for example 'refused'" in first
    assert "for example 'asked'" in second


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("opened", {"opened": "<think>"}, "for example 'a' ('<think>')"),
        ("followed", {"end": "$ user:"}, "for example 'a' ('$ user:')"),
        ("unended", {"end": ""}, "no end-of-turn token, so the model does not learn to stop"),
    ],
)
def test_a_mask_that_covers_other_text_is_found(kind: str, more: Any, said: str) -> None:
    found = look([row("a", "ab", "cd")], **more)
    assert found.figures["mask"] == dict.fromkeys(("prompt", "rewritten", "opened", "followed", "unended"), 0) | {kind: 1}  # fmt: skip
    (warning,) = found.warnings
    assert said in warning
    assert [sample.id for sample in found.kept] == ["a"]


def test_a_prompt_in_the_loss_is_found() -> None:
    sample = row("a", "ab", "cd")
    whole = tokens(sample)
    every = np.ones(len(whole.ids), dtype=np.bool_)
    for text in (whole.text, ""):
        loose = replace(whole, response=every, weights=every.astype(np.float32), text=text)
        found = lint(EncodeConfig(), [sample], [loose], decode)
        assert found.figures["mask"]["prompt"] == 1
        (warning,) = found.warnings
        assert warning.startswith("1 row has tokens of a prompt in the loss")
        assert warning.endswith("for example 'a' (a message of the user)")


def test_a_response_that_is_not_in_its_text_is_found() -> None:
    sample = row("a", "ab", "cd")
    other = tokens(row("a", "ab", "other"))
    found = lint(EncodeConfig(), [sample], [other], decode)
    assert found.figures["mask"]["rewritten"] == 1


def test_tokens_that_decode_to_other_text_are_found() -> None:
    samples = [row("plain", "u", "ab"), row("lost", "u", "aéb"), row("spaced", "u", "a b")]
    encoded = [tokens(sample) for sample in samples]

    def forgets(ids: Sequence[Any]) -> list[str]:
        return [said.replace("é", "\ufffd").replace(" ", "") for said in decode(ids)]

    found = lint(EncodeConfig(), samples, encoded, forgets)
    assert found.figures["decoded_otherwise"] == 1
    (warning,) = found.warnings
    assert "for example 'lost'" in warning
    assert lint(EncodeConfig(), samples, encoded, lambda ids: None).warnings == []
    # A cut through the bytes of a character is no fault of the tokenizer.
    whole = tokens(row("lost", "u", "aéb"))
    cut = replace(
        whole, **{k: getattr(whole, k)[:4] for k in ("ids", "response", "turn", "spans", "weights", "reasons")},
        cut=whole.response[4:],
    )  # fmt: skip
    assert lint(EncodeConfig(max_length=4), [row("lost", "u", "aéb")], [cut], forgets).figures["decoded_otherwise"] == 0  # fmt: skip


# --- in a run ----------------------------------------------------------------------------------------------------

ROWS = "".join(f"{n}+1 => {n + 1}\n" for n in range(8)) + "100+1 => 101\n"
MORE = """arms: [cleaned, raw]
encode: {model: student, max_length: 6}
train: {use: example.memory, model: student}
"""


def test_a_run_says_it_before_it_trains(kit: Any) -> None:
    metrics = kit.run(rows=ROWS, more=MORE).metrics
    # "n+1", 0, "m", 0 is six tokens; "100+1" and its end take all six.
    assert set(metrics["encode"]) == {"cleaned", "raw"}
    figures = metrics["encode"]["cleaned"]
    assert figures["truncated"] == {
        "rows": 1, "tokens": 4, "response_tokens": 4, "responses": 1, "without_end": 0,
    }  # fmt: skip
    assert figures["all_masked"] == {"truncated": 1, "template": 0, "no_answer": 0, "weight": 0, "stages": 0}  # fmt: skip
    assert figures["tokenizer"] is None
    assert kit.json("tokens/index.json")["tokenizer"] is None
    assert tokenizer_of(kit.out / "tokens") is None
    told = [text for text in kit.reporter.warnings if "max_length" in text]
    assert [text.partition(":")[0] for text in told] == ["arm cleaned", "arm raw"]
    assert told[0].endswith("encode.max_length: 10 keeps them whole")
    (gone,) = kit.lines("dropped.jsonl")
    assert gone["stage"] == "encode"
    assert "begins at token 7 of 10" in gone["reason"]


def test_explain_tells_what_a_row_lost(kit: Any) -> None:
    from nfilter.report.explain import explain

    kit.run(rows=ROWS, more=MORE.replace("max_length: 6", "max_length: 8").replace(", raw", ""))
    by_line = {sample["id"]: sample["text"] for sample in kit.lines("tokens/texts.jsonl")}
    told = [explain(kit.out, name).gaps for name in by_line]
    # Of "100+1", 0, "101", 0 eight tokens fit, and the last two are response.
    assert sorted(map(list, told)) == [[]] * 8 + [["2 tokens of its responses, truncated at encode.max_length"]]  # fmt: skip


def test_a_run_in_which_everything_is_masked_ends_before_token_stages_and_training(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter_example.model import Memory
    from nfilter_example.tokens import First

    def never(*rest: Any, **more: Any) -> Any:
        raise AssertionError("nothing is left to work on")

    monkeypatch.setattr(Memory, "train", never)
    monkeypatch.setattr(First, "process_tokens", never)
    monkeypatch.setattr(First, "fit_tokens", never, raising=False)
    more = MORE.replace("max_length: 6", "max_length: 4").replace(", raw", "")
    with pytest.raises(NothingLeftError, match=r"begins at token 5 of 6, and encode\.max_length is 4"):  # fmt: skip
        kit.run(rows=ROWS, more=more + "tokens:\n  - {use: example.first, keep: 1}\n")
    figures = kit.json("metrics.json")["encode"]["cleaned"]
    assert figures["all_masked"]["truncated"] == figures["rows"] == 9


def speaker(name: str, tokenizer: str, template: str) -> type:
    """The adder with a tokenizer that it tells."""
    from nfilter_example.model import Adder

    from nfilter import Abilities

    class Speaker(Adder):
        @classmethod
        def abilities(cls, config: Any) -> Abilities:
            found = Adder.abilities(config)
            return Abilities(found.capabilities | {Tokenizes, Encodes})

        def tokenizer_digest(self) -> TokenizerDigest:
            return TokenizerDigest(tokenizer, template)

        def decode(self, ids: Sequence[Any]) -> list[str]:
            return ["".join(map(chr, part)) for part in ids]

    Speaker.name = name
    return Speaker


BACKENDS = [speaker("test.a", "t1", "c1"), speaker("test.b", "t2", "c1"), speaker("test.c", "t1", "c2")]  # fmt: skip
TWO = """models: {student: {use: test.USE}, other: {use: test.a}}
arms: [cleaned]
encode: {model: other}
train: {use: example.memory, model: student}
"""


@pytest.mark.types("set encode: {model: «»}")
def test_another_tokenizer_than_that_of_the_trained_model_is_refused_before_any_stage(
    kit: Any, stage: Any
) -> None:
    asked: list[str] = []

    def watch(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        asked.extend(sample.id for sample in chunk)
        return chunk

    watching = stage("extra.watch", watch)
    hooks = {"backends": BACKENDS}
    with pytest.raises(RecipeError) as caught:
        kit.run([watching], rows=ROWS, more=TWO.replace("USE", "b"), hooks=hooks)
    assert str(caught.value).endswith(
        "encode.model 'other' has another tokenizer than 'student', which is trained: it maps the same ids to other "
        "text; set encode: {model: student}"
    )
    assert "r.yaml:" in str(caught.value)
    assert asked == []
    kit.run([watching], rows=ROWS, more=TWO.replace("USE", "c"), hooks=hooks)
    assert len(asked) == 9
    (said,) = kit.reporter.warnings
    assert said.startswith("encode.model 'other' has another chat template than 'student'")
    kit.run([watching], rows=ROWS, more=TWO.replace("USE", "a"), hooks=hooks)
    assert kit.reporter.warnings == []
    assert tokenizer_of(kit.out / "tokens") == TokenizerDigest("t1", "c1")
    assert kit.json("metrics.json")["encode"]["cleaned"]["tokenizer"] == {"tokenizer": "t1", "template": "c1"}  # fmt: skip
    kit.run([watching], rows=ROWS, more=TWO.replace("USE", "b").replace("{model: other}", "{model: student}"), hooks=hooks)  # fmt: skip
    assert kit.reporter.warnings == []
