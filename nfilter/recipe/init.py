"""``nfilter init`` and ``nfilter inject-noise``: write a recipe for a file of data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from nfilter.api.addresses import is_address
from nfilter.api.data import ShowsBytes, show_no_bytes
from nfilter.api.errors import ModelError, RecipeError, SourceError, did_you_mean, short
from nfilter.api.types import Row, Sample
from nfilter.noise.labels import NoiseConfig, inject_file
from nfilter.recipe.extends import templates
from nfilter.recipe.measures import rewrites
from nfilter.recipe.model import load
from nfilter.recipe.named_data import DataName, NamedData, bare, named, source_for
from nfilter.recipe.not_carried import NotCarried
from nfilter.recipe.readable import Readable, remarks_on, sampled
from nfilter.recipe.schema import FILE as SCHEMA_FILE
from nfilter.recipe.schema import editor_line, write_schema
from nfilter.recipe.yaml_lines import parse
from nfilter.registry.contracts import rows_of
from nfilter.registry.loading import Plugins
from nfilter.store.files import publishing

USUAL = "robustft"
"""The template for data of any kind."""
CLASSES = "classes"
"""The template for data with few different answers."""
PREFERENCES = "preferences"
"""The template for preference pairs."""
PAIRS = "preference"
"""The kind of answer of preference pairs."""
_MOST_CLASSES = 20
_MOST_LISTED = 200  # classes that the rows list: the list is known, whatever rows are read here
_ROWS_PER_CLASS = 10


def scaffold(
    plugins: Plugins,
    template: str | None,
    data: DataName | None,
    model: str | None,
    out: Path,
    *,
    expert: str | None = None,
    test: DataName | None = None,
    force: bool = False,
    hosts: Iterable[str] = (),
    progress: ShowsBytes = show_no_bytes,
) -> list[str]:
    """Write a recipe from a shipped one; return lines on what was guessed and what to type next.

    Args:
        plugins: The installed plugins.
        template: A shipped recipe; None chooses it by the data: with few answers that all rows share, ``classes``; for preference
            pairs, ``preferences``.
        data: The training rows, a path or as text an address.
        model: The model to train.
        out: The file to write.
        expert: ``provider/name`` of a model behind an API that answers and reviews. If it gives no log-probabilities, the
            recipe ranks by another measure.
        test: The test rows; with them, arms are compared.
        force: Whether to overwrite ``out``.
        hosts: Hosts to which the addresses of data may redirect.
        progress: Shows the bytes of data that are copied from another machine.

    Raises:
        RecipeError: for an unknown template, when ``out`` is there already, or for ``test`` without ``data``.
        SourceError: when the data cannot be read.
    """
    if out.exists() and not force:
        raise RecipeError(f"{out} is there already; choose another --out, or give --force")
    if test is not None and data is None:
        raise RecipeError(
            "--test names rows to test on, and none to train on are named; give --data"
        )
    known = templates(plugins)
    if template is not None and template not in known:
        raise RecipeError(f"no template {template!r}{did_you_mean(template, known)}")
    found = None
    if data is not None:
        again = _command(template or USUAL, out, model, expert, force=force)
        with _settings_named(plugins, data, out, again):
            read = named(plugins, data, hosts, progress)
        with _settings_named(plugins, data, out, again, _more(read)):
            found = guess(read)
    template, said = _chosen(template, found, expert)
    text = known[template].read_text(encoding="utf-8")
    text, student = _with_student(text, model, out, plugins)
    said += student
    text, without = _with_what_is_there(text, plugins)
    said += without
    if expert is not None:
        text = _replace_expert(text, expert)
        said.append(f"expert: {expert} (it answers, reasons and reviews)")
    allowed = list(hosts)
    if found is not None:
        tested = None if test is None else guess(named(plugins, test, hosts, progress))
        text = _on_data(text, found, tested, out)
        said += _told(found)
        allowed += [host for each in (found, tested) if each for host in each.data.unlisted_hosts()]
    with publishing(out) as file:
        file.write(f"{editor_line()}\n{text}")
    write_schema(plugins, out.parent / SCHEMA_FILE)
    said.append(
        f"schema: {SCHEMA_FILE} beside the recipe, for completion in editors; after installing a plugin: nfilter schema --out "
        f"{shlex.quote(str(out.parent / SCHEMA_FILE))}"
    )
    if expert is not None:
        said += _replace_unsupported_rankings(plugins, out)
    options = [word for host in dict.fromkeys(allowed) for word in ("--allow-host", host)]
    words = shlex.join([str(out), *options])
    commands = f"nfilter check {words}, then nfilter run {words}"
    missing = _missing_data(out)
    if missing is None:
        said.append(f"wrote {out}; next: {commands}")
    else:
        said.append(
            f"wrote {out}, which reads {missing}, and there is no such file; name yours under source: (or begin anew with `"
            f"{_command(template, out, model, expert, force=True)} --data FILE`); then {commands}"
        )
    return said


def _on_data(text: str, found: Guess, tested: Guess | None, out: Path) -> str:
    """Return the recipe with the user's rows, and with their test rows, if any."""
    text = _replace_section(text, "source", f"source: {_source(found, out)}")
    text = _replace_section(text, "answer", f"answer: {found.answer}")
    trains = re.search(r"^train:", text, re.MULTILINE) is not None
    text = _without_truth(text) if trains else text
    if tested is None:
        return text
    if not trains:
        raise RecipeError(
            "--test compares trained models, and this template trains none; leave out --test"
        )
    text = _replace_section(text, "arms", "arms: [vanilla, raw, cleaned]")
    return _replace_section(text, "evaluate", f"evaluate: {{source: {_source(tested, out)}}}")


def _source(found: Guess, out: Path) -> str:
    """Return the entry of the recipe ``out`` that reads the data."""
    path = _quoted(_relative(found.data.name, out))
    return f"{{use: {found.data.item.name}, path: {path}{_more(found.data)}}}"


def _more(data: NamedData) -> str:
    """Return the settings that the source found, as they follow the path in a recipe."""
    return "".join(f", {name}: {json.dumps(value)}" for name, value in data.found.items())


def _told(found: Guess) -> list[str]:
    listed = ", ".join(f"{role} = {column!r}" for role, column in found.columns.items())
    more = "".join(f", {name} {value!r}" for name, value in found.data.found.items())
    return [
        f"data: {found.data.name} read as {found.data.item.name}{more}; guessed columns: {listed}",
        f"answer kind: {found.answer} (guessed; change `answer:` if it is another)",
        *found.said,
    ]


def _chosen(template: str | None, found: Guess | None, expert: str | None) -> tuple[str, list[str]]:
    """Return the template and, if none was named, why it was chosen."""
    if template is None and found is not None and found.answer == PAIRS:
        why = f"template: {PREFERENCES}, because the rows are preference pairs: it finds pairs whose responses look exchanged, and swaps them"
        return PREFERENCES, [why]
    if template is not None or expert is not None or found is None or not found.classes:
        return template or USUAL, []
    why = (
        f"template: {CLASSES}, because all rows share {found.classes} answers: a classifier corrects the labels, and no model is called; "
        f"--template {USUAL} has a model answer, reason and review instead"
    )
    return CLASSES, [why]


def _with_what_is_there(text: str, plugins: Plugins) -> tuple[str, list[str]]:
    """Return the recipe without the models of a list that are not installed, and what was left out."""
    said = []
    named = re.findall(r"^  (\w+): *\{[^}\n]*?model: *([\w-]+)[,}]", text, re.MULTILINE)
    for name, model in named:
        missing = _not_installed(plugins, model)
        listed = re.compile(rf"(\[|, ){name}(?:, |(?=\]))")
        if missing and re.search(rf"encoder: \[(?:{name}, \w+|\w+, {name})", text):
            text = re.sub(rf"^  {name}:.*\n", "", text, flags=re.MULTILINE)
            text = listed.sub(
                lambda match: match.group(1) if match.group().endswith(", ") else "", text
            )
            said.append(f"left out: encoder {name!r}; {missing[0].removeprefix('warning: ')}")
    return text, said


def _command(
    template: str, out: Path, model: str | None, expert: str | None, *, force: bool
) -> str:
    """Return the command that writes the same recipe without data."""
    given = {"--template": template, "--model": model, "--expert": expert, "--out": str(out)}
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join(["nfilter", "init", *words, *(["--force"] if force else [])])


@contextmanager
def _settings_named(
    plugins: Plugins, data: DataName, out: Path, command: str, more: str = ""
) -> Iterator[None]:
    """Add to an error that names a setting where settings are typed: in the recipe that ``command`` writes, after ``more``."""
    try:
        yield
    except SourceError as error:
        if "`" not in str(error):  # the error names no setting
            raise
        path = _quoted(_relative(data if isinstance(data, Path) else bare(data), out))
        source = f"source: {{use: {source_for(plugins, data).name}, path: {path}{more}, ...}}"
        raise SourceError(
            f"{error}\nSettings are typed into a recipe: `{command}` writes one, and there it is {source}"
        ) from error


def _missing_data(out: Path) -> str | None:
    """Return the data file that the recipe names, if it does not exist."""
    source = parse(out.read_text(encoding="utf-8"), out).value.get("source")
    path = source.get("path") if isinstance(source, dict) else None
    if not isinstance(path, str) or is_address(path) or (out.resolve().parent / path).exists():
        return None
    return path


@dataclass(frozen=True, slots=True)
class Guess:
    """The guess about data: what reads it, its columns by role, the most likely kind of answer.

    ``classes`` is the number of answers if they are few and all rows share them, else 0. ``said`` are remarks on its rows.
    """

    data: NamedData
    columns: dict[str, str]
    answer: str
    classes: int
    said: list[str]


def guess(data: NamedData) -> Guess:
    """Guess the form of data from its first rows.

    Raises:
        SourceError: when none of its rows can be read; with the reasons.
    """
    columns = dict(data.item.cls.columns(data.config, data.base_dir))
    rows, more = sampled(rows_of(data.source()))
    samples = [row.sample for row in rows if isinstance(row, Row)]
    told = Readable(rows).message(first=more)
    if not samples:
        raise SourceError(f"{data.name}: {told if rows else 'it holds no rows'}")
    warnings = [
        *NotCarried(rows).warnings(),
        *remarks_on(data.item.cls, data.config, data.base_dir),
    ]
    said = [f"data: {told}", *(f"warning: {text}" for text in warnings)]
    kind = _answer_kind(samples)
    return Guess(data, columns, kind, _classes(data, samples, kind), said)


def _classes(data: NamedData, samples: list[Sample], kind: str) -> int:
    """Return the number of answers if they are few, all rows share them, and there are enough rows per answer; else 0."""
    if kind not in ("label", "choice", "exact"):
        return 0
    # Rows may list the same options in an order of their own.
    listed = {
        frozenset(each) if isinstance(each := s.meta.get("options"), list) else None
        for s in samples
    }
    answers = next(iter(listed)) if len(listed) == 1 else ()
    count = len({s.response.strip() for s in samples} if answers is None else answers)
    if not 2 <= count <= (_MOST_LISTED if answers else _MOST_CLASSES):
        return 0
    needed = _ROWS_PER_CLASS * count
    if answers and len(samples) < needed:
        rows = (row for row in rows_of(data.source()) if isinstance(row, Row))
        return count if len(list(islice(rows, needed))) == needed else 0
    return count if len(samples) >= needed else 0


def _answer_kind(samples: list[Sample]) -> str:
    if all(sample.rejected is not None for sample in samples):
        return PAIRS
    if all("options" in sample.meta for sample in samples):
        return "label" if _of_one_set(samples) else "choice"
    responses = [sample.response.strip() for sample in samples]
    numbers = sum(
        bool(
            re.fullmatch(r"[-+$€£]?[\d.,/ ]+%?", text)
            or re.search(r"####\s*[-+$]?[\d.,]+\s*$", text)
        )
        for text in responses
    )
    if numbers >= 0.9 * len(responses):
        return "number"
    if sum(len(text.split()) <= 4 for text in responses) >= 0.9 * len(responses):
        return "exact"
    return "{kind: text, encoder: encoder}"


def _of_one_set(samples: list[Sample]) -> bool:
    """Return whether all samples have the same options, and each response is the text of one."""
    options = [sample.meta["options"] for sample in samples]
    return all(
        listed == options[0] and isinstance(listed, list) and sample.response in listed
        for sample, listed in zip(samples, options, strict=True)
    )


def _relative(data: DataName, out: Path) -> str:
    """Return the data as a recipe names it: relative to the recipe if it is below its folder; an address as it is."""
    if isinstance(data, str):
        return data
    target, base = data.resolve(), out.resolve().parent
    return target.relative_to(base).as_posix() if target.is_relative_to(base) else str(target)


def _quoted(text: str) -> str:
    if re.fullmatch(r"[\w/][\w./-]*", text, re.ASCII) and parse(text, Path()).value == text:
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"{short(text)!r} is not UTF-8, and a recipe is; give the file another name"
        ) from error
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"))
    return quoted.strip()


def _model_from(out: Path, model: str, plugins: Plugins) -> str:
    """Return the model as the recipe names it: a path becomes relative to the recipe."""
    if is_address(model):
        raise RecipeError(
            f"--model {model}: is an address; type OWNER/NAME for a model of the hub, or copy the model to this machine and give its path"
        )
    path = Path(model)
    if path.is_absolute() or model in plugins.models or not path.exists():
        return model
    return _relative(path, out)


def _not_installed(plugins: Plugins, model: str) -> list[str]:
    try:
        plugins.model_folder(model)
    except ModelError as error:
        return [f"warning: {error}"]
    return []


def _with_student(
    text: str, model: str | None, out: Path, plugins: Plugins
) -> tuple[str, list[str]]:
    """Return the recipe with the student that was named, and what it is; without one, what a run would download."""
    if model is not None:
        changed = _replace_model(text, _model_from(out, model, plugins))
        return changed, [f"model: {model} (the student)", *_not_installed(plugins, model)]
    found = re.search(r"^  student: *\{[^}\n]*?model: *([^,}\n ]+)", text, re.MULTILINE)
    if found is None or found.group(1) in plugins.models:
        return text, []
    return text, [
        f"model: {found.group(1)} (the student of the template; a run downloads it); --model names another"
    ]


def _replace_model(text: str, model: str) -> str:
    line = re.compile(r"^(  student: *\{[^}\n]*?model: *)([^,}\n]+)", re.MULTILINE)
    changed, count = line.subn(lambda match: match.group(1) + _quoted(model), text, count=1)
    if not count:
        raise RecipeError(
            "this template has no model called student; give --model to another template"
        )
    return changed


def _replace_expert(text: str, expert: str) -> str:
    line = re.compile(r"^  expert:.*$", re.MULTILINE)
    written = f"  expert: {{use: litellm, model: {_quoted(expert)}}}"
    changed, count = line.subn(lambda _match: written, text, count=1)
    if not count:
        raise RecipeError(
            "this template has no model called expert; give --expert to another template"
        )
    return changed


def _replace_unsupported_rankings(plugins: Plugins, out: Path) -> list[str]:
    """Replace the stages of the recipe ``out`` that rank by a measure that its models lack; return what was changed."""
    recipe = load(out, plugins)
    document = recipe.document
    rankings = [each for each in rewrites(recipe) if each.where not in document.origins]
    lines = out.read_text(encoding="utf-8").splitlines()
    changes = []
    # From the last line to the first, so that earlier line numbers stay valid.
    for each in sorted(rankings, key=lambda one: document.lines[one.where], reverse=True):
        number = document.lines[each.where]
        lines[number - 1 : number] = [f"  - {item}" for item in each.items]
        before: Any = document.value
        for key in each.where:
            before = before[key]
        stages = " and ".join(_differing(before, parse(item, out).value) for item in each.items)
        changes.append(f"changed: {each.why}; in its place: {stages}")
    with publishing(out) as file:
        file.write("\n".join(lines) + "\n")
    return changes[::-1]


def _differing(before: Any, after: Mapping[str, Any]) -> str:
    """Return the name of a stage, with the settings that differ if it takes the place of the same stage."""
    name = str(after["use"])
    if not isinstance(before, Mapping) or before["use"] != name:
        return name
    settings = {key: value for key, value in after.items() if before.get(key) != value}
    written = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False).strip()
    return f"{name} with {written.strip('{}')}"


def _replace_section(text: str, name: str, line: str) -> str:
    section = re.compile(rf"^{name}:.*\n(?:[ \t]+.*\n|#.*\n(?=[ \t]))*", re.MULTILINE)
    changed, count = section.subn(lambda _match: line + "\n", text, count=1)
    return changed if count else text.rstrip("\n") + "\n" + line + "\n"


def _without_truth(text: str) -> str:
    # The user's file has no test set and no known truth until the recipe names them.
    text = re.sub(r"^evaluate:.*\n(?:[ \t]+.*\n)*", "", text, flags=re.MULTILINE)
    return _replace_section(
        text,
        "arms",
        "arms: [cleaned]                # add raw and vanilla, with evaluate:, to compare",
    )


def inject(
    plugins: Plugins,
    data: DataName,
    out: Path,
    ratio: float,
    seed: int,
    kind: str,
    wrong: str | None = None,
    *,
    hosts: Iterable[str] = (),
    progress: ShowsBytes = show_no_bytes,
) -> dict[str, int]:
    """Write a file with a known share of wrong answers; return the numbers of rows, wrong answers and unreadable rows.

    ``hosts`` and ``progress`` are those of ``scaffold``.
    """
    source = named(plugins, data, hosts, progress).source()
    noise = NoiseConfig(ratio=ratio, wrong=wrong)
    done = inject_file(source, out, noise, seed=seed, kind=kind)  # type: ignore[arg-type]
    return {"rows": done.rows, "flipped": done.flipped, "unreadable": done.unreadable}
