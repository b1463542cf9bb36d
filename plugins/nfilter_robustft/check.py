"""``robustft.check``: is the label reliable, given the views (RobustFT, Eq. 3), and how likely is it wrong?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

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
)
from nfilter_robustft.bounds import rate_range
from nfilter_robustft.check_log import log_cut, log_rate, log_weak
from nfilter_robustft.cut import Cut, best, cut, share
from nfilter_robustft.judge import Judgement, ask
from nfilter_robustft.keys import is_trusted
from nfilter_robustft.lazy import prove, skipped_views
from nfilter_robustft.posterior import (
    Estimate,
    Pattern,
    estimate,
    grade,
    noise_score,
    partition,
)
from nfilter_robustft.ranks import rank_of, ranked, share_of
from nfilter_robustft.sure import Sure, probability_of
from nfilter_robustft.views import answer_in, excerpt, was_weak

_BLOCK = 256


class CheckConfig(StageConfig):
    """``vote``: a label is reliable where every view agrees with it (``all``), at least one does (``any``), a model
    says so where not every view agrees (``judge``), or where some view has an answer and the label is wrong with
    probability ``threshold`` at most (``probability``); ``none`` flags nothing and only scores.

    At low noise, rank and review: ``budget_of_flags`` (0.05 or "5%") flags at most that share of the labels, those with the
    highest noise scores; ``target_precision`` flags as many as are expected to be wrong with that precision, as trusted
    rows show it, else the noise scores. Either sets ``vote: probability``.

    With ``sure`` one view votes alone where it is sure of its answer; where it is not, the others vote without it.
    ``collision`` is the chance that two wrong open answers agree, or ``auto``. ``trusted`` names a column that is
    true where a label is known to be right. ``preset: official`` is the published rule: all.
    """

    views: Annotated[list[str], Field(min_length=1)]
    into: str = "check"
    vote: Literal["all", "any", "judge", "probability", "none"] = "all"
    threshold: float = Field(default=0.5, ge=0, le=1)
    target_precision: float | None = Field(default=None, gt=0, lt=1)
    budget_of_flags: Annotated[float, Field(gt=0, le=1), BeforeValidator(share)] | None = None
    llm: str | None = None
    prompt: str = "robustft/judge"
    max_tokens: int = Field(default=512, ge=1)
    retries: int = Field(default=2, ge=0, le=16)
    retry_temperature: float = Field(default=0.7, gt=0)
    collision: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    trusted: str | None = None
    sure: Sure | None = None
    preset: Literal["official"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _ranks(cls, values: Any) -> Any:
        """A cut of the ranking is a vote by probability."""
        cuts = ("target_precision", "budget_of_flags")
        if isinstance(values, Mapping) and any(values.get(name) is not None for name in cuts):
            return {"vote": "probability", **values}
        return values

    @property
    def cuts(self) -> str | None:
        """The setting that cuts the ranking by noise score, as a recipe has it; None where a vote decides."""
        if self.target_precision is not None:
            return f"target_precision: {self.target_precision:g}"
        return (
            None if self.budget_of_flags is None else f"budget_of_flags: {self.budget_of_flags:g}"
        )

    @model_validator(mode="after")
    def _sound(self) -> CheckConfig:
        if self.target_precision is not None and self.budget_of_flags is not None:
            raise ValueError(
                "target_precision and budget_of_flags both choose how many labels are flagged; leave out one of the two"
            )
        if self.cuts and (self.vote != "probability" or self.threshold != 0.5):
            other = f"vote: {self.vote}" if self.vote != "probability" else "threshold"
            raise ValueError(
                f"{self.cuts} chooses which labels are flagged, and so does {other}; leave out one of the two"
            )
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views: {list(self.views)} names a view twice")
        if self.vote == "judge" and self.llm is None:
            raise ValueError("vote: judge needs a model; name it: llm: expert")
        if self.preset == "official" and self.vote != "all":
            raise ValueError(
                f"preset: official votes all, not {self.vote}; leave out one of the two"
            )
        if self.sure is not None:
            self._who_is_sure(self.sure)
        return self

    def _who_is_sure(self, sure: Sure) -> None:
        if self.vote not in ("any", "all"):
            raise ValueError(
                f"sure says who votes any or all, and vote is {self.vote}; leave it out"
            )
        if sure.view not in self.views or len(self.views) == 1:
            raise ValueError(
                f"sure: {sure.view!r} has to be one of several views, and views is {list(self.views)}"
            )


@dataclass(frozen=True, slots=True)
class _Seen:
    """One sample beside what its views say; ``agree`` is None where either side has no answer.

    ``skipped`` names the views that were not asked, as they could not change the verdict, ``weak`` those that are no better
    than chance, ``voters`` those that have a vote on it, and ``sure`` is the probability that makes one of them vote alone.
    """

    sample: Sample
    label: str | None
    answers: Mapping[str, str | None]
    agree: Mapping[str, bool | None]
    pattern: Pattern
    skipped: tuple[str, ...]
    weak: tuple[str, ...]
    voters: tuple[str, ...]
    sure: float | None

    @property
    def alone(self) -> bool:
        """Whether no view is left to judge the label by."""
        return len(self.weak) == len(self.agree)


_Place = tuple[Pattern, tuple[float, float], str]


class Check:
    """Writes a verdict on every label: ``flagged``, ``noise_score``, ``agree`` by view, and the ``vote``.

    A view without an answer agrees with nothing; one that was skipped was not asked, and the verdict is proved not to
    depend on it; one that is weak has no vote, and where all are, no label is flagged. The noise score is P(label wrong | who agrees with whom), under a model fitted to the whole dataset;
    it is there whatever the vote. The noise rate is reported as a range (``bounds``), with the model's own figure under
    ``if_independent``. Where views were skipped the score ranks labels, but no noise rate is reported: under ``all``
    what is left cannot tell it.
    """

    name: ClassVar[str] = "robustft.check"
    Config: ClassVar[type[StageConfig]] = CheckConfig

    def __init__(self, config: CheckConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: CheckConfig) -> Contract:
        """Reads the views, writes one verdict; asks a model under ``vote: judge`` alone."""
        judged = config.vote == "judge" and config.llm is not None
        return Contract(
            reads=frozenset(config.views),
            writes=frozenset({config.into}),
            verdicts=frozenset({config.into}),
            prompts=frozenset({config.prompt} if judged else ()),
            needs=(ModelNeed(str(config.llm), Generates, field="llm"),) if judged else (),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Count the patterns of agreement and fit the model to them."""
        counts: Counter[Pattern] = Counter()
        skipped: Counter[str] = Counter()
        weak: Counter[str] = Counter()
        ranking: list[_Place] = []
        samples = iter(stream)
        while block := list(islice(samples, _BLOCK)):
            rows = self._see(block, ctx)
            counts.update(seen.pattern for seen in rows)
            weak.update(name for seen in rows for name in seen.weak)
            if self.config.cuts:
                ranking += [_place(seen, ctx) for seen in rows if not seen.alone]
            skipped.update(name for seen in rows for name in seen.skipped)
        config = self.config
        fitted = estimate(
            counts, config.views, None if config.collision == "auto" else config.collision
        )
        if not fitted.n:
            ctx.log.warning("no label has an answer that can be read: no noise rate is estimated")
            found, ranks = self._cut(ranking, fitted, 0.0, ctx)
            return State({"fit": fitted.to_json(), "flagged": found.flagged if found else 0}, ranks)
        if skipped:
            total = sum(counts.values())
            said = ", ".join(f"{name} about {n}" for name, n in skipped.items())
            ctx.log.info(
                f"of {total} samples, views were not asked where the others settle the verdict: {said}; what is "
                "left cannot tell the noise rate, so no estimate is given"
            )
            not_asked: dict[str, JSON] = dict(skipped)
            return State({"fit": fitted.to_json(), "report": {"not_asked": not_asked}})
        allowed = rate_range(counts, len(config.views))
        nobody = log_weak(weak, len(config.views), counts.total(), ctx)
        if not nobody:
            log_rate(allowed, fitted, ctx)
        independent: dict[str, JSON] = {
            "estimate": round(fitted.rate, 6),
            "low": round(fitted.low, 6),
            "high": round(fitted.high, 6),
        }
        accuracy: dict[str, JSON] = {
            view: None if a is None else round(a, 6) for view, a in fitted.accuracy.items()
        }
        report: dict[str, JSON] = {
            "estimated_noise_rate": {**allowed.to_json(), "if_independent": independent},
            "view_accuracy": accuracy,
        }
        if weak:
            report["without_a_vote"] = dict(weak)
        found, ranks = self._cut([] if nobody else ranking, fitted, allowed.low, ctx)
        if found is None:
            return State({"fit": fitted.to_json(), "report": report})
        report["cut"] = found.to_json()
        return State({"fit": fitted.to_json(), "flagged": found.flagged, "report": report}, ranks)

    def _cut(
        self, ranking: Sequence[_Place], fitted: Estimate, low: float, ctx: Context
    ) -> tuple[Cut | None, Mapping[str, npt.NDArray[Any]]]:
        """How many of the labels with the highest noise scores are flagged, and the rank of each."""
        config = self.config
        if config.cuts is None:
            return None, {}
        scores = {
            pattern: noise_score(replace(pattern, trusted=False), fitted)
            for pattern in {pattern for pattern, _, _ in ranking}
        }
        placed = sorted((-scores[p], tie, name) for p, tie, name in ranking if not p.trusted)
        falling = [-score for score, _, _ in placed]
        right = [scores[pattern] for pattern, _, _ in ranking if pattern.trusted]
        budget = config.budget_of_flags
        found = cut(
            falling, right, low,
            target=config.target_precision,
            budget=None if budget is None else share_of(budget, len(ranking)),
        )  # fmt: skip
        log_cut(found, config.cuts, best(falling, right, low), ctx)
        return found, ranked([name for _, _, name in placed])

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Judge the labels of the chunk."""
        values: Any = state.values
        fitted = Estimate.from_json(values["fit"])
        seen = self._see(chunk, ctx)
        scores = {pattern: noise_score(pattern, fitted) for pattern in {s.pattern for s in seen}}
        judgements = self._judgements(seen, ctx) if self.config.vote == "judge" else {}
        first = {} if self.config.cuts is None else _ranks(seen, state)
        return [
            self._decide(s, scores[s.pattern], judgements.get(s.sample.id), first.get(s.sample.id))
            for s in seen
        ]

    def _see(self, samples: Sequence[Sample], ctx: Context) -> list[_Seen]:
        views = self.config.views
        labels = [ctx.answers.parse(sample.response, sample) for sample in samples]
        answers = [[answer_in(sample, view) for view in views] for sample in samples]
        rows = [[label, *row] for label, row in zip(labels, answers, strict=True)]
        # Equal answers agree by themselves; the others are compared in one call.
        pairs = dict.fromkeys(
            (i, a, b)
            for i, row in enumerate(rows)
            for j, b in enumerate(row)
            for a in row[:j]
            if a is not None and b is not None and a != b
        )
        found = ctx.answers.agree([(a, b) for _, a, b in pairs]) if pairs else []
        same: list[dict[tuple[str, str], bool]] = [{} for _ in rows]
        for (i, a, b), agrees in zip(pairs, found, strict=True):
            same[i][a, b] = agrees
        return [
            self._pattern(sample, row, agreeing, ctx)
            for sample, row, agreeing in zip(samples, rows, same, strict=True)
        ]

    def _pattern(
        self,
        sample: Sample,
        row: Sequence[str | None],
        same: Mapping[tuple[str, str], bool],
        ctx: Context,
    ) -> _Seen:
        label, views = row[0], self.config.views
        options = ctx.answers.options(sample)
        trusted = is_trusted(sample, self.config.trusted)
        grades = tuple(_grades(View.of(sample, view)) for view in views)
        pattern = Pattern(partition(row, same), len(options or ()), grades, trusted)
        agree = {
            view: None
            if label is None or answer is None
            else label == answer or same.get((label, answer), False)
            for view, answer in zip(views, row[1:], strict=True)
        }
        answers = dict(zip(views, row[1:], strict=True))
        skipped = skipped_views(sample, views)
        weak = tuple(view for view in views if was_weak(View.of(sample, view)))
        voters, sure = self._voters(sample, skipped, weak)
        voting = {view: agree[view] for view in voters}
        prove(
            self.name,
            sample,
            self.config.vote,
            [name for name in skipped if name in voting],
            voting,
        )
        return _Seen(sample, label, answers, agree, pattern, skipped, weak, voters, sure)

    def _voters(
        self, sample: Sample, skipped: Sequence[str], weak: Sequence[str]
    ) -> tuple[tuple[str, ...], float | None]:
        """Who votes on the label, and how likely its text is to the view that votes alone."""
        views, sure = [v for v in self.config.views if v not in weak], self.config.sure
        if sure is None or sure.view in weak:
            return tuple(views), None
        if sure.view in skipped:
            raise RecipeError(
                f"{self.name}: sure: {sure.view!r} was not asked about sample {sample.id!r}, and nobody knows whether "
                f"it would be sure; leave settled out of the stage that writes {sure.view!r}"
            )
        p = sure.of(sample)
        alone = (sure.view,) if p is not None else tuple(v for v in views if v != sure.view)
        return alone, p

    def _judgements(self, seen: Sequence[_Seen], ctx: Context) -> dict[str, Judgement]:
        config = self.config
        doubted = [
            s.sample
            for s in seen
            if not all(s.agree[view] for view in s.voters)
            and s.label is not None
            and not s.pattern.trusted
        ]
        return ask(
            doubted,
            ctx,
            llm=str(config.llm),
            prompt=config.prompt,
            views=config.views,
            max_tokens=config.max_tokens,
            retries=config.retries,
            retry_temperature=config.retry_temperature,
        )

    def _decide(
        self, seen: _Seen, score: float, judgement: Judgement | None, rank: tuple[int, int] | None
    ) -> Sample:
        config = self.config
        flagged, reason = self._verdict(seen, score, judgement)
        if rank is not None and not seen.alone:
            flagged = rank[0] <= rank[1]
            reason = f"place {rank[0]} by noise score, {config.cuts} flags the first {rank[1]} ({self._says(seen)})"
        judge: dict[str, JSON] = {}
        if config.vote == "judge":
            judge = {"judge": None if judgement is None else judgement.to_json()}
        verdict = Verdict(flagged, round(score, 6), seen.agree, config.vote, more=judge)
        start = "flagged" if flagged else "reliable"
        return seen.sample.note(config.into, verdict.to_json()).keep(
            f"{start}: {reason}; noise score {score:.3f}"
        )

    def _verdict(self, seen: _Seen, score: float, judgement: Judgement | None) -> tuple[bool, str]:
        if seen.pattern.trusted:
            return False, f"column {self.config.trusted!r} says that the label is right"
        if self.config.vote == "none":
            return False, "vote: none flags nothing"
        if seen.alone:
            return False, f"no view is left to judge it by ({self._says(seen)})"
        if seen.label is None:
            return True, f"no answer can be read in the label {excerpt(seen.sample.response)}"
        return self._vote(seen, score, judgement)

    def _vote(self, seen: _Seen, score: float, judgement: Judgement | None) -> tuple[bool, str]:
        vote, says = self.config.vote, self._says(seen)
        agreeing = sum(bool(seen.agree[view]) for view in seen.voters)
        if vote == "probability" and all(answer is None for answer in seen.answers.values()):
            return True, f"nothing speaks for it ({says})"
        if vote == "probability":
            side = "over" if score > self.config.threshold else "at most"
            return score > self.config.threshold, f"{side} {self.config.threshold:g} ({says})"
        if vote == "judge" and agreeing < len(seen.voters):
            if judgement is None:
                return True, f"the judge was not asked ({says})"
            return judgement.wrong, f"{judgement.reason} ({says})"
        return agreeing < (1 if vote == "any" else len(seen.voters)), says

    def _says(self, seen: _Seen) -> str:
        """Who agrees with the label and who does not, in words, and who voted where not all did."""
        sure = self.config.sure
        if sure is None or sure.view in seen.weak:
            return _says(seen)
        if seen.sure is None:
            return f"{_says(seen)}; {sure.view} is not sure and has no vote"
        return f"{_says(seen)}; {sure.view} is sure (p {seen.sure:.2f}) and votes alone"


def _place(seen: _Seen, ctx: Context) -> _Place:
    """Where a label stands among those of its noise score: first the ones that likelier answers contradict."""
    doubting = (View.of(seen.sample, name) for name, agrees in seen.agree.items() if not agrees)
    against = [probability_of(view) or 0.0 for view in doubting if view is not None]
    return (
        seen.pattern,
        (-max(against, default=0.0), ctx.rng(seen.sample.id).random()),
        seen.sample.id,
    )


def _ranks(seen: Sequence[_Seen], state: State) -> dict[str, tuple[int, int]]:
    """By id the rank of each label that may be flagged, and how many are flagged."""
    flagged: Any = state.values.get("flagged", 0)
    ranks = (
        (s.sample.id, rank_of(s.sample.id, state.arrays)) for s in seen if not s.pattern.trusted
    )
    return {name: (rank, flagged) for name, rank in ranks if rank is not None}


def _says(seen: _Seen) -> str:
    """Who agrees with the label and who does not, in words."""
    label = excerpt(seen.label)
    yes = [view for view, agrees in seen.agree.items() if agrees]
    no = [
        f"{view} was not asked"
        if view in seen.skipped
        else f"{view} is no better than chance and has no vote"
        if view in seen.weak
        else f"{view} has no answer"
        if agrees is None
        else f"{view} says {excerpt(seen.answers[view])}"
        for view, agrees in seen.agree.items()
        if not agrees
    ]
    parts = [f"{' and '.join(yes)} {'agree' if len(yes) > 1 else 'agrees'}"] if yes else []
    return f"label {label}: " + ", ".join(parts + no)


def _grades(view: View | None) -> tuple[int, int] | None:
    """A calibrated view's shares for the label and for its own answer, as grades; None for any other view.

    A view that has no answer, but knows how frequent the answers are, has a share for the label alone.
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
