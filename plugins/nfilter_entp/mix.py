"""``entp.mix``: two samples become one: an instruction, then its answer, each drafted, checked and repaired (ENTP)."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from nfilter import (
    JSON,
    Calls,
    Context,
    Contract,
    Embeds,
    FloatArray,
    Generates,
    Message,
    ModelNeed,
    Needs,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    did_you_mean,
    hash_of,
    place_of,
)
from nfilter_entp import cycle
from nfilter_entp.cycle import ANSWER, INSTRUCTION, ROLES, Asking, Case, Parent
from nfilter_entp.gates import Gate, Gates, Rarity, judge, reason
from nfilter_entp.gates import missing as lacking
from nfilter_entp.neighbours import embedded
from nfilter_entp.turns import instruction_of, system_of, unfit

_FIELDS = 4  # texts a parent: id, system prompt, instruction, response
_FOLDER = "entp"
_OTHER, _UNFIT, _LEADS = range(3)  # why a partner that is there is none

Change = Literal["drop", "keep"]


class MixConfig(StageConfig):
    """``llm`` drafts, checks and answers; ``pair`` names the note of ``entp.pair``.

    ``mode: single`` is a control: each leading sample is rewritten alone, at as many calls. ``parents``, ``failed`` and
    ``unpaired`` say what becomes of samples that were mixed, whose pair failed, and that have no partner.
    ``prompts`` is a folder that has all templates, or names templates by role; other roles keep the shipped ones.
    Each cycle has ``retries`` drafts after the first, drawn at ``retry_temperature`` or at ``temperature``, whichever is
    higher. ``terms`` key terms of each parent count, its rarest words. ``block`` pairs are asked about together.
    """

    llm: Annotated[str, Needs(Generates)] = "expert"
    encoder: Annotated[str, Needs(Embeds)] = "encoder"
    pair: str = "pair"
    into: str = "mix"
    mode: Literal["pairs", "single"] = "pairs"
    parents: Change = "drop"
    failed: Change = "drop"
    unpaired: Change = "keep"
    prompts: str | dict[str, str] = _FOLDER
    max_tokens: int = Field(default=1024, ge=1)
    check_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    retries: int = Field(default=2, ge=0, le=8)
    retry_temperature: float = Field(default=0.7, gt=0)
    terms: int = Field(default=12, ge=1, le=1000)
    block: int = Field(default=256, ge=1)
    gates: Gates = Gates()

    @field_validator("prompts")
    @classmethod
    def _roles(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        wrong = [role for role in value if role not in ROLES] if isinstance(value, dict) else []
        if wrong:
            raise ValueError(
                f"no template has the role {wrong[0]!r}{did_you_mean(wrong[0], ROLES)}"
            )
        return value

    def prompt(self, role: str) -> str:
        """The name of the template of that role."""
        if isinstance(self.prompts, dict):
            return self.prompts.get(role, f"{_FOLDER}/{role}")
        return f"{self.prompts}/{role}"


@dataclass(slots=True)
class _Mate:
    """What fit reads of a sample's note, and where its texts are, counted in samples."""

    other: str
    lead: bool
    place: int


@dataclass(slots=True)
class _Made:
    """What came of all pairs, each one's own part behind the one before."""

    failed: list[bool] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # six a pair, see _done
    vectors: list[FloatArray] = field(default_factory=list)  # of those accepted
    calls: int = 0
    templates: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)


class Mix:
    """Makes one new sample of each pair, or says why not, and decides about the parents.

    The gates have the last word, whatever a model says of its own work. A new sample has a user's and an assistant's turn, and the
    parents' system prompt before them where both have the same; where theirs differ, each is shown with its parent's
    instruction and the new sample has none.

    All calls are made in ``fit``: a partner may be in any chunk, before or behind its lead's, and its own chunk has to know
    what came of the pair. Each call is in the journal, so a run that was stopped asks nothing twice; ``process``
    publishes what the state holds.
    """

    name: ClassVar[str] = "entp.mix"
    Config: ClassVar[type[StageConfig]] = MixConfig

    def __init__(self, config: MixConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MixConfig) -> Contract:
        """Reads the pairs, makes new samples, and makes at most 4 * (1 + retries) calls a pair, of which a row is half."""
        rounds = 1 + config.retries
        draft, check, repairs = config.max_tokens, config.check_tokens, 0.5 * config.retries
        # The last column: the drafts and the checklist that a prompt shows again.
        calls = [
            Calls(config.llm, config.prompt(role), tokens, 0, min(usual, most), most, rows, shows)
            for role, tokens, usual, most, rows, shows in (
                ("instruction", draft, 0.5, 0.5, 2, 0),
                ("instruction_check", check, 0.6, 0.5 * rounds, 2, draft),
                ("instruction_missing_terms", draft, 0.1, repairs, 2, draft + check),
                ("answer", draft, 0.4, 0.5, 2, draft),
                ("answer_check", check, 0.5, 0.5 * rounds, 1, 2 * draft),
                ("answer_patch", draft, 0.1, repairs, 1, 2 * draft + check),
            )
            if most
        ]
        return Contract(
            reads=frozenset({config.pair}),
            writes=frozenset({config.into}),
            sometimes=frozenset({config.into}),
            prompts=frozenset(config.prompt(role) for role in ROLES),
            needs=(
                ModelNeed(config.llm, Generates, field="llm"),
                ModelNeed(config.encoder, Embeds, field="encoder"),
            ),
            new_samples=True,
            calls=tuple(calls),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Mix all pairs, a block at a time.

        The texts of paired samples are held, 8 bytes a sample, and 4 a new sample and dimension; the state has the new texts.
        """
        mates, texts, rarity, there = self._read(stream)
        pairs = sorted(
            (name, mate.other)
            for name, mate in mates.items()
            if mate.lead and mate.other in mates and mates[mate.other].other == name
            and not mates[mate.other].lead
        )  # fmt: skip
        asking = Asking(
            ctx,
            self.config.llm,
            {role: ctx.prompt(self.config.prompt(role)) for role in ROLES},
            self.config.max_tokens,
            self.config.check_tokens,
            self.config.temperature,
            self.config.retry_temperature,
        )
        made = _Made()
        with ctx.progress(len(pairs), f"{ctx.stage}: pairs") as progress:
            for start in range(0, len(pairs), self.config.block):
                block = pairs[start : start + self.config.block]
                cases = [self._case(pair, mates, texts, rarity) for pair in block]
                self._mix(block, cases, asking, made)
                progress.advance(len(block))
        mixed = made.failed.count(False)
        report: dict[str, JSON] = {
            "pairs": len(pairs),
            "mixed": mixed,
            "failed": dict(made.why.most_common()),
            "calls": made.calls,
            "calls_a_pair": round(made.calls / len(pairs), 2) if pairs else None,
            "templates": {role: made.templates[role] for role in ROLES if made.templates[role]},
        }
        ctx.log.info(f"{mixed} of {len(pairs)} pairs became a new sample, with {made.calls} calls")
        return self._state(pairs, made, report, _strays(mates, pairs, there))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Publish the chunk's share: each lead's new sample, behind the chunk, and what becomes of both parents."""
        results = _Results.open(state)
        out, new = [], []
        for sample in chunk:
            pair = results.pair_of(sample.id)
            if pair is None:
                out.append(self._unpaired(sample, state))
                continue
            out.append(self._parent(sample, pair, ctx))
            if sample.id == pair.lead and pair.why is None:
                new.append(self._new(pair, ctx))
        return [*out, *new]

    def _read(
        self, stream: Iterable[Sample]
    ) -> tuple[dict[str, _Mate], PackedTexts, Rarity, array[int]]:
        """Whom the notes pair, the texts of these samples, in how many of them each word is, and hashes of all ids."""
        mates: dict[str, _Mate] = {}
        rarity = Rarity()
        there = array("Q")

        def texts() -> Iterator[str]:
            for sample in stream:
                there.append(hash_of(sample.id))
                note = sample.notes.get(self.config.pair)
                other = note.get("with") if isinstance(note, Mapping) else None
                if isinstance(note, Mapping) and isinstance(other, str) and unfit(sample) is None:
                    mates[sample.id] = _Mate(other, note.get("lead") is True, len(mates))
                    rarity.add(instruction_of(sample))
                    yield from (
                        sample.id,
                        system_of(sample),
                        instruction_of(sample),
                        sample.response,
                    )

        packed = PackedTexts.of(texts())
        return mates, packed, rarity, there

    def _case(
        self,
        pair: tuple[str, str],
        mates: Mapping[str, _Mate],
        texts: PackedTexts,
        rarity: Rarity,
    ) -> Case:
        shown = pair if self.config.mode == "pairs" else pair[:1]
        places = [_FIELDS * mates[name].place for name in shown]
        systems = [texts[place + 1] for place in places]
        same = len(set(systems)) == 1
        asked = [texts[place + 2] for place in places]
        return Case(
            pair[0],
            tuple(
                Parent(text, texts[place + 3], "" if same else system)
                for place, system, text in zip(places, systems, asked, strict=True)
            ),
            systems[0] if same else "",
            tuple(rarity.key_terms(text, self.config.terms) for text in asked),
        )

    def _mix(
        self, pairs: Sequence[tuple[str, str]], cases: Sequence[Case], asking: Asking, made: _Made
    ) -> None:
        """Both cycles and the gates over a block of pairs."""
        retries = self.config.retries
        cycle.run(INSTRUCTION, cases, asking, retries, _missing)
        cycle.run(
            ANSWER, [case for case in cases if case.failure is None], asking, retries, _missing
        )
        judged = self._judge([case for case in cases if case.failure is None], asking.ctx, made)
        for (lead, other), case in zip(pairs, cases, strict=True):
            found = judged.get(case.key, {})
            failed = case.failure or reason(found)
            by = "mixed"
            if failed is not None:
                by = _named(case, found)
                made.why[by] += 1
            made.failed.append(failed is not None)
            made.calls += case.calls
            made.templates.update(case.templates)
            log = {
                "parents": [lead] if self.config.mode == "single" else [lead, other],
                "calls": case.calls,
                "templates": case.templates,
                "checks": case.checks,
                "gates": {name: gate.to_json() for name, gate in found.items()},
                "outcome": "mixed" if failed is None else f"failed: {failed}",
            }
            made.texts += _done(lead, other, case, log, failed)

    def _judge(
        self, cases: Sequence[Case], ctx: Context, made: _Made
    ) -> dict[str, dict[str, Gate]]:
        """The gates of each case, in order: a new sample is compared with those that were accepted before it."""
        if not cases:
            return {}
        # Each new instruction, then those of its parents.
        wanted = [
            [case.texts["instruction"], *(p.instruction for p in case.parents)] for case in cases
        ]
        flat = [text for texts in wanted for text in texts]
        vectors = embedded(ctx, self.config.encoder, flat)
        starts = np.cumsum([0, *(len(texts) for texts in wanted[:-1])]).tolist()
        before = _before(vectors[starts], made.vectors)
        found: dict[str, dict[str, Gate]] = {}
        accepted: list[int] = []
        for case, start, other in zip(cases, starts, before, strict=True):
            vector = vectors[start]
            found[case.key] = judge(
                self.config.gates,
                case.terms,
                case.texts["instruction"],
                case.texts["answer"],
                vectors[start + 1 : start + 1 + len(case.parents)],
                vector,
                max([other, *(float(vector @ vectors[at]) for at in accepted)]),
            )
            if reason(found[case.key]) is None:
                accepted.append(start)
        made.vectors.append(vectors[accepted])
        return found

    def _state(
        self,
        pairs: Sequence[tuple[str, str]],
        made: _Made,
        report: Mapping[str, JSON],
        strays: Mapping[int, int],
    ) -> State:
        """The pairs by the hashes of their samples' ids, six texts a pair; why other partners that are there are none."""
        hashes = np.array([hash_of(name) for pair in pairs for name in pair], dtype=np.uint64)
        order = np.argsort(hashes)
        return State(
            {"report": dict(report)},
            {
                "row": hashes[order],
                "pair": (order // 2).astype(np.int64),
                "stray": np.array(sorted(strays), dtype=np.uint64),
                "stray_why": np.array([strays[key] for key in sorted(strays)], dtype=np.uint8),
                **PackedTexts.of(made.texts).arrays("text"),
            },
        )

    def _unpaired(self, sample: Sample, state: State) -> Sample:
        note = sample.notes.get(self.config.pair)
        why = unfit(sample)
        if why is None and isinstance(note, Mapping) and isinstance(note.get("with"), str):
            why = _left(sample, str(note["with"]), state)
        elif why is None:
            why = str(note["why"]) if isinstance(note, Mapping) and note.get("why") else "no pair"
        return self._decide(sample, self.config.unpaired, f"not mixed: {why}")

    def _parent(self, sample: Sample, pair: _Pair, ctx: Context) -> Sample:
        if pair.why is None:
            made = self._new(pair, ctx).id
            noted = sample.note(self.config.into, {"outcome": "mixed", "into": made})
            other = pair.other if sample.id == pair.lead else pair.lead
            how = f"mixed into {made} with {other}"
            if self.config.mode == "single":
                how = f"rewritten as {made}"
                if sample.id != pair.lead:
                    how = f"its pair's lead {pair.lead} was {how}"
            return self._decide(noted, self.config.parents, how)
        log = pair.log if sample.id == pair.lead else {"outcome": f"failed, see {pair.lead}"}
        what = "mixed" if self.config.mode == "pairs" else "rewritten"
        return self._decide(
            sample.note(self.config.into, log), self.config.failed, f"not {what}: {pair.why}"
        )

    def _decide(self, sample: Sample, change: Change, why: str) -> Sample:
        if change == "drop" and sample.pinned:
            return sample.keep(f"pinned by a person: stays, though {why}")
        return sample.drop(why) if change == "drop" else sample.keep(why)

    def _new(self, pair: _Pair, ctx: Context) -> Sample:
        parents = [pair.lead] if self.config.mode == "single" else [pair.lead, pair.other]
        turns = [Message("system", pair.system)] if pair.system else []
        turns += [Message("user", pair.instruction), Message("assistant", pair.answer)]
        passed = ", ".join(f"{name} {gate['value']:g}" for name, gate in pair.log["gates"].items())
        why = f"{pair.log['calls']} calls; gates passed: {passed}"
        return Sample.made(ctx.stage, parents, turns, why).note(self.config.into, pair.log)


@dataclass(frozen=True, slots=True)
class _Pair:
    """What came of one pair; ``why`` it failed, else None."""

    lead: str
    other: str
    system: str
    instruction: str
    answer: str
    log: dict[str, Any]
    why: str | None


@dataclass(frozen=True, slots=True)
class _Results:
    """The state, opened."""

    rows: Any
    pairs: Any
    texts: PackedTexts

    @classmethod
    def open(cls, state: State) -> _Results:
        return cls(
            state.arrays["row"], state.arrays["pair"], PackedTexts.open(state.arrays, "text")
        )

    def pair_of(self, name: str) -> _Pair | None:
        """The pair that has the sample ``name``."""
        row = place_of(self.rows, name)
        if row is None:
            return None
        first = 6 * int(self.pairs[row])
        lead, other, system, instruction, answer, log = (self.texts[first + at] for at in range(6))
        if name not in (lead, other):
            return None
        value = json.loads(log)
        return _Pair(lead, other, system, instruction, answer, value["log"], value["why"])


def _strays(
    mates: Mapping[str, _Mate], pairs: Sequence[tuple[str, str]], there: array[int]
) -> dict[int, int]:
    """By the hash of its id why a sample is in no pair though its partner is there; where the partner left it is not in here."""
    paired = {name for pair in pairs for name in pair}
    names = [name for name in mates if name not in paired]
    found: dict[int, int] = {}
    if not names:
        return found
    others = np.array([hash_of(mates[name].other) for name in names], dtype=np.uint64)
    known = np.isin(others, np.frombuffer(there, dtype=np.uint64))
    for name, is_there in zip(names, known.tolist(), strict=True):
        other = mates.get(mates[name].other)
        if is_there:
            why = _UNFIT if other is None else _OTHER if other.other != name else _LEADS
            found[hash_of(name)] = why
    return found


def _left(sample: Sample, other: str, state: State) -> str:
    """Why a sample whose note names a partner is in no pair."""
    at = place_of(state.arrays["stray"], sample.id)
    if at is None:
        return f"its partner {other} left before the two were mixed"
    return {
        _OTHER: f"its partner {other} is there, and is paired with another sample",
        _UNFIT: f"its partner {other} is there, and is paired with none or cannot be mixed",
        _LEADS: f"of it and its partner {other} not just one leads",
    }[int(state.arrays["stray_why"][at])]


def _done(lead: str, other: str, case: Case, log: Mapping[str, Any], why: str | None) -> list[str]:
    """Six texts of a pair: its ids, the new sample's turns, and the log as JSON."""
    turns = [case.system, case.texts.get("instruction", ""), case.texts.get("answer", "")]
    return [lead, other, *turns, json.dumps({"log": log, "why": why})]


def _missing(case: Case) -> list[str]:
    """The key terms of all parents that the drafted instruction lacks."""
    terms = list(dict.fromkeys(term for each in case.terms for term in each))
    return lacking(terms, case.texts.get("instruction", ""))


def _named(case: Case, found: Mapping[str, Gate]) -> str:
    """What a failure is counted under: the cycle that ended without a text, or the first gate that was not passed."""
    if case.failure is not None:
        return "instruction" if "answer" not in case.templates else "answer"
    return next(name for name, gate in found.items() if not gate.passed)


def _before(vectors: FloatArray, accepted: Sequence[FloatArray]) -> list[float]:
    """The highest similarity of each of ``vectors`` [n, d] to any of those accepted in the blocks before; -1 without any."""
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for block in accepted:
        if len(block):
            np.maximum(best, (vectors @ block.T).max(axis=1), out=best)
    return [float(value) for value in best]
