"""Check a recipe without running it: settings, names, notes, models, prompts, data and memory.

No model and no heavy library is loaded. All faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nfilter.api.data import ShowsBytes, show_no_bytes
from nfilter.api.errors import ContractError, PluginError, PromptError, did_you_mean, short
from nfilter.api.file_errors import DENIED, file_advice
from nfilter.api.stages import Contract, Site
from nfilter.recipe.check_data import check_classes, check_shared_rows, check_sources
from nfilter.recipe.check_models import check_models
from nfilter.recipe.check_tools import check_tools
from nfilter.recipe.check_training import check_arms, check_loss, check_memory
from nfilter.recipe.checking import Checking, Report
from nfilter.recipe.measures import rewrites
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.sections import EXECUTOR
from nfilter.recipe.uses import Use
from nfilter.recipe.yaml_lines import Where
from nfilter.registry.contracts import contract_of
from nfilter.registry.loading import Plugins


def check(
    recipe: Recipe,
    plugins: Plugins,
    site: Site,
    prompts: Prompts,
    *,
    data: bool = True,
    progress: ShowsBytes = show_no_bytes,
) -> Report:
    """Check a validated recipe.

    ``data``: also read the first rows, and look for test questions in the training data. ``progress`` shows the bytes of data that
    are copied from another machine.
    """
    checking = Checking(recipe, plugins, site, prompts, progress=progress)
    _contracts(checking)
    if checking.report.faults:
        return checking.report
    steps: tuple[Callable[[Checking], None], ...] = (
        _measures, check_models, check_tools, _notes, _prompt_names, partial(check_sources, rows=data), check_arms, _executor, check_loss, check_memory,
    )  # fmt: skip
    for step in steps:
        # A name that is too long for the file system, for example.
        try:
            step(checking)
        except OSError as error:
            name = short(str(error.filename or "a path"), 200)
            advice = (
                file_advice(Path(error.filename), error)
                if error.filename and error.errno in DENIED
                else "give another path"
            )
            checking.fault((), f"{name}: {error.strerror or error}; {advice}")
    if data and not checking.report.faults:
        check_shared_rows(checking)
        check_classes(checking)
    return checking.report


def _contracts(checking: Checking) -> None:
    """Check that every plugin's contract is valid; the other steps use the contracts."""
    for use in checking.uses():
        try:
            contract_of(use.item.cls, use.config)
        except ContractError as error:
            checking.fault(use.where, f"{error}; plugin {use.item.plugin!r} of {use.item.origin}")


def _executor(checking: Checking) -> None:
    """Check what the executor says of itself, such as a package that is not installed."""
    use = checking.recipe.executor
    for problem in () if use is None else use.item.cls.problems(use.config):
        checking.fault((EXECUTOR,), problem)


def _measures(checking: Checking) -> None:
    """Check that every measure that a stage ranks by exists; a fault has the lines to write instead."""
    for each in rewrites(checking.recipe):
        checking.rewritten.add(each.where)
        checking.fault(each.where, each.message)


def _notes(checking: Checking) -> None:
    """Check that an earlier sample stage writes every note that is read, and an earlier token stage every score."""
    _written_before(checking, checking.recipe.samples)
    _written_before(checking, checking.recipe.tokens)


def _written_before(checking: Checking, stages: Sequence[Use]) -> None:
    written: dict[str, str] = {}
    later: dict[str, str] = {}
    for use in stages:
        for name in use.item.cls.contract(use.config).writes:
            later.setdefault(name, use.name)
    for use in stages:
        contract: Contract = use.item.cls.contract(use.config)
        for name in sorted(contract.reads - set(written)):
            place = checking.where_named(use, name)
            if name in later and later[name] != use.name:
                checking.fault(
                    place,
                    f"{use.name} reads {name!r}, which {later[name]} writes only after it; move it up",
                )
            else:
                near = did_you_mean(name, written)
                checking.fault(
                    place, f"{use.name} reads {name!r}, which no stage before it writes{near}"
                )
        written.update(dict.fromkeys(contract.writes, use.name))


def _prompt_names(checking: Checking) -> None:
    """Check that every named template exists and parses."""
    for use in checking.uses():
        contract: Contract = use.item.cls.contract(use.config)
        for name in sorted(contract.prompts):
            _prompt(checking, checking.where_named(use, name), name)
    if checking.recipe.answer.judge is not None:
        _prompt(checking, ("answer", "prompt"), checking.recipe.answer.prompt)
    if checking.recipe.evaluate is not None and checking.recipe.evaluate.prompt is not None:
        _prompt(checking, ("evaluate", "prompt"), checking.recipe.evaluate.prompt)


def _prompt(checking: Checking, where: Where, name: str) -> None:
    try:
        checking.prompts.get(name).validate()
    except (PromptError, PluginError) as error:
        checking.fault(where, str(error))
