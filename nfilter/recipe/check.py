"""Check a recipe without running it: settings, names, notes, models, prompts, data and memory.

No model and no heavy library is loaded. All faults are reported at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from nfilter.api.capabilities import Adapts, Encodes, Generates, Priced, caching, methods_of
from nfilter.api.errors import (
    ContractError,
    NfilterError,
    PluginError,
    PromptError,
    did_you_mean,
    missing_package,
    short,
)
from nfilter.api.stages import AddsPenalty, Contract, ModelNeed, Site
from nfilter.api.training import ChoosesSettings
from nfilter.api.types import Row
from nfilter.recipe.hosts import allow_host, unlisted_hosts
from nfilter.recipe.measures import rewrites
from nfilter.recipe.model import Recipe
from nfilter.recipe.not_carried import NotCarried, holdings
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.readable import Readable, sampled
from nfilter.recipe.uses import SourceUse, Use, model_needs
from nfilter.recipe.yaml_lines import Where
from nfilter.registry.contracts import contract_of, rows_of
from nfilter.registry.loading import Plugins

SHARED_ROWS_LIMIT = 20_000


@dataclass
class Report:
    """The result of a check: ``faults`` would end a run, ``warnings`` and ``facts`` would not.

    ``data_faults`` are the faults among them that the rows of a source have. ``memory`` has bytes by part of the training.
    """

    faults: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    data_faults: list[str] = field(default_factory=list)


def check(
    recipe: Recipe, plugins: Plugins, site: Site, prompts: Prompts, *, data: bool = True
) -> Report:
    """Check a validated recipe. ``data``: also read the first rows, and look for test questions in the training data."""
    checker = _Checker(recipe, plugins, site, prompts)
    checker.contracts()
    if checker.report.faults:
        return checker.report
    steps = (
        checker.measures, checker.models, checker.notes, checker.prompt_names, lambda: checker.sources(rows=data), checker.arms, checker.loss,
        checker.memory,
    )  # fmt: skip
    for step in steps:
        checker.take(step)
    if data and not checker.report.faults:
        checker.shared_rows()
    return checker.report


def model_facts(recipe: Recipe, site: Site) -> list[str]:
    """Return one line per fact that a backend reports, such as the address of its model."""
    found = []
    for name, use in recipe.models.items():
        facts = getattr(use.item.cls, "facts", None)
        found += [f"model {name}: {fact}" for fact in (facts(use.config, site) if facts else ())]
    return found


class _Checker:
    def __init__(self, recipe: Recipe, plugins: Plugins, site: Site, prompts: Prompts) -> None:
        self.recipe = recipe
        self.plugins = plugins
        self.site = site
        self.prompts = prompts
        self.report = Report()
        self.rewritten: set[Where] = set()
        self.rows: int | None = None

    def fault(self, where: Where, text: str) -> None:
        self.report.faults.append(self.recipe.document.fault(where, text))

    def take(self, step: Callable[[], None]) -> None:
        """Run one step of the check; an OSError, as for a name that is too long, becomes a fault."""
        try:
            step()
        except OSError as error:
            name = short(str(error.filename or "a path"), 200)
            self.fault((), f"{name}: {error.strerror or error}; give another path")

    def uses(self) -> Iterator[Use]:
        yield from self.recipe.samples
        yield from self.recipe.tokens
        if self.recipe.train is not None:
            yield self.recipe.train
            if self.recipe.train.loss is not None:
                yield self.recipe.train.loss

    def contracts(self) -> None:
        """Check that every plugin's contract is valid; the other steps use the contracts."""
        for use in self.uses():
            try:
                contract_of(use.item.cls, use.config)
            except ContractError as error:
                self.fault(use.where, f"{error}; plugin {use.item.plugin!r} of {use.item.origin}")

    def models(self) -> None:
        """Check that every named model exists, has the capabilities it needs, and can be loaded."""
        for use in self.recipe.models.values():
            for problem in use.item.cls.problems(use.config, self.site):
                self.fault(use.where, problem)
            if self.recipe.budget is not None and isinstance(use.item.cls, Priced):
                self._price(use)
            self._hosts(use)
        self.report.facts += model_facts(self.recipe, self.site)
        for use in self.uses():
            contract: Contract = use.item.cls.contract(use.config)
            self._packages(use, contract)
            for need in dict.fromkeys((*model_needs(use.config), *contract.needs)):
                self._need(use.where, use.name, need)
        trains = bool(set(self.recipe.arms) - {"vanilla"})
        if trains or self.recipe.encodes:
            self._need(
                ("encode",), "encode", ModelNeed(self.recipe.encode.model, Encodes, field="model")
            )
        if self.recipe.evaluate is not None:
            name = self.recipe.train.config.model if self.recipe.train else self.recipe.encode.model
            self._need(("evaluate",), "evaluate", ModelNeed(name, Generates))
            if trains:
                self._need(("evaluate",), "evaluate", ModelNeed(name, Adapts))
        for need in model_needs(self.recipe.answer):
            self._need(("answer",), "answer", need)

    def _packages(self, use: Use, contract: Contract) -> None:
        """Check that the packages of a stage are installed."""
        for name, requirement in contract.packages.items():
            if find_spec(name) is None:
                self.fault(use.where, f"{use.name} {missing_package(name, requirement)}")

    def _hosts(self, use: Use) -> None:
        """Check that data goes only to hosts that the user allowed."""
        for host in unlisted_hosts(use.item.cls, use.config, self.recipe.allow_hosts):
            self.fault(
                use.where,
                f"this would send data to {host}, which only the recipe names; if you trust it, type: "
                f"{self._allowing()}",
            )

    def _allowing(self) -> str:
        """Return the command that allows all unlisted hosts of the recipe, with the overrides of this call."""
        document = self.recipe.document
        hosts = dict.fromkeys(
            host
            for use in self.recipe.models.values()
            for host in unlisted_hosts(use.item.cls, use.config, self.recipe.allow_hosts)
        )
        given = [word for text in document.overridden.values() for word in ("--set", text)]
        return allow_host(*hosts, recipe=shlex.join([str(document.file), *given]))

    def _price(self, use: Use) -> None:
        if use.item.cls.price(use.config) is None:
            self.fault(
                use.where,
                "a budget needs a price, and none is known for this model; set price: {prompt: 0.15, completion: 0.6} "
                "(dollars for a million tokens), or price: {prompt: 0, completion: 0} where it costs nothing",
            )

    def _no_model(self, name: str) -> str:
        known = [*self.recipe.models, *self.recipe.aliases]
        near = did_you_mean(name, known)
        return f"no model {name!r} under models{near or '; add one there'}"

    def _need(self, where: Where, who: str, need: ModelNeed) -> None:
        place: Where = (*where, need.field) if need.field else where
        use = self.recipe.model(need.model)
        if use is None:
            self.fault(place, self._no_model(need.model))
            return
        abilities = use.item.cls.abilities(use.config)
        if need.capability not in abilities.capabilities:
            can = ", ".join(sorted(kind.__name__ for kind in abilities.capabilities)) or "nothing"
            able = [name for name, other in self.recipe.models.items() if self._able(other, need)]
            other = f"; use {able[0]!r}" if able else "; use a local model, {use: hf, model: ...}"
            if caching(need.capability) is not None:
                name = need.capability.__name__
                text = (
                    f"with the capability {name}, and {need.model!r} ({use.name}) does not have it"
                )
                other = other if able else self._backend_with(need.capability)
            else:
                text = f"that {_verb(need.capability)}, and {need.model!r} ({use.name}) cannot"
            self.fault(place, f"{who} needs a model {text} (it has: {can}){other}")
        elif need.logprobs and not abilities.logprobs and where not in self.rewritten:
            self.fault(
                place,
                f"{who} needs log-probabilities of what was generated, and {need.model!r} ({use.name}) gives none; "
                "use a model that does, {use: hf, ...} or a server that gives them",
            )

    def _backend_with(self, capability: type) -> str:
        """Return what to add to a recipe without a model that has a plugin's capability."""
        methods = methods_of(capability)
        for item in self.plugins.imported:
            if item.kind == "backend" and all(hasattr(item.cls, name) for name in methods):
                return f"; add a model that has it under models: {{NAME: {{use: {item.name}}}}}"
        return "; add a model that has it under models"

    def measures(self) -> None:
        """Check that every measure that a stage ranks by exists; a fault has the lines to write instead."""
        for each in rewrites(self.recipe):
            self.rewritten.add(each.where)
            self.fault(each.where, each.message)

    def _able(self, use: Use, need: ModelNeed) -> bool:
        abilities = use.item.cls.abilities(use.config)
        return need.capability in abilities.capabilities and (
            abilities.logprobs or not need.logprobs
        )

    def notes(self) -> None:
        """Check that an earlier sample stage writes every note that is read, and an earlier token stage every score."""
        self._written_before(self.recipe.samples)
        self._written_before(self.recipe.tokens)

    def _written_before(self, stages: Sequence[Use]) -> None:
        written: dict[str, str] = {}
        later: dict[str, str] = {}
        for use in stages:
            for name in use.item.cls.contract(use.config).writes:
                later.setdefault(name, use.name)
        for use in stages:
            contract: Contract = use.item.cls.contract(use.config)
            for name in sorted(contract.reads - set(written)):
                place = self._where_named(use, name)
                if name in later and later[name] != use.name:
                    self.fault(
                        place,
                        f"{use.name} reads {name!r}, which {later[name]} writes only after it; move it up",
                    )
                else:
                    near = did_you_mean(name, written)
                    self.fault(
                        place, f"{use.name} reads {name!r}, which no stage before it writes{near}"
                    )
            written.update(dict.fromkeys(contract.writes, use.name))

    def _where_named(self, use: Use, name: str) -> Where:
        for key, value in use.config.model_dump(by_alias=True).items():
            if value == name and self.recipe.document.has((*use.where, key)):
                return (*use.where, key)
            if isinstance(value, list | tuple) and name in value:
                where = (*use.where, key, list(value).index(name))
                if self.recipe.document.has(where):
                    return where
        return use.where

    def prompt_names(self) -> None:
        """Check that every named template exists and parses."""
        for use in self.uses():
            contract: Contract = use.item.cls.contract(use.config)
            for name in sorted(contract.prompts):
                self._prompt(self._where_named(use, name), name)
        if self.recipe.answer.judge is not None:
            self._prompt(("answer", "prompt"), self.recipe.answer.prompt)
        if self.recipe.evaluate is not None and self.recipe.evaluate.prompt is not None:
            self._prompt(("evaluate", "prompt"), self.recipe.evaluate.prompt)

    def _prompt(self, where: Where, name: str) -> None:
        try:
            self.prompts.get(name).validate()
        except (PromptError, PluginError) as error:
            self.fault(where, str(error))

    def sources(self, *, rows: bool) -> None:
        """Check that the data exists and has the named columns; ``rows``: also that its first rows can be read."""
        for source in (self.recipe.source, self.recipe.test):
            if source is None:
                continue
            problems = list(source.use.item.cls.problems(source.use.config, self.recipe.base_dir))
            for problem in problems:
                key = (*source.use.where, "path")
                self.fault(key if self.recipe.document.has(key) else source.use.where, problem)
            if not problems and self._columns(source) and rows:
                self._first_rows(source)

    def _columns(self, source: SourceUse) -> bool:
        try:
            columns = source.use.item.cls.columns(source.use.config, self.recipe.base_dir)
        except NfilterError as error:
            self.fault(source.use.where, str(error))
            return False
        if columns:
            named = ", ".join(f"{role} = {column!r}" for role, column in columns.items())
            self.report.facts.append(f"{source.use.where[0]}: columns {named}")
        return True

    def _first_rows(self, source: SourceUse) -> None:
        """Count the readable rows among the first ones; none is a fault."""
        try:
            built = source.use.item.cls(source.use.config, self.recipe.base_dir)
            rows, more = sampled(rows_of(built))
        except ContractError:
            raise
        except NfilterError as error:
            self._data_fault(source.use.where, str(error))
            return
        found = Readable(rows)
        told = found.message(first=more)
        if source is self.recipe.source and not more:
            self.rows = found.readable
        if not found.readable:
            text = f"{told}; say which columns hold what with columns:, or convert the file"
            self._data_fault(source.use.where, text if rows else "it holds no rows")
            return
        place = source.use.where[0]
        if found.unreadable:
            self.report.warnings.append(f"{place}: {told}")
        else:
            self.report.facts.append(f"{place}: {told}")
        told_of = [*NotCarried(rows).warnings(), *holdings(rows)]
        self.report.warnings += [f"{place}: {text}" for text in told_of]

    def _data_fault(self, where: Where, text: str) -> None:
        self.fault(where, text)
        self.report.data_faults.append(self.report.faults[-1])

    def arms(self) -> None:
        """Check that every arm has a trainer, labels and a test set, where it needs them."""
        recipe = self.recipe
        trained = [arm for arm in recipe.arms if arm != "vanilla"]
        if trained and recipe.train is None and recipe.adopt is None:
            other = ", or leave arms out: tokens: runs without training" if recipe.tokens else ""
            self.fault(
                ("arms",),
                f"arm {trained[0]!r} is trained; add train: {self._trainer()}{other}",
            )
        if recipe.train is None:
            self._trainings()
        if recipe.adopt is not None:
            others = [arm for arm in trained if arm != "cleaned"]
            if others and recipe.train is None:
                self.fault(
                    ("arms",),
                    f"arm {others[0]!r} cannot adopt a stage's model; leave it out, or name what it trains with: "
                    f"train: {{use: adopt, from: {recipe.adopt.stage}, with: {self._trainer()}}}",
                )
            names = [use.name for use in recipe.tokens]
            if recipe.adopt.stage not in names:
                near = did_you_mean(recipe.adopt.stage, names)
                self.fault(
                    ("train", "from"), f"no token stage {recipe.adopt.stage!r} in the recipe{near}"
                )
        truth = recipe.source.noise or getattr(recipe.source.use.config, "truth", None)
        if "truth" in recipe.arms and not truth:
            self.fault(
                ("arms",),
                "arm 'truth' needs true labels; name their column: source: {truth: COLUMN}",
            )
        if "vanilla" in recipe.arms and recipe.evaluate is None:
            self.fault(
                ("arms",),
                "arm 'vanilla' is only evaluated; add evaluate: {metric: accuracy, source: {...}}",
            )

    def _trainings(self) -> None:
        """Report stages that train a model, in a recipe without a trainer."""
        for use in (*self.recipe.samples, *self.recipe.tokens):
            if use.item.cls.contract(use.config).trains:
                beside = "with: " if self.recipe.adopt is not None else "train: "
                self.fault(
                    use.where,
                    f"{use.name} trains a model with these settings; add {beside}{self._trainer()}"
                    + (" under train:" if self.recipe.adopt is not None else ""),
                )

    def loss(self) -> None:
        """Check that the trainer supports online losses, that an arm uses the loss, and that its scores are written."""
        train = self.recipe.train
        if train is None or train.loss is None:
            return
        loss = train.loss
        contract = train.item.cls.contract(train.config)
        if not contract.online_loss:
            able = ", ".join(self._with_contract("trainer", lambda each: each.online_loss))
            self.fault(
                loss.where,
                f"{train.name} does not support online losses; remove {loss.name!r}, or use a trainer that does"
                + (f": {able}" if able else ""),
            )
        elif issubclass(loss.item.cls, AddsPenalty) and not contract.online_penalty:
            able = ", ".join(self._with_contract("trainer", lambda each: each.online_penalty))
            self.fault(
                loss.where,
                f"{train.name} does not support the penalty of {loss.name!r}; choose another loss, or use a trainer that does"
                + (f": {able}" if able else ""),
            )
        plain = [arm for arm in self.recipe.arms if arm not in ("vanilla", "cleaned")]
        if self.recipe.adopt is not None and not plain:
            self.fault(
                loss.where,
                f"no arm trains with {loss.name!r}: stages train with the plain loss, and the cleaned arm adopts; "
                "leave it out",
            )
        written = {
            name for use in self.recipe.tokens for name in use.item.cls.contract(use.config).writes
        }
        reads = sorted(loss.item.cls.contract(loss.config).reads)
        for name in reads:
            if name not in written:
                near = did_you_mean(name, written)
                if not near.endswith("?"):
                    near = self._writer(name)
                self.fault(
                    self._where_named(loss, name),
                    f"{loss.name} reads the score {name!r}, which no token stage writes{near}",
                )
        if reads and plain:
            self.fault(
                ("arms",),
                f"arm {plain[0]!r} goes through no token stage, and {loss.name} reads the score {reads[0]!r}; leave "
                "the arm out, or take a loss that reads no score",
            )

    def _trainer(self) -> str:
        """Return a ``train`` setting with an installed trainer."""
        names = [item.name for item in self.plugins.of_kind("trainer")]
        return f"{{use: {names[0] if names else 'TRAINER'}, model: student}}"

    def _writer(self, score: str) -> str:
        """Return a hint that names a token stage that writes ``score``; empty if none is installed."""
        names = self._with_contract("stage", lambda each: score in each.writes)
        return f"; {names[0]}, under tokens:, writes it" if names else ""

    def _with_contract(self, kind: str, fits: Callable[[Contract], bool]) -> list[str]:
        """Return the installed classes of ``kind`` whose contract, with default settings, ``fits``."""
        names = []
        for item in self.plugins.of_kind(kind):
            with suppress(Exception):
                if fits(item.cls.contract(item.cls.Config.model_construct())):
                    names.append(item.name)
        return names

    def memory(self) -> None:
        """Estimate the memory of training, in bytes, and the settings that the trainer will choose."""
        use = self.recipe.train
        if use is None:
            return
        name = getattr(use.config, "model", None)
        model = self.recipe.model(name) if isinstance(name, str) else None
        if model is None:
            return
        sizes: Mapping[str, Any] = use.item.cls.memory(use.config, model.config, self.site)
        if sizes:
            self.report.memory = {part: float(size) for part, size in sizes.items()}
            parts = ", ".join(
                f"{part} {_bytes(size)}" for part, size in sizes.items() if part != "total"
            )
            total = sizes.get("total", sum(sizes.values()))
            self.report.facts.append(f"train: about {_bytes(float(total))} of memory ({parts})")
        if isinstance(use.item.cls, type) and issubclass(use.item.cls, ChoosesSettings):
            said = use.item.cls.foretold(use.config, model.config, self.site, self.rows)
            more = "; `nfilter plan` counts the rows and says which" if self.rows is None else ""
            self.report.facts += [f"train: {said.text}{more}"] if said.text else []
            self.report.warnings += [f"train: {said.warning}"] if said.warning else []

    def shared_rows(self) -> None:
        """Count the test questions that are also in the training source, up to case and white space."""
        if self.recipe.test is None:
            return
        train = self._queries(self.recipe.source)
        test = self._queries(self.recipe.test)
        if train is None or test is None:
            self.report.facts.append(
                f"evaluate: more than {SHARED_ROWS_LIMIT} rows; not looked for questions shared with training"
            )
            return
        shared = [query for query in test if query in train]
        text = f"evaluate: {len(shared)} of {len(test)} test questions also stand in the training source"
        self.report.facts.append(text + (f", for example {shared[0][:60]!r}" if shared else ""))

    def _queries(self, source: SourceUse) -> dict[str, None] | None:
        built = source.use.item.cls(source.use.config, self.recipe.base_dir)
        found: dict[str, None] = {}
        for count, row in enumerate(rows_of(built)):
            if count >= SHARED_ROWS_LIMIT:
                return None
            if isinstance(row, Row):
                found[" ".join(row.sample.query.casefold().split())] = None
        return found


def _verb(capability: type) -> str:
    name = capability.__name__
    return {"LendsModule": "lends its module", "Adapts": "takes adapters"}.get(name, name.lower())


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{size:.1f} GiB"
