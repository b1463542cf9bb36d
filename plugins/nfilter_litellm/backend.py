"""The backend ``litellm``: a model behind an API, with every call tried, limited and accounted for by one engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import ClassVar

from nfilter import (
    Abilities,
    Completion,
    Generates,
    ModelError,
    Price,
    Request,
    Site,
    Streams,
    missing_package,
)
from nfilter_litellm.batch_api import BatchApi
from nfilter_litellm.batch_lines import Form, Till
from nfilter_litellm.batches import BatchDispatcher, Pace
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.config import LiteLLMConfig, Route, route
from nfilter_litellm.destinations import allowed_of
from nfilter_litellm.engine import Dispatcher, Dispatches, Engine, Tally, Transport
from nfilter_litellm.held import Hold
from nfilter_litellm.keys import from_environment, is_set, missing, whatever_is_found
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.pending import Ledger
from nfilter_litellm.prices import price_of
from nfilter_litellm.purse import Paid
from nfilter_litellm.retry import Retry
from nfilter_litellm.servers import ELSEWHERE

_BATCH_STAYS = "the batch stays with the server, and the same command takes it up; press Ctrl-C again to end at once"


class LiteLLMBackend:
    """Any model that an OpenAI-compatible server serves or that litellm knows. Nothing connects before the first call."""

    name: ClassVar[str] = "litellm"
    also_known: ClassVar[Mapping[str, str]] = ELSEWHERE
    Config: ClassVar[type[LiteLLMConfig]] = LiteLLMConfig
    own_hosts: ClassVar[frozenset[str]] = frozenset({"api.openai.com"})

    @classmethod
    def abilities(cls, config: LiteLLMConfig) -> Abilities:
        """It generates; with log-probabilities unless ``logprobs: false`` or litellm's tables say otherwise."""
        return Abilities(frozenset({Generates, Streams}), logprobs=_logprobs(config))

    @classmethod
    def price(cls, config: LiteLLMConfig) -> Price | None:
        """Dollars a token: the config's, else litellm's; None where neither tells."""
        return price_of(config)

    @classmethod
    def problems(cls, config: LiteLLMConfig, site: Site) -> Iterable[str]:  # noqa: ARG003 (the protocol's)
        """A package that is not installed, a key that is not in the environment, a provider that litellm does not know."""
        way = route(config)
        if find_spec(way.transport) is None:
            yield f"{cls.name} {missing_package(way.transport, 'nfilter[api]')}"
            return
        if config.batch and way.transport != "aiohttp":
            yield _no_batches(config)
        if way.key_env is not None:
            if not is_set(way.key_env):
                yield missing(way.key_env)
        elif way.transport == "litellm" and way.base is None:
            from nfilter_litellm.providers import missing_keys

            try:
                yield from (missing(name) for name in missing_keys(way.name))
            except ValueError as error:
                yield f"model {config.model!r}: {error}"

    @classmethod
    def facts(cls, config: LiteLLMConfig, site: Site) -> Iterable[str]:  # noqa: ARG003 (the protocol's)
        """How the model is reached, for ``nfilter check`` and run.log."""
        way = route(config)
        key = f"key from {way.key_env}" if way.key_env else "no key of its own"
        level = f"concurrency {config.concurrency or 'adaptive'}"
        given = "logprobs" if _logprobs(config) else "no logprobs"
        name = f"{way.name} in batches" if config.batch else way.name
        if config.batch:
            level = "a batch a chunk of the recipe, so chunk: 50000 makes few of them"
        yield f"{name} over {way.transport} ({way.why}) at {way.place}; {key}, {level}, {given}"

    def __init__(self, config: LiteLLMConfig, site: Site) -> None:
        self._config = config
        self._site = site
        self._route = route(config)
        finds_its_own = self._route.transport == "litellm" and self._route.key_env is None
        self._key = whatever_is_found() if finds_its_own else from_environment(self._route.key_env)
        self._transport: Transport | BatchApi | None = None
        if config.batch and self._route.transport != "aiohttp":
            raise ModelError(_no_batches(config))
        folder = site.state_dir / "batches" if site.state_dir is not None else None
        self._ledger = Ledger(folder)
        self._unended = 0
        self._hold = Hold(allowed_of(self._route, site.allow_hosts, self.own_hosts))
        self._engine = Engine(self._connect, self._disconnect, self._hold)

    def fingerprint(self) -> str:
        """SHA-256 of what decides an answer: name, address, revision, and the fields added to requests.

        Keys, timeouts and concurrency are not in it. What weights the server holds cannot be seen from here.
        """
        config, way = self._config, self._route
        said = [
            way.name, way.base, config.revision, config.max_tokens, dict(config.body), _logprobs(config),
        ]  # fmt: skip
        text = json.dumps(["litellm", *said], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order."""
        answers = dict(filter(None, self.stream(requests)))
        return [answers[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]:
        """The same completions as they come; None where nothing more is there yet.

        Raises:
            ModelError: when three calls in a row fail for a reason that the others share: key, quota, model, address.
        """
        if not self._config.batch:
            with self._site.drain.calls():
                yield from self._engine.stream(requests)
            return
        # A stream that is left may not be told so before close() comes: only its end counts it off.
        self._unended += 1
        with self._site.drain.calls(_BATCH_STAYS):
            yield from self._engine.stream(requests)
        # Whoever comes back for more has kept all that came.
        yield None
        self._unended -= 1

    def tally(self) -> Tally:
        """Calls, attempts and the level of concurrency so far."""
        return self._engine.tally()

    def close(self) -> None:
        """Close the connections and end the thread; a later call opens them again."""
        self._engine.close()
        # Where a stream was left, some of its answers may have got lost on the way to the journal.
        if not self._unended:
            self._ledger.close()

    def _connect(self) -> Dispatches:
        way, config = self._route, self._config
        logprobs = _logprobs(config)
        if config.batch:
            return self._in_batches(logprobs=logprobs)
        if way.transport == "aiohttp":
            from nfilter_litellm.http import HttpTransport

            transport: Transport = HttpTransport(
                way, config, self._key, self._hold, logprobs=logprobs
            )
        else:
            from nfilter_litellm.providers import LiteLLMTransport

            transport = LiteLLMTransport(way, config, self._key, self._hold, logprobs=logprobs)
        price = price_of(config)
        if price is not None:
            budget = self._site.budget
            transport = Paid(transport, price, budget, config.max_tokens)
        self._transport = transport
        return Dispatcher(
            transport,
            Limiter(config.concurrency),
            Retry(config.attempts),
            Breaker(f"model {config.model!r} at {way.place}"),
            lambda: self._site.drain.asked,
        )

    def _in_batches(self, *, logprobs: bool) -> BatchDispatcher:
        from nfilter_litellm.http import Connection, body, limit_for

        way, config = self._route, self._config
        till = Till(price_of(config), self._site.budget, config.max_tokens)
        form = Form(
            lambda request, name: body(request, way, config, logprobs=logprobs, limit=name),
            limit_for(way, config),
            self.fingerprint(),
            logprobs,
            till,
        )
        self._transport = BatchApi(way, Connection(config.timeout, self._key, self._hold))
        return BatchDispatcher(
            self._transport,
            form,
            self._ledger,
            f"model {config.model!r} at {way.place}",
            Retry(config.attempts),
            Pace(),
            lambda: self._site.drain.asked,
        )

    async def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()


def _no_batches(config: LiteLLMConfig) -> str:
    return (
        f"batch: true needs a server with OpenAI's /files and /batches, and {config.model!r} is reached through litellm; "
        "name such a server, {model: NAME, api_base: https://HOST/v1, batch: true}, or leave batch: true out"
    )


def _logprobs(config: LiteLLMConfig) -> bool:
    if config.logprobs is not None:
        return config.logprobs
    way: Route = route(config)
    if way.transport == "aiohttp" or find_spec("litellm") is None:
        # Without litellm its tables tell nothing; that it is missing is among the problems.
        return True
    return _known_logprobs(way.name)


@lru_cache(maxsize=64)
def _known_logprobs(model: str) -> bool:
    from nfilter_litellm.providers import gives_logprobs

    return gives_logprobs(model)
