"""Requests that no text can meet, and requests like them that one can."""

from __future__ import annotations

import pytest

from nfilter import Message, Sample
from nfilter_entp.purging.rules import Rules, broken_rules
from nfilter_entp.purging.texts import Text

RULES = Rules.model_validate(["missing_input", "media"])
SAID = "Here it is, as far as one can say so in a few words."


def found(prompt: str, response: str = SAID, before: tuple[Message, ...] = ()) -> dict[str, str]:
    messages = (*before, Message("user", prompt), Message("assistant", response))
    return broken_rules(Text.of(Sample("a", messages)), RULES)


MISSING = [
    "Summarize the following article.",
    "Summarize the given text in 50 words",
    "Rewrite the following sentence in the passive voice.\n\n<noinput>",
    "Translate this sentence into French",
    "Classify the following into fruits and vegetables",
    "Find the grammatical errors in this paragraph and correct them.",
    "What is the main idea of the passage below?",
    "Read the following story and answer the question",
    "Edit the given paragraph to remove redundancy.\n\nNo input",
    "Sort the list in ascending order.",
    "Analyze the following poem",
    "Create a sentence using the following words",
    "Identify the tone of the given text.",
    "Proofread the following email and correct any mistakes\n\n[Email]",
    "Summarize this article\n\nhttps://www.example.com/news/2020/flood.html",
    "Summarize this article: https://www.example.com/news/2020/flood.html",
    "Describe the content of this report\n\nreport.pdf",
    "Rewrite the article\n\nText of the article",
    "Calculate the total of the following numbers",
    "Combine the two given sentences into one",
    "Replace the words in the following sentence with synonyms",
    "Select the best option from the following list.",
    "Count the words in the given paragraph",
    "Rank the following items by weight",
    "Given this paragraph about Rome, who built the bridge and when?",
    "From the passage provided, extract the names of the three rivers.",
    "Based on this text, list the members of the band, separated by commas.",
]

MEDIA = [
    "Generate an image of a cat",
    "Draw a picture of a house with a garden",
    "Create a video showing how to cook rice",
    "Take a picture of your desk",
    "Describe the image",
    "Describe the given picture.",
    "Identify the objects in this photo\n\n[image of a street]",
    "Caption the following image.",
    "What do you see in the attached picture?",
    "Transcribe the audio clip.",
    "Listen to the following recording and write down what is said",
    "Edit the following image to make it brighter\n\nphoto.jpg",
    "Play the song Yesterday",
    "Find me a picture of the Eiffel Tower",
    "Visit this website and tell me what it sells",
    "Search the web for the best phones",
    "Provide a link to a tutorial on knitting",
    "Give me a URL of a site about bees",
    "Create an animation of a bouncing ball",
    "Design an audio clip for an advert",
    "Convert the following image to black and white",
    "Detect the emotion of the person in the photo.",
    "Estimate the age of the man in this picture.",
    "Tell me who is in the photo",
    "Given an image, say what it shows",
    "Describe this picture in one sentence",
    "Create a description for this photo",
    "Write a story using the picture as a prompt",
    "Name the given object\n\n(image of a cup)",
    "Draw a cat",
    "Sketch a small house with a garden",
    "Render a 3D model of a chair",
]

MET = [
    "Draw a comparison of cats and dogs",
    "Draw a line graph of sales",
    "Draw a family tree of the kings",
    "Draw an analogy between the heart and a pump",
    "Draw a meaningful conclusion from the story: all was lost",
    "Paint a picture of autumn in three sentences",
    "Given an image classification task, name two methods",
    "Describe how to take a photo",
    "Describe the structure of an atom.",
    "Give three tips for staying healthy.",
    "Write a function that reverses the given string",
    "Generate a list of ten items a person might need for a camping trip",
    "Describe the following concept: recursion",
    'Rewrite the sentence "I like cats" in the past tense',
    "Summarize the plot of Hamlet",
    "Explain the code of Hammurabi",
    "Describe the picture of Dorian Gray",
    "Analyze the poem The Raven",
    "Classify the following items as living or non-living: rock, tree, bird",
    "Order the following words alphabetically apple, banana, cat",
    "Translate the sentence How are you into Spanish",
    "Combine the following sentences She is nice and She is tall",
    "Convert the following number 12 to binary",
    "What is the following number in the series 2, 4, 8?",
    "Create a story using the words cat, dog and tree",
    "Identify the sentence type: I went home.",
    "Given a list of numbers, find the largest",
    "Write a program to sort the given list in ascending order",
    "Design a database schema for a shop",
    "Create an infographic about recycling",
    "Design a logo for a bakery",
    "Draw a conclusion from the data: sales fell in May",
    "Draw a flowchart of making tea",
    "Paint a vivid picture of autumn in words",
    "Describe a painting by Van Gogh",
    "Describe a picture that would go with a poem about love",
    "Generate a caption for an image of a dog on a beach",
    "Write a caption for the photo of a cat in a box",
    "Create a script for a video about bees",
    "Make a list of video ideas",
    "Explain how image classification works",
    "Find the link between smoking and cancer",
    "Search for synonyms of happy",
    "What are the benefits of watching videos in class?",
    "Give an example of a website",
    "Create a website for a bakery",
    "List the advantages of visiting a museum",
    "Watch your spending: give three tips",
    "Open a bank account: what do I need?",
    "Describe the image of women in Victorian novels",
    "Describe the sound of rain",
    "Compare the following two animals: cat and dog",
    "Tell me the following day after Monday",
    "Who wrote the following book: Emma?",
    "Explain the following proverb: a stitch in time saves nine",
    "Complete the following sentence: The sun is",
    "Rewrite this sentence so that it is shorter: It is raining heavily outside right now.",
    "Suggest a title for an article about bees",
    "Generate a headline for a news story about the flood",
    "Explain this quote by Einstein",
    "Describe the story of David and Goliath",
    "Describe the role of the article in a sentence",
    "How does the data help to predict the weather?",
    "Describe the given name of the first president",
    "Come up with a question that fits this answer: Paris",
    "Read a book and take notes",
    "Create a table of the following data: 1, 2, 3",
    "Analyze the data of the census and tell the trend",
    "Convert the text to lower case: HELLO",
    "Write an article on the following topic: trees",
    "Name the following year after 1999",
    "Make a poem with the following rhyme scheme ABAB",
    "What do the words above the door of hell say?",
    "Name a game that is like the given game, chess",
    "Describe the following term in physics: inertia",
    "Reverse the order of the words in the sentence I am Sam",
    "Provide an example of a link in a food chain",
    "Give me a link in the chain of command",
    "Describe the items in a first aid kit",
    "Find an error in the sentence He go to school",
    "Answer the following question. How many legs has a spider?",
    "You have been given the following scenario. A man walks into a bank with a gun. What would you do?",
    "Show me a good example of photosynthesis",
    "Generate an audio description of a park scene",
    "Take this number and double it: 8",
    "Generate a 3-sentence description of an animated movie",
    "Create a sample image description for a museum",
    "Suggest a photo idea for a profile",
    "Convert the sentence to passive voice: He ate the apple.",
    "Predict the outcome of the following match-up: cat vs dog",
    "Evaluate this expression: 2 + 3",
    "Add the following numbers: 1 and 2",
    "Classify this text as positive: I love it",
    "List the main points below the surface of the sea",
    "Identify the items in this list that are fruits: apple, car",
    "What word does the following string of letters spell when reversed? tac",
    "Use the given adjective to describe a person: tall",
    "How would you improve this website design process?",
    "Construct a sentence using the given words\n\ntree, house",
    "Describe the image\n\nA man with a hat stands on the beach and looks at the sea.",
    "Summarize the article\n\nThe river rose last night, and the town lay under water.",
    "Classify the website\n\nwww.bbc.com",
    "Extract the domain from the URL\n\nhttps://www.example.com/a/b.html",
    "Write a sentence about the video\n\nA dog chases a ball through the park and falls into the pond",
    "Edit the sentence\n\nhe go home",
    "Find the area of the following figure\n\nsquare with side 4",
    "Translate the word\n\nHello",
    "Which of the following statements is a scientific hypothesis?",
    "Which of the following is an example of a physical change?",
    "Write a function in Python that reads the given text file",
    "How do I edit a photo?",
    "How many words are in this sentence?",
    "Cats are most closely related to which of the following animals?",
]


@pytest.mark.parametrize("prompt", MISSING)
def test_what_a_request_speaks_of_is_not_there(prompt: str) -> None:
    assert set(found(prompt)) == {"missing_input"}


@pytest.mark.parametrize("prompt", MEDIA)
def test_what_a_text_cannot_hold_is_asked(prompt: str) -> None:
    assert "media" in found(prompt)


@pytest.mark.parametrize("prompt", MET)
def test_requests_that_can_be_met(prompt: str) -> None:
    assert found(prompt) == {}


def test_reasons_show_what_is_missing() -> None:
    assert found("Summarize the following article.") == {
        "missing_input": "'the following article' is not in the request"
    }
    page = "https://example.org/news/flood"
    assert found(f"Summarize the article\n\n{page}") == {
        "missing_input": f"the content of '{page}' is not in the request"
    }
    assert found("Edit the letter\n\n[Text of the letter]") == {
        "missing_input": "'[Text of the letter]' is a placeholder for the input"
    }
    assert found("Draw a picture of a cat") == {
        "media": "the request asks for media, which a text cannot provide: 'draw a picture'"
    }


def test_a_mark_for_no_input_is_no_input() -> None:
    for mark in ("<noinput>", "No input", "N/A", "(no input required)"):
        assert set(found(f"Translate the following sentence\n\n{mark}")) == {"missing_input"}
        assert found(f"Name a tree\n\n{mark}") == {}


def test_an_earlier_turn_may_hold_it() -> None:
    before = (Message("user", "The sea is blue."), Message("assistant", "So it is."))
    assert found("Summarize the following article.", before=before) == {}
    system = (Message("system", "You are kind."),)
    assert set(found("Summarize the following article.", before=system)) == {"missing_input"}


def test_a_drawing_in_signs_and_a_program_are_answers() -> None:
    assert set(found("Draw a picture of a cat")) == {"media"}
    assert found("Draw a picture of a cat", " /\\_/\\\n( o.o )\n > ^ <") == {}
    assert found("Draw a picture of a house", "```svg\n<svg></svg>\n```") == {}
    assert found("Draw a picture of a cat with matplotlib") == {}


def test_a_long_instruction_may_hold_what_it_speaks_of() -> None:
    story = "It was long ago and far away that a king had a ring of gold. " * 8
    assert found(f"{story}Summarize the given story.") == {}
