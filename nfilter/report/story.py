"""Print an explanation: one block per stage, labels before and after, reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nfilter.report import text, tokens
from nfilter.report.explanation import Event, Explanation

if TYPE_CHECKING:
    from rich.console import Console

_WORDS = {
    "keep": "kept",
    "drop": "dropped",
    "relabel": "relabelled",
    "weigh": "weighed",
    "create": "created",
    "refused": "refused",
}
_MEANINGS = {
    "noise_score": "how likely the label is wrong: 0 is surely right, 1 surely wrong",
    "interval": "the lowest and the highest noise score that the data leave possible",
    "vote": "the rule by which the views decide whether a label is flagged",
    "nll": "the mean loss per token of a model's own answer; near 0 where it is sure",
    "agreement": "the share of several answers of one model that are the same",
}
"""Fields of views and verdicts in words."""
_COUNTS = ("tokens", "calls", "rounds", "saved")
Pairs = list[tuple[str, str]]


def print_story(explanation: Explanation, console: Console, *, full: bool = False) -> None:
    """Print an explanation. Texts of the data and of models are never parsed as markup."""
    text.heading(console, f"row {explanation.id} of {explanation.run}: {_headline(explanation)}")
    text.rows(console, [("why", text.cut(explanation.reason or "", full=full))])
    if explanation.raw is not None:
        text.rows(console, [("line", text.cut(explanation.raw, full=full))])
        return
    _block(
        console,
        "created" if explanation.parents else "source",
        _source(explanation, full=full),
    )
    for event in explanation.events:
        _block(console, event.stage, _event(event, full=full))
    _block(console, "result", _end(explanation, full=full))
    if meanings := _meanings(explanation):
        _block(console, "words", meanings)
    if explanation.response_tokens:
        tokens.render(explanation.response_tokens, console)


def _block(console: Console, title: str, pairs: Pairs) -> None:
    console.print()
    text.heading(console, title)
    text.rows(console, pairs or [("nothing", "no note, no call, no decision")])


def _headline(found: Explanation) -> str:
    if found.status == "dropped":
        by = {None: "", "encode": " at encoding"}.get(found.stage, f" by {found.stage}")
        return f"dropped{by}"
    if found.status == "kept":
        if found.label != found.label_now:
            return "kept, with a new label"
        return "kept as created" if found.parents else "kept unchanged"
    return {"undecided": "not decided yet", "unreadable": "unreadable"}[found.status]


def _source(found: Explanation, *, full: bool) -> Pairs:
    pairs = [(role, text.cut(content, full=full)) for role, content in found.messages]
    pairs.append(("label", text.cut(found.label or "", full=full) or "(empty)"))
    if found.rejected is not None:
        pairs.append(("rejected", text.cut(found.rejected, full=full)))
    if found.columns:
        pairs.append(("columns", text.cut(text.value(found.columns, full=full), full=full)))
    if found.parents:
        pairs.append(("created from", ", ".join(found.parents)))
    if found.pinned:
        pairs.append(("pinned", "by a person; no stage may change it"))
    return pairs


def _event(event: Event, *, full: bool) -> Pairs:
    pairs: Pairs = []
    for name, note in event.notes.items():
        pairs += _note(name, note, full=full)
        if name in event.replaced:
            pairs.append((f"{name} before", text.cut(text.value(event.replaced[name]), full=full)))
    if event.label_before is not None or event.label_after is not None:
        pairs.append(
            ("label", _arrow(event.label_before or "", event.label_after or "", full=full))
        )
    if event.weight_after is not None:
        pairs.append(("weight", f"{event.weight_before:g} -> {event.weight_after:g}"))
    for decision in event.decisions:
        action = str(decision["action"])
        pairs.append((_WORDS.get(action, action), text.cut(str(decision["reason"]), full=full)))
    if event.children:
        pairs.append(("new samples", text.value(list(event.children), full=full)))
    pairs += [("call", _call(call, event.notes, full=full)) for call in event.calls]
    return pairs


def _meanings(found: Explanation) -> Pairs:
    """The meaning of each field that is shown."""
    notes = [note for event in found.events for note in event.notes.values()]
    shown = {
        key
        for note in notes
        if isinstance(note, Mapping)
        for key, item in note.items()
        if item is not None
    }
    return [(name, meaning) for name, meaning in _MEANINGS.items() if name in shown]


def _shown(note: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a note without those of a view that say nothing: counts of 0, and texts that repeat its answer."""
    if "answer" not in note or "text" not in note:
        return dict(note)
    known = ("", note["answer"])
    repeated = {name for name in ("text", "reasoning") if note.get(name) in known}
    if note.get("reasoning") == note["text"]:
        repeated.add("text")
    empty = {name for name in _COUNTS if note.get(name) == 0}
    return {name: item for name, item in note.items() if name not in repeated | empty}


def _arrow(before: str, after: str, *, full: bool) -> str:
    left, right = (text.cut(part, full=full) or "(empty)" for part in (before, after))
    return (
        f"{left}\n-> {right}"
        if "\n" in left or len(left) + len(right) > 50
        else f"{left} -> {right}"
    )


def _note(name: str, note: Any, *, full: bool) -> Pairs:
    if not isinstance(note, Mapping):
        return [(name, text.value(note, full=full))]
    short: dict[str, Any] = {}
    long: Pairs = []
    for key, item in _shown(note).items():
        if isinstance(item, str) and (len(item) > 40 or "\n" in item):
            long.append((f"  {key}", text.cut(item, full=full)))
        elif isinstance(item, Mapping):
            long.append((f"  {key}", text.value(item, full=full)))
        elif _is_list_of_parts(item):
            long += [
                (f"  {key} {number}", text.cut(text.value(part, full=full), full=full))
                for number, part in enumerate(item, start=1)
            ]
        elif item is not None or key == "answer":
            short[key] = item
    return [(name, text.value(short, full=full)), *long]


def _is_list_of_parts(item: Any) -> bool:
    """Whether a value is a list of objects, or of lists of objects, such as the steps of a stage."""
    return (
        isinstance(item, list)
        and bool(item)
        and all(
            isinstance(part[0] if isinstance(part, list) and part else part, Mapping)
            for part in item
        )
    )


def _call(call: Any, notes: Mapping[str, Any], *, full: bool) -> str:
    cost = f"{call.model}, {call.prompt_tokens} + {call.completion_tokens} tokens"
    if call.failure is not None:
        return f"{cost}: failed, {text.one_line(call.failure, 200)}"
    if call.finish == "length":
        cost += ", truncated at the limit"
    if call.nll is not None:
        cost += f", nll {call.nll:.4g}"
    shown_in_note = any(
        isinstance(note, Mapping) and note.get("text") == call.text for note in notes.values()
    )
    if shown_in_note and not full:
        return cost
    return f"{cost}: {text.cut(call.text, full=True) if full else text.one_line(call.text, 120)}"


def _end(found: Explanation, *, full: bool) -> Pairs:
    same = found.label == found.label_now
    pairs: Pairs = [("label", text.cut(found.label_now or "", full=full) or "(empty)")]
    if not same:
        pairs.append(("original label", text.cut(found.label or "", full=full) or "(empty)"))
    if found.weight != 1.0:
        pairs.append(("weight", f"{found.weight:g}"))
    if found.tokens is not None:
        pairs.append(("tokens", _tokens(found.tokens)))
    elif found.status == "dropped":
        pairs.append(("training", "does not use this row"))
    if found.children:
        pairs.append(("children", text.value(list(found.children), full=full)))
    if found.truth is not None:
        pairs.append(("truth", f"{text.cut(found.truth, full=full)} (hidden from stages)"))
    pairs += [("missing", gap) for gap in found.gaps]
    return pairs


def _tokens(counts: Mapping[str, Any]) -> str:
    in_loss = f"{counts['in_loss']} of {counts['response']} response tokens are in the loss"
    masked = ", ".join(f"{name} masked {count}" for name, count in counts["masked_by"].items())
    return f"{in_loss}; {masked}" if masked else in_loss
