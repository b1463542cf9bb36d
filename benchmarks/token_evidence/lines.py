"""The methods that are compared, each as a recipe's token stages and online loss. Shares are fixed here, before a figure is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

K: Final = 0.6
WARMUP: Final = 0.2
ROUNDS: Final = 4
TRUSTED: Final = "trusted"
ATTRIBUTES: Final = ("reasoning", "novelty", "relevance")

Stage = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One method: token stages, an online loss, or both.

    ``trusted`` needs the reference that learnt from clean rows. ``everywhere`` is run at all levels, not at the middle
    one alone. ``noiseless`` sees the responses without noise. ``mixed`` has wrong labels too; ``repaired`` cleans the
    samples before the tokens, with the stages of the recipe ``chained``.
    """

    name: str
    says: str
    tokens: tuple[Stage, ...] = ()
    loss: str | None = None
    adopt: str | None = None
    trusted: bool = False
    everywhere: bool = False
    noiseless: bool = False
    mixed: bool = False
    repaired: bool = False
    trained: bool = True


def excess(*, trusted: bool) -> Stage:
    """Scores by excess loss: the reference learnt from clean rows, or from a share of the noisy ones."""
    reference: Stage = {"reference": TRUSTED} if trusted else {"warmup": WARMUP}
    return {"use": "tokens.excess_loss", **reference}


def keep(scope: str) -> Stage:
    """The best share of all tokens (``global``) or of each sample's (``sample``)."""
    return {"use": "tokens.keep_top", "k": K, "scope": scope}


def xtf(
    names: Sequence[str], *, random: bool = False, preset: str = "default"
) -> tuple[Stage, ...]:
    """XTF's attributes, then the union of what they mask, or as many tokens of each sample at random."""
    stages = tuple({"use": f"xtf.{name}", "preset": preset, "mask": False} for name in names)
    control = {"random": True} if random else {}
    return (*stages, {"use": "xtf.mask", "attributes": list(names), "preset": preset, **control})


def lines() -> tuple[Line, ...]:
    """Every line, in the order of the table."""
    out = [
        Line("vanilla", "the model as it is, not trained", noiseless=True, trained=False),
        Line("clean", "the responses without noise: what there is to gain", noiseless=True, everywhere=True),
        Line("full", "every token", everywhere=True),
        Line("random", f"{K:.0%} of the tokens at random", ({"use": "tokens.random", "k": K},), everywhere=True),
        Line("fixed, warm-up", f"excess loss, reference from {WARMUP:.0%} of the noisy rows, best {K:.0%} of all",
             (excess(trusted=False), keep("global")), everywhere=True),
        Line("RHO, warm-up", f"the same scores, best {K:.0%} of each sample", (excess(trusted=False), keep("sample"))),
        Line("fixed, trusted", f"excess loss, reference from clean rows, best {K:.0%} of all",
             (excess(trusted=True), keep("global")), trusted=True, everywhere=True),
        Line("RHO, trusted", f"the same scores, best {K:.0%} of each sample", (excess(trusted=True), keep("sample")), trusted=True),
        Line("auto, trusted", "the same scores, cut by two groups", (excess(trusted=True), {"use": "tokens.auto_threshold"}), trusted=True),
        Line("auto, warm-up", "warm-up scores, cut by two groups", (excess(trusted=False), {"use": "tokens.auto_threshold"})),
        Line("self-evolving", f"Algorithm 1, base fixed, {ROUNDS} rounds, {K:.0%}, its own last model",
             ({"use": "tokens.self_evolve", "k": K, "rounds": ROUNDS},), adopt="tokens.self_evolve", everywhere=True),
    ]  # fmt: skip
    sizes = (1, 2, 3)
    for size in sizes:
        for names in combinations(ATTRIBUTES, size):
            union = size == len(ATTRIBUTES)
            label = "XTF" if union else f"XTF {' + '.join(names)}"
            out.append(Line(label, "preset default", xtf(names), everywhere=union))
    out += [
        Line("XTF, random", "as many tokens a sample as XTF masks, at random", xtf(ATTRIBUTES, random=True), everywhere=True),
        Line("XTF, paper", "the three attributes, preset paper: no caps", xtf(ATTRIBUTES, preset="paper")),
        Line("STM", "base perplexity over 2.5 masked", ({"use": "stm.mask"},), everywhere=True),
        Line("base probability", "every token weighed by its probability under the base", ({"use": "pweight.weigh"},)),
        Line("DFT", "weighed by its probability as training goes", loss="dft", everywhere=True),
        Line("EAFT", "weighed by entropy as training goes", loss="eaft"),
    ]  # fmt: skip
    return (*out, *_mixed())


def _mixed() -> tuple[Line, ...]:
    """The lines over data with wrong labels and noise inside the responses."""
    stm: tuple[Stage, ...] = ({"use": "stm.mask"},)
    best: tuple[Stage, ...] = (excess(trusted=False), keep("global"))
    union = xtf(ATTRIBUTES)
    random: tuple[Stage, ...] = ({"use": "tokens.random", "k": K},)
    return (
        Line("mixed, full", "every token of every row", mixed=True),
        Line("mixed, random", f"{K:.0%} of the tokens at random", random, mixed=True),
        Line("mixed, STM", "no row repaired, STM", stm, mixed=True),
        Line("RobustFT", "rows repaired, every token", mixed=True, repaired=True),
        Line("RobustFT, random", f"rows repaired, {K:.0%} of the tokens at random", random, mixed=True, repaired=True),
        Line("RobustFT, excess, XTF", "the recipe `chained`: rows repaired, excess loss, XTF", (*best, *union), mixed=True, repaired=True),
        Line("RobustFT, XTF", "rows repaired, XTF", union, mixed=True, repaired=True),
        Line("RobustFT, STM", "rows repaired, STM", stm, mixed=True, repaired=True),
    )  # fmt: skip
