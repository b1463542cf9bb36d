"""Limits of ``robustft.reason``: truncated replies and token limits."""

import random

import pytest

from nfilter import Completion, Message, Sample
from nfilter.testing import FakeContext, FakeGenerator, check_sample_stage
from nfilter_robustft.reason import Reason, ReasonConfig, reply_limit

CUT = Completion("It could be", "length", completion_tokens=64)


def run(replies, **config):
    """Return the note of one sample with scripted replies, and the number of calls."""
    remaining = iter(replies)
    model = FakeGenerator(lambda request: next(remaining))
    rows = [Sample("1", (Message("user", "which?"), Message("assistant", "A")))]
    ctx = FakeContext(models={"m": model}, answers="choice")
    (out,) = Reason(ReasonConfig(llm="m", **config)).process(rows, None, ctx)
    return out.notes["reasoning"], len(model.requests)


def long(answer, tokens):
    return Completion(f"Answer: {answer}", completion_tokens=tokens)


def test_two_consecutive_truncated_reasonings_end_the_rounds():
    note, calls = run([CUT, "hm", CUT, "hm", long("A", 5)])
    assert (note["stopped"], note["rounds"], calls, note["calls"], note["saved"]) == (
        "cut off", 1, 3, 3, 6,
    )  # fmt: skip
    assert (note["answer"], note["failure"]) == (None, "cut off at max_tokens")


def test_single_truncated_reasoning_does_not_end_the_rounds():
    note, calls = run([CUT, "hm", long("A", 5), "hm", CUT, "hm", long("A", 5), "hm", long("A", 5)])
    assert (note["stopped"], calls) == ("settled", 9)


@pytest.mark.parametrize(
    ("row_tokens", "calls", "stopped", "answer"),
    [
        (100, 1, "tokens", "A"),
        (250, 3, "tokens", "B"),
        (None, 9, "rounds", "A"),
        ("auto", 9, "rounds", "A"),
    ],
)
def test_rounds_end_at_row_tokens(row_tokens, calls, stopped, answer):
    replies = [long("A", 100), "hm"] + [
        long(a, 150) if a != "hm" else a for a in ("B", "hm", "A", "hm", "B", "hm", "A")
    ]
    note, asked = run(replies, row_tokens=row_tokens)
    assert (asked, note["stopped"], note["answer"]) == (calls, stopped, answer)


def test_auto_limits_a_row_to_four_replies_or_2048_tokens():
    replies = [long("AB"[number // 2 % 2], 500) if number % 2 == 0 else "hm" for number in range(9)]
    note, calls = run(replies, max_tokens=500)
    assert (calls, note["stopped"]) == (9, "rounds")  # the fifth reasoning is the last
    replies = [
        long("AB"[number // 2 % 2], 1100) if number % 2 == 0 else "hm" for number in range(9)
    ]
    assert run(replies, max_tokens=256)[1] == 3
    assert run(replies, max_tokens=256, row_tokens=None)[1] == 9


def test_official_preset_limits_the_reply_only():
    config = ReasonConfig(llm="m", preset="official")
    assert (config.row_tokens, config.max_tokens, config.rounds) == (None, 512, 0)


@pytest.mark.parametrize(
    ("lengths", "most", "limit"),
    [
        ([40] * 15, 1024, None),
        ([40] * 64, 1024, 256),
        ([200] * 61 + [1000] * 3, 1024, 400),
        ([200] * 60 + [450] * 4, 1024, 900),
        ([300] * 64, 512, None),
        ([40] * 64, 80, None),
    ],
)
def test_reply_limit_is_twice_the_95th_percentile(lengths, most, limit):
    assert reply_limit(lengths, most) == limit


def test_later_replies_are_limited_by_pilot_replies():
    rng = random.Random(1)
    rows = [
        Sample(f"s{n}", (Message("user", f"it is {letter}"), Message("assistant", letter)))
        for n in range(300)
        for letter in [rng.choice("ABCD")]
    ]
    model = FakeGenerator(
        lambda r: (
            long(r.messages[-1].content.partition("it is ")[2][0], 200)
            if "Check a line" not in r.messages[-1].content
            else "fine"
        )
    )
    ctx = FakeContext(models={"m": model}, answers="choice")
    config = ReasonConfig(llm="m", rounds=1)
    built = Reason(config)
    state = built.fit(iter(rows), ctx)
    first = list(model.requests)
    assert state.values["reply_tokens"] == 400
    assert len(first) == 64
    assert {request.sampling.max_tokens for request in first} == {1024}
    built.process(rows, state, ctx)
    later = model.requests[64:]
    assert all(request in later for request in first)
    assert {r.sampling.max_tokens for r in later if r not in first} == {400}
    (message,) = (text for _, text in ctx.log.lines if "later replies are limited" in text)
    assert message == (
        "reasoning: later replies are limited to 400 tokens, from the lengths of 64 pilot replies (row_tokens: null "
        "keeps max_tokens: 1024 as the only limit)"
    )
    check_sample_stage(Reason, config, rows, FakeContext(models={"m": model}, answers="choice"))
    free = Reason(ReasonConfig(llm="m", rounds=1, row_tokens=None)).fit(iter(rows), ctx)
    assert "reply_tokens" not in free.values
