"""``entp.mix``: merge two samples into one: an instruction, then its answer, each drafted, checked and repaired (ENTP)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

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
    Needs,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    Temperature,
    did_you_mean,
    hash_of,
)
from nfilter_entp.mixing import repair_cycle
from nfilter_entp.mixing.gates import Gate, Gates, Rarity, failure_reason, judge
from nfilter_entp.mixing.gates import missing_terms as missing_in
from nfilter_entp.mixing.repair_cycle import ANSWER, INSTRUCTION, ROLES, Case, ModelCalls, Parent
from nfilter_entp.mixing.single_turn import instruction_of, system_of, unfit
from nfilter_entp.mixing.state import Outcomes, Pair, Partner, Results, unmatched, unmatched_reason
from nfilter_entp.neighbours import embed_unit
from nfilter_entp.notes import PairNote

_FIELDS = 4  # texts per parent: id, system prompt, instruction, response
_FOLDER = "entp"

Change = Literal["drop", "keep"]


class MixConfig(StageConfig):
    """``llm`` drafts, checks and answers; ``pair`` names the note of ``entp.pair``.

    ``mode: single`` is a control: each leading sample is rewritten alone, with the same number of calls. ``parents``, ``failed`` and
    ``unpaired``: whether to drop or keep mixed samples, samples of a failed pair, and samples without a partner. ``prompts``: a folder
    with all templates, or a mapping from role to template; other roles keep the shipped ones. Each cycle makes up to ``retries``
    further drafts, at the higher of ``retry_temperature`` and ``temperature``. ``terms``: number of key terms per parent, its rarest
    words. ``block``: number of pairs processed together.
    """

    llm: Annotated[str, Needs(Generates)] = Field(
        default="expert", description="The model that drafts, checks and answers."
    )
    encoder: Annotated[str, Needs(Embeds)] = Field(
        default="encoder", description="The model whose embeddings the gates compare."
    )
    pair: str = Field(default="pair", description="The note of entp.pair.")
    into: str = Field(default="mix", description="The note with the record of the mix.")
    mode: Literal["pairs", "single"] = Field(
        default="pairs",
        description="pairs: mix two samples; single: rewrite one alone, as a control.",
    )
    parents: Change = Field(
        default="drop", description="What happens to the samples that were mixed."
    )
    failed: Change = Field(default="drop", description="What happens to samples whose mix failed.")
    unpaired: Change = Field(
        default="keep", description="What happens to samples without a partner."
    )
    prompts: str | dict[str, str] = Field(
        default=_FOLDER,
        description="A folder with all templates, or a mapping of roles to templates.",
    )
    max_tokens: int = Field(default=1024, ge=1, description="Tokens per draft or answer, at most.")
    check_tokens: int = Field(default=512, ge=1, description="Tokens per check, at most.")
    temperature: Temperature = 0.0
    retries: int = Field(
        default=2, ge=0, le=8, description="Further drafts per cycle, at most, 0 to 8."
    )
    retry_temperature: float = Field(
        default=0.7,
        gt=0,
        description="Sampling temperature of further drafts; the higher of the two temperatures is used.",
    )
    terms: int = Field(
        default=12, ge=1, le=1000, description="Key terms per parent, 1 to 1000: its rarest words."
    )
    block: int = Field(default=256, ge=1, description="Pairs that are processed together.")
    gates: Gates = Field(default=Gates(), description="Limits that a mixed sample must meet.")

    @field_validator("prompts")
    @classmethod
    def _check_roles(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        wrong = [role for role in value if role not in ROLES] if isinstance(value, dict) else []
        if wrong:
            raise ValueError(f"unknown template role {wrong[0]!r}{did_you_mean(wrong[0], ROLES)}")
        return value

    def prompt(self, role: str) -> str:
        """Return the template name of a role."""
        if isinstance(self.prompts, dict):
            return self.prompts.get(role, f"{_FOLDER}/{role}")
        return f"{self.prompts}/{role}"


class Mix:
    """Makes one new sample of each pair, or records why not, and drops or keeps the parents.

    The gates decide last, whatever a model says about its own work. A new sample has a user and an assistant turn, and the parents'
    system prompt if they share one; otherwise prompts show each with its parent, and the new sample has none.

    All calls are made in ``fit``: partners may be in different chunks, and each chunk needs the pair's outcome. The journal
    stores each call, so an interrupted run repeats none; ``process`` publishes what the state contains.
    """

    name: ClassVar[str] = "entp.mix"
    Config: ClassVar[type[StageConfig]] = MixConfig

    def __init__(self, config: MixConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MixConfig) -> Contract:
        """Return the contract: reads the pairs, makes new samples, at most 4 * (1 + retries) calls per pair, half of that per row."""
        rounds = 1 + config.retries
        draft, check, repairs = config.max_tokens, config.check_tokens, 0.5 * config.retries
        # Last column: tokens of earlier drafts and checklists that the prompt shows.
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
            new_samples=True,
            calls=tuple(calls),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Mix all pairs, one block at a time.

        Memory: the texts of paired samples, 8 bytes per sample, 4 per new sample and dimension. The state contains the new texts.
        """
        partners, texts, rarity, present_ids = self._read(stream)
        pairs = sorted(
            (name, note.other)
            for name, note in partners.items()
            if note.lead and note.other in partners and partners[note.other].other == name
            and not partners[note.other].lead
        )  # fmt: skip
        llm = ModelCalls(
            ctx,
            self.config.llm,
            {role: ctx.prompt(self.config.prompt(role)) for role in ROLES},
            self.config.max_tokens,
            self.config.check_tokens,
            self.config.temperature,
            self.config.retry_temperature,
        )
        outcomes = Outcomes()
        with ctx.progress(len(pairs), f"{ctx.stage}: pairs") as progress:
            for start in range(0, len(pairs), self.config.block):
                block = pairs[start : start + self.config.block]
                cases = [self._build_case(pair, partners, texts, rarity) for pair in block]
                self._mix(block, cases, llm, outcomes)
                progress.advance(len(block))
        mixed = outcomes.failed.count(False)
        report: dict[str, JSON] = {
            "pairs": len(pairs),
            "mixed": mixed,
            "failed": dict(outcomes.failure_counts.most_common()),
            "calls": outcomes.calls,
            "calls_a_pair": round(outcomes.calls / len(pairs), 2) if pairs else None,
            "templates": {
                role: outcomes.templates[role] for role in ROLES if outcomes.templates[role]
            },
        }
        ctx.log.info(f"{mixed} of {len(pairs)} pairs mixed, {outcomes.calls} calls")
        return outcomes.to_state(pairs, report, unmatched(partners, pairs, present_ids))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Publish each lead's new sample after the chunk, and drop or keep the parents."""
        results = Results.open(state)
        out, new = [], []
        for sample in chunk:
            pair = results.pair_of(sample.id)
            if pair is None:
                out.append(self._decide_unpaired(sample, state))
                continue
            out.append(self._decide_parent(sample, pair, ctx))
            if sample.id == pair.lead and pair.why is None:
                new.append(self._new_sample(pair, ctx))
        return [*out, *new]

    def _read(
        self, stream: Iterable[Sample]
    ) -> tuple[dict[str, Partner], PackedTexts, Rarity, array[int]]:
        """Return the pair notes, the texts of these samples, word rarities, and hashes of all ids."""
        partners: dict[str, Partner] = {}
        rarity = Rarity()
        present_ids = array("Q")

        def texts() -> Iterator[str]:
            for sample in stream:
                present_ids.append(hash_of(sample.id))
                note = PairNote.of(sample, self.config.pair)
                if note.partner is not None and unfit(sample) is None:
                    partners[sample.id] = Partner(note.partner, note.lead, len(partners))
                    rarity.add(instruction_of(sample))
                    yield from (
                        sample.id,
                        system_of(sample),
                        instruction_of(sample),
                        sample.response,
                    )

        packed = PackedTexts.of(texts())
        return partners, packed, rarity, present_ids

    def _build_case(
        self,
        pair: tuple[str, str],
        partners: Mapping[str, Partner],
        texts: PackedTexts,
        rarity: Rarity,
    ) -> Case:
        shown = pair if self.config.mode == "pairs" else pair[:1]
        offsets = [_FIELDS * partners[name].index for name in shown]
        systems = [texts[offset + 1] for offset in offsets]
        same = len(set(systems)) == 1
        instructions = [texts[offset + 2] for offset in offsets]
        return Case(
            pair[0],
            tuple(
                Parent(text, texts[offset + 3], "" if same else system)
                for offset, system, text in zip(offsets, systems, instructions, strict=True)
            ),
            systems[0] if same else "",
            tuple(rarity.key_terms(text, self.config.terms) for text in instructions),
        )

    def _mix(
        self,
        pairs: Sequence[tuple[str, str]],
        cases: Sequence[Case],
        llm: ModelCalls,
        outcomes: Outcomes,
    ) -> None:
        """Run both cycles and the gates over a block of pairs."""
        retries = self.config.retries
        repair_cycle.run(INSTRUCTION, cases, llm, retries, _missing_terms)
        repair_cycle.run(
            ANSWER, [case for case in cases if case.failure is None], llm, retries, _missing_terms
        )
        judged = self._judge([case for case in cases if case.failure is None], llm.ctx, outcomes)
        for (lead, other), case in zip(pairs, cases, strict=True):
            gates = judged.get(case.key, {})
            failed = case.failure or failure_reason(gates)
            if failed is not None:
                outcomes.failure_counts[_failure_name(case, gates)] += 1
            log = {
                "parents": [lead] if self.config.mode == "single" else [lead, other],
                "calls": case.calls,
                "templates": case.templates,
                "checks": case.checks,
                "gates": {name: gate.to_json() for name, gate in gates.items()},
                "outcome": "mixed" if failed is None else f"failed: {failed}",
            }
            outcomes.add(lead, other, case, log, failed)

    def _judge(
        self, cases: Sequence[Case], ctx: Context, outcomes: Outcomes
    ) -> dict[str, dict[str, Gate]]:
        """Apply the gates to each case in order; a new sample is compared with those accepted before it."""
        if not cases:
            return {}
        # Each new instruction, followed by its parents'.
        texts_by_case = [
            [case.texts["instruction"], *(p.instruction for p in case.parents)] for case in cases
        ]
        flat = [text for texts in texts_by_case for text in texts]
        vectors = embed_unit(ctx, self.config.encoder, flat)
        starts = np.cumsum([0, *(len(texts) for texts in texts_by_case[:-1])]).tolist()
        highest_before = _highest_similarity(vectors[starts], outcomes.vectors)
        gates: dict[str, dict[str, Gate]] = {}
        accepted: list[int] = []
        for case, start, highest in zip(cases, starts, highest_before, strict=True):
            vector = vectors[start]
            gates[case.key] = judge(
                self.config.gates,
                case.terms,
                case.texts["instruction"],
                case.texts["answer"],
                vectors[start + 1 : start + 1 + len(case.parents)],
                vector,
                max([highest, *(float(vector @ vectors[at]) for at in accepted)]),
            )
            if failure_reason(gates[case.key]) is None:
                accepted.append(start)
        outcomes.vectors.append(vectors[accepted])
        return gates

    def _decide_unpaired(self, sample: Sample, state: State) -> Sample:
        note = PairNote.of(sample, self.config.pair)
        why = unfit(sample)
        if why is None and note.partner is not None:
            why = unmatched_reason(sample.id, note.partner, state)
        elif why is None:
            why = note.why
        return self._decide(sample, self.config.unpaired, f"not mixed: {why}")

    def _decide_parent(self, sample: Sample, pair: Pair, ctx: Context) -> Sample:
        if pair.why is None:
            new_id = self._new_sample(pair, ctx).id
            noted = sample.note(self.config.into, {"outcome": "mixed", "into": new_id})
            other = pair.other if sample.id == pair.lead else pair.lead
            change = f"mixed into {new_id} with {other}"
            if self.config.mode == "single":
                change = f"rewritten as {new_id}"
                if sample.id != pair.lead:
                    change = f"its pair's lead {pair.lead} was {change}"
            return self._decide(noted, self.config.parents, change)
        log = pair.log if sample.id == pair.lead else {"outcome": f"failed, see {pair.lead}"}
        verb = "mixed" if self.config.mode == "pairs" else "rewritten"
        return self._decide(
            sample.note(self.config.into, log),
            self.config.failed,
            f"not {verb}: {pair.why}",
        )

    def _decide(self, sample: Sample, change: Change, why: str) -> Sample:
        if change == "drop" and sample.pinned:
            return sample.keep(f"pinned: stays, although {why}")
        return sample.drop(why) if change == "drop" else sample.keep(why)

    def _new_sample(self, pair: Pair, ctx: Context) -> Sample:
        parents = [pair.lead] if self.config.mode == "single" else [pair.lead, pair.other]
        turns = [Message("system", pair.system)] if pair.system else []
        turns += [Message("user", pair.instruction), Message("assistant", pair.answer)]
        passed = ", ".join(f"{name} {gate['value']:g}" for name, gate in pair.log["gates"].items())
        why = f"{pair.log['calls']} calls; gates passed: {passed}"
        return Sample.made(ctx.stage, parents, turns, why).note(self.config.into, pair.log)


def _missing_terms(case: Case) -> list[str]:
    """Return the parents' key terms that the drafted instruction lacks."""
    terms = list(dict.fromkeys(term for each in case.terms for term in each))
    return missing_in(terms, case.texts.get("instruction", ""))


def _failure_name(case: Case, gates: Mapping[str, Gate]) -> str:
    """Return the name a failure is counted under: the cycle that failed, or the first gate."""
    if case.failure is not None:
        return "instruction" if "answer" not in case.templates else "answer"
    return next(name for name, gate in gates.items() if not gate.passed)


def _highest_similarity(vectors: FloatArray, accepted: Sequence[FloatArray]) -> list[float]:
    """Return the highest similarity of each of ``vectors`` [n, d] to vectors accepted in earlier blocks; -1 if none."""
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for block in accepted:
        if len(block):
            np.maximum(best, (vectors @ block.T).max(axis=1), out=best)
    return [float(value) for value in best]
