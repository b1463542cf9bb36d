"""Views, verdicts and proposals: their JSON form is fixed, and a note of another form is named field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nfilter import ContractError, Message, NoteError, Proposal, Sample, Verdict, View


def noted(note: Any, name: str = "base") -> Sample:
    return Sample("s1", (Message("user", "q"), Message("assistant", "A")), notes={name: note})


def test_a_view_on_disk_has_its_fields_in_order_then_further_keys() -> None:
    view = View(
        "A", text="It is A.", nll=0.25, tokens=3, calls=2, more={"length": 3, "stopped": "rounds"}
    )
    written = json.dumps(view.to_json())
    assert written == (
        '{"answer": "A", "text": "It is A.", "reasoning": null, "nll": 0.25, "tokens": 3, "calls": 2, "rounds": 0, '
        '"failure": null, "length": 3, "stopped": "rounds"}'
    )
    assert View.from_json(json.loads(written)) == view
    assert json.dumps(View.from_json(json.loads(written)).to_json()) == written


def test_a_verdict_on_disk_has_agree_and_vote_only_where_they_are_set() -> None:
    full = Verdict(True, 0.9, {"base": False, "other": None}, "all", {"judge": None})
    written = json.dumps(full.to_json())
    assert written == (
        '{"flagged": true, "noise_score": 0.9, "agree": {"base": false, "other": null}, "vote": "all", "judge": null}'
    )
    assert Verdict.from_json(json.loads(written)) == full
    assert Verdict(False, 0.0).to_json() == {"flagged": False, "noise_score": 0.0}


def test_what_a_strangers_view_leaves_out_has_a_plain_value() -> None:
    view = View.of(noted({"answer": "A"}), "base")
    assert view == View("A", calls=0)
    assert view is not None
    assert (view.asked, view.saved, view.length, view.agreement) == (True, 0, 0, None)


def test_a_note_that_no_stage_wrote_is_none() -> None:
    sample = noted({"answer": "A"})
    assert View.of(sample, "other") is None
    assert Verdict.of(sample, "other") is None
    assert Proposal.of(sample, "other") is None


@pytest.mark.parametrize(
    ("more", "asked", "skipped", "weak"),
    [
        ({}, True, None, False),
        ({"skipped": "settled by near"}, False, "settled by near", False),
        ({"weak": "chance"}, False, None, True),
        ({"weak": True}, False, None, True),
        ({"skipped": "chance", "weak": "chance"}, False, "chance", True),
        ({"skipped": None, "weak": False}, True, None, False),
    ],
)
def test_a_skipped_or_weak_view_has_no_vote(
    more: dict[str, Any], asked: bool, skipped: str | None, weak: bool
) -> None:
    view = View.of(noted({"answer": None, **more}), "base")
    assert view is not None
    assert (view.asked, view.skipped, view.weak) == (asked, skipped, weak)


def test_the_nll_is_a_mean_over_length_or_all_tokens() -> None:
    assert View("A", tokens=6, more={"length": 2}).length == 2
    assert View("A", tokens=6).length == 6


def test_a_verdict_can_be_a_proposal_too() -> None:
    sample = noted({"flagged": True, "noise_score": 1, "answer": "B", "worth": 0.5})
    verdict, proposal = Verdict.of(sample, "base"), Proposal.of(sample, "base")
    assert verdict == Verdict(True, 1, more={"answer": "B", "worth": 0.5})
    assert proposal == Proposal("B")
    assert Proposal("B").to_json() == {"answer": "B"}


@pytest.mark.parametrize(
    ("kind", "note", "says"),
    [
        (View, "A", "is not a view: it is 'A', not an object"),
        (View, None, "is not a view: it is None, not an object"),
        (View, {"text": "A"}, "is not a view: answer is missing, a text or None"),
        (View, {"answer": 5}, "is not a view: answer is 5, not a text or None"),
        (View, {"answer": "A", "text": None}, "text is None, not a text"),
        (View, {"answer": "A", "nll": "low"}, "nll is 'low', not a number or None"),
        (View, {"answer": "A", "nll": True}, "nll is True, not a number or None"),
        (View, {"answer": "A", "calls": -1}, "calls is -1, not a whole number of at least 0"),
        (View, {"answer": "A", "tokens": 1.5}, "tokens is 1.5, not a whole number of at least 0"),
        (View, {"answer": None, "skipped": True}, "skipped is True, not a text or None"),
        (View, {"answer": None, "weak": 1}, "weak is 1, not a text, True or False"),
        (View, {"answer": "A", "saved": "3"}, "saved is '3', not a whole number of at least 0"),
        (View, {"answer": "A", "agreement": "all"}, "agreement is 'all', not a number or None"),
        (Verdict, {"noise_score": 0.5}, "is not a verdict: flagged is missing, True or False"),
        (Verdict, {"flagged": True}, "noise_score is missing, a number from 0 to 1"),
        (Verdict, {"flagged": 1, "noise_score": 0.5}, "flagged is 1, not True or False"),
        (Verdict, {"flagged": True, "noise_score": 1.01}, "noise_score is 1.01, not a number from 0 to 1"),
        (Verdict, {"flagged": True, "noise_score": float("nan")}, "noise_score is nan, not a number from 0 to 1"),
        (Verdict, {"flagged": True, "noise_score": 0, "agree": {"base": "yes"}},
         "agree is {'base': 'yes'}, not an object of True, False or None by view"),
        (Verdict, {"flagged": True, "noise_score": 0, "vote": 3}, "vote is 3, not a text or None"),
        (Proposal, {"text": "A"}, "is not a proposal: answer is missing, a text or None"),
        (Proposal, {"answer": ["A"]}, "answer is ['A'], not a text or None"),
    ],
)  # fmt: skip
def test_a_note_of_another_form_names_sample_note_and_field(
    kind: Any, note: Any, says: str
) -> None:
    with pytest.raises(NoteError) as error:
        kind.of(noted(note), "base")
    assert str(error.value).startswith("sample 's1': note 'base' is not a ")
    assert says in str(error.value)
    assert isinstance(error.value, ContractError)


def test_the_last_verdict_of_a_sample_is_found_by_its_keys() -> None:
    sample = noted({"flagged": True, "noise_score": 1.0}, "first")
    sample = sample.note("second", {"flagged": False, "noise_score": 0.0, "vote": "any"})
    sample = sample.note("view", {"answer": "A"}).note("number", 3)
    assert Verdict.last_of(sample) == ("second", Verdict(False, 0.0, vote="any"))
    assert Verdict.last_of(noted({"flagged": True})) is None
    with pytest.raises(NoteError, match="note 'odd' is not a verdict: flagged is 'no'"):
        Verdict.last_of(sample.note("odd", {"flagged": "no", "noise_score": 0.0}))
