"""The sources of a recipe: whether their data exists, has the named columns and can be read."""

from __future__ import annotations

import json

from nfilter.api.errors import ContractError, NfilterError, RecipeError, SourceError, short
from nfilter.api.types import Row
from nfilter.recipe.checking import Checking
from nfilter.recipe.fetching import fetch, sources_of
from nfilter.recipe.not_carried import NotCarried, holdings
from nfilter.recipe.readable import Readable, remarks_on, sampled
from nfilter.recipe.uses import SourceUse
from nfilter.recipe.yaml_lines import Where
from nfilter.registry.contracts import rows_of

SHARED_ROWS_LIMIT = 20_000
_CLASSES = 8  # in a message


def check_sources(checking: Checking, *, rows: bool) -> None:
    """Check that the data exists and has the named columns; ``rows``: also that its first rows can be read."""
    for source in sources_of(checking.recipe):
        if not _fetched(checking, source):
            continue
        problems = list(source.use.item.cls.problems(source.use.config, checking.recipe.base_dir))
        for problem in problems:
            key = (*source.use.where, "path")
            checking.fault(key if checking.recipe.document.has(key) else source.use.where, problem)
        if not problems and _columns(checking, source) and rows:
            _first_rows(checking, source)


def _fetched(checking: Checking, source: SourceUse) -> bool:
    """Copy data of another machine to this one, if its hosts are allowed; else report a fault."""
    try:
        fetch(checking.recipe, source, checking.progress)
    except RecipeError as error:
        checking.report.faults += error.faults
    except SourceError as error:
        key = (*source.use.where, "path")
        where = key if checking.recipe.document.has(key) else source.use.where
        _data_fault(checking, where, str(error))
    else:
        return True
    return False


def _columns(checking: Checking, source: SourceUse) -> bool:
    try:
        columns = source.use.item.cls.columns(source.use.config, checking.recipe.base_dir)
    except NfilterError as error:
        checking.fault(source.use.where, str(error))
        return False
    if columns:
        named = ", ".join(f"{role} = {column!r}" for role, column in columns.items())
        checking.report.facts.append(f"{source.use.where[0]}: columns {named}")
    return True


def _first_rows(checking: Checking, source: SourceUse) -> None:
    """Count the readable rows among the first ones; none is a fault."""
    try:
        built = source.use.item.cls(source.use.config, checking.recipe.base_dir)
        rows, more = sampled(rows_of(built))
    except ContractError:
        raise
    except NfilterError as error:
        _data_fault(checking, source.use.where, str(error))
        return
    found = Readable(rows)
    told = found.message(first=more)
    if source is checking.recipe.source and not more:
        checking.rows = found.readable
    if not found.readable:
        text = f"{told}; say which columns hold what with columns:, or convert the file"
        _data_fault(checking, source.use.where, text if rows else "it holds no rows")
        return
    place = source.use.where[0]
    if found.unreadable:
        checking.report.warnings.append(f"{place}: {told}")
    else:
        checking.report.facts.append(f"{place}: {told}")
    use = source.use
    remarks = remarks_on(use.item.cls, use.config, checking.recipe.base_dir)
    told_of = [*NotCarried(rows).warnings(), *remarks, *holdings(rows)]
    checking.report.warnings += [f"{place}: {text}" for text in told_of]


def _data_fault(checking: Checking, where: Where, text: str) -> None:
    checking.fault(where, text)
    checking.report.data_faults.append(checking.report.faults[-1])


def check_shared_rows(checking: Checking) -> None:
    """Count the test questions that are also in the training source, up to case and white space."""
    if checking.recipe.test is None:
        return
    train = _queries(checking, checking.recipe.source)
    test = _queries(checking, checking.recipe.test)
    if train is None or test is None:
        checking.report.facts.append(
            f"evaluate: more than {SHARED_ROWS_LIMIT} rows; questions shared with training were not counted"
        )
        return
    shared = [query for query in test if query in train]
    text = f"evaluate: {len(shared)} of {len(test)} test questions are also in the training source"
    checking.report.facts.append(text + (f", for example {shared[0][:60]!r}" if shared else ""))


def check_classes(checking: Checking) -> None:
    """Compare the classes that the prompts list in training and in the test (``answer: label``)."""
    recipe = checking.recipe
    if recipe.test is None or recipe.answer.kind != "label":
        return
    train, test = (_classes(checking, source) for source in (recipe.source, recipe.test))
    if not train or not test or set(train) == set(test):
        return
    written = json.dumps(train, ensure_ascii=False)
    names = (
        f"the classes of the test rows are {_named(test)}, and those of the source {_named(train)}"
    )
    if set(train).isdisjoint(test):
        text = f"{names}: none is the same, and no answer can be right; name other test rows, or the same classes: `labels: {written}`"
        checking.fault((*recipe.test.use.where, "path"), text)
    else:
        checking.report.warnings.append(
            f"evaluate: {names}, so the prompts of the test list others than those of training; `labels: {written}` in its source lists the same"
        )


def _classes(checking: Checking, source: SourceUse) -> list[str]:
    """Return the classes that the first row lists."""
    rows = rows_of(source.use.item.cls(source.use.config, checking.recipe.base_dir))
    row = next((row for row in rows if isinstance(row, Row)), None)
    listed = row.sample.meta.get("options") if row is not None else None
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _named(classes: list[str]) -> str:
    some = ", ".join(repr(short(name, 40)) for name in classes[:_CLASSES])
    return some + (", ..." if len(classes) > _CLASSES else "")


def _queries(checking: Checking, source: SourceUse) -> dict[str, None] | None:
    built = source.use.item.cls(source.use.config, checking.recipe.base_dir)
    found: dict[str, None] = {}
    for count, row in enumerate(rows_of(built)):
        if count >= SHARED_ROWS_LIMIT:
            return None
        if isinstance(row, Row):
            found[" ".join(row.sample.query.casefold().split())] = None
    return found
