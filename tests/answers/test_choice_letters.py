"""A capital letter that belongs to a name ("vitamin C", "plan B") is no choice, and a choice is not lost to it."""

from __future__ import annotations

import pytest

from nfilter import Sample
from nfilter.answers import AnswerConfig, build

CHOICE = build(AnswerConfig(kind="choice"))
COLOURS = Sample("s", (), meta={"options": ["red", "green", "blue", "yellow", "white"]})
VITAMINS = Sample("s", (), meta={"options": ["vitamin A", "niacin", "iron", "vitamin C", "zinc"]})
FREE = Sample("s", ())

NAMES = [
    # Said of something else than the answer.
    "The vitamin is C", "The vitamin is C.", "So the vitamin must be C.", "The missing vitamin is therefore C", "It says the vitamin is (C)",
    "The programming language is C", "His grade is A.", "Her final grade was an A, and his is B.", "The blood type is B.", "Her blood group is A",
    "The strain of hepatitis is B.", "The note is D", "The key is C.", "The key signature is D.", "The element is C", "The symbol is C.",
    "Its symbol is B", "The variable is A.", "The drive is D.", "The patient is B.", "The player who wins is A.", "The point is C",
    "The vertex is D.", "The gate is B.", "The class is C.", "The category is B", "The rating is A.", "My name is B.", "The team that won is A",
    "The temperature is given in degrees C", "The vector is A.", "The set is B.", "The correct vitamin is C.", "The best grade is A.",
    "The most common blood type is A.", "The most important vitamin they need is C.", "The best language is C",
    "The right key is D", "Their plan is B.", "The vaccine is for hepatitis B", "The vitamin they need is C.",
    "The chromosome is X.", "Her rank is C", "The road is route A", "The winner is C.", "Jack is B", "The first is A and the last is C",
    # The letter ends a name.
    "Plan B", "Vitamin C.", "Hepatitis A", "grade A", "type C", "Answer: vitamin C", "Answer: Vitamin D", "The answer is vitamin C.",
    "The answer is Vitamin C.", "The answer is hepatitis B", "Answer: grade A", "Answer: type C.", "Answer: blood type B", "Answer: group A",
    "The answer is plan B.", "The best choice is vitamin C.", "The correct option is hepatitis A.", "I choose vitamin C.", "I would go with plan B",
    "I'd say grade A.", "So it is vitamin C.", "It must be hepatitis B.", "That is type C", "It's plan B.", "They suffer from a lack of vitamin D.",
    "She moved to plan B", "He was treated with vitamin C", "Patients with C", "A diet with D", "Influenza A", "Appendix C", "Malcolm X said A",
    "We took the route with B", "Many people choose A", "Most countries choose B.",
    # The name is what is judged.
    "Plan B is the only way", "Plan B is the best way.", "Plan B is the best.", "Vitamin C is the correct answer.", "Vitamin C is most likely.",
    "Hepatitis A is the most likely diagnosis.", "Type C is correct.", "Grade A is the best.", "Blood type B is the answer", "Vitamin D is right.",
    "I think vitamin C is correct.", "Therefore hepatitis B is the most likely cause.", "Statement A is correct.", "The vitamin C is the answer.",
    "Removing the group leaves C.", "Deficiency of it leaves B", "Water goes off, leaving C.", "He was left with C.", "We are left with vitamin C.",
    "That leaves vitamin C.", "The best blood match is B", "The odd one out is hepatitis B.", "That leaves B and C.", "I am confident it is plan B.",
    "Both A and B is correct", "Person B is right.", "In my view plan B is best.", "Both vitamin A and vitamin C is right", "Building A is correct", "Vitamin B is the right choice.",
    # A word behind the letter makes a name of both.
    "The answer is C major.", "Answer: D minor", "The answer is B vitamins.", "Answer: B cells", "Answer: B lymphocytes", "The answer is D flat.",
    "Answer: C programming", "The answer is C programming.", "Answer: A positive", "The answer is B negative.", "Answer: C section", "Answer: D day",
    "Answer: B movie", "The answer is C minus", "Answer: E coli", "The answer is B sharp", "Answer: C clef", "Answer: D block elements", "Answer: B complex", "Answer: X rays", "Answer: A fib",
    # Initials and species.
    "C. difficile causes it.", "E. coli", "E. coli is the organism.", "Answer: C. difficile", "The answer is E. coli.", "C. elegans is a worm.",
    "C. diff", "A. thaliana", "The answer is B. subtilis", "B. burgdorferi, which ticks carry", "Answer: D. melanogaster.", "C. botulinum makes the toxin",
    # Symbols in brackets.
    "Steel is iron with carbon (C) in it.", "carbon (C)", "The element carbon (C) has six protons.", "Ascorbic acid (C)", "Point (B) moves.",
    "The base adenine (A) pairs with thymine.", "It holds cytosine (C)", "the company (C) 2020", "boron (B)",
    # Headings of something else.
    "Vitamin:\nC", "Grade:\nA", "Blood type:\nB", "His grade:\nB", "Blood group:\nA", "Size:\nB", "Key: D", "Vitamin: C", "Grade: A", "Type: B", "Hepatitis: A",
]  # fmt: skip
READ = {
    "C": [
        "The answer is C", "It is C.", "option C", "Option C.", "It's C", "So it must be C.", "That is C", "Answer: C", "answer: c", "C", "(C)", "C.",
        "The answer is option C.", "The correct option is C.", "The correct choice is therefore C.", "The best answer here is C.", "My answer is C.",
        "My choice is C", "The right letter is C.", "I choose C.", "I would choose C", "I'd pick C.", "I pick option C.", "I select (C).",
        "I'll go with C.", "I would go with C", "We go with option C.", "I say C", "I'd say C.", "Let's go with C", "Thus we choose C.",
        "I am going with C.", "So I'd answer with C.", "C is correct.", "C is the correct answer.", "Therefore C is the answer.", "So, C is right",
        "I think C is correct.", "I believe that C is the best answer.", "Option C is correct.", "Choice C is the best.", "(C) is correct.",
        "Only C is correct.", "A is wrong, so C is correct.", "A is tempting, but C is the best.", "While A is plausible, C is most likely.",
        "The vitamin is needed for collagen. Answer: C", "The vitamin is A. No: the answer is C.", "Vitamins matter.\nThe answer is C.",
        "Plan B failed. The answer is C.", "Hepatitis A is mild, so the answer is C.", "The answer is C because vitamin D is not found in it.",
        "Answer: C, since plan B is the only way.", "Answer: C (see plan B)", "The answer is C: it is the only one.", "The answer is C - the third",
        "The answer is C with high confidence", "The answer is C which fits", "The answer is C, it fits.", "The answer is C for that reason",
        "Answer: C as said", "The answer is C although A is close", "The answer is C only", "Answer:\nC", "Final answer:\n\nC", "So:\nC", "Therefore:\n(C)",
        "Solution:\nC", "Result:\nC", "Output:\nC", "Vitamin C helps.\nC", "Grade A beef.\n\nC.", "Let me think.\nPlan B is the only way.\nC",
        "The most plausible one is C.", "The correct statement is C.", "The best description is C", "The response is C.", "The solution is C",
        "Which one? It has to be C.", "It can only be C.", "This would be C.", "The correct answer would be C.", "It is clearly C.",
        "It is definitely (C).", "It is clearly (C), as said.", "The only one left is C.", "Hence C is the right choice.", "I would answer C.",
        "The right choice: C", "The choice is C, not vitamin D.", "The answer to the question about vitamins is C.", "C is clearly the best option.",
        "The answer must be C.", "answer is c", "Thus, (C).", "So (C)", "Therefore, (C) holds.", "We conclude (C).", "C. Because it fits.", "C. It fits.",
        "C) It is the third.", "(C) It is the third.", "C: this is the only way", "Select C.", "Choose C", "I will choose C", "I have to choose C.",
        "I would say C.", "I'm going with C.", "The only correct answer is C", "C is the only correct option.", "It's option C.", "This means C is correct.",
        "Hence, option C.", "So option C is the correct answer.", "Among the options, C is the best.", "By elimination, it is C.", "I think it's C.",
        "I'm sure it's C", "My guess would be C.", "The statement that fits is C.", "It is not A but C.", "Not A. It is C.", "The answer is C and not B",
        "The answer is C rather than B.", "So (C) is right.",
        # What elimination leaves, the nearest, and what follows the letter.
        "That leaves C.", "This leaves us with C.", "That leaves us with option C.", "We are left with option C.", "we're left with only C",
        "So this only leaves (C).", "It fits neither, leaving only C.", "We are left with C, not D.", "The best match is C.", "The closest match is (C).",
        "The odd one out is C.", "I am confident it is C.", "The answer I choose is C.", "The answer is C I think", "The answer is C we know",
        "The answer is C overall", "The answer is C under this assumption.", "The answer is C of the five", "Answer: C All of the above",
        "Answer: C None of these",
        # What a question asks for, judged.
        "The most likely diagnosis is C", "the correct treatment is (C)", "The best next step is C.", "So the missing word is C.",
        "The most appropriate management is therefore C.", "So the correct order of steps is C", "The most likely cause of death is C.", "is Option C.",
    ],
}  # fmt: skip


@pytest.mark.parametrize("sample", [COLOURS, FREE], ids=["options", "free"])
@pytest.mark.parametrize("text", NAMES)
def test_a_letter_that_belongs_to_a_name_is_no_choice(text: str, sample: Sample) -> None:
    assert CHOICE.parse(text, sample) is None


@pytest.mark.parametrize("sample", [COLOURS, FREE, VITAMINS], ids=["options", "free", "vitamins"])
@pytest.mark.parametrize(("text", "letter"), [(text, key) for key in READ for text in READ[key]])
def test_a_choice_beside_names_is_read(text: str, letter: str, sample: Sample) -> None:
    assert CHOICE.parse(text, sample) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Vitamin C", "D"),
        ("vitamin C.", "D"),
        ("Answer: vitamin C", "D"),
        ("The answer is vitamin C.", "D"),
        ("The correct answer is D: vitamin C", "D"),
        ("D. vitamin C", "D"),
        ("(D) vitamin C", "D"),
        ("The answer is vitamin C (D).", "D"),
        ("vitamin C (D)", "D"),
        ("Answer: D vitamin C", "D"),
        ("Answer: D Vitamin C", "D"),
        ("Iron", "C"),
        ("iron (C)", "C"),
        ("C. iron", "C"),
        ("C. iron, because it is a metal", "C"),
        ("Answer: C iron", "C"),
        ("Vitamin A", "A"),
        ("The vitamin is C", None),
        ("It is not vitamin C.", None),
        ("C. vitamin C", None),
        ("vitamin C (C)", None),
        ("carbon (C)", None),
        ("Vitamin D", None),
    ],
)
def test_the_name_itself_is_the_text_of_an_option(text: str, letter: str | None) -> None:
    assert CHOICE.parse(text, VITAMINS) == letter
