"""The tokens of a run on its page: totals, a histogram per score, the tokens masked most often, and example rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nfilter.api.ids import hash_of
from nfilter.api.types import TokenSample
from nfilter.report import reading, text
from nfilter.report.histogram import Chart, stacked
from nfilter.report.tokens import Token, response_of
from nfilter.store.run_directory import RunDirectory
from nfilter.store.tokens import read_tokens

if TYPE_CHECKING:
    import numpy.typing as npt

ROWS = 12
LONGEST = 400
TEXTS = 20
_BINS = 32
_TAIL = 0.001
_BLOCK = 4096  # samples that are processed together
_THINNED = 2**20
_PIECE = 80
_PROMPT = 300
_COLOURS = 6
_TINTS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a response: its text, its CSS class, and its tooltip."""

    shown: str
    style: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One response: its number of tokens, those in the loss, the prompt, and its first tokens."""

    id: str
    response: int
    in_loss: int
    prompt: str
    pieces: Sequence[Piece]
    left_out: int


@dataclass(frozen=True, slots=True)
class MaskedToken:
    """A token of the vocabulary: its count in responses, and how many of these are masked."""

    shown: str
    id: int
    response: int
    masked: int
    share: str


@dataclass(frozen=True, slots=True)
class TokenPage:
    """The tokens section of the page. ``reasons`` are stage, count and CSS class; a token masked by two stages counts for both."""

    response: int
    in_loss: int
    rows: int
    rows_left: int
    reasons: Sequence[tuple[str, int, str]]
    charts: Sequence[tuple[str, Chart]]
    often: Sequence[MaskedToken]
    examples: Sequence[Row]


@dataclass(slots=True)
class _Counts:
    """Sums over all responses. ``vocabulary``: by token id, count and masked count; ``first``: its first occurrence."""

    response: int = 0
    in_loss: int = 0
    reasons: list[int] = field(default_factory=list)
    vocabulary: dict[int, list[int]] = field(default_factory=dict)
    first: dict[int, tuple[int, int]] = field(default_factory=dict)
    shares: list[tuple[float, int]] = field(
        default_factory=list
    )  # share of masked tokens, and the index of the sample
    most: float = 0.0


def token_page(run: RunDirectory) -> TokenPage | None:
    """Return the tokens section of a run's page; None if the run has no token stage."""
    directory = reading.tokens(run)
    if directory is None:
        return None
    samples, names = read_tokens(directory)
    counts = _counted(samples, len(names))
    if not names or not counts.response:
        return None
    styles = {name: f"m{min(bit, _COLOURS - 1)}" for bit, name in enumerate(names)}
    reasons = [
        (text.plain(name), count, styles[name])
        for name, count in zip(names, counts.reasons, strict=True)
        if count
    ]
    return TokenPage(
        response=counts.response,
        in_loss=counts.in_loss,
        rows=len(samples),
        rows_left=sum(share < 1 for share, _ in counts.shares),
        reasons=reasons,
        charts=[
            (text.plain(name), chart)
            for name in sorted({name for sample in samples for name in sample.scores})
            if (chart := _chart(samples, name)) is not None
        ],
        often=_often(samples, counts),
        examples=[
            _row(samples[index], names, styles, counts.most) for index in _chosen(samples, counts)
        ],
    )


def _counted(samples: Sequence[TokenSample], bits: int) -> _Counts:
    import numpy as np

    counts = _Counts(reasons=[0] * bits)
    for start in range(0, len(samples), _BLOCK):
        block = samples[start : start + _BLOCK]
        ids, weights, reasons = (
            _joined([getattr(sample, name)[sample.response] for sample in block])
            for name in ("ids", "weights", "reasons")
        )
        masked = weights == 0
        counts.response += len(ids)
        counts.in_loss += int((~masked).sum())
        counts.most = max(counts.most, float(weights.max(initial=0)))
        for bit in range(bits):
            counts.reasons[bit] += int((reasons >> np.uint32(bit) & 1).sum())
        owner = np.repeat(np.arange(len(block)), [int(s.response.sum()) for s in block])
        lost = np.bincount(owner, weights=masked, minlength=len(block))
        size = np.bincount(owner, minlength=len(block))
        counts.shares += [
            (float(lost[i] / size[i]), start + i) for i in range(len(block)) if size[i]
        ]
        _add_vocabulary(counts, ids, masked, owner + start, size)
    return counts


def _add_vocabulary(counts: _Counts, ids: Any, masked: Any, owner: Any, size: Any) -> None:
    import numpy as np

    """Add a block of response tokens to the counts; ``owner`` is each token's sample, ``size`` the samples' lengths."""
    unique, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    total = np.bincount(inverse, minlength=len(unique))
    lost = np.bincount(inverse, weights=masked, minlength=len(unique))
    begins = np.concatenate([[0], np.cumsum(size)])
    for at, token in enumerate(unique.tolist()):
        sums = counts.vocabulary.setdefault(token, [0, 0])
        sums[0] += int(total[at])
        sums[1] += int(lost[at])
        if token not in counts.first:
            sample = int(owner[first[at]])
            within = int(first[at] - begins[sample - int(owner[0])])
            counts.first[token] = (sample, within)


def _often(samples: Sequence[TokenSample], counts: _Counts) -> list[MaskedToken]:
    """The tokens masked most often; ties are ordered by id."""
    order = sorted(counts.vocabulary.items(), key=lambda item: (-item[1][1], item[0]))[:TEXTS]
    out = []
    for token, (total, masked) in order:
        if not masked:
            break
        sample, within = counts.first[token]
        at = samples[sample].response.nonzero()[0][within]
        start, end = samples[sample].spans[at].tolist()
        piece = samples[sample].text[start:end]
        shown = repr(text.plain(piece))[:_PIECE] if piece else ""
        out.append(MaskedToken(shown, token, total, masked, text.percent(masked / total)))
    return out


def _chart(samples: Sequence[TokenSample], name: str) -> Chart | None:
    """A score's histogram between its 0.1% and 99.9% quantiles; values outside are in the outermost bars."""
    import numpy as np

    total = sum(len(sample.ids) for sample in samples)
    step = max(1, total // _THINNED)
    drawn = _joined([values[::step] for values, _ in _scores(samples, name)])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    low, high = (float(q) for q in np.quantile(drawn, (_TAIL, 1 - _TAIL)))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.zeros((2, _BINS), dtype=np.int64)
    undefined = 0
    for values, masked in _scores(samples, name):
        undefined += int(np.isnan(values).sum())
        for row, which in enumerate((~masked, masked)):
            part = values[which & ~np.isnan(values)]
            counts[row] += np.histogram(np.clip(part, low, high), edges)[0]
    plain, marked = counts.tolist()
    return stacked(plain, marked, [f"{edge:.3g}" for edge in edges], ("kept", "masked"), undefined)


def _scores(samples: Sequence[TokenSample], name: str) -> Iterator[tuple[Any, Any]]:
    """The values of a score at response tokens as float64, and which of them are masked, in blocks."""
    import numpy as np

    for start in range(0, len(samples), _BLOCK):
        block = [s for s in samples[start : start + _BLOCK] if name in s.scores]
        values = _joined([np.asarray(s.scores[name][s.response], np.float64) for s in block])
        yield values, _joined([s.weights[s.response] == 0 for s in block]).astype(bool)


def _chosen(samples: Sequence[TokenSample], counts: _Counts) -> list[int]:
    """The example rows: most, median and least masked of the rows in the loss; ties are ordered by a hash of the id."""
    left = [(share, index) for share, index in counts.shares if share < 1] or counts.shares
    ranked = sorted((-share, hash_of(samples[index].id), index) for share, index in left)
    order = [index for _, _, index in ranked]
    if len(order) <= ROWS:
        return order
    third = ROWS // 3
    middle = len(order) // 2 - third // 2
    middle = min(max(middle, third), len(order) - 2 * third)
    return [*order[:third], *order[middle : middle + third], *order[-third:]]


def _row(sample: TokenSample, names: Sequence[str], styles: Mapping[str, str], most: float) -> Row:
    tokens = response_of(sample, names)
    first = sample.spans[tokens[0].position][0]
    pieces: list[Piece] = []
    before = tokens[0].position - 1
    for token in tokens[:LONGEST]:
        if token.position != before + 1:
            pieces.append(Piece(" [...] ", "gap", "another turn of the conversation"))
        before = token.position
        pieces.append(_piece(token, styles, most))
    return Row(
        id=text.plain(sample.id),
        response=len(tokens),
        in_loss=sum(token.weight != 0 for token in tokens),
        prompt=text.cut(sample.text[:first], most=_PROMPT),
        pieces=pieces,
        left_out=max(0, len(tokens) - LONGEST),
    )


def _piece(token: Token, styles: Mapping[str, str], most: float) -> Piece:
    details = [f"weight {token.weight:g}"]
    if token.by:
        details = [f"masked by {', '.join(token.by)}"]
    details += [f"{name} {value:.3g}" for name, value in token.scores.items()]
    if token.weight:
        style = f"w{max(1, min(_TINTS, round(_TINTS * token.weight / most)))}"
    else:
        style = styles[token.by[0]] if token.by else "none"
    shown = text.plain(token.piece)[:_PIECE] or "·"
    return Piece(shown, style, text.plain("; ".join(details)))


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    import numpy as np

    return np.concatenate(parts) if parts else np.zeros(0)
