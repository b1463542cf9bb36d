"""A model as a stage sees it: generations are journaled and cached, losses are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from nfilter.answers.thoughts import Thoughts
from nfilter.api.capabilities import EndsPrompts, Streams, TokenizerDigest, Tokenizes
from nfilter.api.errors import ContractError
from nfilter.api.interrupt import Drain
from nfilter.api.stages import Progress
from nfilter.api.types import (
    Completion,
    FloatArray,
    IntArray,
    ModelRef,
    Request,
    Sample,
    TokenSample,
)
from nfilter.models.control_tokens import neutral
from nfilter.models.pace import Pace
from nfilter.progress import QuietReporter
from nfilter.registry.contracts import check_completions, check_encoded, check_losses, check_vectors
from nfilter.registry.provenance import code_of
from nfilter.store.files import digest
from nfilter.store.journal import Journal, Use, call_key
from nfilter.store.losses import ScoreBooks

_TRANSIENT = frozenset({"timeout", "server", "memory"})
_SLICE = 256  # requests at a time, of a backend that does not stream
_GROUP = 32  # answers a commit
_SECONDS = 1.0  # between commits, at most
_PORTION = 2**18  # tokens scored between writes


class Model:
    """A backend as one stage sees it: the same capabilities, with every generation journaled and cached."""

    def __init__(
        self,
        name: str,
        backend: Any,
        fingerprint: str,
        journal: Journal,
        stage: str,
        capable: Any = None,
        progress: Callable[..., AbstractContextManager[Progress]] | None = None,
        scores: ScoreBooks | None = None,
        drain: Drain | None = None,
        cost: Callable[[], str] | None = None,
        thoughts: Thoughts | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``pace`` is told when answers come. ``cost`` says what is spent so far; the bar asks it when it is drawn, not a call when it ends."""
        self.name = name
        self.stage = stage
        self._backend = backend
        self._capable = capable if capable is not None else backend
        self._fingerprint = fingerprint
        self._journal = journal
        self._progress = progress or QuietReporter().progress
        self._scores = scores
        self._drain = drain or Drain()
        self._cost = cost
        self._thoughts = thoughts or Thoughts()
        self._pace = pace

    def fingerprint(self) -> str:
        """What identifies the weights, the adapter in use included."""
        return self._fingerprint

    def code(self) -> str:
        """SHA-256 of the files of the package that the backend comes from."""
        return code_of(type(self._backend))

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order. What was answered before is not asked again.

        Answers are committed as they come, so that a run that is killed asks little again. No message reaches a backend
        with a control token in it, unless the backend keeps such tokens plain text by itself (``shields``).

        A completion's thoughts are in its ``reasoning``, whatever the backend; what its text holds is the answer. The
        journal keeps what the backend gave.
        """
        if not getattr(self._backend, "shields", False):
            safe = [neutral(request) for request in requests]
            answers = self._answered([each.request for each in safe])
            return [each.mended(answer) for each, answer in zip(safe, answers, strict=True)]
        return self._answered(requests)

    def _answered(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions without their thoughts; how each call ended is noted in the journal."""
        keys = [call_key(self._fingerprint, request) for request in requests]
        answers = self._generate(requests, keys)
        # The end of a prompt is the template's, the same for all requests, so that one tells.
        starts = bool(requests) and self._begins_thought(requests[0])
        done = [
            self._thoughts.separated(answer, opened=starts and self._begins_thought(request))
            for answer, request in zip(answers, requests, strict=True)
        ]
        ends = {
            key: None if each.failure is None else each.failure.kind
            for key, each in zip(keys, done, strict=True)
        }
        self._journal.settle(self.stage, self.name, ends)
        return done

    def _begins_thought(self, request: Request) -> bool:
        able = isinstance(self._backend, EndsPrompts)
        return able and self._thoughts.opens(self._backend.prompt_end(request))

    def _generate(self, requests: Sequence[Request], keys: Sequence[str]) -> list[Completion]:
        done = self._journal.find(list(dict.fromkeys(keys)))
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        self._commit({}, list(done), places, requests)
        todo = {key: requests[where[0]] for key, where in places.items() if key not in done}
        pace = self._pace
        if pace is not None:
            pace.known(self.name, done)
            pace.begin(self.name)
        with self._progress(len(todo), f"{self.stage}: {self.name} answers", self._cost) as bar:
            fresh: dict[str, Completion] = {}
            last = time.monotonic()
            try:
                for came in self._answers(todo):
                    if came is not None:
                        fresh[came[0]] = came[1]
                        bar.advance()
                        if pace is not None:
                            pace.answered(self.name, *came)
                    late = time.monotonic() - last > _SECONDS
                    if fresh and (came is None or late or len(fresh) >= _GROUP):
                        self._commit(fresh, list(fresh), places, requests)
                        done.update(fresh)
                        fresh, last = {}, time.monotonic()
            finally:
                # What arrived before an error, or before a person's Ctrl-C, was paid for.
                self._commit(fresh, list(fresh), places, requests)
            done.update(fresh)
        if pace is not None:
            pace.end(self.name)
        return [done[key] for key in keys]

    def _answers(self, todo: Mapping[str, Request]) -> Iterator[tuple[str, Completion] | None]:
        # Long prompts first, as backends like them.
        order = sorted(todo, key=lambda key: -sum(len(m.content) for m in todo[key].messages))
        if isinstance(self._capable, Streams):
            left = set(range(len(order)))
            for came in self._capable.stream([todo[key] for key in order]):
                if came is None:
                    yield None
                    continue
                index, answer = came
                check_completions(self._who(), [answer], 1)
                if index not in left:
                    raise self._miscounted(
                        f"request {index} of {len(order)} was answered twice, or never asked"
                    )
                left.remove(index)
                yield order[index], answer
            if self._drain.asked:
                raise KeyboardInterrupt
            if left:
                raise self._miscounted(f"{len(left)} of {len(order)} requests were not answered")
            return
        for start in range(0, len(order), _SLICE):
            part = order[start : start + _SLICE]
            came = self._capable.generate([todo[key] for key in part])
            answers = check_completions(self._who(), came, len(part))
            yield from zip(part, answers, strict=True)

    def _miscounted(self, what: str) -> ContractError:
        return ContractError(
            f"{self._who()}: {what}; a backend returns one a request, in order, failures included"
        )

    def _who(self) -> str:
        return f"model {self.name!r} ({self._backend.name})"

    def _commit(
        self,
        answers: Mapping[str, Completion],
        keys: Sequence[str],
        places: Mapping[str, Sequence[int]],
        requests: Sequence[Request],
    ) -> None:
        kept = {
            key: answer
            for key, answer in answers.items()
            if answer.failure is None or answer.failure.kind not in _TRANSIENT
        }
        uses = [
            Use(self.stage, requests[place].sample_id, key, self.name)
            for key in keys
            if key in kept or key not in answers
            for place in places[key]
        ]
        # A failure that is not kept is asked about again, and was paid for all the same.
        lost = [
            (self.stage, self.name, answer.usd)
            for key, answer in answers.items()
            if key not in kept and answer.usd
        ]
        if kept or uses or lost:
            self._journal.commit(list(kept.items()), uses, lost)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """float32 [n, d]; equal texts are embedded once."""
        unique = list(dict.fromkeys(texts))
        vectors = check_vectors(self._who(), self._capable.embed(unique), len(unique))
        if len(unique) == len(texts):
            return vectors
        place = {text: index for index, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Per-token losses, float32 [T] a sample. What this run scored before is read, not computed again."""
        if self._scores is None:
            return check_losses(self._who(), self._capable.score(samples, adapter), samples)
        # Losses cost time and no money, so that those of other code are not read.
        name = digest(self._fingerprint, self.code(), adapter.digest if adapter else None)
        book = self._scores.of(name)
        found = book.find(samples)
        todo = [place for place, losses in enumerate(found) if losses is None]
        size = sum(len(samples[place].ids) for place in todo)
        with self._progress(size, f"{self.stage}: {self.name} scores tokens") as bar:
            for part in _portions(todo, samples):
                asked = [samples[place] for place in part]
                losses = check_losses(self._who(), self._capable.score(asked, adapter), asked)
                book.put(asked, losses)
                for place, values in zip(part, losses, strict=True):
                    found[place] = values
                bar.advance(sum(len(sample.ids) for sample in asked))
        return [losses for losses in found if losses is not None]

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Samples as tokens of this model."""
        encoded = self._capable.encode(samples, max_length=max_length, turns=turns)
        return check_encoded(self._who(), encoded, samples)

    def tokenizer_digest(self) -> TokenizerDigest | None:
        """What identifies the tokenizer; None where the backend does not tell."""
        able = isinstance(self._capable, Tokenizes)
        return self._capable.tokenizer_digest() if able else None

    def decode(self, ids: Sequence[IntArray]) -> list[str] | None:
        """The text of each list of ids; None where the backend does not tell."""
        return self._capable.decode(ids) if isinstance(self._capable, Tokenizes) else None

    def lend(self) -> AbstractContextManager[Any]:
        """The local torch module, scoped."""
        lent: AbstractContextManager[Any] = self._backend.lend()
        return lent

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[Model]:
        """The same model with an adapter, journaled under a fingerprint of its own."""
        with self._backend.adapted(ref) as capable:
            yield Model(
                self.name,
                self._backend,
                digest(self._fingerprint, ref.digest),
                self._journal,
                self.stage,
                capable,
                self._progress,
                self._scores,
                self._drain,
                self._cost,
                self._thoughts,
                self._pace,
            )


def _portions(places: Sequence[int], samples: Sequence[TokenSample]) -> Iterator[list[int]]:
    """Places, longest sample first, in portions that are kept one by one: what a kill costs at most."""
    order = sorted(places, key=lambda place: -len(samples[place].ids))
    part: list[int] = []
    size = 0
    for place in order:
        part.append(place)
        size += len(samples[place].ids)
        if size >= _PORTION:
            yield part
            part, size = [], 0
    if part:
        yield part
