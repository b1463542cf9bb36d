"""The templates of ``entp.mix``, rendered and compared with files that people have read.

``NFILTER_UPDATE_GOLDEN=1 pytest ...`` writes the files anew.
"""

import pytest

from nfilter import Fence
from nfilter.recipe.prompts import Prompts, shipped_directory
from nfilter_entp.mixing.repair_cycle import ANSWER, INSTRUCTION, ROLES, Case, Parent

ONE = Parent("How many apples does Anna carry from Berlin?", "Three, I think.")
TWO = Parent("How many pears does Bert carry from Paris?", "")
OWN = Parent("How many pears does Bert carry?", "Four.", "Bert lives in Paris.")
DRAFT = "Anna carries 3 apples. How many pears does Bert carry from Paris?"
TERMS = ["berlin", "anna"]
PROBLEMS = {"missing_terms": ["Berlin"], "format": ["two tasks", "no verb"]}


def case(*parents, system="", answer="", problems=None, draft=DRAFT):
    return Case(
        "a",
        parents,
        system,
        texts={"instruction": draft, "answer": answer},
        problems=problems or {},
    )


PAIR = case(ONE, TWO)
CHAT = case(ONE, TWO, system="Be short.", answer="Three and four.")
SOLO = case(ONE, answer="Three.", problems={"numbers": ["3 is not 4"]})
WRONG = case(ONE, OWN, problems=PROBLEMS)

CASES = {
    "instruction": ("instruction", case(ONE, TWO, draft=""), TERMS),
    "instruction.system": ("instruction", case(ONE, OWN, system="", draft=""), []),
    "instruction.single": ("instruction", case(ONE, system="Be short.", draft=""), TERMS),
    "instruction_check": ("instruction_check", PAIR, TERMS),
    "instruction_check.single": ("instruction_check", SOLO, []),
    **{role: (role, WRONG, TERMS) for role in INSTRUCTION.repairs.values()},
    "instruction_format.empty": ("instruction_format", case(ONE, TWO, draft=""), []),
    "instruction_missing_terms.single": ("instruction_missing_terms", SOLO, TERMS),
    "answer": ("answer", PAIR, []),
    "answer.system": ("answer", CHAT, []),
    "answer.none": ("answer", case(TWO), []),
    "answer_check": ("answer_check", CHAT, []),
    "answer_patch": ("answer_patch", SOLO, []),
    "answer_patch.empty": ("answer_patch", case(ONE, TWO, system="Be short.", problems={"sub_questions": ["the answer is empty"]}), []),
}  # fmt: skip


def rendered(role, given, terms):
    variables = given.variables(terms)
    fence = Fence.around(given.key, [variables])
    messages = (
        Prompts([shipped_directory()]).get(f"entp/{role}").render(**variables, fence=fence.code)
    )
    assert fence.asked((m.content for m in messages), word(role))
    return "\n".join(f"[{message.role}]\n{message.content}" for message in messages) + "\n"


def word(role):
    if role.endswith("check"):
        return "Checklist"
    return (INSTRUCTION if role.startswith("instruction") else ANSWER).word


@pytest.mark.parametrize("name", CASES)
def test_prompt(name, golden):
    text = rendered(*CASES[name])
    golden(f"prompts/entp/mix/{name}.txt", text)
    assert "\n\n\n" not in text


def test_every_role_has_a_template_and_a_golden_file():
    shipped = {
        name.split("/")[1]
        for name in Prompts([shipped_directory()]).names()
        if name.startswith("entp/")
    }
    assert set(ROLES) == {role for role, _, _ in CASES.values()} <= shipped
    assert all(role.startswith(("instruction", "answer")) for role in ROLES)
    assert {role for role in shipped if role.startswith(("instruction", "answer"))} == set(ROLES)


def test_a_check_names_its_keys_and_an_echo_of_it_is_no_checklist():
    from nfilter_entp.mixing.checklist import read

    for cycle in (INSTRUCTION, ANSWER):
        text = rendered(cycle.check, CHAT, [])
        fence = Fence.around("a", [CHAT.variables([])])
        for key in cycle.repairs:
            assert f"- {key}: " in text
            assert f'"{key}": [...]' in text
        assert isinstance(read(text, fence, tuple(cycle.repairs)), str)
        last = f"Checklist {fence.code}:\n" + text.strip().splitlines()[-1]
        assert isinstance(read(last, fence, tuple(cycle.repairs)), str)


def test_responses_are_shown_to_nobody_but_the_one_who_answers():
    secret = case(Parent("Ask.", "SECRET"), TWO, answer="mine", problems=PROBLEMS)
    for role in ROLES:
        assert ("SECRET" in rendered(role, secret, TERMS)) is (role == "answer")
