"""Thoughts are cut once, whatever the backend; what never ends is a failure that says so."""

import json
import time

import pytest
from pydantic import ValidationError

from nfilter import Completion, Failure, Message, Request, Sampling
from nfilter.answers import AnswerConfig, build
from nfilter.answers.thoughts import Cut, Thoughts
from nfilter.api.errors import RecipeError
from nfilter.models.proxy import JournaledModel
from nfilter.recipe.model import load
from nfilter.registry.loading import load as load_plugins
from nfilter.store.journal import Journal
from nfilter.testing import FakeGenerator


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("<think>\nThe answer is 5? No.\n</think>\n\n4", Cut("4", "The answer is 5? No.")),
        ("The answer is 5? No.\n</think>\n\n4", Cut("4", "The answer is 5? No.")),
        ("<THINK>hm</THINK>4", Cut("4", "hm")),
        ("<think>\n\n</think>\n\n4", Cut("4", None)),
        ("[THINK]hm[/THINK]4", Cut("4", "hm")),
        ("◁think▷hm◁/think▷4", Cut("4", "hm")),
        ("<seed:think>hm</seed:think>4", Cut("4", "hm")),
        ("<think>a</think>so<think>b</think>4", Cut("4", "a\nso\nb")),
        ("<think>it is 5", Cut("", "it is 5", open=True)),
        ("<think>a</think>\n<think>b", Cut("", "a\nb", open=True)),
        ("4", Cut("4")),
        (" 4\n", Cut(" 4\n")),
        ("write <think> first", Cut("write <think> first")),
        ("", Cut("")),
    ],
)
def test_what_counts_comes_after_the_last_closing_mark(text, cut):
    assert Thoughts().cut(text) == cut


def test_marks_of_a_setting_are_the_only_ones():
    own = Thoughts(("<<go>>", "<<done>>"))
    assert own.cut("<<go>>hm<<done>>4") == Cut("4", "hm")
    assert own.cut("<think>hm</think>4") == Cut("<think>hm</think>4")
    assert Thoughts(()).cut("<think>hm</think>4") == Cut("<think>hm</think>4")


@pytest.mark.parametrize("text", ["<think>" * 10**5, "</think>" * 10**5, "\n" * 10**6, " " * 10**6])
def test_no_text_takes_long(text):
    start = time.process_time()
    Thoughts().cut(text)
    assert time.process_time() - start < 1.5


class Opening(FakeGenerator):
    """A model whose template begins the thought."""

    def prompt_end(self, request):
        return f"{request.messages[-1].content}<|im_end|>\n<|im_start|>assistant\n<think>\n"


def ask(tmp_path, backend, *, marks=None):
    journal = Journal(tmp_path / "journal.db")
    try:
        model = JournaledModel("m", backend, "f", journal, "01-stage", thoughts=Thoughts(marks))
        return model.generate([Request((Message("user", "2+2?"),))])[0]
    finally:
        journal.close()


def replying(text, finish="stop", kind=FakeGenerator, **more):
    return kind(lambda request: Completion(text, finish, (-0.5,), **more))


def test_the_model_gives_the_answer_and_keeps_the_thoughts(tmp_path):
    done = ask(tmp_path, replying("<think>5?</think>\n4"))
    assert (done.text, done.reasoning, done.finish, done.failure) == ("4", "5?", "stop", None)
    # The journal has what came, so that other marks need no new call.
    again = ask(tmp_path, replying("never asked"), marks=())
    assert (again.text, again.cached) == ("<think>5?</think>\n4", True)


def test_thoughts_in_a_field_of_their_own_are_kept_in_the_journal_too(tmp_path):
    first = ask(tmp_path, replying("4", reasoning="5?"))
    assert (first.text, first.reasoning) == ("4", "5?")
    again = ask(tmp_path, replying("never asked"))
    assert (again.text, again.reasoning, again.cached) == ("4", "5?", True)


@pytest.mark.parametrize(
    ("backend", "marks", "thoughts"),
    [
        (replying("<think>is it 5", "length"), None, "is it 5"),
        (replying("<think>is it 5", "stop"), None, "is it 5"),
        (replying("the answer is 5", "length", Opening), None, "the answer is 5"),
        (replying("the answer is 5", "stop", Opening), None, "the answer is 5"),
        # A model that the recipe says thinks, behind a server whose template begins the thought.
        (replying("the answer is 5", "length"), ("<think>", "</think>"), "the answer is 5"),
        (replying("", "length", reasoning="is it 5"), None, "is it 5"),
    ],
)
def test_a_thought_that_never_ends_is_too_long(tmp_path, backend, marks, thoughts):
    done = ask(tmp_path, backend, marks=marks)
    assert (done.text, done.finish, done.reasoning) == ("", "failed", thoughts)
    assert done.failure is not None
    assert done.failure.kind == "too_long"
    assert "max_tokens" in done.failure.detail


def test_a_template_that_begins_the_thought_needs_no_opening_mark(tmp_path):
    done = ask(tmp_path, replying("5?</think>4", kind=Opening))
    assert (done.text, done.reasoning) == ("4", "5?")


@pytest.mark.parametrize(
    ("backend", "marks"),
    [
        (replying("the answer is 5", "length"), None),
        (replying("the answer is 5", "stop"), ("<think>", "</think>")),
        (replying("the answer is 5", "length", reasoning="hm"), None),
    ],
)
def test_a_reply_without_an_open_thought_is_left_as_it_is(tmp_path, backend, marks):
    done = ask(tmp_path, backend, marks=marks)
    assert (done.text, done.failure) == ("the answer is 5", None)


def test_a_failure_stays_the_failure_that_it_is():
    failed = Completion("<think>", "failed", failure=Failure("server", "x"))
    assert Thoughts().separated(failed) is failed


def recipe(tmp_path, marks):
    path = tmp_path / "r.yaml"
    path.write_text(
        'models: {expert: {use: litellm, model: x, api_base: "http://localhost:1/v1", thoughts: '
        + json.dumps(marks)
        + "}, other: expert}\nsource: {use: jsonl, path: d.jsonl}\narms: []\n"
    )
    return load(path, load_plugins())


def test_a_model_of_any_backend_has_marks_of_its_own(tmp_path):
    loaded = recipe(tmp_path, ["<go>", "</go>"])
    assert loaded.thoughts("other") == Thoughts(("<go>", "</go>"))
    assert loaded.dump()["models"]["expert"]["thoughts"] == ["<go>", "</go>"]
    assert recipe(tmp_path, []).thoughts("expert").pairs == ()


@pytest.mark.parametrize("marks", ["<think>", ["<think>"], ["a", "A"], ["", "b"], [1, 2], None])
def test_marks_that_are_no_pair_are_refused_with_what_to_write(tmp_path, marks):
    with pytest.raises(RecipeError, match=r"r\.yaml:1"):
        recipe(tmp_path, marks)


def test_the_error_about_marks_shows_a_pair():
    with pytest.raises(ValidationError, match=r'\["<think>", "</think>"\]'):
        AnswerConfig(kind="number", thoughts=("<think>",))


@pytest.mark.parametrize("kind", ["number", "exact", "choice", "spans"])
def test_responses_of_a_dataset_are_read_after_their_thoughts(kind):
    answers = build(AnswerConfig(kind=kind))
    right = {"number": "4", "exact": "b", "choice": "B", "spans": '["b"]'}[kind]
    said = "4" if kind == "number" else "B"
    assert answers.parse(f"<think>\nAnswer: 5, or C\n</think>\n\n{said}") == right
    assert answers.parse(f"<think>\nAnswer: {said}") is None
    own = build(AnswerConfig(kind=kind, thoughts=("<a>", "</a>")))
    assert own.parse(f"<a>Answer: 5, or C</a>{said}") == right


@pytest.mark.types("the thought before the answer «»; set a higher max_tokens")
def test_a_higher_limit_lets_the_thought_end(tmp_path):
    reply = "<think>five, or is it four</think>\n4"

    def said(request):
        most = request.sampling.max_tokens
        return Completion(reply[:most], "length" if most < len(reply) else "stop")

    journal = Journal(tmp_path / "journal.db")
    try:
        model = JournaledModel("m", FakeGenerator(said), "f", journal, "01-stage")
        turns = (Message("user", "2+2?"),)
        short, long = (
            model.generate([Request(turns, Sampling(max_tokens=most))])[0] for most in (9, 99)
        )
    finally:
        journal.close()
    assert short.failure.detail.endswith("was cut off at max_tokens; set a higher max_tokens")
    assert (long.text, long.failure) == ("4", None)
