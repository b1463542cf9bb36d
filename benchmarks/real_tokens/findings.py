"""Sentences about methods, each derived from conditions on intervals."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.evidence.figures import Difference, Evidence
from benchmarks.evidence.text import interval, listed
from benchmarks.real_evidence.findings import plain
from benchmarks.real_tokens.figures import Figures, between_levels, figures, saved
from benchmarks.real_tokens.lines import FULL, METHODS, MIXED, OWN_CONTROL, RANDOM, TRUTH, UNTRAINED
from benchmarks.real_tokens.plan import own_control
from benchmarks.token_evidence.figures import faults


def told(gap: Difference | None) -> str:
    """Return a difference with its interval."""
    return interval(plain(gap))


def beats(gap: Difference | None) -> bool:
    """Whether the loss of a line is significantly lower than that of a control."""
    return gap is not None and gap.low > 0


def worse(gap: Difference | None) -> bool:
    """Whether the loss of a line is significantly higher than that of a control."""
    return gap is not None and gap.high < 0


def level(evidence: Evidence, one: str, percent: int) -> list[str]:
    """Return the results of a level: the cost of noise, the gain of a perfect mask, and each method against its control."""
    found = [f for name in METHODS if (f := figures(evidence, name, one, percent))]
    where = f"{one} {percent}%"
    out = [f"{where}: {text}" for text in _setting(evidence, one, percent)]
    if not found:
        return out
    compared = [c for c in (RANDOM, FULL) if any(f.saves[c] for f in found)]
    out += [f"{where}: {_against(found, control)}" for control in compared]
    out += [f"{where}: {text}" for text in _own(found)]
    best = min(found, key=lambda f: f.loss.mean)
    out.append(f"{where}: the method of the lowest loss is `{best.name}`{_share(best)}.")
    return [*out, *(f"{where}: `{f.name}` {_why(f)}." for f in found if _fails(f))]


def _setting(evidence: Evidence, one: str, percent: int) -> list[str]:
    out = []
    learnt = saved(evidence, FULL, UNTRAINED, one, percent)
    if learnt is not None:
        held = (
            "lowers" if beats(learnt) else "raises" if worse(learnt) else "is not shown to change"
        )
        out.append(
            f"training on every token {held} the loss of clean answers (untrained - full {told(learnt)})."
        )
    costs = between_levels(evidence, FULL, one, percent)
    if costs is not None:
        held = "costs" if beats(costs) else "is not shown to cost"
        out.append(
            f"noise {held} something where every token is learnt (full less full without noise {told(costs)})."
        )
    worth = saved(evidence, TRUTH, FULL, one, percent)
    if worth is not None:
        held = "saves" if beats(worth) else "is not shown to save"
        out.append(
            f"a perfect mask {held} loss over full ({told(worth)}): no mask of noise can be expected to save more."
        )
    return out  # fmt: skip


def _against(found: Sequence[Figures], control: str) -> str:
    known = [f for f in found if f.saves[control] is not None]
    order = sorted(known, key=lambda f: f.loss.mean)
    better = [f"`{f.name}` ({told(f.saves[control])})" for f in order if beats(f.saves[control])]
    lower = [f"`{f.name}` ({told(f.saves[control])})" for f in order if worse(f.saves[control])]
    same = [f"`{f.name}`" for f in order if not beats(f.saves[control]) and not worse(f.saves[control])]  # fmt: skip
    parts = [f"**better than {control}**: {listed(better) if better else 'none'}"]
    parts += [f"worse: {listed(lower)}"] if lower else []
    parts += [f"not shown to differ: {listed(same)}"] if same else []
    return "; ".join(parts) + "."


def _own(found: Sequence[Figures]) -> list[str]:
    """Compare each method that keeps another fraction with a random mask of that fraction."""
    out = []
    for f in found:
        control = OWN_CONTROL.get(f.name)
        gap = f.saves[control] if control else None
        if gap is not None:
            held = (
                "**beats**"
                if beats(gap)
                else "is worse than"
                if worse(gap)
                else "is not shown to differ from"
            )
            out.append(f"`{f.name}` {held} a random mask of as many tokens ({told(gap)}).")
    return out  # fmt: skip


def _share(found: Figures) -> str:
    if found.recovered is None:
        return ""
    return f", which saves {found.recovered:.0%} of what a perfect mask saves"


def _fails(found: Figures) -> bool:
    """Whether a method was compared with its control and is not significantly better."""
    gap = found.saves[own_control(found.name)]
    return gap is not None and not beats(gap)


def _why(found: Figures) -> str:
    """Return the reason, from its figures, why a method is not better than its control."""
    wrong = faults(found.mask)
    if wrong:
        share = found.noise_share
        left = "" if share is None else f"; {share.mean:.0%} of the tokens in the loss are noise"
        return f"does not beat its control: {'; '.join(wrong)}{left}"
    if found.mask.noise_kept is not None and found.mask.noise_kept.mean == 1:
        return "does not beat its control: it masks nothing, and its weights do not stop the noise"
    return "does not beat its control, though its mask has no such fault"


def mixed(evidence: Evidence, one: str, percent: int) -> list[str]:
    """Return the results of the lines with wrong labels and noise."""
    name = MIXED[-1]
    out = []
    for control in MIXED[:-1]:
        gap = saved(evidence, name, control, one, percent)
        if gap is not None:
            held = "**beats**" if beats(gap) else "is worse than" if worse(gap) else "is not shown to differ from"  # fmt: skip
            out.append(f"`{name}` {held} `{control}` ({told(gap)}).")
    return out
