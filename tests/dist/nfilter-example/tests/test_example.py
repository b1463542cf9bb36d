"""What a plugin's own tests look like: the conformance checks, and the behaviour, with fakes for the rest."""

import pytest
from nfilter_example import HERE
from nfilter_example.model import Adder, AdderConfig
from nfilter_example.stages import Agree, AgreeConfig, Ask, AskConfig, Lengths, LengthsConfig

from nfilter import ContractError, Message, Sample
from nfilter.testing import FakeContext, FakeGenerator, check_backend, check_sample_stage, view


def _sample(key: str, question: str, answer: str) -> Sample:
    return Sample(key, (Message("user", question), Message("assistant", answer)))


def test_ask_keeps_the_answer_as_a_view() -> None:
    model = FakeGenerator(lambda request: "the sum is 5")
    ctx = FakeContext(models={"expert": model}, answers="number", prompts=[HERE / "prompts"])
    (done,) = check_sample_stage(Ask, AskConfig(), [_sample("a", "2+3", "5")], ctx)
    assert done.notes["view"]["answer"] == "5"
    assert model.requests[0].messages[-1] == Message("user", "2+3")


def test_agree_drops_what_the_view_contradicts_and_says_why() -> None:
    samples = [
        _sample("right", "2+3", "5").note("view", view("5")),
        _sample("wrong", "2+3", "6").note("view", view("5")),
        _sample("unknown", "2+3", "6").note("view", view(None)),
    ]
    done = check_sample_stage(Agree, AgreeConfig(), samples, FakeContext(answers="number"))
    assert [sample.dropped for sample in done] == [None, "view says 5, the label says 6", None]
    assert all(sample.why for sample in done)


def test_lengths_weighs_what_is_far_longer_than_the_median() -> None:
    samples = [_sample(str(index), "?", "x" * size) for index, size in enumerate((2, 2, 2, 6, 7))]
    done = check_sample_stage(Lengths, LengthsConfig(), samples, FakeContext())
    assert [sample.weight for sample in done] == [1.0, 1.0, 1.0, 1.0, 0.5]


def test_the_backend_has_what_it_says() -> None:
    assert not check_backend(Adder, AdderConfig()).logprobs


def test_a_stage_that_forgets_a_sample_would_be_refused() -> None:
    class Forgets(Agree):
        def process(self, chunk, state, ctx):
            return chunk[1:]

    with pytest.raises(ContractError, match=r"example\.agree: sample 'a' is missing"):
        check_sample_stage(Forgets, AgreeConfig(), [_sample("a", "2+3", "5")], FakeContext())
