"""Mixing: a failure chooses the next template, calls are bounded, gates have the last word, parents end as the recipe says."""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from nfilter import Completion, Failure, Fence, Message, ModelError, PromptError
from nfilter.testing import FakeEncoder
from nfilter_entp.mixing.checklist import read, unmarked
from nfilter_entp.mixing.mix import Mix, MixConfig
from nfilter_entp.mixing.repair_cycle import FAILURES, ROLES

sys.path.insert(0, str(Path(__file__).parent))

from mix_kit import (
    ANNA,
    BERT,
    BOTH,
    FINE,
    OPEN,
    Scripted,
    context,
    couple,
    new_of,
    roles,
    run,
    shown,
    wrong,
)

DRAFT, CHECK, ANSWER, CHECKED = "instruction", "instruction_check", "answer", "answer_check"


def test_two_become_one_in_four_calls():
    model = Scripted({DRAFT: [BOTH], ANSWER: ["Anna carries 3, Bert 4."]})
    out, report = run(couple(), model, gates={"likeness": 0.2})
    (new,) = new_of(out)
    assert roles(model) == [DRAFT, CHECK, ANSWER, CHECKED]
    assert new.messages == (Message("user", BOTH), Message("assistant", "Anna carries 3, Bert 4."))
    assert new.parents == ("a", "b")
    assert new.dropped is None
    log = new.notes["mix"]
    assert log["parents"] == ["a", "b"]
    assert (log["calls"], log["templates"], log["outcome"]) == (4, roles(model), "mixed")
    assert log["checks"] == ["instruction passed", "answer passed"]
    assert set(log["gates"]) == {
        "key_terms", "repetition", "likeness", "near_duplicate", "empty", "template", "refusal",
    }  # fmt: skip
    assert all(gate["passed"] for gate in log["gates"].values())
    assert (
        f"4 calls; gates passed: key_terms 1, repetition {log['gates']['repetition']['value']:g}"
        in new.why
    )
    assert out["a"].dropped == f"mixed into {new.id} with b"
    assert out["b"].dropped == f"mixed into {new.id} with a"
    assert out["b"].notes["mix"] == {"outcome": "mixed", "into": new.id}
    assert report["pairs"] == report["mixed"] == 1
    assert (report["calls"], report["calls_a_pair"], report["failed"]) == (4, 4, {})


def test_a_model_that_drops_a_term_and_repairs_it_drives_this_sequence():
    model = Scripted(
        {
            DRAFT: ["How many apples and pears does Anna carry?"],
            CHECK: [wrong(CHECK, missing_terms="Bert, Paris", format="no"), FINE[CHECK]],
            "instruction_missing_terms": [BOTH],
            ANSWER: ["Anna: 3, Bert: 5, so 8, not 7."],
            CHECKED: [wrong(CHECKED, numbers="5 is not 4"), FINE[CHECKED]],
            "answer_patch": ["Anna: 3, Bert: 4."],
        }
    )
    out, _ = run(couple(), model)
    (new,) = new_of(out)
    assert roles(model) == [
        DRAFT, CHECK, "instruction_missing_terms", CHECK, ANSWER, CHECKED, "answer_patch", CHECKED,
    ]  # fmt: skip
    assert new.notes["mix"]["templates"] == roles(model)
    assert new.notes["mix"]["calls"] == 8
    assert new.messages == (Message("user", BOTH), Message("assistant", "Anna: 3, Bert: 4."))
    assert new.notes["mix"]["checks"] == [
        "instruction failed: missing_terms: Bert, Paris; format: no",
        "instruction passed",
        "answer failed: numbers: 5 is not 4",
        "answer passed",
    ]
    repair = shown(model.requests[2])
    assert "missing_terms: Bert, Paris" in repair
    # What no model said: the key terms that the draft really lacks.
    assert "berlin, bert, paris" in repair
    assert "How many apples and pears does Anna carry?" in repair
    assert ANNA in repair
    assert BERT in repair
    assert "numbers: 5 is not 4" in shown(model.requests[6])


@pytest.mark.parametrize("retries", [0, 1, 2, 4])
def test_one_that_never_repairs_ends_in_a_drop_after_the_bounded_calls(retries):
    model = Scripted({CHECK: [wrong(CHECK, contradictions="yes and no")]})
    out, report = run(couple(), model, retries=retries)
    assert len(model.asked) == 2 * (1 + retries)
    assert roles(model) == [DRAFT, CHECK, *["instruction_contradictions", CHECK] * retries]
    assert new_of(out) == []
    drafts = f"{retries + 1} drafts" if retries else "1 draft"
    why = f"not mixed: no instruction passed its check in {drafts}: contradictions: yes and no"
    assert out["a"].dropped == out["b"].dropped == why
    log = out["a"].notes["mix"]
    assert (log["calls"], log["gates"]) == (2 * (1 + retries), {})
    assert log["outcome"].startswith("failed: no instruction passed")
    assert out["b"].notes["mix"] == {"outcome": "failed, see a"}
    assert report["failed"] == {"instruction": 1}

    late = Scripted({CHECKED: [wrong(CHECKED, sub_questions="how many pears")]})
    out, report = run(couple(), late, retries=retries)
    assert len(late.asked) == 2 + 2 * (1 + retries)
    assert roles(late)[2:] == [ANSWER, CHECKED, *["answer_patch", CHECKED] * retries]
    assert "no answer passed its check" in out["a"].dropped
    assert report["failed"] == {"answer": 1}


def test_the_most_calls_are_what_the_contract_says():
    model = Scripted(
        {
            CHECK: [wrong(CHECK, format="x"), wrong(CHECK, redundancy="x"), FINE[CHECK]],
            CHECKED: [wrong(CHECKED, truncated="x"), wrong(CHECKED, numbers="x"), FINE[CHECKED]],
        }
    )
    out, _ = run(couple(), model)
    calls = Mix.contract(MixConfig()).calls
    assert len(model.asked) == 12 == 2 * sum(each.most for each in calls)
    assert new_of(out)
    assert all(each.least <= each.usual <= each.most for each in calls)
    for each in Mix.contract(MixConfig(retries=0)).calls:
        assert each.usual <= each.most
    assert {each.prompt for each in calls} <= Mix.contract(MixConfig()).prompts


@pytest.mark.parametrize("gravest", FAILURES)
def test_the_gravest_failure_picks_the_template(gravest):
    lesser = FAILURES[FAILURES.index(gravest) :]
    model = Scripted({CHECK: [wrong(CHECK, **dict.fromkeys(reversed(lesser), "x")), FINE[CHECK]]})
    run(couple(), model)
    assert roles(model)[2] == f"instruction_{gravest}"


@pytest.mark.parametrize("failure", ["sub_questions", "truncated", "numbers"])
def test_every_failure_of_an_answer_is_patched(failure):
    model = Scripted({CHECKED: [wrong(CHECKED, **{failure: "x"}), FINE[CHECKED]]})
    run(couple(), model)
    assert roles(model)[4] == "answer_patch"


@pytest.mark.parametrize("empty", ["", "   \n ", "...", "?!", "— “”"])
def test_an_empty_draft_fails_without_a_check(empty):
    model = Scripted({DRAFT: [empty], ANSWER: [empty]})
    out, _ = run(couple(), model)
    assert roles(model) == [
        DRAFT, "instruction_format", CHECK, ANSWER, "answer_patch", CHECKED,
    ]  # fmt: skip
    (new,) = new_of(out)
    what = "punctuation alone" if empty.strip() else "empty"
    assert new.notes["mix"]["checks"] == [
        f"instruction failed by rule: format: the instruction is {what}",
        "instruction passed",
        f"answer failed by rule: sub_questions: the answer is {what}",
        "answer passed",
    ]
    never = Scripted({key: [empty] for key in ROLES})
    out, _ = run(couple(), never)
    assert len(never.asked) == 3
    assert "the instruction is" in out["a"].dropped


def test_a_reply_that_was_cut_off_is_no_answer():
    cut = Completion("Answer CODE:\nIt is", "length")
    model = Scripted({ANSWER: [cut]})
    out, _ = run(couple(), model, max_tokens=77)
    assert roles(model)[2:] == [ANSWER, "answer_patch", CHECKED]
    assert "cut off at 77 tokens" in shown(model.requests[3])
    assert new_of(out)[0].response == "It is 7."


@pytest.mark.parametrize(
    "reply",
    [
        "All is fine.",
        json.dumps(FINE[CHECK]),
        "Checklist: " + json.dumps(FINE[CHECK]),
        "Checklist CODE: fine",
        "Checklist CODE: []",
        'Checklist CODE: {"missing_terms": []}',
        "Checklist CODE: " + json.dumps({**FINE[CHECK], "other": []}),
        "Checklist CODE: " + json.dumps(dict.fromkeys(FAILURES, False)),
        "Checklist CODE: " + json.dumps(dict.fromkeys(FAILURES, "")),
        "Checklist CODE: " + json.dumps({**FINE[CHECK], "format": [1]}),
        "Checklist CODE: " + json.dumps({**FINE[CHECK], "format": ["x"] * 21}),
        "Checklist CODE: " + json.dumps(FINE[CHECK])[:-1],
        "Checklist CODE: " + json.dumps(FINE[CHECK]) + "\nBut it lacks Bert.",
        'Checklist CODE: {"format": ["bad"], "format": [], "missing_terms": [], "contradictions": [], "unanswerable": [], "redundancy": []}',
        Completion("Checklist CODE: " + json.dumps(FINE[CHECK]), "length"),
        Completion("", failure=Failure("refused", "no"), finish="failed"),
    ],
)
def test_a_checklist_that_cannot_be_read_is_a_failure_and_the_same_template_comes_again(reply):
    model = Scripted({CHECK: [reply]})
    out, _ = run(couple(), model)
    assert roles(model) == [DRAFT, CHECK] * 3
    assert new_of(out) == []
    assert "no checklist" in out["a"].dropped
    checks = out["a"].notes["mix"]["checks"]
    assert all(each.startswith("instruction failed: no checklist: ") for each in checks)
    # Only what is drawn anew may come out otherwise: the first draft is greedy, the others are not, and differ in seed.
    drafts = [request.sampling for request in model.requests[::2]]
    assert [each.temperature for each in drafts] == [0.0, 0.7, 0.7]
    assert len({each.seed for each in drafts}) == 3
    assert {request.sampling.temperature for request in model.requests[1::2]} == {0.0}
    # After a repair it is the repair that comes again.
    again = Scripted({CHECK: [wrong(CHECK, redundancy="x"), reply, FINE[CHECK]]})
    run(couple(), again)
    assert roles(again)[:6] == [DRAFT, CHECK, *["instruction_redundancy", CHECK] * 2]


@pytest.mark.parametrize(
    "reply",
    ["```json\n{}\n```", "\n{}", "{}\n\n", "**\n{}"],
    ids=["fenced", "below", "after", "bold"],
)
def test_a_checklist_may_be_wrapped(reply):
    text = ("Checklist CODE:" + reply).replace("{}", json.dumps(FINE[CHECK], indent=1))
    if reply.startswith("**"):
        text = text.replace("Checklist CODE:**", "**Checklist CODE:**")
    model = Scripted({CHECK: [text]})
    out, _ = run(couple(), model)
    assert len(new_of(out)) == 1
    assert roles(model)[:3] == [DRAFT, CHECK, ANSWER]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("42\nEND CODE", "42"),
        ("42\nEND CODE\n", "42"),
        ("BEGIN CODE\n42\nEND CODE", "42"),
        ("**42**\n--- end CODE ---\nThe end (CODE)", "**42**\nThe end"),
        ("END of it.\nEND", "END of it.\nEND"),
    ],
)
def test_marks_of_data_are_no_part_of_a_draft(answer, wanted):
    model = Scripted({ANSWER: [Completion(f"Answer CODE: {answer}")], DRAFT: [f"{BOTH}\nEND CODE"]})
    out, _ = run(couple(), model)
    assert new_of(out)[0].response == wanted
    assert new_of(out)[0].query == BOTH


def test_a_checklist_between_marks_is_read():
    text = f"Checklist CODE:\nBEGIN CODE\n{json.dumps(FINE[CHECK])}\nEND CODE"
    out, _ = run(couple(), Scripted({CHECK: [text]}))
    assert len(new_of(out)) == 1


def test_long_replies_take_time_that_grows_with_their_length():
    fence, n = Fence("abcdef12"), 1_000_000
    begun = time.process_time()
    for text in (
        "{}" + " " * n + "x", "} " * n, "{" + "} " * n + "x", "```json" + "\n" * n + "{", "{}" + "`" * n,
        "**" + " " * n, "\n" * n + "{}", "END" + "*" * n, ("END " * 9 + "\n") * (n // 40), '{"a": [' + '"b",' * n,
    ):  # fmt: skip
        assert isinstance(read(f"Checklist abcdef12:{text}", fence, ("a",)), str)
        unmarked(text, fence)
    assert time.process_time() - begun < 5


def test_what_the_prompts_show_of_earlier_replies_is_within_the_contract():
    """Drafts and checklists of so many words as they may have tokens; the words of each prompt are counted."""
    config = MixConfig(max_tokens=300, check_tokens=120)
    said = [f"said{n}" for n in range(config.max_tokens)]
    fault = " ".join(f"fault{n}" for n in range(config.check_tokens))
    model = Scripted(
        {
            DRAFT: [" ".join(said)], "instruction_missing_terms": [" ".join(said)],
            ANSWER: [" ".join(said)], "answer_patch": [" ".join(said)],
            CHECK: [wrong(CHECK, missing_terms=fault), FINE[CHECK]],
            CHECKED: [wrong(CHECKED, numbers=fault), FINE[CHECKED]],
        }
    )  # fmt: skip
    run(couple(), model, max_tokens=300, check_tokens=120)
    shows = {calls.prompt.split("/")[1]: calls.shows for calls in Mix.contract(config).calls}
    assert shows == {
        DRAFT: 0, CHECK: 300, "instruction_missing_terms": 420, ANSWER: 300, CHECKED: 600, "answer_patch": 720,
    }  # fmt: skip
    for (_, role), request in zip(model.asked, model.requests, strict=True):
        words = len(re.findall(r"\b(?:said|fault)\d+", shown(request)))
        # A checklist's text is cut to 500 characters.
        assert shows[role] - 120 < words <= shows[role] or words == shows[role] == 0


def test_an_encoder_whose_vectors_are_no_numbers_is_named():
    encoder = FakeEncoder(lambda text: [float("nan"), 1.0])
    with pytest.raises(ModelError, match=r"model 'encoder': .* NaN or infinity; name another"):
        run(couple(), Scripted(), encoder=encoder)


@pytest.mark.parametrize(
    ("answer", "gate"),
    [
        ("I cannot help with that.", "refusal"),
        ("I’m sorry, but I can't assist with this request.", "refusal"),
        ("<no input>", "template"),
        ("As an AI language model, I like both.", "template"),
    ],
)
def test_an_answer_that_is_none_passes_no_gate(answer, gate):
    out, report = run(couple(), Scripted({ANSWER: [answer]}))
    assert new_of(out) == []
    assert report["failed"] == {gate: 1}
    assert out["a"].dropped.startswith(f"not mixed: {gate}: ")
    found = out["a"].notes["mix"]["gates"][gate]
    assert (found["value"], found["limit"], found["passed"]) == (1.0, 0.0, False)
    assert found["why"] in out["b"].dropped
    kept, _ = run(couple(), Scripted({ANSWER: [answer]}), gates={**OPEN, "rules": []})
    assert len(new_of(kept)) == 1


def test_a_sign_is_an_answer():
    out, _ = run(couple(), Scripted({ANSWER: ["👍"]}))
    assert new_of(out)[0].response == "👍"


def test_a_draft_that_does_not_carry_the_code_is_none():
    model = Scripted({DRAFT: [Completion("Instruction: do both")]})
    out, _ = run(couple(), model)
    assert roles(model) == [DRAFT] * 3
    assert "no line starts with Instruction and the code" in out["a"].dropped


def test_gates_overrule_a_model_that_finds_everything_fine():
    cases = {
        "key_terms": ({DRAFT: ["How many apples does Anna carry from Berlin, and why?"]}, None),
        "repetition": ({ANSWER: ["it is seven in all " * 4]}, None),
        "likeness": ({DRAFT: [BOTH]}, lambda text: [1.0, 0.0] if text == BOTH else [0.3, 0.95]),
        "near_duplicate": ({DRAFT: [BOTH]}, lambda text: [1.0, 0.0]),
    }
    for name, (replies, vector) in cases.items():
        model = Scripted(replies)
        encoder = FakeEncoder(
            vector or (lambda text: [1.0, 0.6] if text in (ANNA, BERT) else [0.2, 1.0])
        )
        out, report = run(couple(), model, encoder=encoder, gates={})
        assert new_of(out) == [], name
        assert len(model.asked) == 4
        gates = out["a"].notes["mix"]["gates"]
        assert [key for key, gate in gates.items() if not gate["passed"]] == [name]
        assert report["failed"] == {name: 1}
        value, limit = gates[name]["value"], gates[name]["limit"]
        for key in ("a", "b"):
            assert f"{name} is {value:g}, " in out[key].dropped
            assert f"{limit:g}" in out[key].dropped


def test_a_new_sample_like_an_earlier_new_one_is_none():
    samples = [*couple("a", "b"), *couple("c", "d", ANNA + " Tell me.", BERT + " Tell me.")]
    model = Scripted({DRAFT: [BOTH]})
    for chunk in (1, 4):
        out, report = run(samples, model, chunk=chunk, gates={**OPEN, "near_duplicate": 0.95})
        assert [each.parents for each in new_of(out)] == [("a", "b")]
        assert "near_duplicate is 1, over 0.95" in out["c"].dropped
        assert report["failed"] == {"near_duplicate": 1}


@pytest.mark.types("write '«» {{ fence }}:' where it says how to reply")
def test_templates_are_replaced_by_folder_or_by_role(tmp_path):
    config = MixConfig(prompts={"answer": "mine/answer"})
    assert Mix.contract(config).prompts == {
        "mine/answer", *(f"entp/{role}" for role in ROLES if role != "answer"),
    }  # fmt: skip
    assert Mix.contract(MixConfig(prompts="mine")).prompts == {f"mine/{role}" for role in ROLES}
    with pytest.raises(
        ValidationError, match=r"unknown template role 'anser'; did you mean 'answer'"
    ):
        MixConfig(prompts={"anser": "mine/answer"})
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "answer.jinja"
    file.write_text(
        "[user]\nAnswer an instruction. {{ instruction }}\nBEGIN {{ fence }}\nAnswer {{ fence }}: ..."
    )
    model = Scripted()
    stage, ctx = Mix(config), context(model, prompts=[tmp_path])
    stage.fit(couple(), ctx)
    assert shown(model.requests[2]).startswith("Answer an instruction. Both of these.")
    file.write_text("[user]\nAnswer: {{ instruction }}")
    with pytest.raises(
        PromptError, match=r"'mine/answer': it does not ask for 'Answer' and the code"
    ) as caught:
        Mix(config).fit(couple(), context(Scripted(), prompts=[tmp_path]))
    written = str(caught.value).split("write '")[1].split("'")[0]
    file.write_text(
        f"[user]\nAnswer an instruction. {{{{ instruction }}}}\nBEGIN {{{{ fence }}}}\n{written} ..."
    )
    Mix(config).fit(couple(), context(Scripted(), prompts=[tmp_path]))


def test_half_a_character_in_a_reply_breaks_nothing():
    model = Scripted(
        {
            DRAFT: ["Both \ud800 of them"],
            CHECK: ['Checklist CODE: {"missing_terms": ["\\ud83d"], "contradictions": [], "unanswerable": [], "redundancy": [], "format": []}', FINE[CHECK]],
            "instruction_missing_terms": ["Both \ud800 of them"],
        }
    )  # fmt: skip
    out, _ = run(couple(), model)
    (new,) = new_of(out)
    assert new.query == "Both ? of them"
    assert json.dumps(new.notes["mix"], ensure_ascii=False).encode()


def test_calls_are_counted_by_template():
    samples = [
        each for n in range(3) for each in couple(f"a{n}", f"b{n}", f"{ANNA} {n}", f"{BERT} {n}")
    ]
    model = Scripted({CHECK: [wrong(CHECK, format="x"), FINE[CHECK]]})
    out, report = run(samples, model)
    assert report["templates"] == dict(Counter(role for _, role in model.asked))
    assert report["calls"] == len(model.asked) == 18
    assert report["calls_a_pair"] == 6.0
    assert sum(each.notes["mix"]["calls"] for each in new_of(out)) == 18
