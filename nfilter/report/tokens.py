"""What training saw of one row, token by token: which are in the loss, which are not, and by whose decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfilter.report import reading, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from nfilter.api.types import JSON, TokenSample
    from nfilter.store.run_directory import RunDirectory

_COLOURS = ("red", "magenta", "yellow", "cyan", "blue", "bright_black")


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a response: the text that it stands for ("" where another token stands for it already).

    ``by`` names the stages that took it out of the loss; ``scores`` leaves out those that are undefined.
    """

    position: int
    id: int
    piece: str
    weight: float
    by: tuple[str, ...]
    scores: Mapping[str, float]


def tokens_of(run: RunDirectory, sample_id: str) -> list[Token] | None:
    """The response tokens of a row in order; None where the run encoded no such row."""
    from nfilter.store.tokens import read_one

    folder = reading.tokens(run)
    found = read_one(folder, sample_id) if folder is not None else None
    if found is None:
        return None
    return response_of(*found)


def cut_off(run: RunDirectory, sample_id: str) -> int:
    """How many tokens of a row's responses max_length left out."""
    from nfilter.store.tokens import read_one

    folder = reading.tokens(run)
    found = read_one(folder, sample_id) if folder is not None else None
    return int(found[0].cut.sum()) if found is not None else 0


def response_of(sample: TokenSample, reasons: Sequence[str]) -> list[Token]:
    """The response tokens of a sample in order; ``reasons`` names the bits."""
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
    """How many of the response's tokens are in the loss, and how many each stage took out."""
    masked: dict[str, JSON] = {}
    for name in dict.fromkeys(name for token in tokens for name in token.by):
        masked[name] = sum(name in token.by for token in tokens)
    return {
        "response": len(tokens),
        "in_loss": sum(token.weight != 0 for token in tokens),
        "masked_by": masked,
    }


def as_json(tokens: Iterable[Token]) -> list[JSON]:
    """The tokens as JSON values."""
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
    """Print the response in colours, a colour a stage that took tokens out, then every token with its scores."""
    from rich.table import Table

    names = list(dict.fromkeys(name for token in tokens for name in token.by))
    colours = dict(zip(names, _COLOURS, strict=False))
    console.print()
    text.heading(console, "the response as training sees it")
    console.print(_coloured(tokens, colours))
    console.print(_legend(tokens, colours))
    console.print()
    scores = list(dict.fromkeys(name for token in tokens for name in token.scores))
    table = Table(box=None, pad_edge=False)
    for head in ("token", "taken out by", "weight", *scores):
        left = head in ("token", "taken out by")
        # Names wrap, numbers and what they are about do not.
        table.add_column(
            head,
            justify="left" if left else "right",
            no_wrap=left,
            min_width=12 if left else 5,
            overflow="fold",
        )
    for token in tokens:
        # Adding 0 makes 0 of what rounds to -0.
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

    found: Any = summary(tokens)
    out = Text(f"{found['in_loss']} of {found['response']} tokens are in the loss")
    for name, count in found["masked_by"].items():
        out.append("; ")
        out.append(name, style=f"strike {colours.get(name, _COLOURS[-1])}")
        out.append(f" took out {count}")
    return out


def _pieces(whole: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The characters that each token adds: a character of several tokens belongs to the first of them."""
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
