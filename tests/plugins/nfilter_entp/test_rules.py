"""Each rule on rows that it is for and on rows that it must leave alone."""

from __future__ import annotations

import time

import pytest

from nfilter import Message, Sample
from nfilter_entp.purging.rules import DEFAULT, ROW_RULES, Rules, broken_rules
from nfilter_entp.purging.texts import Text, characters_of, plain, scripts_of, words_of

ALL = Rules.model_validate(DEFAULT)

CHINESE = "光合作用是植物利用阳光把二氧化碳和水变成糖和氧气的过程，主要在叶绿体中进行。"
ARABIC = "التمثيل الضوئي هو العملية التي تستخدم بها النباتات ضوء الشمس لصنع السكر من الماء وثاني أكسيد الكربون."
HINDI = "प्रकाश संश्लेषण वह प्रक्रिया है जिसमें पौधे सूर्य के प्रकाश से अपना भोजन बनाते हैं।"
CODE = "```python\ndef add(a, b):\n    return a + b\n```"
POEM = (
    "Row, row, row your boat,\nGently down the stream,\nMerrily, merrily, merrily, merrily,\nLife is but a dream.\n\n"
    "Row, row, row your boat,\nGently down the brook,\nIf you catch a little fish,\nPlease let it off the hook.\n\n"
    "Row, row, row your boat,\nGently to the shore,\nIf you see a lion there,\nDon't forget to roar."
)


def found(prompt: str, response: str) -> dict[str, str]:
    messages = (Message("user", prompt), Message("assistant", response))
    return broken_rules(Text.of(Sample("a", messages)), ALL)


RIGHT = {
    "a number": ("What is 6 times 7?", "42"),
    "a city": ("What is the capital of France?", "Paris"),
    "a letter": ("Which option is right? A, B or C", "B"),
    "yes": ("Are lilies bad for cats?", "Yes"),
    "nothing is an answer": ("Which of these are prime: 4, 6, 8?", "None"),
    "a sign": ("What is the sign for infinity?", "∞"),
    "an emoji": ("Write a story in one emoji", "🎉"),
    "an empty list": ("What does list() return in Python?", "[]"),
    "negative": ("What is 2 - 7?", "-5"),
    "gsm8k": (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many did she sell?",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
    ),
    "no full stop": (
        "Think of some ways to relax",
        "You could read a good book, take a long walk in the park, listen to calm music or call an old friend for a chat",
    ),
    "a list": (
        "Name mountains",
        "1. Mount Everest, in Nepal and China\n2. K2, in Pakistan and China\n3. Lhotse, in Nepal and China\n4. Makalu",
    ),
    "classified": (
        "Say which of these is a cheese and which is a bread: Gouda, Brie, Ciabatta, Pita, Cheddar, Focaccia, Manchego, Romano",
        "\n".join(f"{n} is a type of {k}." for n, k in (
            ("Gouda", "cheese"), ("Brie", "cheese"), ("Ciabatta", "bread"), ("Pita", "bread"), ("Cheddar", "cheese"),
            ("Focaccia", "bread"), ("Manchego", "cheese"), ("Romano", "cheese"), ("Baguette", "bread"), ("Feta", "cheese"),
        )),
    ),
    "code": ("Write a function that adds two numbers", CODE),
    "code without a fence": (
        "Write a loop in C over ten numbers",
        '#include <stdio.h>\nint main(void) {\n  for (int i = 0; i < 10; i++) {\n    printf("%d\\n", i);\n  }\n  return 0;\n}',
    ),
    "half of a class": ("Show the head of a loop in Python over the items of a list that you have", "for item in items_of_the_list_that_we_have_here_in_this_place:"),
    "maths": (
        "Solve x^2 - 5x + 6 = 0",
        "$$x = \\frac{5 \\pm \\sqrt{25 - 24}}{2}$$ so $x_1 = 3$ and $x_2 = 2$, that is $(x-2)(x-3) = 0$",
    ),
    "a matrix": ("Give me the 5 by 5 zero matrix", "\n".join(["0 0 0 0 0"] * 5)),
    "a table": ("Make a table of squares", "| n | n^2 |\n|---|---|\n" + "\n".join(f"| {n} | {n * n} |" for n in range(9))),
    "a poem": ("Write the song about the boat", POEM),
    "Chinese": ("什么是光合作用？", CHINESE),
    "Arabic": ("ما هو التمثيل الضوئي؟", ARABIC),
    "Hindi": ("प्रकाश संश्लेषण क्या है?", HINDI),
    "translated": ("Translate to Chinese: photosynthesis is how plants make sugar from light.", CHINESE),
    "asked for by name": ("Explain photosynthesis in Arabic please.", ARABIC),
    "code in a Chinese row": ("用Python写一个把两个数相加的函数", CODE),
    "a name in a Chinese row": ("谁是第一个登上月球的人？", "Neil Armstrong"),
    "html that was asked for": ("Write an HTML page with a heading", "<html><body><h1>Hi</h1><p>Text</p></body></html>"),
    "a quoted passage": (
        "Who designed the tower?\n\nThe Eiffel Tower was designed by the company of Gustave Eiffel and was built from 1887 to 1889.",
        "The Eiffel Tower was designed by the company of Gustave Eiffel",
    ),
    "about assistants": ("Why do chatbots begin with 'As an AI language model'?", "They say 'as an AI language model' as they were trained to."),
    "a link": ("Where is the form?", "You find the form [over here](https://example.org) on the page."),
    "an interval": ("Where is the square root of two, three, five and seven on the number line of all real numbers?", "They are all in the half-open interval of real numbers from one to three, written [1, 3)"),
    "proofread": (
        "Correct the spelling: I has went to the big market yesterday evening with all my sisters",
        "I had gone to the big market yesterday evening with all my sisters",
    ),
    "the question and its answer": ("What is the longest river in the whole world?", "What is the longest river in the whole world? It is the Nile."),
    "the question and one of its words": ("Which of the two numbers is the larger one, 5 or 7?", "Which of the two numbers is the larger one, 5 or 7? 7."),
    "all of a long passage": (
        "Who built the bridge?\n\nThe bridge was built by Anna Berg in the old town, on the left bank of the river, of stone from the hills to the north of it, and of wood from the forest.",
        "The bridge was built by Anna Berg in the old town, on the left bank of the river, of stone from the hills to the north of it, and of wood from the forest.",
    ),
    "the question and words of the passage": (
        "Who built the bridge in the old town?\n\nThe bridge was built by Anna Berg.", "Who built the bridge in the old town? Anna Berg",
    ),
    "an opening of the prompt's words": (
        "Describe the main reasons for the fall of the Roman Empire",
        "The main reasons for the fall of the Roman Empire were weak rulers, wars at its borders, and taxes that few could pay.",
    ),
    "a heading of the prompt's words": (
        "Top five tips for a better sleep at night", "Top five tips for a better sleep at night:\n\n- Fixed hours\n- A dark room\n- No coffee\n- A walk\n- A cool room",
    ),
    "a German word": ("Was fühlte er?", "Angstschweiß"),
    "emoji": ("Say it with emoji: party", "🎉🎉🎉🥳🥳🎈🎈🎊🎊🎂🎂🍾"),
    "code in one line": ("How do I list all rows?", "```SELECT * FROM t;```\nThis lists every row of the table."),
    "a method": ("What is regression?", "Linear regression is widely regarded as a machine learning method, and it predicts a number from others."),
    "a program": ("What is AlphaGo?", "AlphaGo became famous as an AI program that beat Lee Sedol at Go in 2016."),
    "undefined": ("What is the tangent of 90 degrees?", "Undefined."),
    "null": ("What does the SQL literal for a missing value look like?", "NULL"),
    "nan": ("What does float('inf') - float('inf') give in Python?", "nan"),
    "a status": ("What does HTTP 502 mean?", "Bad Gateway"),
    "another status": ("What is the reason phrase of status 429?", "Too Many Requests"),
    "a determinant": ("Give the determinant of a 2x2 matrix.", "It is $\\det{{A}} = ad - bc$, one diagonal less the other."),
    "a fraction": ("Give me a fraction in TeX", "\\frac{{num}}{{den}}"),
    "a set of sets": ("What is the power set of the set with one set in it?", "It is {{}, {{1,2}}}, and {{A}} by name"),
    "an ampersand": ("Where does Jenny work?", "She works at AT&amp;T, next to the R&amp;B club."),
    "code in answer to Chinese": (
        "写一个函数计算斐波那契数列的第十个数字，并说明如何调用这个函数来得到结果",
        "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\nprint(fib(10))",
    ),
    "a preposition": ("What is home?", "Home is the place that we were born in, that we grew up in, and the one that we live in"),
    "an auxiliary": ("When should one start to save for the years of old age?", "One should begin to save a part of the wage that is left in the end as soon as one can"),
    "never before": ("What is new in the design of the bridge?", "The arch of the bridge is made of wood and is of a kind that was never seen before"),
    "letters that were asked for": ("Give a DNA string of bases that are all alike", "A" * 52),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_right_answers_break_no_rule(case: str) -> None:
    assert found(*RIGHT[case]) == {}


LONG = "The river rises in the hills to the north and then runs for many miles through a wide and green valley"
WRONG = {
    "no_answer": [
        ("Name the place in the photo", "N/A (the model cannot see photos)"),
        ("Name the place in the photo", "Not applicable; there is nothing to look at."),
        ("Name the place in the photo", "No output because there is no photo."),
        ("Name the place in the photo", "No output is needed here"),
        ("Name the place in the photo", "Output: N/A"),
        ("Name the place in the photo", "Answer: <nooutput>"),
        ("Name the place in the photo", "Sorry, I'm an AI and have no eyes, so I do not know."),
        ("Name the place in the photo", "I’m sorry, but I cannot view photos."),
        ("Name the place in the photo", "I am unable to open the photo."),
        ("Name the place in the photo", "I do not have the ability to view photos."),
        ("Name the place in the photo", "This is not something a GPT model can do."),
        ("Name the place in the photo", "Looking at a photo is not possible for a language model."),
        ("Name the place in the photo", "GPT-3 cannot look at photos."),
        ("Name the place in the photo", "This type of instruction cannot be done by text alone."),
        ("Name the place in the photo", "The request is not applicable."),
        ("Name the place in the photo", "Unable to process the photo"),
        ("Name the place in the photo", "This cannot be answered: the model has no eyes, and a GPT model can't see."),
        ("Name the place in the photo", "Cannot be done"),
        ("Name the place in the photo", "I do not understand the question."),
        ("Name the place in the photo", "The output for this instruction is not available."),
        ("Name the place in the photo", "Output not required."),
        ("Name the place in the photo", "Invalid instruction"),
        ("Sum up the text", "Please provide the text."),
        ("Sum up the text", "Could you please share the full text with me?"),
        ("Sum up the text", "There is no text provided."),
        ("Sum up the text", "No text was given, so nothing can be said of it."),
        ("Sum up the text", "You have not provided a text."),
        ("Sum up the text", "The text is missing."),
        ("Draw a cat", "[Image of a cat on a mat]"),
        ("Draw a cat", "<picture>"),
    ],
    "empty": [
        ("Why?", ""), ("Why?", " \n\t"), ("Why?", "..."), ("Why?", "?!"), ("Why?", "***"), ("Why?", "\u200b"), ("Write a loop", "```\n```"), ("Write a loop", "```python"), ("Why?", "- - -"), ("为什么？", "。。。"), ("Why?", "@#%!!&&**//::??__--"),
    ],
    "length": [
        ("Explain how a clock works.", "Ok"),
        ("Please write a short story about a dog", "Sure."),
        ("Tell me of rivers", "river and stone " * 2000),
    ],
    "characters": [
        ("Why?", "The caf\ufffd is closed on Mondays."),
        ("Why?", "all is \x00\x01 well"),
        ("Why?", "The cafÃ© has crÃ¨me brÃ»lÃ©e"),
        ("Why?", "a@#%!!&&**//::??__--!!//::??"),
        ("Why?", "It is so.\\n\\nIt was so.\\nIt will be."),
        ("Why?", "It\\u2019s so, and she\\u2019s here."),
        ("Why?", "xkcdqrtz bvnmlkjh qwrtpsdf zxcvbnmk the ghjklqwr"),
    ],
    "script": [
        ("What is photosynthesis and where in a leaf does it happen?", CHINESE),
        ("What is photosynthesis and where in a leaf does it happen?", ARABIC),
        ("什么是光合作用？它在植物的哪个部分进行？", LONG + "."),
    ],
    "repeats": [
        ("Why?", "Because " + "the sea is blue and " * 12),
        ("Why?", "no " * 40),
        ("为什么？", "因为天空是蓝色的" * 12),
        ("Why?", "a" * 300),
        ("Why?", "ha" * 100),
        ("Why?", "The answer is that we do not know it at all.\n" * 8),
        ("Write a poem about the sea", "The sea is blue. " + "It goes on and on. " * 30),
        ("Write a loop in C", "int n = 0;\n" + "n = n + one;\n" * 40),
    ],
    "template": [
        ("What is new?", "As an AI language model, I cannot know."),
        ("What is new?", "As an AI, I do not have news."),
        ("What is new?", "As an AI assistant I do not have news."),
        ("What is new?", "As a large language model I do not have news."),
        ("What is new?", "Dear {{ first_name }}, all is well."),
        ("What is new?", "Fish &amp; chips &amp; peas"),
        ("What is new?", "Bad gateway"),
        ("What is new?", "<no input>"),
        ("What is new?", "No output"),
        ("What is new?", "Lorem ipsum dolor sit amet"),
        ("What is new?", "Dear [insert name here], all is well."),
        ("What is new?", "[Your answer here]"),
        ("What is new?", "<div class='x'><p>Much is new.</p></div>"),
        ("What is new?", "Fish&nbsp;and&nbsp;chips"),
        ("What is new?", "Much.<|im_end|>"),
        ("What is new?", "N/A"),
        ("What is new?", "Not applicable."),
        ("What is new?", "It is the spring.\n\n2. Instruction: Name a tree.\nInput: none"),
        ("What is new?", "As an AI language model, I cannot know. " + "We do not know it. " * 9),
        ("What is new?", "Error: rate limit exceeded"),
    ],
    "copied": [
        ("What is the longest river in the whole world?", "What is the longest river in the whole world?"),
        ("What is the longest river in the whole world?", "Sure! What is the longest river in the whole world? Here is the answer:"),
        ("What is the longest river in the whole world?", "What is the longest river in the whole world? What is the longest river in the whole world?"),
        ("What is the longest river in the world?\n\nThe Nile has 6650 km.", "Sure! What is the longest river in the world?\n\nThe Nile has 6650 km.\n\nAnswer:"),
        ("Classify each as fish or bird: cod, owl", "classify each as Fish or Bird: Cod, Owl."),
    ],
    "truncated": [
        ("Tell me of the river", LONG + " and"),
        ("Tell me of the river", f"It is old. It is long. {LONG} of"),
        ("Tell me of the river", LONG + ","),
        ("Tell me of the river", LONG + " (which is"),
        ("Name the parts of the river", "1. The source in the hills to the north\n2. The long valley with its fields\n3."),
        ("Write a loop", "Here it is:\n```python\nfor n in range(3):\n    print(n"),
        ("Tell me of the river", f"{LONG} and—"),
        ("Tell me of the river", f"{LONG} &"),
        ("Tell me of the river", f"{LONG}. Here is a list of the towns that lie on it:"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "prompt", "response"), [(rule, *row) for rule, rows in WRONG.items() for row in rows]
)
def test_junk_breaks_the_rule_that_is_for_it(rule: str, prompt: str, response: str) -> None:
    assert rule in found(prompt, response)


def test_every_rule_has_cases() -> None:
    requests = {"missing_input", "media"}  # test_requests.py has theirs
    assert set(WRONG) == set(ROW_RULES) - requests


def test_only_the_response_is_judged() -> None:
    messages = (
        Message("user", "Hi"), Message("assistant", "As an AI language model, I greet you."),
        Message("user", "What is the capital of France?"), Message("assistant", "Paris"),
    )  # fmt: skip
    assert broken_rules(Text.of(Sample("a", messages)), ALL) == {}


def test_thresholds_are_settings() -> None:
    text = Text.of(Sample("a", (Message("user", "Why?"), Message("assistant", "It is so"))))
    assert broken_rules(text, Rules.model_validate({"length": {"least": 4}})) == {
        "length": "3 words, fewer than 4"
    }
    assert broken_rules(text, Rules.model_validate({"length": {"least": 3}})) == {}


def test_words_and_characters_are_those_of_the_script() -> None:
    assert words_of(plain("Don't  STOP ﬁne")) == ["don't", "stop", "fine"]
    assert len(words_of("天空很蓝")) == 4
    assert words_of("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert characters_of("aé1 +.\x00\ufffd").content == 4
    seen = characters_of("aé1 +.\x00\ufffd")
    assert (seen.letters, seen.digits, seen.symbols, seen.punctuation) == (2, 1, 1, 1)
    assert (seen.controls, seen.replacements, seen.visible) == (1, 1, 7)
    assert scripts_of("abc где 天空 かな") == {"Latin": 3, "Cyrillic": 3, "Han and Kana": 4}


@pytest.mark.parametrize(
    "text",
    ["a", " ", "(", "<a ", "`", "```\n", "中", "[insert ", "as a ", ". A", "\u0301", "&#1", "1.\n", "error "],
    ids=repr,
)  # fmt: skip
def test_a_megabyte_of_one_thing_takes_no_time(text: str) -> None:
    long = text * (1_000_000 // len(text))
    found("x", "y")  # tables
    began = time.process_time()
    found("Explain this.", long)
    found(long, "An answer")
    assert time.process_time() - began < 6


ENDS = {
    "an address": "You find all of its towns, and how to get to each, on https://example.org/rivers/",
    "an address in a sentence": "It is old. It is long. The map of the whole river with all its towns is at www.example.org/maps/the",
    "an address of a person": "It is old. It is long. Whoever wants to know more of the river and its towns writes to river@example.org",
    "a bare address": "It is old. It is long. Whoever wants to know more of the river and its towns looks at rivers.example.org/towns/",
    "items without stops": "The river has three parts. They are:\n\n- The source in the hills to the north, which is cold and\n- The wide valley\n- The delta by the sea",
    "items with commas": "The river has these towns on it:\nOld Town by the Bridge,\nNew Town by the Bridge,\nLong Town by the Bridge,",
    "a list with a comma at every line's end": "towns of the river in their order from the north to the south,\nthe old town by the high bridge,\nthe new town by the low bridge,",
    "a table": "| town | on the river since |\n|---|---|\n| Old Town | the year 900 | \n| New Town | the year 1900 and",
    "a table of tabs": "town\tpeople\tsince when it is there\nOld Town\t12\tthe year nine hundred of the\nNew Town\t90\tnot known yet to the",
    "a signature": "Dear all,\n\nthe river is high. Please stay away from it until the rain is over.\n\nWith many thanks for your help,\nAnna of the River Board",
    "a closing": "Dear all,\n\nthe river is high. Please stay away from it until the rain is over.\n\nYours very truly,",
    "an emoticon": "The river is so high now that I can not come to see you, I am so sorry :(",
    "a sad face": "The river is so high now that I can not come to see you, I am so sorry :-/",
    "a face of signs": "The river is so high now that I can not come to see you, I am so sorry ;-(",
    "a heart": "The river is so beautiful now that you have to come here and see it <3",
    "an emoji": "The river is so beautiful now that you have to come here and see it 🎉",
    "a Chinese stop": "河流发源于北部的山区，然后流经宽阔的绿色山谷，最后流入大海。",
    "a Hindi stop": "नदी उत्तर की पहाड़ियों से निकलती है और फिर एक चौड़ी हरी घाटी से होकर कई मील तक बहती है।",
    "a Tibetan stop": "The word for the river in the language of the people who live in the hills to the north is གཙང་པོ།",
    "an Ethiopic stop": "The word for the river in the language of the people who live in the hills to the north is ወንዝ።",
    "a quotation": "The old poem says of the river and of the valley that it runs through: «it comes and goes and»",
    "a formula": "The speed of the river at the bridge, which is what the board asks us for, is v = \\left[0, \\frac{Q}{A}\\right) = 5 m/s²",
    "an interval": "The depth of the river at the bridge lies on all days of the year in the half-open interval of metres [1, 3)",
    "a pattern": "To find the names of all rivers in the text use the pattern that follows here in your editor: $\\(river|stream",
    "a program": "int depth(int day) {\n  int found = days[day] + 3;\n  return found;\n}\n\nint all = depth(1) +",
    "a language": "Of all the languages that were made for programs that have to be fast, the best known is C++",
    "a grade": "The water of the river at the bridge was tested by the board in May and it was given an A+",
    "a being": "It is old. It is new. All of the water that comes from the river in the hills is good for their well-being",
    "a particle": "It is old. It is new. These are things of the house at the river that have no plug and cannot be plugged in",
    "a verb of dying": "Without the river and its water all of the trees in the valley of the north would die",
    "initials": "They are: George W. Bush, John F. Kennedy, Franklin D. Roosevelt, Harry S. Truman, Dwight D. Eisenhower, Richard M. Nixon, Gerald R. Ford, James K. Polk, William H. Taft, Ulysses S. Grant, Joe Biden",
    "a list to fill in": "Write down the names of three towns that lie on the river in the valley:\n1.\n2.\n3.",
}


@pytest.mark.parametrize("case", ENDS)
def test_endings_that_are_no_cut(case: str) -> None:
    assert found("Tell me of the river, in any language", ENDS[case]) == {}


def test_a_forgotten_full_stop_is_a_sign_where_it_is_set() -> None:
    said = " ".join(f"It has town number {n}." for n in range(9)) + " And then it goes to a place"
    assert found("Tell me of the river", said) == {}
    text = Text.of(Sample("a", (Message("user", "Why?"), Message("assistant", said))))
    nine, ten = ({"truncated": {"sentences": n}} for n in (9, 10))
    assert set(broken_rules(text, Rules.model_validate(nine))) == {"truncated"}
    assert broken_rules(text, Rules.model_validate(ten)) == {}


def test_words_that_are_asked_about_end_an_answer() -> None:
    said = "The river and the valley are nouns of the sentence, and its only conjunction is the word and"
    assert found("Which conjunction does the sentence have?", said) == {}
    assert "truncated" in found("Tell me of it", said)


DOG = " / \\__\n(    @\\___\n /         O\n/   (_____/\n/_____/   U"
FORMS = {
    "Morse code": ("Write SOS in Morse code", "... --- ..."),
    "Morse code of words": ("How does one write 'hi you' by telegraph?", ".... .. / -.-- --- ..-"),
    "a sign that is asked": ("Which punctuation ends a question?", "?"),
    "an emoticon": ("Give me a happy emoticon", ":-)"),
    "stars": ("Draw a line of asterisks", "*****"),
    "a pattern": ("Write a regex for a phone number", r"^\(?\d{3}\)?[-.\s]?\d{3}[-.\s]?\d{4}$"),
    "a long pattern": ("Write a regular expression for a MAC address", "^" + ":".join(["[0-9A-Fa-f]{2}"] * 6) + "$"),
    "a pattern of letters": ("Match a word of forty vowels", "[aeiou]" * 8),
    "a drawing": ("Draw a dog in ASCII art", DOG),
    "a cipher": ("Encrypt 'the quick brown fox jumps' with a shift of one", "uif rvjdl cspxo gpy kvnqt xyzptwk bcdfghk lmnpqrt"),
    "a sequence": ("Write the first terms of the sequence", ", ".join(["one, two"] * 10)),
    "a binary string": ("Write 0 and 1 alternately as a string", "01" * 60),
    "a refrain": ("Write a song about rain", "Rain, rain, come again.\n" * 6 + "The sky is grey today, and so am I, my friend."),
    "a nursery rhyme": ("Write a nursery rhyme about a bus", "\n\n".join(f"The {a} on the bus go {b}, {b}, {b},\n{b}, {b}, {b},\n{b}, {b}, {b}.\nThe {a} on the bus go {b}, all through the town." for a, b in (("wheels", "round and round"), ("doors", "open and shut")))),
    "code without a fence": ("Make a menu", "\n".join(["menu.add(item);", "menu.add(line);"] * 9)),
    "a table": ("When is the shop open?", "| day | open | close |\n|---|---|---|\n" + "\n".join(f"| {d} | nine in the morning | five in the afternoon |" for d in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"))),
    "a word of letters": ("Create a 6 letter word", "Orange"),
    "a word that begins with a letter": ("Give me a word that starts with the letter B", "Banana"),
    "two-letter words": ("Generate a two-letter word", "At"),
    "a title": ("Write a title for an article about bees", "Busy Bees"),
    "a name": ("Create a name for a short story", "Dusk"),
    "a subject": ("Write a subject line for an email about lunch", "Lunch?"),
    "a describing word": ("Describe the mood of the text: The sun shone and all were merry", "Merry"),
    "an explanation in a word": ("Explain the colour of the sky in one word", "Scattering"),
    "a path": ("Where is the folder?", "It is in C:\\new\\temp\\notes, on the first disk"),
    "a formula": ("What is the angle?", "It is \\theta, with \\nu and \\tau as \\frac{1}{2}"),
    "an escape that is asked": ("How do I write a line feed in a Python string?", "With \\n, and two are \\n\\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_forms_that_are_asked_break_no_rule(case: str) -> None:
    assert found(*FORMS[case]) == {}


NOT_EMPTY = {
    "a label of the query": ("What was sold? Say N/A where nothing was", "N/A (nothing was sold)"),
    "what cannot be": ("Can one divide by zero?", "It is not possible to divide by zero, so there is no answer."),
    "a fact of models": ("What can language models not do?", "They have no senses: a language model cannot taste."),
    "a polite text": ("Rewrite it politely: I won't help you", "I am sorry, but I cannot help with this."),
    "a translation": ("Translate: No puedo ver la foto", "I cannot see the photo"),
    "a reply": ("Reply to a customer who has lost a parcel", "Please provide the number of your order, and we look into it."),
    "the request and its answer": ("Please give me a list of towns", "Please give me a list of towns: Ulm and Bonn"),
    "a line of a play": ("Write a dialogue of a blind man and a boy", "I cannot see the picture, my boy. Tell me what it shows."),
    "no in a sentence": ("Is there an answer?", "No answer is better than a wrong one."),
    "no and a reason": ("Is the sea red?", "No, because it takes its colour from the sky."),
    "a thing that cannot be": ("Can the ring be found?", "The ring cannot be found."),
    "what is not known": ("Who wrote it?", "The answer cannot be determined from what is known today."),
    "not enough": ("Does the text say when?", "There is not enough information in the text to tell."),
    "of itself": ("What's your favorite colour?", "As an AI language model, I do not have one."),
    "a phrase before an answer": (
        "Which team is the best?",
        ("As an AI language model, I do not have a view. Many people hold that the team from the north is best, since it has won the cup in each of "
        "the last three years, and its young players are fast and strong."),
    ),
    "a letter with a place for a name": (
        "Write a letter to a friend", "Dear [insert name here],\n\nthe river is high, and all of us are glad that you are not here but far away in the hills. See you soon!\n\n[Your name here]",
    ),
    "a remark in brackets": ("How does the play end?", "[The picture falls.] All leave."),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_EMPTY)
def test_answers_that_look_like_none(case: str) -> None:
    assert found(*NOT_EMPTY[case]) == {}


def test_a_turn_that_only_calls_a_tool_is_not_empty() -> None:
    from nfilter import Message, Sample, ToolCall
    from nfilter_entp.mixing.single_turn import unfit
    from nfilter_entp.purging.texts import Text

    call = ToolCall("weather", '{"city": "Rome"}')
    asked = Message("user", "what is the weather in Rome?")
    sample = Sample("a", (asked, Message("assistant", "", tool_calls=(call,))))
    assert Text.of(sample).response == 'weather({"city": "Rome"})'
    assert "tools" in (unfit(sample) or "")
    assert Text.of(Sample("b", (asked, Message("assistant", "")))).response == ""
