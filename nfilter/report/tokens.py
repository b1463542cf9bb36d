"""The response tokens of one row: their weights, scores, and the stages that masked them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfilter.api.types import JSON, TokenSample
from nfilter.report import reading, text
from nfilter.store.run_directory import RunDirectory
from nfilter.store.tokens import read_one

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLOURS = ("red", "magenta", "yellow", "cyan", "blue", "bright_black")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a response and its text, which is empty if an earlier token covers the same characters.

    ``by`` names the stages that masked it; undefined ``scores`` are left out.
    """

    position: int
    id: int
    piece: str
    weight: float
    by: tuple[str, ...]
    scores: Mapping[str, float]


def tokens_of(run: RunDirectory, sample_id: str) -> list[Token] | None:
    """Return the response tokens of a row in order; None if the run did not encode the row."""
    folder = reading.tokens(run)
    found = read_one(folder, sample_id) if folder is not None else None
    if found is None:
        return None
    return response_of(*found)


def cut_off(run: RunDirectory, sample_id: str) -> int:
    """Return the number of response tokens of a row that were truncated at max_length."""
    folder = reading.tokens(run)
    found = read_one(folder, sample_id) if folder is not None else None
    return int(found[0].cut.sum()) if found is not None else 0


def response_of(sample: TokenSample, reasons: Sequence[str]) -> list[Token]:
    """Return the response tokens of a sample in order; ``reasons`` are the names of the reason bits."""
    pieces = _pieces(sample.text, sample.spans.tolist())
    return [
        Token(
            position=t,
            id=int(sample.ids[t]),
            piece=pieces[t],
            weight=float(sample.weights[t]),
            by=_named(int(sample.reasons[t]), reasons),
            scores=_scores(sample, t),
        )
        for t in sample.response.nonzero()[0].tolist()
    ]


def summary(tokens: Sequence[Token]) -> dict[str, JSON]:
    """Return the numbers of response tokens, of those in the loss, and of those that each stage masked."""
    masked: dict[str, JSON] = {}
    for name in dict.fromkeys(name for token in tokens for name in token.by):
        masked[name] = sum(name in token.by for token in tokens)
    return {
        "response": len(tokens),
        "in_loss": sum(token.weight != 0 for token in tokens),
        "masked_by": masked,
    }


def as_json(tokens: Iterable[Token]) -> list[JSON]:
    """Return the tokens as JSON values."""
    return [
        {
            "position": token.position,
            "id": token.id,
            "piece": token.piece,
            "weight": token.weight,
            "masked_by": list(token.by),
            "scores": dict(token.scores),
        }
        for token in tokens
    ]


def render(tokens: Sequence[Token], console: Console) -> None:
    """Print the response with masked tokens in the colour of the stage that masked them, then a table of all tokens."""
    from rich.table import Table

    names = list(dict.fromkeys(name for token in tokens for name in token.by))
    colours = dict(zip(names, _COLOURS, strict=False))
    console.print()
    text.heading(console, "the response in training")
    console.print(_coloured(tokens, colours))
    console.print(_legend(tokens, colours))
    console.print()
    scores = list(dict.fromkeys(name for token in tokens for name in token.scores))
    table = Table(box=None, pad_edge=False)
    for head in ("token", "masked by", "weight", *scores):
        left = head in ("token", "masked by")
        # Only the names of scores wrap.
        table.add_column(
            head,
            justify="left" if left else "right",
            no_wrap=left,
            min_width=12 if left else 5,
            overflow="fold",
        )
    for token in tokens:
        # Adding 0 converts -0 to 0.
        cells = [
            f"{round(token.scores[name], 2) + 0:.2f}" if name in token.scores else ""
            for name in scores
        ]
        shown = repr(text.plain(token.piece)) if token.piece else f"#{token.id}"
        table.add_row(
            _styled(shown, token, colours), ", ".join(token.by), f"{token.weight:g}", *cells
        )
    console.print(table)


def _coloured(tokens: Sequence[Token], colours: Mapping[str, str]) -> Text:
    from rich.text import Text

    out = Text()
    for token in tokens:
        out.append_text(_styled(text.plain(token.piece), token, colours))
    return out


def _styled(shown: str, token: Token, colours: Mapping[str, str]) -> Text:
    from rich.text import Text

    if not token.by:
        return Text(shown, style="" if token.weight else "dim")
    return Text(shown, style=f"strike {colours.get(token.by[0], _COLOURS[-1])}")


def _legend(tokens: Sequence[Token], colours: Mapping[str, str]) -> Text:
    from rich.text import Text

    counts: Any = summary(tokens)
    out = Text(f"{counts['in_loss']} of {counts['response']} tokens are in the loss")
    for name, count in counts["masked_by"].items():
        out.append("; ")
        out.append(name, style=f"strike {colours.get(name, _COLOURS[-1])}")
        out.append(f" masked {count}")
    return out


def _pieces(whole: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The characters of each token; a character that several tokens cover belongs to the first."""
    pieces, done = [], 0
    for start, end in spans:
        pieces.append(whole[max(start, done) : end])
        done = max(done, end)
    return pieces


def _named(bits: int, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(names) if bits >> bit & 1)


def _scores(sample: TokenSample, t: int) -> dict[str, float]:
    values = {name: float(scores[t]) for name, scores in sample.scores.items()}
    return {name: value for name, value in values.items() if value == value}  # noqa: PLR0124 (NaN is undefined)
