"""The conformance kit: what the engine refuses, and what it cannot see, is refused with what to write instead."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nfilter_example.model import Adder, AdderConfig, Memory, MemoryConfig
from nfilter_example.source import QuestionsAndAnswers, QuestionsAndAnswersConfig
from nfilter_example.words import Words

from nfilter import (
    Abilities,
    Completion,
    Contract,
    ContractError,
    Embeds,
    Exported,
    Generates,
    Judged,
    Message,
    MetricInput,
    OpenStreams,
    Request,
    Sample,
    Scores,
    Site,
    StageConfig,
    State,
    Unreadable,
)
from nfilter.testing import (
    FakeContext,
    FakeGenerator,
    FakeScorer,
    FakeTokenizer,
    check_backend,
    check_exporter,
    check_metric,
    check_sample_stage,
    check_source,
    check_token_stage,
    check_trainer,
    token_sample,
)
from tests.made_stages import Plain

SAMPLES = [
    Sample(str(n), (Message("user", f"{n}+1"), Message("assistant", str(n + 1)))) for n in range(4)
]
TOKENS = [token_sample(str(n), "abc"[: 1 + n % 3]) for n in range(4)]


def made(contract: Contract | None = None, **members: Any) -> type[Any]:
    if contract is not None:
        members["contract"] = classmethod(lambda cls, config: contract)
    return type("Made", (Plain,), members)


def noting(note: Callable[[Any, int], Any], **contract: Any) -> type[Any]:
    """A stage that writes ``note(sample, place in the chunk)`` under ``x``."""
    return made(
        Contract(writes=frozenset({"x"}), **contract),
        process=lambda self, chunk, *_: [s.note("x", note(s, n)) for n, s in enumerate(chunk)],
    )


def _draws(self: Any, chunk: Any, *_: Any) -> Any:
    random.random()
    return chunk


def _draws_numpy(self: Any, chunk: Any, *_: Any) -> Any:
    vars(np.random)["shuffle"]([1, 2, 3])
    return chunk


def _in_place(self: Any, chunk: Any, *_: Any) -> Any:
    chunk[0].notes["x"]["list"].append(1)
    return chunk


WRITES = {"writes": frozenset({"x"})}
VERDICT = {"verdicts": frozenset({"x"})}
FAULTS = [
    (noting(lambda s, n: n), AssertionError, "depends on its chunk: .* what needs all samples belongs in fit"),
    (made(process=lambda s, chunk, *_: [each.drop("late") if n else each for n, each in enumerate(chunk)]), AssertionError, "kept, weight 1.*in chunks of 1"),
    (made(process=_draws), AssertionError, "used the global generator of random, .* use ctx.rng"),
    (made(process=_draws_numpy), AssertionError, "used the global generator of numpy.random"),
    (made(fit=lambda *_: None), ContractError, "fit did not return a State of JSON values and numpy arrays: it returned None"),
    (made(fit=lambda *_: State({"x": object()})), ContractError, "did not return a State of JSON values"),
    (made(fit=lambda *_: State({}, {"x": np.array([object()])})), ContractError, "the array 'x' has Python objects"),
    (made(Contract(**WRITES)), ContractError, "the contract writes 'x', and none of 4 samples has it; write it, take it out of writes, or add it to sometimes"),
    (noting(lambda s, n: {"flagged": 1, "noise_score": 0.5}, **VERDICT), ContractError, "note 'x' is a verdict, and its value is .*write"),
    (noting(lambda s, n: {"flagged": True, "noise_score": True}, **VERDICT), ContractError, "is a verdict"),
    (noting(lambda s, n: {"flagged": True, "noise_score": 1.01}, **VERDICT), ContractError, "a number from 0 to 1"),
    (noting(lambda s, n: {"flagged": True, "noise_score": "0.5"}, **VERDICT), ContractError, "is a verdict"),
    (noting(lambda s, n: {"flagged": True}, **VERDICT), ContractError, "is a verdict"),
    (noting(lambda s, n: True, **VERDICT), ContractError, "is a verdict"),
    (noting(lambda s, n: {"text": "5"}, views=frozenset({"x"})), ContractError, "is a view, and its value is"),
    (noting(lambda s, n: {"answer": 5}, proposes=frozenset({"x"})), ContractError, "is a proposal"),
    (made(Contract(verdicts=frozenset({"y"}))), ContractError, "'y' is among verdicts and not among writes; add it to writes"),
    (made(Contract(proposes=frozenset({"y"}))), ContractError, "'y' is among proposes and neither read nor written"),
    (made(Contract(reads="view")), ContractError, "reads is 'view', not a set of names; write reads=frozenset"),  # type: ignore[arg-type]
    (type("Made", (Plain,), {"contract": classmethod(lambda cls, config: None)}), ContractError, "contract returned None; write return Contract"),
    (type("Made", (Plain,), {"contract": classmethod(lambda cls, config: config.missing)}), ContractError, "contract raised AttributeError"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "error", "says"), FAULTS, ids=range(len(FAULTS)))
def test_stages_over_samples_that_break_a_rule_are_refused(
    stage: type[Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        check_sample_stage(stage, StageConfig(), SAMPLES, FakeContext())


GOOD = [
    noting(lambda s, n: {"flagged": False, "noise_score": 1}, **VERDICT),
    noting(lambda s, n: {"answer": None}, views=frozenset({"x"})),
    made(Contract(sometimes=frozenset({"x"}), **WRITES)),
    made(fit=lambda *_: State({"n": 3}, {"x": np.zeros(2)})),
    noting(lambda s, n: 0.1 + 1e-9 * n),
    made(Contract(reads=frozenset({"y"}), proposes=frozenset({"y"}))),
]


@pytest.mark.parametrize("stage", GOOD)
def test_stages_that_keep_the_rules_are_not(stage: type[Any]) -> None:
    assert len(check_sample_stage(stage, StageConfig(), SAMPLES, FakeContext())) == 4


def test_a_note_that_is_changed_in_place_is_seen() -> None:
    noted = [sample.note("x", {"list": []}) for sample in SAMPLES]
    with pytest.raises((AssertionError, ContractError), match="changed in place"):
        check_sample_stage(made(process=_in_place), StageConfig(), noted, FakeContext())


def test_models_are_asked_no_more_often_than_in_a_run() -> None:
    def ask(self: Any, chunk: Any, state: Any, ctx: Any) -> Any:
        done = ctx.model("m").generate([Request(sample.messages) for sample in chunk])
        return [s.note("x", each.text) for s, each in zip(chunk, done, strict=True)]

    model = FakeGenerator(lambda request: request.messages[-1].content)
    ctx = FakeContext(models={"m": model})
    done = check_sample_stage(made(Contract(**WRITES), process=ask), StageConfig(), SAMPLES, ctx)
    assert [sample.notes["x"] for sample in done] == ["1", "2", "3", "4"]
    assert len(model.requests) == 4


TOKEN_FAULTS = [
    (made(process_tokens=lambda s, chunk, st, ctx, bit: [t.mask(t.response, bit) if n else t for n, t in enumerate(chunk)]), AssertionError, "tokens of '.' depends on its chunk"),
    (made(process_tokens=_draws), AssertionError, "global generator of random"),
    (made(fit_tokens=lambda *_: {}), ContractError, "fit_tokens did not return a State"),
    (made(Contract(**WRITES)), ContractError, "the contract writes 'x', and none of 4 samples has it"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "error", "says"), TOKEN_FAULTS, ids=range(len(TOKEN_FAULTS)))
def test_stages_over_tokens_that_break_a_rule_are_refused(
    stage: type[Any], error: type[Exception], says: str
) -> None:
    check_token_stage(Plain, StageConfig(), TOKENS, FakeContext())
    with pytest.raises(error, match=says):
        check_token_stage(stage, StageConfig(), TOKENS, FakeContext())


# --- fakes -----------------------------------------------------------------------------------------------------


def test_a_token_sample_has_a_token_for_each_character_and_the_end() -> None:
    tokens = token_sample("a", "12", prompt="x?", scores={"loss": [0.5, 1.5, 2.5]})
    assert FakeTokenizer().decode([tokens.ids]) == ["x?12"]
    assert tokens.response.tolist() == [False] * 3 + [True] * 3
    assert tokens.turn.tolist() == [0, 0, 0, 1, 1, 1]
    assert tokens.weights.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.isnan(tokens.scores["loss"][:3]).all()
    assert tokens.scores["loss"][3:].tolist() == [0.5, 1.5, 2.5]
    assert [tokens.text[a:b] for a, b in tokens.spans] == ["x", "?", "\0", "1", "2", "\0"]


def test_a_fake_scorer_has_losses_where_something_is_predicted_and_the_same_for_the_same() -> None:
    tokens = token_sample("a", "11")
    plain, again = FakeScorer().score([tokens, replace(tokens, id="b")])
    assert np.array_equal(plain, again, equal_nan=True)
    assert np.isnan(plain[~tokens.predicted]).all()
    one, two, _ = plain[tokens.response].tolist()
    assert one == two >= 0
    given = FakeScorer(lambda sample: range(len(sample.ids))).score([tokens])[0]
    assert given[tokens.response].tolist() == [9, 10, 11]


class FakeModel(FakeTokenizer, FakeScorer):
    """A backend made of the fakes, without a fault until a member is replaced."""

    name = "kit.model"
    Config = StageConfig

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__()
        self.loss, self.shift = None, 0.0

    @classmethod
    def abilities(cls, config: Any) -> Abilities:
        from nfilter import Encodes, Generates

        return Abilities(frozenset({Generates, Embeds, Encodes, Scores}), logprobs=True)

    @classmethod
    def problems(cls, config: Any, site: Any) -> Any:
        return ()

    def fingerprint(self) -> str:
        return "x"

    def close(self) -> None: ...

    def generate(self, requests: Any) -> Any:
        return FakeGenerator(lambda request: "5").generate(requests)

    def embed(self, texts: Any) -> Any:
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


BACKEND_FAULTS = [
    ({"generate": lambda s, r: [Completion("5")]}, ContractError, "1 completions came back for 2 requests"),
    ({"generate": lambda s, r: None}, ContractError, "generate returned None, not a list"),
    ({"generate": lambda s, r: ["5", "6"]}, ContractError, "generate returned a str where a Completion belongs"),
    ({"generate": lambda s, r: [Completion("5")] * 2}, AssertionError, "declares logprobs, and a completion has none"),
    ({"embed": lambda s, t: np.zeros((1, 2))}, ContractError, r"embed returned \(1, 2\) for 3 texts"),
    ({"embed": lambda s, t: [[0.0]] * len(t)}, ContractError, "embed returned list"),
    ({"embed": lambda s, t: np.full((len(t), 2), np.nan)}, ContractError, "not finite"),
    ({"embed": lambda s, t: np.full((len(t), 2), float(len(t)))}, AssertionError, "depends on the other texts of the call"),
    ({"encode": lambda s, x, **_: []}, ContractError, "encode returned 0 samples for 4"),
    ({"encode": lambda s, x, max_length, turns: FakeTokenizer().encode(x)}, AssertionError, "tokens at max_length 4"),
    ({"score": lambda s, x, a=None: []}, ContractError, "score returned 0 arrays for 4 samples"),
    ({"score": lambda s, x, a=None: [np.zeros(1)] * len(x)}, ContractError, r"have shape \(1,\), and it has"),
    ({"score": lambda s, x, a=None: [np.zeros(len(t.ids)) for t in x]}, AssertionError, "losses at tokens that are not predicted"),
    ({"score": lambda s, x, a=None: [np.full(len(t.ids), np.nan) for t in x]}, AssertionError, "is not finite"),
    ({"fingerprint": lambda s: str(random.random())}, AssertionError, "another text each time"),
    ({"fingerprint": lambda s: None}, AssertionError, "fingerprint must return a text, not None"),
    ({"abilities": classmethod(lambda c, x: {"generates"})}, AssertionError, "write return Abilities"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "error", "says"), BACKEND_FAULTS, ids=range(len(BACKEND_FAULTS))
)
def test_backends_that_break_a_rule_are_refused(
    members: dict[str, Any], error: type[Exception], says: str
) -> None:
    asked: dict[str, Any] = {
        "requests": [Request(sample.messages, logprobs=True) for sample in SAMPLES[:2]],
        "texts": ["a", "bb", "c"],
        "samples": SAMPLES,
    }
    check_backend(FakeModel, StageConfig(), Site(Path()), **asked)
    check_backend(Adder, AdderConfig(), Site(Path()), **asked)
    with pytest.raises(error, match=says):
        check_backend(type("Made", (FakeModel,), members), StageConfig(), Site(Path()), **asked)


def test_an_open_stream_answers_what_came_while_it_ran() -> None:
    def open_stream(heeds: bool) -> Any:
        def stream(self: Any, first: Any, more: Any) -> Any:
            waiting, number = list(first), 0
            while waiting:
                yield number, Completion("5", logprobs=(-0.5,))
                waiting.pop()
                number += 1
                waiting += more() if heeds else ()

        return stream

    able = Abilities(frozenset({Generates, OpenStreams}))
    declared = {"abilities": classmethod(lambda cls, config: able)}
    requests = [Request(sample.messages) for sample in SAMPLES[:2]]
    for heeds in (True, False):
        members = {**declared, "open_stream": open_stream(heeds)}
        cls = type("Made", (FakeModel,), members)
        if heeds:
            check_backend(cls, StageConfig(), Site(Path()), requests=requests)
        else:
            says = r"open_stream yielded the requests \[0, 1\] of 4; yield each once"
            with pytest.raises(AssertionError, match=says):
                check_backend(cls, StageConfig(), Site(Path()), requests=requests)


# --- sources, exporters, metrics, trainers ---------------------------------------------------------------------


def test_sources_are_checked(tmp_path: Path) -> None:
    (tmp_path / "rows.qa").write_text("1+1 => 2\n2+3 => 5\nnothing\n")
    config = QuestionsAndAnswersConfig(path="rows.qa")
    rows = check_source(QuestionsAndAnswers, config, tmp_path)
    assert isinstance(rows[2], Unreadable)
    for members, says in (
        ({"restore": lambda s, sample: {"line": "x"}}, "restore returns no 'id'"),
        ({"restore": lambda s, sample: {"id": sample.id, "line": "x"}}, "does not contain the sample's response"),
        ({"restore": lambda s, sample: [sample.id]}, "not a mapping"),
        ({"read": lambda s: iter([SAMPLES[0]])}, "not a Row or Unreadable"),
        ({"read": lambda s: [*QuestionsAndAnswers.read(s)] * 2}, "is empty, not a text, or not unique"),
        ({"read": lambda s: iter(())}, "no row was read"),
        ({"columns": classmethod(lambda c, x, b: ["prompt"])}, "a mapping of roles"),
    ):  # fmt: skip
        bad = type("Bad", (QuestionsAndAnswers,), members)
        with pytest.raises(AssertionError, match=says):
            check_source(bad, config, tmp_path)


def test_exporters_are_checked(tmp_path: Path) -> None:
    class Lines(Plain):
        """A line per row."""

        name = "lines"

        def export(self, run: Exported, out: Path) -> list[str]:
            (out / "rows.txt").write_text("".join(f"{s.response}\n" for s in run.samples))
            return ["rows.txt"]

    def other(self: Any, run: Exported, out: Path) -> list[str]:
        (out / "rows.txt").write_text(str(out))
        return ["rows.txt"]

    run = Exported(SAMPLES, TOKENS, ())
    assert check_exporter(Lines, StageConfig(), run, tmp_path / "a") == ["rows.txt"]
    for number, (export, says) in enumerate(
        (
            (other, "second export of the same run has other files"),
            (lambda s, run, out: ["x"], "it wrote no file"),
            (lambda s, run, out: Lines.export(s, run, out) and [], "a line per file"),
        )
    ):
        bad = type("Bad", (Lines,), {"export": export})
        with pytest.raises(AssertionError, match=says):
            check_exporter(bad, StageConfig(), run, tmp_path / str(number))


def test_metrics_are_checked() -> None:
    judged = [Judged(sample, sample, sample.response, True, True) for sample in SAMPLES]
    data = MetricInput(judged, 4, [], [], [], {}, {}, {}, 0)
    assert check_metric(Words, data) == {"before": 1.0, "after": 1.0}
    for compute, error, says in (
        (lambda s, d: None, ContractError, "metric 'example_words' returned None"),
        (lambda s, d: {"x": float("nan")}, ContractError, "values that are not JSON"),
        (lambda s, d: {1: 2}, ContractError, "returned a dict"),
        (lambda s, d: {"x": random.random()}, AssertionError, "global generator of random"),
    ):
        bad = type("Bad", (Words,), {"compute": compute})
        with pytest.raises(error, match=says):
            check_metric(bad, data)


def test_trainers_are_checked(tmp_path: Path) -> None:
    model = Adder(AdderConfig(), Site(tmp_path))

    def done(folder: str, trainer: type[Any] = Memory) -> Any:
        return check_trainer(
            trainer, MemoryConfig(), TOKENS, model, tmp_path / folder, FakeContext()
        )

    assert done("good").steps == 4

    def changed(self: Any, samples: Any, model: Any, out: Any, ctx: Any, start: Any = None) -> Any:
        result = Memory.train(self, samples, model, out, ctx, start)
        return replace(result, ref=replace(result.ref, path=str(tmp_path)))

    for number, (members, says) in enumerate(
        (
            ({"train": lambda s, *a, **k: None}, "write return TrainingResult"),
            ({"train": changed}, "outside its folder"),
            (
                {"memory": classmethod(lambda c, *a: {"weights": "much"})},
                "memory must return bytes by part",
            ),
        )
    ):
        with pytest.raises(AssertionError, match=says):
            done(str(number), type("Bad", (Memory,), members))
