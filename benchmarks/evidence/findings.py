"""Sentences that judge: each is a condition on the figures, and says the contrary where the contrary holds."""

from __future__ import annotations

import math
from typing import Final

from benchmarks.evidence.figures import Evidence, Rule
from benchmarks.evidence.lines import CONTROLS, LINES
from benchmarks.evidence.text import NOT_RUN, interval, number, share

NOISES: Final = {"uniform": "uniform wrong answers", "own": "the model's own wrong answers"}
OFFICIAL: Final = ("base", "reasoning")
GAIN, F1, OF_BOUND, CALLS = 0.5, 0.9, 0.9, 0.6


def level(noise: str, percent: int) -> str:
    """``50% uniform``."""
    return f"{percent}% {noise}"


def _verdict(ok: bool, yes: str, no: str) -> str:
    return f"**{yes}**" if ok else f"**{no}**"


def main(evidence: Evidence, noise: str, percent: int) -> list[str]:
    """What the main table says at one level."""
    made = evidence.line("robustft", noise, percent)
    where = level(noise, percent)
    if made is None:
        return [f"{where}: {NOT_RUN}."]
    out = []
    if made.vanilla is not None:
        low = made.vanilla["low"]
        held = _verdict(low > 0, "RobustFT beats vanilla", "not shown to beat vanilla")
        out.append(f"{where}: {held}: cleaned - vanilla {interval(made.vanilla)}.")
    if made.raw is not None:
        held = _verdict(made.raw["low"] > 0, "RobustFT beats raw", "not shown to beat raw")
        out.append(f"{where}: {held}: cleaned - raw {interval(made.raw)}.")
    if made.gain is None:
        out.append(
            f"{where}: **gain is undefined**: truth - vanilla is under three standard errors, or is not there."
        )
    else:
        held = _verdict(made.gain >= GAIN, "gain reached", "gain not reached")
        out.append(f"{where}: {held}: {share(made.gain)}, asked for {share(GAIN)}.")
    out += _controls(evidence, noise, percent)
    return out


def _controls(evidence: Evidence, noise: str, percent: int) -> list[str]:
    wins: list[str] = []
    ties: list[str] = []
    losses: list[str] = []
    for name in CONTROLS:
        found = evidence.difference(name, "robustft", noise, percent)
        if found is None:
            continue
        text = f"{name} {share(found.mean, '+')} ± {share(found.error)}"
        side = wins if found.mean > found.error else losses if found.mean < -found.error else ties
        side.append(text)
    where = level(noise, percent)
    out = [
        f"{where}: **a control wins**: {text} (its accuracy less RobustFT's, ± one standard error): "
        f"{LINES[text.split(' ', 1)[0]]}."
        for text in wins
    ]
    if ties:
        out.append(f"{where}: within one standard error of RobustFT: {'; '.join(ties)}.")
    if losses:
        out.append(f"{where}: below RobustFT: {'; '.join(losses)}.")
    return out


def best_rule(rules: list[Rule]) -> Rule | None:
    """The rule with the highest mean F1; of equals, the one with the fewest calls."""
    known = [rule for rule in rules if rule.f1 is not None]
    return max(known, key=lambda rule: (rule.f1 or 0.0, -rule.whole)) if known else None


def official_rule(rules: list[Rule]) -> Rule | None:
    """The published rule: a strict AND of the direct and the reasoning view."""
    return next((r for r in rules if r.vote == "all" and r.views == OFFICIAL), None)


def cheapest_as_good(rules: list[Rule], best: Rule) -> Rule:
    """The rule with the fewest calls whose F1 is the best's less at most their standard error between seeds."""

    def as_good(rule: Rule) -> bool:
        own, top = rule.figures["f1"], best.figures["f1"]
        if own is None or top is None:
            return False
        return own.mean >= top.mean - math.hypot(own.error, top.error)

    return min((rule for rule in rules if as_good(rule)), key=lambda rule: rule.whole)


def found_rules(
    evidence: Evidence, noise: str, percent: int
) -> tuple[float | None, float | None, float | None]:
    """The best F1, the published rule's share of its bound, and the share of its calls that the best F1 takes."""
    rules = evidence.rules(noise, percent)
    best, published = best_rule(rules), official_rule(rules)
    if best is None or published is None:
        return (best.f1 if best else None), None, None
    of_bound = published.figures["of_bound"]
    calls = cheapest_as_good(rules, best).whole / published.whole
    return best.f1, of_bound.mean if of_bound else None, calls


def detection(evidence: Evidence, noise: str, percent: int) -> list[str]:
    """What the detection table says at one level."""
    rules = evidence.rules(noise, percent)
    where = level(noise, percent)
    best, published = best_rule(rules), official_rule(rules)
    if best is None or best.f1 is None:
        return [f"{where}: {NOT_RUN}."]
    held = _verdict(best.f1 >= F1, "F1 reached", "F1 not reached")
    out = [
        f"{where}: {held}: the best rule is `{best.name}`, {share(best.f1)}; asked for {share(F1)}."
    ]
    everything = best.figures["flag_all"]
    if everything is not None and best.f1 <= everything.mean:
        out.append(f"{where}: **flagging all is as good**: {share(everything.mean)}.")
    if published is None:
        return out
    of_bound = published.figures["of_bound"]
    if of_bound is not None:
        held = _verdict(of_bound.mean >= OF_BOUND, "near its bound", "far from its bound")
        out.append(
            f"{where}: {held}: `{published.name}` has {share(of_bound.mean)} of its bound's F1, asked for {share(OF_BOUND)}."
        )
    cheap = cheapest_as_good(rules, best)
    ratio = cheap.whole / published.whole
    held = _verdict(ratio <= CALLS, "fewer calls suffice", "fewer calls do not suffice")
    out.append(
        f"{where}: {held}: `{cheap.name}` is the cheapest rule within a standard error of the best F1, with "
        f"{number(cheap.whole)} calls a sample, {share(ratio)} of the official {number(published.whole)} (2N + 2M); "
        f"asked for {share(CALLS)}."
    )
    return out
