"""``robustft.check``: flags unreliable labels from the votes of views (RobustFT, Eq. 3) and scores every label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy.typing as npt

from nfilter import (
    JSON,
    Context,
    Contract,
    Generates,
    ModelNeed,
    RecipeError,
    Sample,
    StageConfig,
    State,
    Verdict,
    View,
    excerpt,
)
from nfilter_robustft.check_log import log_cutoff, log_rate, log_weak
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.confidence import probability_of
from nfilter_robustft.judge import Judgement, judge_labels
from nfilter_robustft.keys import is_trusted
from nfilter_robustft.ranks import floor_share, rank_arrays, rank_of
from nfilter_robustft.skipping import skipped_views, verify_skips
from nfilter_robustft.statistics.bounds import rate_range
from nfilter_robustft.statistics.cutoff import Cutoff, best_precision, choose_cutoff
from nfilter_robustft.statistics.posterior import (
    Estimate,
    Pattern,
    estimate,
    grade,
    noise_range,
    noise_score,
    partition,
)
from nfilter_robustft.statistics.support import LEAST, lack_of_support
from nfilter_robustft.views import answer_of, was_weak

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class _Row:
    """A sample with the answers of its views; ``agree`` is None without an answer or a readable label.

    ``skipped`` are views not asked because they cannot change the verdict, ``weak`` views no better than chance,
    ``voters`` views with a vote; ``confidence`` is the probability that makes a confident view vote alone.
    """

    sample: Sample
    label: str | None
    answers: Mapping[str, str | None]
    agree: Mapping[str, bool | None]
    pattern: Pattern
    skipped: tuple[str, ...]
    weak: tuple[str, ...]
    voters: tuple[str, ...]
    confidence: float | None

    @property
    def all_weak(self) -> bool:
        return len(self.weak) == len(self.agree)


@dataclass(frozen=True, slots=True)
class _Score:
    """A noise score, its interval over the 95% interval of the noise rate, and why the data support none (or None)."""

    value: float
    interval: tuple[float, float]
    unsupported: str | None

    @classmethod
    def of(cls, pattern: Pattern, fitted: Estimate, unsupported: str | None) -> _Score:
        value = noise_score(pattern, fitted)
        if unsupported is not None and not pattern.trusted:
            return cls(value, (0.0, 1.0), unsupported)
        return cls(value, noise_range(pattern, fitted), None)


_Ranked = tuple[Pattern, tuple[float, float], str]  # pattern, order within equal scores, id


class Check:
    """Stage that writes a verdict on every label: ``flagged``, ``noise_score``, ``agree`` per view, and ``vote``.

    A view without an answer agrees with no label. The verdict is verified not to depend on skipped views. Weak views
    have no vote; if all views are weak, no label is flagged. The noise score is P(label wrong | agreement pattern),
    under a model fitted to the whole dataset, for every ``vote``. The noise rate is reported as a range (``bounds``),
    with the model's estimate under ``if_independent``. With skipped views, no noise rate is reported, because it is
    not identifiable from the remaining answers under ``all``; the scores still rank labels.

    ``interval`` has the lowest and the highest noise score over the 95% interval of the noise rate; it is 0 to 1 where the data
    support no probability (``support``), and ``vote: probability`` then flags nothing.
    """

    name: ClassVar[str] = "robustft.check"
    Config: ClassVar[type[StageConfig]] = CheckConfig

    def __init__(self, config: CheckConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: CheckConfig) -> Contract:
        judged = config.vote == "judge" and config.llm is not None
        return Contract(
            reads=frozenset(config.views),
            writes=frozenset({config.into}),
            verdicts=frozenset({config.into}),
            prompts=frozenset({config.prompt} if judged else ()),
            needs=(ModelNeed(str(config.llm), Generates, field="llm"),) if judged else (),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Count the agreement patterns and fit the model to them."""
        counts: Counter[Pattern] = Counter()
        skipped: Counter[str] = Counter()
        weak: Counter[str] = Counter()
        ranking: list[_Ranked] = []
        samples = iter(stream)
        while block := list(islice(samples, _BLOCK)):
            rows = self._read_rows(block, ctx)
            counts.update(row.pattern for row in rows)
            weak.update(name for row in rows for name in row.weak)
            if self.config.cutoff:
                ranking += [_ranked(row, ctx) for row in rows if not row.all_weak]
            skipped.update(name for row in rows for name in row.skipped)
        config = self.config
        fitted = estimate(
            counts, config.views, None if config.collision == "auto" else config.collision
        )
        if not fitted.n:
            ctx.log.warning("no label has a readable answer: no noise rate is estimated")
            cutoff, ranks = self._choose_cutoff(ranking, fitted, 0.0, ctx)
            flagged = cutoff.flagged if cutoff else 0
            return State({"fit": fitted.to_json(), "flagged": flagged}, ranks)
        if skipped:
            views = ", ".join(f"{name} for {n} samples" for name, n in skipped.items())
            ctx.log.info(
                f"views skipped because other views settle the verdict, of {counts.total()} samples: {views}; the "
                "remaining answers do not identify the noise rate, so no estimate is reported"
            )
            not_asked: dict[str, JSON] = dict(skipped)
            return State(
                {
                    "fit": fitted.to_json(),
                    "unsupported": "views were skipped",
                    "report": {"not_asked": not_asked},
                }
            )
        rates = rate_range(counts, len(config.views))
        all_weak = log_weak(weak, len(config.views), counts.total(), ctx)
        if not all_weak:
            log_rate(rates, fitted, ctx)
        independent: dict[str, JSON] = {
            "estimate": round(fitted.rate, 6),
            "low": round(fitted.low, 6),
            "high": round(fitted.high, 6),
        }
        accuracy: dict[str, JSON] = {
            view: None if a is None else round(a, 6) for view, a in fitted.accuracy.items()
        }
        report: dict[str, JSON] = {
            "estimated_noise_rate": {**rates.to_json(), "if_independent": independent},
            "view_accuracy": accuracy,
        }
        if weak:
            report["without_a_vote"] = dict(weak)
        why = None if all_weak else lack_of_support(counts, len(config.views))
        values: dict[str, JSON] = {"fit": fitted.to_json(), "unsupported": why, "report": report}
        if why is not None and config.estimates:
            ctx.log.warning(
                f"{why}: {config.cutoff or 'vote: probability'} flags no label; give the check {LEAST} trusted labels (trusted: "
                "COLUMN), more rows or a better view, or check all rows by hand (nfilter review)"
            )
        unranked = all_weak or (why is not None and config.estimates)
        cutoff, ranks = self._choose_cutoff([] if unranked else ranking, fitted, rates.low, ctx)
        if cutoff is None:
            return State(values)
        report["cut"] = cutoff.to_json()
        return State({**values, "flagged": cutoff.flagged}, ranks)

    def _choose_cutoff(
        self, ranking: Sequence[_Ranked], fitted: Estimate, low: float, ctx: Context
    ) -> tuple[Cutoff | None, Mapping[str, npt.NDArray[Any]]]:
        """Rank the labels by noise score and choose how many to flag; ``low`` is the lowest noise rate."""
        config = self.config
        if config.cutoff is None:
            return None, {}
        scores = {
            pattern: noise_score(replace(pattern, trusted=False), fitted)
            for pattern in {pattern for pattern, _, _ in ranking}
        }
        order = sorted((-scores[p], tie, name) for p, tie, name in ranking if not p.trusted)
        descending = [-score for score, _, _ in order]
        right = [scores[pattern] for pattern, _, _ in ranking if pattern.trusted]
        budget = config.budget_of_flags
        cutoff = choose_cutoff(
            descending, right, low,
            target=config.target_precision,
            budget=None if budget is None else floor_share(budget, len(ranking)),
        )  # fmt: skip
        log_cutoff(cutoff, config.cutoff, best_precision(descending, right, low), ctx)
        return cutoff, rank_arrays([name for _, _, name in order])

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        values: Any = state.values
        fitted = Estimate.from_json(values["fit"])
        rows = self._read_rows(chunk, ctx)
        why = values.get("unsupported")
        scores = {p: _Score.of(p, fitted, why) for p in {r.pattern for r in rows}}
        judgements = self._judgements(rows, ctx) if self.config.vote == "judge" else {}
        ranks = {} if self.config.cutoff is None else _ranks(rows, state)
        return [
            self._decide(r, scores[r.pattern], judgements.get(r.sample.id), ranks.get(r.sample.id))
            for r in rows
        ]

    def _read_rows(self, samples: Sequence[Sample], ctx: Context) -> list[_Row]:
        views = self.config.views
        labels = [ctx.answers.parse(sample.response, sample) for sample in samples]
        # The answers of label and views per sample.
        answers = [
            [label, *(answer_of(sample, view) for view in views)]
            for label, sample in zip(labels, samples, strict=True)
        ]
        # Equal answers agree without a comparison; the others are compared in one call.
        pairs = dict.fromkeys(
            (i, a, b)
            for i, row in enumerate(answers)
            for j, b in enumerate(row)
            for a in row[:j]
            if a is not None and b is not None and a != b
        )
        agree = ctx.answers.agree([(a, b) for _, a, b in pairs]) if pairs else []
        same: list[dict[tuple[str, str], bool]] = [{} for _ in answers]
        for (i, a, b), agrees in zip(pairs, agree, strict=True):
            same[i][a, b] = agrees
        return [
            self._row(sample, row, matches, ctx)
            for sample, row, matches in zip(samples, answers, same, strict=True)
        ]

    def _row(
        self,
        sample: Sample,
        answers: Sequence[str | None],
        same: Mapping[tuple[str, str], bool],
        ctx: Context,
    ) -> _Row:
        """Build a row from the ``answers`` of label and views; ``same`` tells which unequal answers agree."""
        label, views = answers[0], self.config.views
        options = ctx.answers.options(sample)
        trusted = is_trusted(sample, self.config.trusted)
        grades = tuple(_grades(View.of(sample, view)) for view in views)
        pattern = Pattern(partition(answers, same), len(options or ()), grades, trusted)
        by_view = dict(zip(views, answers[1:], strict=True))
        agree = {
            view: None
            if label is None or answer is None
            else label == answer or same.get((label, answer), False)
            for view, answer in by_view.items()
        }
        skipped = skipped_views(sample, views)
        weak = tuple(view for view in views if was_weak(View.of(sample, view)))
        voters, confidence = self._voters(sample, skipped, weak)
        voting = {view: agree[view] for view in voters}
        verify_skips(
            self.name,
            sample,
            self.config.vote,
            [name for name in skipped if name in voting],
            voting,
        )
        return _Row(sample, label, by_view, agree, pattern, skipped, weak, voters, confidence)

    def _voters(
        self, sample: Sample, skipped: Sequence[str], weak: Sequence[str]
    ) -> tuple[tuple[str, ...], float | None]:
        """Return the views that vote, and the confidence of a view that votes alone."""
        views, sure = [v for v in self.config.views if v not in weak], self.config.sure
        if sure is None or sure.view in weak:
            return tuple(views), None
        if sure.view in skipped:
            raise RecipeError(
                f"{self.name}: sure: {sure.view!r} was not asked about sample {sample.id!r}, so its confidence is "
                f"unknown; leave settled out of the stage that writes {sure.view!r}"
            )
        confidence = sure.of(sample)
        if confidence is not None:
            return (sure.view,), confidence
        return tuple(v for v in views if v != sure.view), None

    def _judgements(self, rows: Sequence[_Row], ctx: Context) -> dict[str, Judgement]:
        disputed = [
            row.sample
            for row in rows
            if not all(row.agree[view] for view in row.voters)
            and row.label is not None
            and not row.pattern.trusted
        ]
        return judge_labels(disputed, ctx, self.config)

    def _decide(
        self, row: _Row, score: _Score, judgement: Judgement | None, rank: tuple[int, int] | None
    ) -> Sample:
        config = self.config
        flagged, reason = self._verdict(row, score, judgement)
        if rank is not None and not row.all_weak:
            flagged = rank[0] <= rank[1]
            reason = f"rank {rank[0]} by noise score, {config.cutoff} flags the first {rank[1]} ({self._describe(row)})"
        judge: dict[str, JSON] = {}
        if config.vote == "judge":
            judge = {"judge": None if judgement is None else judgement.to_json()}
        low, high = score.interval
        interval = (round(low, 6), round(high, 6))
        verdict = Verdict(
            flagged, round(score.value, 6), row.agree, config.vote, more=judge, interval=interval
        )
        start = "flagged" if flagged else "reliable"
        return row.sample.note(config.into, verdict.to_json()).keep(
            f"{start}: {reason}; noise score {score.value:.3f}"
        )

    def _verdict(self, row: _Row, score: _Score, judgement: Judgement | None) -> tuple[bool, str]:
        if row.pattern.trusted:
            return False, f"column {self.config.trusted!r} marks the label as right"
        if self.config.vote == "none":
            return False, "vote: none flags nothing"
        if row.all_weak:
            return False, f"no view has a vote ({self._describe(row)})"
        if row.label is None:
            return True, f"no answer can be read in the label {excerpt(row.sample.response)}"
        return self._vote(row, score, judgement)

    def _vote(self, row: _Row, score: _Score, judgement: Judgement | None) -> tuple[bool, str]:
        vote, votes = self.config.vote, self._describe(row)
        agreeing = sum(bool(row.agree[view]) for view in row.voters)
        if self.config.estimates and score.unsupported is not None:
            return False, f"not decided, because {score.unsupported} ({votes})"
        if vote == "probability" and all(answer is None for answer in row.answers.values()):
            return True, f"no view has an answer ({votes})"
        if vote == "probability":
            over = score.value > self.config.threshold
            side = "over" if over else "at most"
            return over, f"{side} {self.config.threshold:g} ({votes})"
        if vote == "judge" and agreeing < len(row.voters):
            if judgement is None:
                return True, f"the judge was not asked ({votes})"
            return judgement.wrong, f"{judgement.reason} ({votes})"
        return agreeing < (1 if vote == "any" else len(row.voters)), votes

    def _describe(self, row: _Row) -> str:
        """Describe the votes, and whether the view of ``sure`` votes alone."""
        sure = self.config.sure
        if sure is None or sure.view in row.weak:
            return _describe_votes(row)
        if row.confidence is None:
            return f"{_describe_votes(row)}; {sure.view} is not sure and has no vote"
        return (
            f"{_describe_votes(row)}; {sure.view} is sure (p {row.confidence:.2f}) and votes alone"
        )


def _ranked(row: _Row, ctx: Context) -> _Ranked:
    """Return the sort key of a label; equal noise scores sort by the highest probability of a contradicting answer."""
    contradicting = (View.of(row.sample, name) for name, agrees in row.agree.items() if not agrees)
    confidences = [probability_of(view) or 0.0 for view in contradicting if view is not None]
    tie = (-max(confidences, default=0.0), ctx.rng(row.sample.id).random())
    return row.pattern, tie, row.sample.id


def _ranks(rows: Sequence[_Row], state: State) -> dict[str, tuple[int, int]]:
    """Return, by id, the rank of each untrusted label and the number of flagged labels."""
    flagged: Any = state.values.get("flagged", 0)
    ranks = (
        (row.sample.id, rank_of(row.sample.id, state.arrays))
        for row in rows
        if not row.pattern.trusted
    )
    return {name: (rank, flagged) for name, rank in ranks if rank is not None}


def _describe_votes(row: _Row) -> str:
    label = excerpt(row.label)
    yes = [view for view, agrees in row.agree.items() if agrees]
    no = [
        f"{view} was not asked"
        if view in row.skipped
        else f"{view} is no better than chance and has no vote"
        if view in row.weak
        else f"{view} has no answer"
        if agrees is None
        else f"{view} answers {excerpt(row.answers[view])}"
        for view, agrees in row.agree.items()
        if not agrees
    ]
    parts = [f"{' and '.join(yes)} {'agree' if len(yes) > 1 else 'agrees'}"] if yes else []
    return f"label {label}: " + ", ".join(parts + no)


def _grades(view: View | None) -> tuple[int, int] | None:
    """Return a calibrated view's shares of the label and of its own answer as grades; None for any other view.

    A calibrated view without an answer has a share for the label only: its frequency.
    """
    if view is None or view.more.get("calibrated") is not True:
        return None
    votes: Any = view.more.get("votes")
    support = view.more.get("support")
    if not votes or not isinstance(support, int | float):
        return None
    if view.answer is None:
        return grade(float(support)), 0
    share = votes.get(view.answer)
    return None if share is None else (grade(float(support)), grade(float(share)))
