"""Natural replies around a letter: which are read, and which are not, because they may mean something else.

READ was collected before the patterns were written; what is not read of that collection is in UNCLEAR or says its answer in other words.
"""

from __future__ import annotations

import time

import pytest

from nfilter import Sample
from nfilter.answers import AnswerConfig, build

CHOICE = build(AnswerConfig(kind="choice"))
COLOURS = Sample("s", (), meta={"options": ["red", "green", "blue", "yellow", "white"]})
FREE = Sample("s", ())

READ = [
    "It seems that B is the best answer.",
    "B", "b", "(b)", "**B**", "B)", "B:", "[B]", "Option (B) holds.", "Option B holds", "(B) holds.", "Choice B holds true.", "Option (B) is true.",
    "Option B is true.", "Only option B holds.", "(B) is true.", "Only B is true.", "I would go with B.", "I'd go with (B).", "I'd go for B.",
    "I would go for option B.", "I'm going for B", "I'll take B.", "I'll take option B.", "Let me go with B.", "My pick is B.", "My pick: B",
    "My choice: B", "My vote is B.", "I vote B.", "I vote for B.", "I vote for option B", "My answer: B", "My final answer is B.",
    "My final answer: option B", "Final choice: B", "I'd lean towards B.", "I lean toward B.", "I'm leaning towards option B.", "Probably B.",
    "Most likely B.", "Likely B", "Definitely B.", "Clearly B.", "Surely B.", "Certainly B", "Easily B.", "Obviously (B).", "B, I think.",
    "B, I believe.", "B I think", "B probably.", "B, most likely.", "B, without a doubt.", "B for sure.", "B, of course.", "Definitely option B.",
    "It's B.", "It's (B)", "It is option (B).", "That's B.", "That would be B.", "That must be option B.", "This is option B.", "It should be B.",
    "It has to be (B).", "I believe B is correct.", "I believe the answer is B.", "I think the answer is (B).", "I think B.", "I think (B).",
    "I think option B.", "I think it is B.", "I guess B.", "My guess: B", "I'd guess B.", "Guess: B", "I suspect B.", "I'm fairly sure it's B.",
    "Pretty sure it's B.", "I am convinced that it is B.", "The correct answer is B.", "The correct answer is option B.", "Correct answer: B",
    "Correct option: B", "Correct: B", "Right answer: B.", "The right answer is (B).", "The right one is B.", "The correct one is B.",
    "The best one is B.", "The best option would be B.", "The best fit is B.", "Best choice: B", "Best answer: (B)", "Answer - B", "Answer = B",
    "Answer is B", "Ans: B", "Ans. B", "ans: b", "Ans = (B)", "Selected: B", "Selection: B", "Selected option: B", "Chosen option: B", "Chosen answer: B",
    "Response: B", "Solution: B", "Choice: B", "Option: B", "Letter: B", "Verdict: B", "Conclusion: B", "Result: B", "Thus B.", "Thus, B.", "So B.",
    "So, B", "Hence B", "Hence (B).", "Therefore B.", "Therefore, option B.", "Therefore, the answer is B.", "Thus the correct option is (B).",
    "So the answer would be B.", "So I choose B.", "So it's B.", "which is option B.", "which is B.", "which corresponds to option (B).",
    "Answer choice B.", "Answer choice (B) is correct.", "Answer choice: B", "Answer B.", "Answer (B)", "Answer B is correct.", "Answer B is right.",
    "Answer option B.", "B is the best choice.", "B is the best option.", "B is the right choice", "B is the correct choice.", "B is the correct one.",
    "B is the right one.", "B is my answer.", "B is my choice.", "B is my pick.", "B is the most suitable.", "B is the most reasonable answer.",
    "B is the only one that works.", "B is the only one that fits.", "B is what I would choose.", "B fits best.", "B makes the most sense.",
    "B seems right.", "B seems correct.", "B looks correct.", "B looks right.", "B appears to be correct.", "B must be correct.", "B must be right.",
    "B should be correct.", "B would be correct.", "B would be the best choice.", "B has to be the answer.", "B it is.", "B seems to be the best answer.",
    "B seems best.", "B describes it best.", "B best describes this.", "Option B is the best.", "Option B is right.", "Option B is the answer.",
    "Option B is the right one.", "Option B is the most accurate.", "Option B fits best.", "Option B makes the most sense.", "Option B seems right.",
    "Option B seems correct.", "Option B looks right.", "Option B appears correct.", "Option B must be correct.", "Option B would be correct.",
    "Option B it is.", "Option B works.", "Option B.", "option b", "option (b)", "Go with B.", "Going with B.", "Going with option B", "Pick B.",
    "Picking B.", "Choosing B.", "I choose option (B).", "I chose B.", "I pick B", "I select B.", "I have chosen B.", "I've picked B.", "We choose B.",
    "We pick (B).", "We select option B.", "I opt for B.", "I'd opt for option B.", "I settle on B.", "I settle for B.", "I'm settling on B.",
    "I'd stick with B.", "I stick to B.", "I conclude B.", "I conclude that B is correct.", "We conclude that the answer is B.", "I say B.",
    "I say it's B.", "I'd say option B.", "I would say that B is correct.", "I'd answer B.", "I answer B.", "I mark B.", "I would mark B.",
    "I'd bet on B.", "Answer to the question: B", "The answer to this question is B.", "The answer here is B.", "The answer, then, is B.",
    "The answer, I believe, is B.", "The answer I'd give is B.", "The answer that fits best is B.", "The answer is clearly B.",
    "The answer is most likely B.", "The answer is indeed B.", "The answer is actually B.", "The answer is probably (B).", "The answer is simply B.",
    "The answer is therefore B.", "The answer is thus (B).", "The answer is letter B.", "The answer is choice B.", "The answer is the letter B.",
    "The answer is 'B'.", "The answer is “B”.", "The answer is: B", "The answer is:\n\nB", "The answer is **B**.", "The answer is $B$.",
    "The answer is \\boxed{B}.", "\\boxed{B}", "The answer is \\text{(B)}.", "<answer>B</answer>", '{"answer": "B"}', "```\nB\n```", "The answer is B!",
    "The answer is B?", "The answer is B...", "the answer is b.", "THE ANSWER IS B", "ANSWER: B", "It is B, not A.", "It's B rather than C.",
    "B rather than A.", "B, not A.", "A is wrong. B is right.", "Neither A nor C; it is B.", "A, C and D are wrong. The answer is B.", "Only B fits.",
    "Only B works.", "Only option B fits.", "Only (B) satisfies both conditions.", "Only B remains.", "By elimination, B.", "By elimination: B",
    "By process of elimination, the answer is B.", "Of the options, B is best.", "Of these, B is correct.", "Out of these, B is the best.",
    "Among these, B fits best.", "Given this, B is correct.", "In conclusion, B.", "In conclusion, the answer is B.", "In summary, B is correct.",
    "To conclude: B", "Overall, B is best.", "Based on this, the answer is B.", "Based on the above, I choose B.", "With that, B is correct.",
    "Final answer: B", "Final answer - B", "Final: B", "Final answer B", "FINAL ANSWER: (B)", "### Answer: B", "**Answer:** B", "**Answer: B**",
    "**Answer**: (B)", "# B", "> B", "- B", "B.\n\nIt fits.", "B\n\nBecause it fits.", "(B)\nIt fits.", "B - it fits.", "B – it fits",
    "B because it fits.", "B since it fits.", "B: green", "B) green", "B. green", "(B) green", "Answer: B (green)", "The answer is (B) green.",
    "The answer is B, green.", "It's green, option B.",
]  # fmt: skip
# A letter without an option before it may be a statement, a person or a thing of the question.
UNCLEAR = [
    "B holds.", "B is true.", "B fits.", "B works.", "B is valid.", "B is accurate.", "B wins.", "B matches.", "B is better.", "B remains.",
    "B satisfies the condition.", "This corresponds to B.", "This matches B.", "Which gives B.", "Everything except B is wrong.", "All but B are wrong.",
    "Option B: it fits.", "Option B - it fits.", "A: B",
]  # fmt: skip
NOT_READ = [
    "Statement B is correct.", "Statement B is false.", "Not B.", "I would not go with B.", "I'd rule out B.", "B is wrong.", "B is incorrect.",
    "B is false.", "Option B does not hold.", "Option B fails.", "Option (B) is false.", "B doesn't fit.", "B does not work.", "B seems wrong.",
    "B seems unlikely.", "B looks wrong.", "B would be wrong.", "B cannot be correct.", "B can't be right.", "B is not correct.",
    "Option B is not correct.", "It isn't B.", "It can't be B.", "It is not B.", "I don't think B.", "I don't think it is B.", "I doubt B.",
    "I doubt it is B.", "Unlikely B.", "Hardly B.", "A or B.", "Either A or B.", "I would go with A or B.", "I'd go for A or B.", "A and B are correct.",
    "Both A and B hold.", "Options A and B hold.", "Option A or option B.", "B or C is correct", "Only A and B hold.",
    "I lean towards B, but C is possible.", "Is it B?", "Would B be correct?", "Why is B correct?", "If B is true, A is false.",
    "If B holds, then A fails.", "B is tempting.", "B is close.", "B is plausible.", "B is partly correct.", "B is almost correct.", "B is nearly right.",
    "B could be correct.", "B might be correct.", "B may be true.", "Maybe B, maybe C.", "B is true, and so is C.", "B holds and C holds.",
    "Plan B holds.", "Vitamin B works.", "Point B fits.", "Team B wins.", "Player B wins.", "Person B is my pick.", "Hypothesis B is true.",
    "The vitamin is B.", "Which gives vitamin B.", "This corresponds to point B.", "This matches blood type B.", "I'd go for vitamin B.",
    "I vote for plan B.", "I'll take vitamin B.", "I'd put B before C.", "The function maps A to B.", "A implies B.", "So A is greater than B.",
    "It gives B.", "I think A is wrong.", "I think therefore I am", "I think a cat.", "Take A.", "A is the first letter.", "A lot.", "I am not sure.",
    "All of the above.", "None of the above", "I'd eliminate B.", "Eliminating B leaves A, C and D.", "Everything but B.", "All but B are correct.",
    "All except B fit.", "Option B is the worst.", "B is the least likely.", "The worst option is B.", "The wrong answer is B.",
    "B was my first guess, but it is wrong.", "At first I thought B.", "B\nC", "A, B", "ABD", "B and D", "B/D",
    "Option B is better than option C, but neither is right.", "Many people choose B.", "Students often pick B.", "Some would say B.",
    "One might choose B.", "A student chose B.", "She picks B.", "They went with B.", "He says B.", "B12", "B-cells fit.", "B cells fit.",
    "B flat is it.", "B movies make the most sense.", "B vitamins fit best.", "Set B satisfies the condition.", "Matrix B is valid.", "Graph B matches.",
    "Both B and C fit.", "B and C both hold.", "A works.", "A wins.", "If B is correct, A is wrong.", "If option B holds, then A fails.",
    "If option B is true, we are done.", "Suppose B is correct.", "Assume option B is true.", "Whether B is correct is unclear.",
    "Option B holds, but so does C.", "Option B seems right, but C is better.", "At first, option B seems right.", "Initially B looks correct.",
    "At first glance B seems best.", "B makes the most sense, or C.", "B makes the most sense, or maybe C.", "B must be correct or C must be correct.",
    "Either B or C must be correct.", "Option B or C must be right.", "Options B and C must be right.", "Neither B nor C fits best.",
    "I don't think B fits best.", "It is not true that B fits best.", "I doubt option B holds.", "I doubt that option B is true.",
    "It is unlikely that option B is true.", "It is false that option B holds.", "No one says option B holds.", "Some say B is correct.",
    "Many think B seems right.", "People say B must be right.", "The author thinks B is correct.", "Plan B makes the most sense.", "Plan B seems best.",
    "Team B must be the best.", "Vitamin B is the most suitable.", "Plan B is my choice.", "So plan B.", "Probably vitamin B.", "I think vitamin B.",
    "Vitamin B, I think.", "Plan B, of course.", "Hepatitis B, most likely.", "I lean towards plan B", "I conclude hepatitis B.", "Type B, not A.",
    "The blood type, then, is B.", "The vitamin, I think, is B.", "My grade: B", "Final grade: B", "Best grade: B", "Blood type: B", "Lab result: B",
    "Vitamin: B", "Point: B", "Final letter grade: B", "Probably A or B.", "Probably B or C.", "So A and B.", "Thus A, B.", "Hence A, B and C.",
    "My pick: A or B", "Answer choice: A, B", "B, I think, or C.", "B? I think C.", "I think B? Or C.", "Probably not B.", "Definitely not B.",
    "So not B.", "Clearly not option B.", "I think not B.", "Likely B?", "So B?", "Is it probably B?", "Maybe B.", "Perhaps B.", "Possibly B.",
    "Not sure, maybe B.", "Option (B) fails.", "Option (B) is not true.", "(B) does not fit.", "(B) can't be right.", "(B) seems wrong.", "(B) is out.",
    "A is false. B is false. C holds.", "Option A holds. Option B holds. Option C fails.", "Incorrect: B", "Wrong: B", "Not chosen: B", "Eliminated: B",
    "Rejected option: B", "Worst choice: B", "Wrong answer: B", "First guess: B", "Second choice: B", "Previous answer: B", "Response: I", "Result: x",
    "Solution: Z", "So I", "So I.", "Then I think.", "I think I.", "Thus X.", "Let x be. So X.", "A man, of course.", "A, of course, is a letter.",
    "A likely story.", "A most likely cause is rain.", "A best guess is rain.", "The dress in colour B fits best.", "She wears size B, I think.",
    "Which is it, A? Then B holds.", "Given option A is true, option B holds.", "Because option B is true, A is out.", "Since option B holds, C is out.",
    "Option B holds because option A holds.", "Option B is true only if A is.", "Option B is true when x > 0.",
    "Option B is true in winter, option C in summer.", "Option B is true for n = 1.", "Only B holds when x is negative.",
    "Nobody would say only option B fits.", "You might think B is correct.", "One might think option B is correct, but no.",
    "It may seem that B is correct.", "The student's choice: B", "The user picked B.", "I would not vote for B.", "I'd never take B.", "I won't take B.",
    "I can't conclude B.", "We cannot conclude B.", "I would hardly choose B.", "I first chose B.", "I guess not B.", "We take A and then B.",
    "I'll take A to B.", "From A we conclude B.", "If A then we conclude B.", "From A and A → B we conclude B.",
    "Option B is valid and option C is valid.", "B would be the best choice if it rained.", "B would be the best if not for the rain.",
    "B would be correct if x were 2.", "Without C, B would be the best choice.", "Next to D, option B fits best.",
]  # fmt: skip
OTHERS = [
    ("B is better than A, but C is best.", "C"),
    ("I first thought it was B, but it is D.", "D"),
    ("My first guess was B, but the answer is C.", "C"),
    ("I would go with B, no wait, C.", "C"),
    ("B. No, C.", "C"),
    ("B? No: C", "C"),
    ("Option B is more likely than C, but A is the answer.", "A"),
    ("Option B seems right. However, D is the answer.", "D"),
    ("B seems correct at first, but the answer is D.", "D"),
    ("B fits best. But the answer is C.", "C"),
    ("Option (B) is false. Option (C) is true.", "C"),
    ("Option A is wrong. Option B is wrong. Option C holds.", "C"),
    ("My guess: B\nFinal answer: C", "C"),
    ("Choice: C\n\nFinal answer: D", "D"),
    ("Solution: a", "A"),
    ("A fits best.", "A"),
    ("Only option B fits here.", "B"),
    ("We suspect B.", "B"),
    ("we conclude B", "B"),
    ("I'm leaning towards A, but I choose B.", "B"),
    ("Let me guess A. No: B", "B"),
    ("B is my guess. C is my answer.", "C"),
    ("B must be correct. Wait, C must be correct.", "C"),
]


@pytest.mark.parametrize("sample", [COLOURS, FREE], ids=["options", "free"])
@pytest.mark.parametrize("text", READ)
def test_a_natural_reply_is_read(text: str, sample: Sample) -> None:
    assert CHOICE.parse(text, sample) == "B"


@pytest.mark.parametrize("sample", [COLOURS, FREE], ids=["options", "free"])
@pytest.mark.parametrize("text", [*UNCLEAR, *NOT_READ])
def test_a_reply_that_may_mean_something_else_is_not_read(text: str, sample: Sample) -> None:
    assert CHOICE.parse(text, sample) is None


@pytest.mark.parametrize("sample", [COLOURS, FREE], ids=["options", "free"])
@pytest.mark.parametrize(("text", "letter"), OTHERS)
def test_the_answer_is_found_beside_other_letters(text: str, letter: str, sample: Sample) -> None:
    assert CHOICE.parse(text, sample) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Probably B.\nLet me check.\nIt is C.", "C"),
        ("Option B holds.\nThe answer is C.", "C"),
        ("So B.\nSo C.", "C"),
        ("Probably B.\nBecause it fits.", "B"),
        ("My pick: B\n\nIt fits, as the text says.", "B"),
        ("B, I think.\nA is wrong.", None),
        ("Result: B\nResult: C", "C"),
        ("First, red fails.\nThen option B makes the most sense, because grass is green.", "B"),
        ("Option A fits best.\nOption B fits best.", "B"),
    ],
)
def test_the_last_line_counts(text: str, letter: str | None) -> None:
    assert CHOICE.parse(text, COLOURS) == letter


@pytest.mark.parametrize(
    "text",
    ["So " * 7000 + "B", "B holds, " * 2300, "((((" * 5000 + "B", "so" + "," * 19_000 + "B", "I think " * 2500 + "B.",
     "B fits " + "x " * 9000 + "best", "if " * 6000 + "B is correct", "Option B fits best, " * 1000, "-" * 20_000 + "B, I think"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_hostile_reply_takes_no_long_time(text: str) -> None:
    start = time.process_time()
    CHOICE.parse(text, COLOURS)
    assert time.process_time() - start < 2
