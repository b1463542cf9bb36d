"""Answers as models write them: fillers, JSON, several letters, other languages, symbols and marks as labels."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import Sample
from nfilter.answers import AnswerConfig, build
from nfilter.answers.markers import statements
from nfilter.answers.reading import clean
from nfilter.answers.scripts import apart, western_digits

FOUR = Sample("s", (), meta={"options": ["red", "green", "blue", "yellow"]})
CHOICE = build(AnswerConfig(kind="choice"))
EXACT = build(AnswerConfig(kind="exact"))


@pytest.mark.parametrize(
    "text",
    [
        "Answer: Option C", "The correct answer is Option C.", "OPTION C", "The Answer Is: Option C", "It's Option C",
        "I choose Option C", "the answer is Most Likely C", '{"answer": "C"}', "{'answer': 'C'}", '{"answer": "blue"}',
        '```json\n{"reasoning": "the answer is A", "answer": "C"}\n```', 'So:\n```json\n{"final_answer": "C"}\n```',
        '{"answer": {"letter": "C"}}', "<think>The answer is B? no.</think>\n\nC", "So the answer is not A. Answer: C",
        "Answer: A. Wait, no, it's C.", "Answer: A. Correction: C", "Answer: C. Actually, this is well known.",
        "A) Incorrect\nB) Incorrect\nC) Correct\nD) Incorrect", "C) Correct",
        "A) red: wrong\nB) green - incorrect\nC) blue: correct\nD) yellow is wrong", "A. red ❌\nB. green ❌\nC. blue ✅",
        "\\(C\\)", "\\boxed{\\text{(C) blue}}", "Answer: C, because A is wrong",
    ],
)  # fmt: skip
def test_a_letter_in_every_dress(text):
    assert CHOICE.parse(text, FOUR) == "C"


@pytest.mark.parametrize(
    "text",
    [
        "ANSWER: A, B and C", "Answer: A & B", "Answer: A and C", "Answer: A/C", "Answer: A、C", "Answer: A y C",
        "答案是A和C", "Both A and B", "Answer: both A and B", '{"answer": ["A", "C"]}', '{"answer": "A, C"}', '{"answer": null}',
        "A) red B) green C) blue D) yellow", "Answer: A) red B) green C) blue D) yellow", "A, B, C, D", "A B C D",
        "(A), (B), (C), (D)", "A) red\nB) green\nC) blue\nD) yellow", "Answer: A. Wait, none of them.", "Answer: A is not right",
        "A) Correct\nB) Correct\nC) Incorrect", "A) Incorrect\nB) Incorrect\nC) Incorrect\nD) Incorrect",
    ],
)  # fmt: skip
def test_several_letters_are_no_answer(text):
    assert CHOICE.parse(text, FOUR) is None


@pytest.mark.parametrize(
    "text",
    [
        "I would not choose C", "I would never choose C.", "The answer cannot be C", "The answer can't be C.", "Definitely not (C)",
        "We can eliminate (C).", "All except (C)", "No es (C)", "The wrong answer is C", "Incorrect answer: C", "The answer is C is wrong",
        "The answer was C, which is wrong.", "The answer is C. That is wrong.", "A is correct. C is correct.", "The answer is C. Hmm, maybe B.",
        "Answer: C -> B", "Answer: C | B", "Answer: C B", "Answer: (C)(B)", "Answer: (B) (C)", "Answer: B–C", "Answer: B to D", "Answer: C\nB", "C\nB",
        "\\boxed{C} or \\boxed{B}", "$\\boxed{C}$\n\n$\\boxed{B}$", "blue\nred",
    ],
)  # fmt: skip
def test_what_is_denied_or_one_of_two_is_no_answer(text):
    assert CHOICE.parse(text, FOUR) is None


@pytest.mark.parametrize(
    "text",
    [
        "C) red",
        "C: red",
        "Answer: C. red",
        "The answer is C (red)",
        "red (C)",
        "The answer is red (C).",
    ],
)
def test_a_letter_beside_the_text_of_another_option_is_no_answer(text):
    assert CHOICE.parse(text, FOUR) is None


@pytest.mark.parametrize(
    "text",
    [
        "Answer: C. That is not wrong.",
        "It is not A. The answer is C.",
        "The answer is B. On reflection, C.",
        "C is correct. C is correct.",
        "C\n\nC",
        "\\boxed{C}\n\\boxed{C}",
    ],
)
def test_what_only_looks_denied_is_an_answer(text):
    assert CHOICE.parse(text, FOUR) == "C"


DENIALS = [
    "Die Antwort ist nicht {}", "La réponse n'est pas {}", "La respuesta no es {}", "A resposta não é {}", "La risposta non è {}", "Ответ: не {}",
    "答案不是{}。", "答えは{}ではない", "答えは{}ではありません。", "正解は{}じゃない", "정답은 {}이 아니다", "정답은 {}이(가) 아닙니다", "الجواب ليس {}", "उत्तर {} नहीं है", "Cevap {} değil",
    "Jawabannya bukan {}", "Đáp án không phải là {}", "Odpowiedź to nie {}", "不选{}", "{}是错的", "{}不对", "{} est faux", "{} ist falsch", "{} es incorrecto", "{} неверно",
]  # fmt: skip


@pytest.mark.parametrize("form", DENIALS)
def test_an_answer_is_denied_in_many_languages(form):
    number = build(AnswerConfig(kind="number"))
    assert CHOICE.parse(form.format("C"), FOUR) is None
    assert number.parse(form.format("7")) is None


def test_the_sign_of_an_option_is_part_of_it():
    numbers = Sample("s", (), meta={"options": ["12", "21", "-3", "1/2"]})
    for text in ("-12", "Answer: −12", ".12", "<12", ">12", "-1/2", "3"):
        assert CHOICE.parse(text, numbers) is None
    assert [CHOICE.parse(text, numbers) for text in ("12.", "(-3)", "- 12", "$12")] == list("ACAA")
    label = build(AnswerConfig(kind="label"))
    assert [label.parse(text, numbers) for text in ("<12", ".12", "-12", "12.", "-3")] == [
        None,
        None,
        None,
        "12",
        "-3",
    ]


def test_a_label_that_is_denied_or_one_of_two_is_no_answer():
    label = build(AnswerConfig(kind="label"))
    for text in ("The wrong label is red", "Wrong label: red", "Label: red; green"):
        assert label.parse(text, FOUR) is None
    assert label.parse("The label is red. It is not green.", FOUR) == "red"


def test_a_revision_counts_after_what_it_takes_back():
    assert CHOICE.parse("A... wait, actually D", FOUR) == "D"


def test_an_option_that_begins_with_no_takes_nothing_back():
    both = Sample("s", (), meta={"options": ["Yes, it is.", "No, because it is salt."]})
    for text in ("Answer: B) No, because it is salt.", "The answer is B. No, because it is salt."):
        assert CHOICE.parse(text, both) == "B"


def test_a_line_that_repeats_an_option_judges_nothing():
    judged = Sample("s", (), meta={"options": ["Incorrect", "Correct", "Unclear"]})
    assert CHOICE.parse("A) Incorrect\nB) Correct\nC) Unclear", judged) is None
    assert CHOICE.parse("B) Correct", judged) == "B"


IN_WORDS = [
    "Answer: {}", "The answer is {}.", "Respuesta: {}", "La respuesta es {}.", "La respuesta correcta es {}", "Réponse : {}",
    "La réponse est {}", "Antwort: {}", "Die richtige Antwort ist {}.", "Die Antwort lautet {}", "答案：{}", "答案是{}。",
    "正确答案是 {}", "答案为{}", "答えは{}です。", "答え：{}", "正解は{}です", "정답: {}", "정답은 {}입니다.", "Ответ: {}", "Правильный ответ — {}",
    "الجواب: {}", "الإجابة هي {}", "उत्तर: {}", "उत्तर है {}", "La risposta è {}", "Risposta: {}", "Resposta: {}",
    "A resposta correta é {}", "উত্তর: {}", "คำตอบคือ {}", "Jawaban: {}", "Cevap: {}", "Đáp án: {}", "پاسخ: {}", "Odpowiedź: {}",
]  # fmt: skip


@pytest.mark.parametrize("form", IN_WORDS)
def test_an_answer_is_marked_in_many_languages(form):
    assert CHOICE.parse(f"A (B) 17\n{form.format('C')}", FOUR) == "C"
    assert len(statements(clean(form.format("C")))) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Respuesta: París.", "parís"),
        ("答案：北京。", "北京"),
        ("答え：東京", "東京"),
        ("Ответ: Москва", "москва"),
        ("Réponse : Lyon", "lyon"),
        ('{"answer": "Paris"}', "paris"),
        ("“हाँ”।", "हाँ"),
        ("Answer: 😀", "😀"),
        ("**😀**", "😀"),
        ("$\\text{Paris}$", "paris"),
        ("✅ Paris", "paris"),
        ("«Paris»", "paris"),
        ("Respuesta:", None),
        ("---", None),
        ("?!", None),
    ],
)
def test_words_of_all_scripts(text, words):
    assert EXACT.parse(text) == words


def test_one_apostrophe_is_every_apostrophe():
    assert EXACT.agree([(EXACT.parse("It's 5 o'clock"), EXACT.parse("It’s 5 o’clock."))]) == [True]
    two = Sample("s", (), meta={"options": ["don't know", "Newton's law"]})
    assert CHOICE.parse("Newton’s law", two) == "B"
    assert build(AnswerConfig(kind="label")).parse("Don’t know", two) == "don't know"


def test_json_that_is_the_answer_itself_is_compared_as_a_whole():
    one, other = (EXACT.parse(f'{{"label": "a", "score": {score}}}') for score in (1, 2))
    assert one is not None
    assert EXACT.agree([(one, other), (one, one)]) == [False, True]
    assert EXACT.parse('{"reasoning": "so", "label": "a"}') == "a"


LABELS = [
    "लड़की", "लड़का", "ही", "हाँ", "ह", "ดู", "ดี", "ด", "நன்றி", "நன்று", "😀", "😡", "👍🏽", "👍", "∞", "-∞", "+∞", "♂", "♀", "🇩🇪", "🇫🇷",
    "+", "-", "<", "<=", "=", "AB-", "AB+", "AB", "C", "C#", "C++", "5", "-5", "+5", ".5", "<5", ">5", "5%", "5°", "5 €", "5 £", "$5", "€5",
    "[0,1)", "(0,1]", "x²", "x2", "→", "←", "é", "e",
]  # fmt: skip


def test_every_label_is_one_and_no_two_distinct_ones_agree():
    read = {label: EXACT.parse(label) for label in LABELS}
    assert [label for label, words in read.items() if words is None] == []
    pairs = list(itertools.combinations(LABELS, 2))
    same = EXACT.agree([(read[left], read[right]) for left, right in pairs])
    assert [pair for pair, agrees in zip(pairs, same, strict=True) if agrees] == []


@given(st.text(st.characters(categories=["L", "Mn", "Mc", "Nd"]), min_size=1, max_size=6))
def test_no_letter_mark_or_digit_is_trimmed(word):
    plain = EXACT.parse(word)
    assert EXACT.parse(f"“{word}”.") == plain == EXACT.parse(f"({word})")


def test_digits_of_every_script_are_digits():
    assert western_digits("१२ ২৩ ๓๔ ۴۵ ٥٦ ７") == "12 23 34 45 56 7"
    assert western_digits("۱٬۲۳۴٫۵٪") == "1,234.5%"
    assert apart("答えは72です 第3") == "答えは 72 です 第 3"


@pytest.mark.parametrize("unit", ["(A)", "(A) ", "A) x\n", "Answer: A "])
def test_what_is_read_of_many_letters_grows_with_their_number(monkeypatch, unit):
    from nfilter.answers import choice

    read = []

    def counted(text):
        read.append(len(text))
        return text.strip().casefold()

    monkeypatch.setattr(choice, "_bare", counted)
    costs = []
    for count in (500, 2000):
        read.clear()
        CHOICE.parse(unit * count, FOUR)
        costs.append(sum(read))
    assert costs[1] <= 6 * costs[0]
