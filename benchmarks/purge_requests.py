"""Unanswerable requests and non-responses in several wordings: one half for choosing rules, one for reporting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.purge_junk import Make, answered
from nfilter import Message, Sample

_THINGS = (
    "a lighthouse",
    "two foxes",
    "the old market",
    "a red bicycle",
    "a snowy street",
    "my aunt's garden",
)
_TEXTS = ("paragraph", "passage", "article", "text", "email", "sentence", "poem", "list")
# Even places are for choosing, odd ones for the report.
NO_ANSWER = (
    "N/A (the model has no access to {thing})", "N/A - a text model has no way to do so",
    "No output because there is nothing to work on.", "No output, as {thing} would be needed for it.",
    "Sorry, I'm an AI and have never seen {thing}, so I can't say.", "I'm sorry, I am only a language model and do not know {thing}.",
    "This is not something a GPT model can do.", "Showing {thing} is beyond what is possible for an AI model.",
    "I am unable to view {thing}.", "Unfortunately, I cannot show {thing}.",
    "Please provide the {text} first.", "Could you please share the {text} with me?",
    "No {text} was provided.", "There is no {text} given to work with.",
    "The instruction cannot be followed by text alone.", "This task is not possible without {thing}.",
    "<nooutput>", "noinput",
    "Output: N/A", "Response: not applicable",
    "[Image of {thing}]", "(A photo of {thing})",
    "The output cannot be displayed here.", "Output not available",
)  # fmt: skip
MISSING_INPUT = (
    "Summarize the following {text}.", "Give a short summary of the {text} below.",
    "Rewrite the given {text} in a formal tone", "Turn the {text} provided into plain language.",
    "Find all spelling mistakes in this {text}.", "Mark every adjective in the following {text}.",
    "Translate this {text} into Spanish.\n\n<noinput>", "Translate the given {text} to German\n\nNo input",
    "What is the main point of the {text} below?", "Who is speaking in the given {text}?",
    "Based on this passage, tell me who built the bridge.", "From the article provided, list all names.",
    "Shorten the {text}\n\n[{text} goes here]", "Evaluate this {text}\n\n<{text}>",
    "Summarize the article\n\nhttps://www.example.com/{n}/story", "What are the key points of this page? https://news.example.org/{n}/item.html",
    "Sort the following numbers from small to large.", "Group the items below by colour.",
    "Complete the following sentence", "Answer the questions below.",
    "Describe what happens in the story\n\nstory.docx", "Review the attached document",
)  # fmt: skip
MEDIA = (
    "Draw a picture of {thing}.", "Paint a small painting of {thing}",
    "Generate an image that shows {thing}", "Create a photo of {thing}",
    "Describe the given image.", "What can be seen in this picture?",
    "Count the people in the photo.", "Name the colours in the attached photo.",
    "Transcribe the following audio recording.", "Listen to this audio clip and write down the words.",
    "Make a video about {thing}.", "Produce a short animation of {thing}",
    "Give me a link to a page about {thing}", "Send me the URL of a shop for {thing}",
    "Visit this website and say what it is about.", "Open the following link and read it out",
    "Crop the photo\n\nphoto.png", "Write a caption for this image\n\n[image]",
    "Find an image of {thing}", "Show me a picture of {thing}",
)  # fmt: skip


def wording(choices: Sequence[str], half: str, rng: random.Random) -> str:
    """Return one wording of a half, with its placeholders filled."""
    chosen = rng.choice(choices[half == "report" :: 2])
    return chosen.format(thing=rng.choice(_THINGS), text=rng.choice(_TEXTS), n=rng.randint(2, 99))


def kinds(half: str) -> dict[str, Make]:
    """Return non-responses to any request, and unanswerable requests with a response of another row."""
    return {
        "no_answer": lambda row, rng: answered(row, wording(NO_ANSWER, half, rng), row.id),
        "missing_input": lambda row, rng: _asked(row, wording(MISSING_INPUT, half, rng)),
        "media": lambda row, rng: _asked(row, wording(MEDIA, half, rng)),
    }


def _asked(sample: Sample, prompt: str) -> Sample:
    return replace(sample, messages=(Message("user", prompt), *sample.messages[-1:]))


def restyled(sample: Sample, rng: random.Random) -> Sample:
    """Return the row in careful wording: the content is unchanged, and it ends without a full stop."""
    said = sample.response.rstrip()
    bare = said.rstrip(".")
    question = sample.query.split("\n\n")[0].strip()
    lines = [line for line in said.replace("? ", ".\n").replace(". ", ".\n").splitlines() if line]
    forms = (
        f"{question}\n\n{said}",
        "\n".join(f"- {line.strip().rstrip('.')}" for line in lines),
        "\n".join(f"{n}. **{line.strip().rstrip('.')}**" for n, line in enumerate(lines, start=1)),
        f"{said}\n\nSource: https://www.example.org/{rng.randint(2, 99)}/",
        f"Dear [insert name here],\n\n{said}\n\nBest regards,\n[Your name here]" if "letter" in question.casefold() else f"{said}\n\nBest regards,\nAnna",
        f"{bare} :)",
        f"| no. | text |\n|---|---|\n| 1 | {' '.join(bare.split())} |",
        f"{said}\n\nFor example:\n\n```\n{bare}\n```",
        f'As for "{question}": {bare}',
    )  # fmt: skip
    return answered(sample, rng.choice(forms), sample.id)
