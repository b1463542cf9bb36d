"""The compared lines, each as token stages and an online loss. Fractions are fixed here, before any figure is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.evidence.lines import KEPT
from benchmarks.real_tokens.stage import NAME
from benchmarks.token_evidence.lines import (  # fmt: skip
    ATTRIBUTES,
    ROUNDS,
    WARMUP,
    K,
    Line,
    Stage,
    excess,
    keep,
    xtf,
)

UNTRAINED: Final = "untrained"
FULL: Final = "full"
TRUTH: Final = "truth"
RANDOM: Final = "random"
CHAINED: Final = "chained"
TRUTH_FILE: Final = "truth.json"

_EXCESS: Final = excess(trusted=False)
_AS_MANY: Final[tuple[Stage, ...]] = ({"use": "tokens.random", "k": KEPT},)
_PART: Final[tuple[Stage, ...]] = ({"use": "tokens.random", "k": K},)


def _lines() -> tuple[Line, ...]:
    auto: Stage = {"use": "tokens.auto_threshold"}
    evolve: Stage = {"use": "tokens.self_evolve", "k": K, "rounds": ROUNDS}
    singles = tuple(
        Line(f"XTF {name}", "that attribute alone, preset default", xtf([name]))
        for name in ATTRIBUTES
    )
    return (
        Line(UNTRAINED, "the model as it is", noiseless=True, trained=False, everywhere=True),
        Line(FULL, "every token", everywhere=True),
        Line(TRUTH, "the planted noise out of the loss, by its truth: what a perfect mask is worth",
             ({"use": NAME, "path": TRUTH_FILE},), everywhere=True),
        Line(RANDOM, f"{K:.0%} of the tokens at random", _PART, everywhere=True),
        Line("STM", "base perplexity over 2.5 masked", ({"use": "stm.mask"},), everywhere=True),
        Line("fixed", f"excess loss, reference from {WARMUP:.0%} of the noisy rows, best {K:.0%} of all", (_EXCESS, keep("global")), everywhere=True),
        Line("XTF", "the union of the three attributes, preset default", xtf(ATTRIBUTES), everywhere=True),
        Line("DFT", "weighed by its probability as training goes", loss="dft"),
        Line("self-evolving", f"Algorithm 1, base fixed, {ROUNDS} rounds, {K:.0%}, its own last model", (evolve,), adopt="tokens.self_evolve"),
        Line("RHO", f"the scores of `fixed`, best {K:.0%} of each sample", (_EXCESS, keep("sample"))),
        Line("Rho-1", f"the reference of `fixed`, best {K:.0%} of each step beside the model as it is by then", (_EXCESS,), loss="rho1"),
        Line("auto", "the scores of `fixed`, cut by two groups", (_EXCESS, auto)),
        *singles,
        Line("base probability", "every token weighed by its probability under the base", ({"use": "pweight.weigh"},)),
        Line("EAFT", "weighed by entropy as training goes", loss="eaft"),
        Line("random as STM", "as many tokens as `STM` keeps, at random", _AS_MANY),
        Line("random as XTF", "as many tokens as `XTF` keeps, at random", _AS_MANY),
        Line("random as auto", "as many tokens as `auto` keeps, at random", _AS_MANY),
        Line("mixed, full", "every token of every row", mixed=True),
        Line("mixed, random", f"{K:.0%} of the tokens at random", _PART, mixed=True),
        Line(CHAINED, "the stages of chained.yaml: rows repaired by the student itself, excess loss, XTF",
             (_EXCESS, keep("global"), *xtf(ATTRIBUTES)), mixed=True, repaired=True),
    )  # fmt: skip


LINES: Final[Mapping[str, Line]] = {line.name: line for line in _lines()}
OWN_CONTROL: Final = {"STM": "random as STM", "XTF": "random as XTF", "auto": "random as auto"}
"""The control of a line that keeps another fraction than all others: a random mask of equally many tokens."""
SIZED_BY: Final = {control: line for line, control in OWN_CONTROL.items()}
LENDERS: Final = ("fixed", "STM")
"""The lines whose losses under the base others use, and the first one's reference, in the order of how much they have."""
METHODS: Final = tuple(
    name
    for name, line in LINES.items()
    if name not in (UNTRAINED, FULL, TRUTH, RANDOM, *SIZED_BY) and not line.mixed
)
CORE: Final = tuple(name for name, line in LINES.items() if line.everywhere)
"""The lines of levels other than the middle one."""
FEW: Final = (*CORE, "DFT", "self-evolving")
"""The lines of every dataset but the first."""
MIXED: Final = tuple(name for name, line in LINES.items() if line.mixed)
