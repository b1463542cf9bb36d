"""What becomes of parents, pairs and new samples, in whatever order and chunks they come."""

import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Message, Sample

sys.path.insert(0, str(Path(__file__).parent))

from mix_kit import (
    ANNA,
    BERT,
    FINE,
    OPEN,
    Scripted,
    couple,
    data_of,
    new_of,
    note,
    run,
    shown,
    wrong,
)

DRAFT, CHECK, ANSWER, CHECKED = "instruction", "instruction_check", "answer", "answer_check"


def test_parents_failed_and_unpaired_end_as_the_recipe_says():
    alone = Sample(
        "e", couple()[0].messages, {"pair": note(None, why="its cluster has an odd size")}
    )
    samples = [*couple("a", "b"), *couple("c", "d"), alone]

    def fine(request):
        return FINE[CHECK] if request.sample_id == "a" else wrong(CHECK, format="x")

    for parents in ("drop", "keep"):
        for failed in ("drop", "keep"):
            for unpaired in ("drop", "keep"):
                model = Scripted({CHECK: [fine]})
                out, _ = run(samples, model, parents=parents, failed=failed, unpaired=unpaired)
                for key, change in zip(
                    "abcde", [parents] * 2 + [failed] * 2 + [unpaired], strict=True
                ):
                    assert (out[key].dropped is not None) == (change == "drop"), key
                    assert out[key].why
                assert "mixed into made-" in out["a"].why
                assert out["e"].why == "not mixed: its cluster has an odd size"


def test_a_partner_that_left_makes_its_lead_unpaired():
    lead, other = couple()
    for left, stays in (([lead], "a"), ([other], "b")):
        model = Scripted()
        out, report = run(left, model)
        assert model.asked == []
        assert report["pairs"] == 0
        assert report["calls_a_pair"] is None
        gone = "b" if stays == "a" else "a"
        assert out[stays].why == f"not mixed: its partner {gone} was dropped before mixing"
        assert out[stays].dropped is None
    # A note that points at somebody who is paired with another is no pair.
    stray = Sample("c", lead.messages, {"pair": note("b", lead=True)})
    out, report = run([lead, other, stray], Scripted())
    assert report["pairs"] == 1
    assert out["c"].why == "not mixed: its partner b is paired with another sample"
    # One without a pair of its own, and two that both lead.
    alone = Sample("b", other.messages, {"pair": note(None)})
    out, _ = run([lead, alone], Scripted(), chunk=1)
    assert "b is not paired or cannot be mixed" in out["a"].why
    both = Sample("b", other.messages, {"pair": note("a", lead=True)})
    out, report = run([lead, both], Scripted())
    assert report["pairs"] == 0
    assert out["a"].why == "not mixed: it and its partner b do not have exactly one lead"


def test_pinned_parents_stay():
    out, _ = run(couple(pinned=True), Scripted())
    (new,) = new_of(out)
    for key in ("a", "b"):
        assert out[key].dropped is None
        assert out[key].why.startswith(f"pinned: stays, although mixed into {new.id}")
    out, _ = run(couple(pinned=True), Scripted({DRAFT: [""], "instruction_format": [""]}))
    assert all(out[key].dropped is None and "not mixed" in out[key].why for key in ("a", "b"))


def test_system_prompts_that_are_the_same_are_carried_on():
    short, long = Message("system", "Be short."), Message("system", "Be long.")
    model = Scripted()
    out, _ = run(couple(more_a=(short,), more_b=(short,)), model)
    assert new_of(out)[0].messages[0] == short
    assert all(
        "Be short." in shown(request)
        for request in model.requests
        if "Check an answer" not in shown(request)
    )
    model = Scripted()
    out, _ = run(couple(more_a=(short,), more_b=(long,)), model)
    assert [turn.role for turn in new_of(out)[0].messages] == ["user", "assistant"]
    assert data_of(model.requests[0])[:2] == [f"Be short.\n\n{ANNA}", f"Be long.\n\n{BERT}"]
    assert "this system prompt" not in shown(model.requests[2])


def test_a_conversation_is_never_mixed():
    lead, other = couple()
    chat = Sample(
        "a", (Message("user", "Hi"), Message("assistant", "Hi"), *lead.messages), lead.notes
    )
    model = Scripted()
    out, _ = run([chat, other], model)
    assert model.asked == []
    assert "conversation of 3 turns" in out["a"].why


def test_single_rewrites_the_leads_alone_with_the_same_rounds():
    samples = [
        *couple("a", "b"),
        *couple("c", "d", "Name 3 rivers of Italy.", "Name 4 lakes of Peru."),
    ]
    pairs, single = Scripted(), Scripted()
    both, _ = run(samples, pairs)
    out, report = run(samples, single, mode="single")
    assert [role for _, role in single.asked] == [role for _, role in pairs.asked]
    assert {each.parents for each in new_of(both)} == {("a", "b"), ("c", "d")}
    assert {each.parents for each in new_of(out)} == {("a",), ("c",)}
    assert not any(BERT in shown(request) for request in single.requests)
    new = {each.parents[0]: each for each in new_of(out)}
    assert out["a"].dropped == f"rewritten as {new['a'].id}"
    assert out["b"].dropped == f"its pair's lead a was rewritten as {new['a'].id}"
    assert new["a"].notes["mix"]["parents"] == ["a"]
    assert report["mixed"] == 2


def test_rounds_go_pair_by_pair_in_one_list():
    samples = [
        each for n in range(5) for each in couple(f"a{n}", f"b{n}", f"{ANNA} {n}", f"{BERT} {n}")
    ]

    def check(request):
        return FINE[CHECK] if request.sample_id in ("a0", "a1") else wrong(CHECK, format="x")

    model = Scripted({CHECK: [check, FINE[CHECK]]})
    run(samples, model)
    assert model.sizes == [5, 5, 3, 3, 5, 5]


@settings(max_examples=12)
@given(order=st.randoms(use_true_random=False), chunk=st.integers(1, 12))
def test_nothing_depends_on_order_or_chunks(order, chunk):
    samples = [
        each for n in range(5) for each in couple(f"a{n}", f"b{n}", f"{ANNA} {n}", f"{BERT} {n}")
    ]
    whole, report = run(samples, Scripted())
    other = list(samples)
    order.shuffle(other)
    out, same = run(other, Scripted(), chunk=chunk)
    assert report == same
    assert out == whole


def test_blocks_change_nothing():
    samples = [
        each
        for n in range(5)
        for each in couple(f"a{n}", f"b{n}", f"{ANNA} {n // 2}", f"{BERT} {n // 2}")
    ]
    limits = {**OPEN, "near_duplicate": 0.999}
    whole, report = run(samples, Scripted(), gates=limits)
    assert report["failed"] == {"near_duplicate": 2}
    model = Scripted()
    assert run(samples, model, gates=limits, block=2) == (whole, report)
    assert model.sizes == [2] * 8 + [1] * 4
