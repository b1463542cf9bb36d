"""The lines of the tables, each as sample stages over rows with the labels of one level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.evidence.lines import KEPT, VIEW_SETS, VOTES, Stage, Stages, rule
from benchmarks.real_evidence.data import TRUSTED

CLEANLAB: Final = "cleanlab"
DEFAULT: Final = "default"
ROBUSTFT: Final = "robustft"
OFFICIAL: Final = "official"
NEIGHBORS: Final = "neighbors"
CLASSIFIER: Final = "classifier"

LINES: Final[Mapping[str, str]] = {
    "vanilla": "the model as it is, not trained",
    "raw": "trained on all rows with their labels as they are",
    NEIGHBORS: "the neighbour view flags by noise score (`vote: probability`); flagged rows are dropped",
    "neighbors, relabelled": "the same flags; flagged rows take the answer of the neighbours",
    "neighbors, trusted": f"the neighbour view with {TRUSTED} checked labels, which are right and marked; flagged rows are dropped",
    CLASSIFIER: "the view of a classifier over the encoder settles every row: relabelled, weighed or dropped (`robustft.settle`)",
    "classifier, trusted": f"the same with {TRUSTED} checked labels, which are right and marked",
    CLEANLAB: "cleanlab's flags (`find_label_issues`) from a logistic regression over the same encoder; flagged rows are dropped",
    DEFAULT: "the stages of the recipe that `nfilter init --data` writes for the file, trained as all lines are",
    ROBUSTFT: "the stages of robustft.yaml, the student as its own expert",
    OFFICIAL: "the stages of robustft-official.yaml, the student as its own expert",
    "random": "raw rows drawn at random, as many as `neighbors` keeps, or `neighbors, trusted` where that is run",
    "trusted alone": f"the {TRUSTED} checked rows and no others",
    "truth-size": "true labels of rows drawn at random, as many",
    "truth": "trained on all rows with their true labels",
}
METHODS: Final = (
    NEIGHBORS, "neighbors, relabelled", "neighbors, trusted", CLASSIFIER, "classifier, trusted", CLEANLAB, DEFAULT, ROBUSTFT, OFFICIAL,
)  # fmt: skip
CONTROLS: Final = ("random", "trusted alone", "vanilla")
CHECKED: Final = ("neighbors, trusted", "classifier, trusted", "trusted alone")
NOISELESS: Final = ("truth", "truth-size", "trusted alone")
FEW: Final = ("vanilla", "raw", NEIGHBORS, CLEANLAB, DEFAULT, "truth")
"""The lines of a data set whose rows have options of their own: no answer is one of few classes there."""
ASKING: Final = (ROBUSTFT, OFFICIAL)
"""The lines that call the student for every row, which takes hours on a CPU."""

_NEIGHBORS: Final[Stage] = {"use": "robustft.neighbors", "encoder": "encoder", "into": "neighbors"}
_CLEANLAB: Final[Stage] = {"use": "evidence.cleanlab", "encoder": "encoder", "into": CLEANLAB}


def stages(name: str, shipped: Mapping[str, Sequence[Stage]]) -> Stages:
    """The sample stages of a line. ``shipped`` has those of the recipes ``default``, ``robustft`` and ``official``.

    Raises:
        LookupError: when no line is called so.
    """
    checked = {"trusted": "trusted"} if name in CHECKED else {}
    check: Stage = {"use": "robustft.check", "views": ["neighbors"], "vote": "probability", **checked}  # fmt: skip
    leave: Stage = {"use": "robustft.select", "by": "random", "keep": 0.0}
    asks: Stage = {"use": "robustft.review", "llm": "expert", "views": ["neighbors"]}
    learns: Stage = {"use": "robustft.classifier", "encoder": ["encoder"], **checked}
    made: dict[str, Stages] = {
        **{key: [] for key in ("vanilla", "raw", "truth", "trusted alone")},
        **{key: [{"use": "robustft.random", "keep": KEPT}] for key in ("random", "truth-size")},
        **{
            key: [{**_NEIGHBORS, **checked}, check, leave]
            for key in (NEIGHBORS, "neighbors, trusted")
        },
        "neighbors, relabelled": [_NEIGHBORS, check, asks],
        **{
            key: [learns, {"use": "robustft.settle"}] for key in (CLASSIFIER, "classifier, trusted")
        },
        CLEANLAB: [_CLEANLAB, {**leave, "check": CLEANLAB}],
        **{line: [dict(stage) for stage in given] for line, given in shipped.items()},
    }
    if name in made:
        return made[name]
    raise LookupError(f"no line is called {name!r}")


def rules(*, asked: bool) -> list[tuple[str, Stage]]:
    """The rules of the detection table, by name: votes over views, and cuts by precision or number of flags.

    ``asked`` has those over the student's own answers too.
    """
    near = ("neighbors",)
    votes = [
        (rule(names, vote), _voted(names, vote))
        for names in (VIEW_SETS if asked else (near,))
        for vote in VOTES
        if len(names) > 1 or vote in ("all", "probability")
    ]
    cuts: list[tuple[str, Stage]] = [
        ("precision .8(neighbors)", _check(near, target_precision=0.8)),
        ("10% of flags(neighbors)", _check(near, budget_of_flags=0.1)),
    ]
    named = [*votes, *cuts]
    return [(name, {**stage, "into": name}) for name, stage in named]


def detection(asking: Sequence[Stage] = ()) -> Stages:
    """Return all views, one check per rule, and cleanlab's verdict; ``asking`` are the stages of the student's answers."""
    checks = [stage for _, stage in rules(asked=bool(asking))]
    return [*(dict(stage) for stage in asking), _NEIGHBORS, *checks, _CLEANLAB]


def _check(names: Sequence[str], **settings: Any) -> Stage:
    return {"use": "robustft.check", "views": list(names), **settings}


def _voted(names: Sequence[str], vote: str) -> Stage:
    if vote == "sure":
        return _check(names, vote="any", sure={"view": names[0]})
    return _check(names, vote=vote)
