"""The model's own wrong answers, the hard kind of label noise: ``python -m nfilter_tiny.own_wrong``.

Each training question is answered directly, sampled at temperature 1, then 1.5, until an answer is wrong. If none is, the
plausible wrong answer with the lowest loss is taken. The draws are stored beside the weights, so that the noise is the same
everywhere.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nfilter import publishing
from nfilter_tiny.world import DOMAINS, FAMILIES, Problem, id_of, problems
from nfilter_tiny.world.words import COLORS, DAYS, MONTHS, PEOPLE, PLACES, THINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfilter_tiny.profile import Replier

PATH: Final = Path(__file__).resolve().parent / "model" / "own_wrong.json"
ROWS: Final = 1200  # per domain's training split
DRAWS: Final = 8  # per temperature
KEPT: Final = 4
_BATCH: Final = 512
TEMPERATURES: Final = (1.0, 1.5)
PLAUSIBLE: Final = 24  # wrong answers to choose the likeliest from
_SENTENCE: Final = re.compile(
    rf"(on ({'|'.join(DAYS.values())}) )?({'|'.join(PEOPLE)}) takes the ({'|'.join(THINGS)}) ({'|'.join(PLACES)})"
    rf"( on ({'|'.join(DAYS.values())}))?\."
)
_DATE: Final = re.compile(rf"\d{{1,2}} ({'|'.join(MONTHS)})")


def well_formed(problem: Problem, answer: str) -> bool:
    """Return whether an answer has the right form: a number, a color, a date, a name, a sentence."""
    if problem.family == "hue":
        return answer in COLORS
    if problem.family == "date":
        return _DATE.fullmatch(answer) is not None
    if problem.family == "hop":
        return answer in {str(part) for part in problem.parts}
    if problem.family == "say":
        return _SENTENCE.fullmatch(answer) is not None
    return re.fullmatch(r"0|[1-9]\d{0,4}", answer) is not None


@cache
def own_wrong(path: Path = PATH) -> Mapping[str, tuple[str, ...]]:
    """Map the id of a training row to its shipped wrong answers, with repeats, at most ``KEPT``."""
    stored: Mapping[str, Sequence[str]] = json.loads(path.read_text(encoding="utf-8"))["drawn"]
    return {key: tuple(answers) for key, answers in stored.items()}


def draw_own_wrong(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Draw wrong answers from the model in ``folder``; ``needed`` counts rows by the method that succeeded."""
    import torch

    from nfilter_tiny.formats import prompt
    from nfilter_tiny.profile import Replier, is_right

    reply = Replier(folder)
    torch.manual_seed(seed)
    questions = [p for domain in DOMAINS for p in problems("train", domain)[:ROWS]]
    drawn: dict[str, list[str]] = {}
    needed: dict[str, int] = {}
    for temperature in TEMPERATURES:
        remaining = [p for p in questions if id_of(p) not in drawn]
        repeated = [p for p in remaining for _ in range(DRAWS)]
        texts = reply(
            [prompt("answer", p.question) for p in repeated],
            max_new=32, batch=400, temperature=temperature,
        )  # fmt: skip
        for p, text in zip(repeated, texts, strict=True):
            answer = text.strip()
            if well_formed(p, answer) and not is_right(p, answer):
                answers = drawn.setdefault(id_of(p), [])
                if len(answers) < KEPT:
                    answers.append(answer)
        needed[str(temperature)] = len(remaining) - sum(id_of(p) not in drawn for p in remaining)
    remaining = [p for p in questions if id_of(p) not in drawn]
    drawn |= {
        id_of(p): [answer]
        for p, answer in zip(remaining, _likeliest(reply, remaining), strict=True)
    }
    needed["likeliest"] = len(remaining)
    return {"seed": seed, "needed": needed, "drawn": drawn}


def _likeliest(reply: Replier, questions: Sequence[Problem]) -> list[str]:
    """Return for each problem the plausible wrong answer with the lowest loss under the model."""
    import torch

    from nfilter_tiny.formats import prompt
    from nfilter_tiny.train import collate, encode_pairs

    rng = random.Random("nfilter-tiny own wrong 2")
    candidates = [
        sorted({FAMILIES[p.family].wrong(rng, p) for _ in range(PLAUSIBLE)}) for p in questions
    ]
    pairs = [
        (prompt("answer", p.question), answer)
        for p, answers in zip(questions, candidates, strict=True)
        for answer in answers
    ]
    encoded = encode_pairs(reply.tokenizer, pairs)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    losses = [0.0] * len(encoded)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        ids, labels, _ = collate([encoded[i] for i in part], int(reply.tokenizer.pad_token_id))
        with torch.inference_mode():
            logits = reply.model(input_ids=ids, use_cache=False).logits
        token_losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        )
        for i, loss in zip(part, token_losses.view(labels.shape).sum(1).tolist(), strict=True):
            losses[i] = loss
    loss_iter = iter(losses)
    return [min((next(loss_iter), answer) for answer in answers)[1] for answers in candidates]


def main() -> None:
    """Draw from the shipped weights and write the file beside them."""
    result = draw_own_wrong(PATH.parent)
    with publishing(PATH) as out:
        out.write(json.dumps(result, indent=0) + "\n")


if __name__ == "__main__":
    main()
