"""Families of replies that were once read as another value: bounds and ranges in many languages, refusals, answers that are taken back or quoted."""

from __future__ import annotations

import pytest

from nfilter import Completion, Message, Request, Sample
from nfilter.answers import AnswerConfig, build
from nfilter.answers.judge import judged_by

NUMBER = build(AnswerConfig(kind="number"))
CHOICE = build(AnswerConfig(kind="choice"))
LABEL = build(AnswerConfig(kind="label"))
FOUR = Sample("s", (), meta={"options": ["red", "green", "blue", "white"]})
MOODS = Sample("s", (), meta={"options": ["positive", "negative", "neutral"]})

RANGES = (
    "entre 3 y 5", "de 3 a 5", "entre 3 et 5", "de 3 à 5", "zwischen 3 und 5", "3 bis 5", "tussen 3 en 5", "van 3 tot 5", "fra 3 e 5",
    "da 3 a 5", "mellan 3 och 5", "mellem 3 og 5", "od 3 do 5", "między 3 a 5", "от 3 до 5", "между 3 и 5", "antara 3 dan 5",
    "dari 3 sampai 5", "từ 3 đến 5", "3到5之间", "3から5", "3と5の間", "3에서 5", "3부터 5까지", "بين 3 و 5", "من 3 إلى 5", "बीच 3 और 5",
    "3 से 5", "3 ถึง 5", "3 o 5", "3 ou 5", "3 eller 5", "3 lub 5", "3 или 5", "3 veya 5", "3 hoặc 5", "3または5", "3 또는 5", "3 أو 5",
    "3 או 5",
)  # fmt: skip
BOUNDS = (
    "más de 30", "menos de 30", "plus de 30", "mehr als 30", "weniger als 30", "più di 30", "meer dan 30", "больше 30", "менее 30",
    "lebih dari 30", "超过30", "不到30", "30未満", "30 미만", "أكثر من 30", "more than 30", "under 30", "below 30", ">= 30", "<= 30",
)  # fmt: skip
APPROXIMATE = (
    "más o menos 30", "plus ou moins 30", "più o meno 30", "mais ou menos 30", "al menos 30", "au moins 30", "por lo menos 30",
    "pelo menos 30", "ao menos 30",
)  # fmt: skip
NOT = (
    "La respuesta no es {}", "La réponse n'est pas {}", "Die Antwort ist nicht {}", "Het antwoord is niet {}", "Svaret är inte {}",
    "Svaret er ikke {}", "Vastaus ei ole {}", "A válasz nem {}", "Odpověď není {}", "Odpowiedź to nie {}", "Răspunsul nu este {}",
    "Ответ не {}", "Η απάντηση δεν είναι {}", "Cevap {} değil", "答案不是{}", "答えは{}ではない", "정답은 {}이 아니다", "الجواب ليس {}",
    "התשובה היא לא {}", "התשובה אינה {}", "پاسخ {} نیست", "उत्तर {} नहीं है", "উত্তর {} নয়", "คำตอบไม่ใช่ {}", "{} can't be right",
    "{} è sbagliato", "{} está errado", "{} yanlış", "{}は間違いです", "{} خطأ", "Under no circumstances is the answer {}",
)  # fmt: skip
TAKEN_BACK = (
    "The answer is {}. Actually, no.", "{}. Wait, that's wrong.", "{}. Hmm, wait.", "{}. No, that can't be right.", "{}. Scratch that.",
    "The answer is {}. Hold on...",
)  # fmt: skip
OF_OTHERS = (
    "The student's answer: {}", "The student's answer is {}.", "The student answered {}.", "The given answer is {}.",
    "The original label: {}", "The previous answer was {}.", "Their answer: {}",
)  # fmt: skip
REFUSALS = (
    "I cannot answer that; 3 facts are missing.", "There is not enough information, only 2 of 5 values are given.",
    "I don't know. Maybe ask 2 friends.", "As an AI model with 7 billion parameters I can't help.", "Lo siento, no puedo responder; faltan 3 datos.",
    "Es tut mir leid, ich kann die 3 Fragen nicht beantworten.", "К сожалению, я не могу ответить на 3 вопроса.", "抱歉，我无法回答这3个问题。",
    "すみません、3つの質問には答えられません。", "죄송하지만 3개의 질문에 답할 수 없습니다.", "آسف، لا أستطيع الإجابة عن 3 أسئلة.",
    "माफ़ कीजिए, मैं 3 सवालों का जवाब नहीं दे सकता।",
)  # fmt: skip
OTHER_NUMBERS = (
    "Answer: 101₂", "Answer: 1010 in binary", "Answer: 12 (base 8)", "Answer: 3 dozen", "Answer: 10 -> 20", "Answer: 10 → 20", "Answer: 10 | 20",
    "Answer: 5 (or 6 if you count both)", "The given value is 5, which is wrong.", "For example, 5.", "The car goes 36 km/h after 2 hours.",
    '{"apples": 5, "pears": 3}', '```json\n{"result": 42, "check": 43}\n```',
)  # fmt: skip


@pytest.mark.parametrize("text", [*RANGES, *BOUNDS])
def test_a_range_and_a_bound_are_no_number(text: str) -> None:
    assert NUMBER.parse(f"Answer: {text}") is None
    assert NUMBER.parse(f"I would say {text}.") is None


@pytest.mark.parametrize("text", APPROXIMATE)
def test_more_or_less_is_no_minus(text: str) -> None:
    assert NUMBER.parse(text) == NUMBER.parse(f"Answer: {text}") == "30"


@pytest.mark.parametrize("text", ["menos 30", "moins 30", "meno 30", "minus 30"])
def test_minus_is_one(text: str) -> None:
    assert NUMBER.parse(f"Answer: {text}") == "-30"


@pytest.mark.parametrize("text", [*NOT, *TAKEN_BACK, *OF_OTHERS])
def test_what_is_denied_taken_back_or_of_another_is_no_answer(text: str) -> None:
    assert NUMBER.parse(text.format(42)) is None
    assert CHOICE.parse(text.format("B"), FOUR) is None


@pytest.mark.parametrize("text", [*REFUSALS, *OTHER_NUMBERS])
def test_other_numbers_are_no_answer(text: str) -> None:
    assert NUMBER.parse(text) is None


def test_an_answer_after_a_doubt_is_read() -> None:
    assert NUMBER.parse("I don't know the rate, so take 2. Answer: 42") == "42"
    assert NUMBER.parse("The student's answer is 5. The correct answer is 6.") == "6"
    assert NUMBER.parse("The answer is 5. Wait, no. It is 6.") == "6"
    assert NUMBER.parse('{"answer": 42, "check": 43}') == "42"
    assert (
        NUMBER.parse('{"total": 42}') == NUMBER.parse('{"reasoning": "6*7", "total": 42}') == "42"
    )


@pytest.mark.parametrize(
    "text", ["~~41~~ 42", "<del>41</del> 42", "<s>41</s> 42", "\\cancel{41} 42", "\\sout{41} 42"]
)
def test_what_is_struck_out_is_not_said(text: str) -> None:
    assert NUMBER.parse(f"Answer: {text}") == "42"
    letters = text.replace("41", "A").replace("42", "B")
    assert CHOICE.parse(f"Answer: {letters}", FOUR) == "B"


def test_letters_of_two_options_and_of_a_refusal_are_none() -> None:
    for text in ("정답은 B와 C입니다", "I'm sorry, I can't choose. (A)", "抱歉，我无法选择 A"):
        assert CHOICE.parse(text, FOUR) is None


def test_the_label_of_another_is_none() -> None:
    assert LABEL.parse("New label: negative\nOld label: positive", MOODS) == "negative"
    for text in ("The given label: positive", "The previous label is positive", "The student's label is positive."):  # fmt: skip
        assert LABEL.parse(text, MOODS) is None


class Says:
    """A model with one reply."""

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, requests: list[Request]) -> list[Completion]:
        return [Completion(self.text)] * len(requests)


class Plain:
    """A template that asks for no code."""

    def render(self, **_: object) -> tuple[Message, ...]:
        return (Message("user", "the same?"),)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("yes", True), ("No.", False), ("They are the same.", True), ("They are not the same.", False), ("They aren't different.", True),
        ("yes, no doubt", True), ("Yes, there is no difference.", True), ("no difference", True), ("No, these are not the same.", False),
        ("Answer: yes\n\nThe first has no unit.", True), ("Answer: no. The second says the same only in part.", False),
        ("It is hard to say whether they are the same.", False), ("I cannot say yes", False), ("Both are the same, not different.", True),
        ("No doubt: yes", True), ("Yes, but then: no", False),
    ],
)  # fmt: skip
def test_a_judge_s_reply_says_what_it_says(text: str, same: bool) -> None:
    judge = judged_by(Says(text), Plain())  # type: ignore[arg-type]
    assert judge([("a", "b")]) == [same]
