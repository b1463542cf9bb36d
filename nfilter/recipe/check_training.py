"""The arms of a recipe: whether they have a trainer, labels, a test set and a usable loss, and the memory that training takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nfilter.api.errors import did_you_mean
from nfilter.api.stages import AddsPenalty, Contract
from nfilter.api.training import ChoosesSettings
from nfilter.recipe.checking import Checking


def check_arms(checking: Checking) -> None:
    """Check that every arm has a trainer, labels and a test set, where it needs them."""
    recipe = checking.recipe
    trained = [arm for arm in recipe.arms if arm != "vanilla"]
    if trained and recipe.train is None and recipe.adopt is None:
        other = ", or leave arms out: tokens: runs without training" if recipe.tokens else ""
        checking.fault(
            ("arms",),
            f"arm {trained[0]!r} is trained; add train: {_trainer(checking)}{other}",
        )
    if recipe.train is None:
        _trainings(checking)
    if recipe.adopt is not None:
        others = [arm for arm in trained if arm != "cleaned"]
        if others and recipe.train is None:
            checking.fault(
                ("arms",),
                f"arm {others[0]!r} cannot adopt a stage's model; leave it out, or name what it trains with: "
                f"train: {{use: adopt, from: {recipe.adopt.stage}, with: {_trainer(checking)}}}",
            )
        names = [use.name for use in recipe.tokens]
        if recipe.adopt.stage not in names:
            near = did_you_mean(recipe.adopt.stage, names)
            checking.fault(
                ("train", "from"), f"no token stage {recipe.adopt.stage!r} in the recipe{near}"
            )
    truth = recipe.source.noise or getattr(recipe.source.use.config, "truth", None)
    if "truth" in recipe.arms and not truth:
        checking.fault(
            ("arms",),
            "arm 'truth' needs true labels; name their column: source: {truth: COLUMN}",
        )
    if "vanilla" in recipe.arms and recipe.evaluate is None:
        checking.fault(
            ("arms",),
            "arm 'vanilla' is only evaluated; add evaluate: {metric: accuracy, source: {...}}",
        )


def _trainings(checking: Checking) -> None:
    """Report stages that train a model, in a recipe without a trainer."""
    for use in (*checking.recipe.samples, *checking.recipe.tokens):
        if use.item.cls.contract(use.config).trains:
            beside = "with: " if checking.recipe.adopt is not None else "train: "
            checking.fault(
                use.where,
                f"{use.name} trains a model with these settings; add {beside}{_trainer(checking)}"
                + (" under train:" if checking.recipe.adopt is not None else ""),
            )


def check_loss(checking: Checking) -> None:
    """Check that the trainer supports online losses, that an arm uses the loss, and that its scores are written."""
    train = checking.recipe.train
    if train is None or train.loss is None:
        return
    loss = train.loss
    contract = train.item.cls.contract(train.config)
    if not contract.online_loss:
        able = ", ".join(_with_contract(checking, "trainer", lambda each: each.online_loss))
        checking.fault(
            loss.where,
            f"{train.name} does not support online losses; remove {loss.name!r}, or use a trainer that does"
            + (f": {able}" if able else ""),
        )
    elif issubclass(loss.item.cls, AddsPenalty) and not contract.online_penalty:
        able = ", ".join(_with_contract(checking, "trainer", lambda each: each.online_penalty))
        checking.fault(
            loss.where,
            f"{train.name} does not support the penalty of {loss.name!r}; choose another loss, or use a trainer that does"
            + (f": {able}" if able else ""),
        )
    plain = [arm for arm in checking.recipe.arms if arm not in ("vanilla", "cleaned")]
    if checking.recipe.adopt is not None and not plain:
        checking.fault(
            loss.where,
            f"no arm trains with {loss.name!r}: stages train with the plain loss, and the cleaned arm adopts; "
            "leave it out",
        )
    written = {
        name for use in checking.recipe.tokens for name in use.item.cls.contract(use.config).writes
    }
    reads = sorted(loss.item.cls.contract(loss.config).reads)
    for name in reads:
        if name not in written:
            near = did_you_mean(name, written)
            if not near.endswith("?"):
                near = _writer(checking, name)
            checking.fault(
                checking.where_named(loss, name),
                f"{loss.name} reads the score {name!r}, which no token stage writes{near}",
            )
    if reads and plain:
        checking.fault(
            ("arms",),
            f"arm {plain[0]!r} goes through no token stage, and {loss.name} reads the score {reads[0]!r}; leave "
            "the arm out, or take a loss that reads no score",
        )


def _trainer(checking: Checking) -> str:
    """Return a ``train`` setting with an installed trainer."""
    names = [item.name for item in checking.plugins.of_kind("trainer")]
    return f"{{use: {names[0] if names else 'TRAINER'}, model: student}}"


def _writer(checking: Checking, score: str) -> str:
    """Return a hint that names a token stage that writes ``score``; empty if none is installed."""
    names = _with_contract(checking, "stage", lambda each: score in each.writes)
    return f"; {names[0]}, under tokens:, writes it" if names else ""


def _with_contract(checking: Checking, kind: str, fits: Callable[[Contract], bool]) -> list[str]:
    """Return the installed classes of ``kind`` whose contract, with default settings, ``fits``."""
    names = []
    for item in checking.plugins.of_kind(kind):
        with suppress(Exception):
            if fits(item.cls.contract(item.cls.Config.model_construct())):
                names.append(item.name)
    return names


def check_memory(checking: Checking) -> None:
    """Estimate the memory of training, in bytes, and the settings that the trainer will choose."""
    use = checking.recipe.train
    if use is None:
        return
    name = getattr(use.config, "model", None)
    model = checking.recipe.model(name) if isinstance(name, str) else None
    if model is None:
        return
    sizes: Mapping[str, Any] = use.item.cls.memory(use.config, model.config, checking.site)
    if sizes:
        checking.report.memory = {part: float(size) for part, size in sizes.items()}
        parts = ", ".join(
            f"{part} {_bytes(size)}" for part, size in sizes.items() if part != "total"
        )
        total = sizes.get("total", sum(sizes.values()))
        checking.report.facts.append(f"train: about {_bytes(float(total))} of memory ({parts})")
    if isinstance(use.item.cls, type) and issubclass(use.item.cls, ChoosesSettings):
        said = use.item.cls.foretold(use.config, model.config, checking.site, checking.rows)
        more = "; `nfilter plan` counts the rows and says which" if checking.rows is None else ""
        checking.report.facts += [f"train: {said.text}{more}"] if said.text else []
        checking.report.warnings += [f"train: {said.warning}"] if said.warning else []


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{size:.1f} GiB"
