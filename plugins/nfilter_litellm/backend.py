"""The backend ``litellm``: an API model; one engine retries, rate-limits and accounts for every call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from typing import ClassVar

from nfilter import (
    Abilities,
    Completion,
    Generates,
    ModelError,
    OpenStreams,
    Price,
    Request,
    Site,
    Streams,
    missing_package,
)
from nfilter_litellm.batch_api import BatchApi
from nfilter_litellm.batch_ledger import Ledger
from nfilter_litellm.batch_lines import BatchFormat, BatchPricing
from nfilter_litellm.batches import BatchDispatcher, BatchSettings
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.budgeted_transport import BudgetedTransport
from nfilter_litellm.config import LiteLLMConfig, Route, route_of, routes_of
from nfilter_litellm.dispatcher import Dispatcher, Transport
from nfilter_litellm.engine import Dispatches, Engine, Tally
from nfilter_litellm.host_guard import HostGuard
from nfilter_litellm.keys import found_by_litellm, from_environment, is_set, missing_message
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.prices import price_of
from nfilter_litellm.provider_hosts import allowed_hosts_of
from nfilter_litellm.replicas import ReplicaTransport
from nfilter_litellm.retry import Retry
from nfilter_litellm.servers import ALSO_KNOWN

_BATCH_INTERRUPTED = "the batch stays on the server, and the same command resumes it; press Ctrl-C again to exit at once"


class LiteLLMBackend:
    """Backend for OpenAI-compatible servers and litellm's providers; connects at the first call."""

    name: ClassVar[str] = "litellm"
    also_known: ClassVar[Mapping[str, str]] = ALSO_KNOWN
    Config: ClassVar[type[LiteLLMConfig]] = LiteLLMConfig
    own_hosts: ClassVar[frozenset[str]] = frozenset({"api.openai.com"})

    @classmethod
    def abilities(cls, config: LiteLLMConfig) -> Abilities:
        """Return the capabilities: generation, with log-probabilities unless the config or litellm's tables exclude them."""
        # A batch is complete when it is sent.
        streams = {Streams} if config.batch else {Streams, OpenStreams}
        return Abilities(frozenset({Generates, *streams}), logprobs=_logprobs(config))

    @classmethod
    def price(cls, config: LiteLLMConfig) -> Price | None:
        """Return the price in dollars per token, from the config or litellm's list; None if unknown."""
        return price_of(config)

    @classmethod
    def problems(cls, config: LiteLLMConfig, site: Site) -> Iterable[str]:
        """Yield configuration problems: a missing package, a missing key, an unknown provider."""
        route = route_of(config)
        if find_spec(route.transport) is None:
            yield f"{cls.name} {missing_package(route.transport, 'nfilter[api]')}"
            return
        if config.batch and route.transport != "aiohttp":
            yield _no_batch_message(config)
        if route.key_env is not None:
            if not is_set(route.key_env):
                yield missing_message(route.key_env)
        elif route.transport == "litellm" and route.base is None:
            from nfilter_litellm.providers import missing_keys

            try:
                yield from (missing_message(name) for name in missing_keys(route.name))
            except ValueError as error:
                yield f"model {config.model!r}: {error}"

    @classmethod
    def facts(cls, config: LiteLLMConfig, site: Site) -> Iterable[str]:
        """Yield a description of the connection, for ``nfilter check`` and run.log."""
        route = route_of(config)
        theirs = route.transport == "litellm" and route.base is None
        unnamed = "its provider's key from the environment" if theirs else "no key"
        key = f"key from {route.key_env}" if route.key_env else unnamed
        address = "its provider's address" if theirs else route.destination
        level = f"concurrency {config.concurrency or 'adaptive'}"
        logprobs = "log-probabilities" if _logprobs(config) else "no log-probabilities"
        name = f"{route.name} in batches" if config.batch else route.name
        if config.batch:
            level = "one batch per chunk of the recipe; a larger chunk, such as chunk: 50000, makes fewer"
        more = f" and {len(config.replicas)} more servers" if config.replicas else ""
        yield f"{name} over {route.transport} ({route.reason}) at {address}{more}; {key}, {level}, {logprobs}"

    def __init__(self, config: LiteLLMConfig, site: Site) -> None:
        self._config = config
        self._site = site
        self._route = route_of(config)
        litellm_finds_key = self._route.transport == "litellm" and self._route.key_env is None
        self._key = (
            found_by_litellm() if litellm_finds_key else from_environment(self._route.key_env)
        )
        self._transport: Transport | BatchApi | None = None
        if config.batch and self._route.transport != "aiohttp":
            raise ModelError(_no_batch_message(config))
        folder = site.state_dir / "batches" if site.state_dir is not None else None
        self._ledger = Ledger(folder)
        self._open_streams = 0
        self._guard = HostGuard(allowed_hosts_of(self._route, site.allow_hosts, self.own_hosts))
        self._engine = Engine(
            self._connect, self._disconnect, self._guard, self._lose, site.interrupt.draining
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of the settings that determine an answer: name, address, revision, added request fields.

        Keys, timeouts and concurrency are excluded. The weights on the server are unknown here.
        """
        config, route = self._config, self._route
        parts = [
            route.name, route.base, config.revision, config.max_tokens, dict(config.body), _logprobs(config),
        ]  # fmt: skip
        text = json.dumps(["litellm", *parts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order."""
        answers = dict(filter(None, self.stream(requests)))
        return [answers[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]:
        """Yield (index, completion) pairs in order of arrival; None whenever no further answer has arrived yet.

        Raises:
            ModelError: three consecutive calls failed for a shared reason: key, quota, model or address.
        """
        if not self._config.batch:
            with self._site.interrupt.calls(running=self._engine.running):
                yield from self._engine.stream(requests)
            return
        # An abandoned generator may not be closed before close() is called: only a completed one is subtracted.
        self._open_streams += 1
        with self._site.interrupt.calls(_BATCH_INTERRUPTED, self._engine.running):
            yield from self._batched(requests)
        self._open_streams -= 1

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]:
        """Yield (index, completion) pairs like ``stream``, and start the requests that ``more`` returns while others run.

        Raises:
            ModelError: as ``stream``.
        """
        with self._site.interrupt.calls(running=self._engine.running):
            yield from self._engine.stream(first, more)

    def _batched(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]:
        unstored = 0.0
        with closing(self._engine.stream(requests)) as stream:
            for came in chain(stream, [None]):
                yield came
                if came is not None:
                    unstored += came[1].usd or 0.0
                elif self._site.budget is not None:
                    # A caller that asks for the next item after None has stored all previous ones.
                    self._site.budget.recovered(unstored)
                    unstored = 0.0

    def tally(self) -> Tally:
        """Return the number of calls and attempts so far, and the concurrency level."""
        return self._engine.tally()

    def close(self) -> None:
        """Close the connections and stop the thread; a later call reopens them."""
        self._engine.close()
        # Answers of an abandoned stream may not have reached the journal.
        if not self._open_streams:
            self._ledger.close()

    def _connect(self) -> Dispatches:
        route, config = self._route, self._config
        logprobs = _logprobs(config)
        if config.batch:
            return self._batch_dispatcher(logprobs=logprobs)
        if route.transport == "aiohttp":
            from nfilter_litellm.http import HttpTransport

            servers = [
                (
                    each.destination,
                    HttpTransport(each, config, self._key, self._guard, logprobs=logprobs),
                )
                for each in routes_of(config)
            ]
            transport: Transport = ReplicaTransport(servers) if config.replicas else servers[0][1]
        else:
            from nfilter_litellm.providers import LiteLLMTransport

            transport = LiteLLMTransport(route, config, self._key, self._guard, logprobs=logprobs)
        price = price_of(config)
        if price is not None:
            budget = self._site.budget
            # A lambda, because the dispatcher does not exist yet.
            stopped: Callable[[], bool] = lambda: dispatcher.stopped()  # noqa: E731, PLW0108
            transport = BudgetedTransport(transport, price, budget, config.max_tokens, stopped)
        self._transport = transport
        dispatcher: Dispatcher = Dispatcher(
            transport,
            Limiter(config.concurrency),
            Retry(config.attempts),
            Breaker(f"model {config.model!r} at {route.destination}"),
            lambda: self._site.interrupt.requested,
            self._lose,
        )
        return dispatcher

    def _batch_dispatcher(self, *, logprobs: bool) -> BatchDispatcher:
        from nfilter_litellm.http import Connection, limit_for, request_body

        route, config = self._route, self._config
        pricing = BatchPricing(price_of(config), self._site.budget, config.max_tokens)
        batch_format = BatchFormat(
            lambda request, name: request_body(
                request, route, config, logprobs=logprobs, limit=name
            ),
            limit_for(route, config),
            self.fingerprint(),
            logprobs,
            pricing,
        )
        self._transport = BatchApi(route, Connection(config.timeout, self._key, self._guard))
        return BatchDispatcher(
            self._transport,
            batch_format,
            self._ledger,
            f"model {config.model!r} at {route.destination}",
            Retry(config.attempts),
            BatchSettings(),
            lambda: self._site.interrupt.requested,
        )

    def _lose(self, usd: float) -> None:
        if self._site.budget is not None:
            self._site.budget.lose(usd)

    async def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()


def _no_batch_message(config: LiteLLMConfig) -> str:
    return (
        f"batch: true needs a server with OpenAI's /files and /batches endpoints, but {config.model!r} is reached through litellm; "
        "name such a server, {model: NAME, api_base: https://HOST/v1, batch: true}, or remove batch: true"
    )


def _logprobs(config: LiteLLMConfig) -> bool:
    if config.logprobs is not None:
        return config.logprobs
    route: Route = route_of(config)
    if route.transport == "aiohttp" or find_spec("litellm") is None:
        # Without litellm its tables are unavailable; problems() reports the missing package.
        return True
    return _listed_logprobs(route.name)


@lru_cache(maxsize=64)
def _listed_logprobs(model: str) -> bool:
    from nfilter_litellm.providers import supports_logprobs

    return supports_logprobs(model)
