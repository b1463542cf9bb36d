"""The reference pages of the site, made from the code: recipe, stages, other plugins, commands, errors, hooks, Python names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from nfilter.api import errors
from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.cli import main
from nfilter.recipe.extends import templates
from nfilter.recipe.model import Recipe
from nfilter.recipe.sections import AdoptConfig
from nfilter.registry.catalogue import BESIDE, settings_of
from nfilter.registry.loading import Plugins, Registered, load
from site_pages.hooks import hooks_page
from site_pages.markdown import code, doc, prose, table
from site_pages.names import names_page

MADE: Final = "This page is made from the code of the installed version."
_SETTINGS: Final = ("setting", "type", "default", "what it is")
_RECIPE: Final = (
    "`nfilter schema` prints the same as JSON Schema. A recipe is YAML with these sections; unknown keys, duplicate keys and "
    "aliases are errors. `--set train.epochs=1` replaces one value of the file."
)
_ERRORS: Final = (
    "Every message says what was wrong, where, and what to type instead. Those under [Python names](api.md) can be "
    "imported from `nfilter`."
)
_LISTS: Final[Mapping[str, str]] = {
    "executor": "The value names an [executor](plugins.md#executors): `{use: EXECUTOR, ...}`.",
    "models": "Each value names a [backend](plugins.md#backends): `{use: BACKEND, ...}`, or is the name of another model.",
    "source": "The value names a [source](plugins.md#sources): `{use: SOURCE, ...}`; [noise](#noise) may be added.",
    "samples": "A list of [stages over samples](stages.md): `{use: STAGE, ...}`; `skip: true` leaves one out.",
    "tokens": "A list of [stages over tokens](stages.md#stages-over-tokens): `{use: STAGE, ...}`; `skip: true` leaves one out.",
    "train": "The value names a [trainer](plugins.md#trainers): `{use: TRAINER, ...}`, or adopts the model of a token stage: "
    "`{use: adopt, from: STAGE}`.",
}
"""What stands in the sections whose settings are those of plugins."""
_INTERRUPTED: Final = {0: "success", 130: "interrupted; the same command goes on where it stopped"}


def pages(plugins: Plugins | None = None) -> dict[str, str]:
    """Return the Markdown of every reference page by its path from the root of the site.

    Args:
        plugins: The plugins to describe, by default the installed ones.
    """
    found = plugins or load()
    return {
        "reference/recipe.md": recipe_page(),
        "reference/stages.md": stages_page(found),
        "reference/plugins.md": plugins_page(found),
        "reference/commands.md": commands_page(),
        "reference/errors.md": errors_page(),
        "reference/hooks.md": hooks_page(),
        "reference/api.md": names_page(),
    }


def recipe_page() -> str:
    """The sections of a recipe and their settings."""
    from nfilter.noise.labels import NoiseConfig

    parts = [
        "# Recipe",
        f"{MADE} {_RECIPE}",
    ]
    for name, info in Recipe.model_fields.items():
        section = info.alias or name
        if section == "lock":
            continue
        parts += [f"## {section}", prose(info.description or ""), _LISTS.get(section, "")]
        configs = list(_configs(info.annotation)) if section not in _LISTS else []
        if section == "train":
            configs = [AdoptConfig]
        if configs:
            parts.append(settings_table(configs[0]))
        elif section not in _LISTS:
            parts.append(f"Default: {code(_default(info))}")
    parts += ["## noise", doc(NoiseConfig), settings_table(NoiseConfig)]
    return _joined(parts)


def _default(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    return "[]" if value == () else "{}" if value == {} else repr(value)


def _configs(annotation: Any) -> Iterable[Any]:
    from typing import get_args

    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _configs(part)


def settings_table(config: Any, beside: Sequence[str] | None = None) -> str:
    """Return the table of the settings of a Config class.

    Args:
        config: The class, or None.
        beside: Name, type and description of a setting that a recipe accepts in addition.
    """
    rows = [
        (code(name), code(kind), _shown(default), prose(what))
        for name, kind, default, what in (settings_of(config) if config is not None else ())
    ]
    if beside is not None:
        rows.append((code(beside[0]), code(beside[1]), code("None"), prose(beside[2])))
    return table(_SETTINGS, rows) or "No settings."


def _shown(default: str) -> str:
    return default.strip("()") if default in {"(required)", "as below"} else code(default)


def stages_page(plugins: Plugins) -> str:
    """Every stage: what it does, and its settings."""
    items = plugins.of_kind("stage")
    parts = [
        "# Stages",
        f"{MADE} `nfilter plugins show NAME` prints one entry. Every stage also takes `skip: true`, which leaves it out.",
    ]
    for title, member in (("samples", "process"), ("tokens", "process_tokens")):
        parts.append(f"## Stages over {title}")
        for item in items:
            if hasattr(item.cls, member):
                parts += _entry(item)
    return _joined(parts)


def _entry(item: Registered) -> list[str]:
    config = getattr(item.cls, "Config", None)
    return [f"### {item.name}", doc(item.cls), settings_table(config, BESIDE.get(item.kind))]


def with_settings(text: str, plugins: Plugins) -> str:
    """Return a page with tables of settings in place of its lines ``<!-- settings: NAME NAME -->``.

    Raises:
        ValueError: where nothing is registered under a name.
    """

    def tables(match: re.Match[str]) -> str:
        return "\n\n".join(_settings_of_named(name, plugins) for name in match[1].split())

    return re.sub(r"^<!-- settings: (.*) -->$", tables, text, flags=re.MULTILINE)


def _settings_of_named(name: str, plugins: Plugins) -> str:
    for kind, page in (("stage", "stages.md"), ("loss", "plugins.md")):
        for item in plugins.of_kind(kind):
            if item.name == name:
                anchor = re.sub(r"[^\w-]", "", name)
                link = f"[{code(name)}](../reference/{page}#{anchor})"
                config = getattr(item.cls, "Config", None)
                return f"**Settings of {link}**\n\n{settings_table(config)}"
    raise ValueError(f"a page asks for the settings of {name!r}, which nothing is registered under")


def plugins_page(plugins: Plugins) -> str:
    """Everything else that plugins register, by kind, and the models and recipes that ship."""
    parts = ["# Backends, trainers, sources and other plugins", MADE]
    for kind in REGISTRATIONS.values():
        if kind != "stage":
            parts.append(f"## {kind.capitalize()}{'es' if kind == 'loss' else 's'}")
            for item in plugins.of_kind(kind):
                parts += _entry(item)
    parts += ["## Models that ship", ", ".join(code(name) for name in plugins.model_names())]
    rows = [
        (code(name), prose(_first_comment(path.read_text("utf-8"))))
        for name, path in templates(plugins).items()
    ]
    parts += ["## Recipes that ship", "`nfilter init --template NAME` copies one."]
    parts.append(table(("name", "what it is"), rows))
    return _joined(parts)


def _first_comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = ["# Command line", f"{MADE} `nfilter COMMAND --help` prints the same.", doc_of(main)]
    context = click.Context(main, info_name="nfilter")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is not None:
            parts += _command(command, context, name)
    return _joined(parts)


def _command(command: click.Command, parent: click.Context, name: str) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [
        record
        for param in command.get_params(context)
        if (record := param.get_help_record(context)) is not None and param.name != "help"
    ]
    rows = [(code(option), prose(what)) for option, what in options]
    parts = [f"## {context.command_path}", code(usage), doc_of(command)]
    parts.append(table(("option", "what it does"), rows))
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                parts += _command(found, context, child)
    return parts


def doc_of(command: click.Command) -> str:
    """Return the help text of a command."""
    return prose(" ".join((command.help or "").split()))


def errors_page() -> str:
    """The exit codes, and the exceptions behind them."""
    codes = exit_codes()
    rows = [
        (code(str(number)), prose(what), ", ".join(code(name) for name in names))
        for number, (what, names) in codes.items()
    ]
    parts = [
        "# Exit codes and errors",
        MADE,
        "## Exit codes",
        table(("code", "meaning", "errors"), rows),
        "## Errors",
        _ERRORS,
    ]
    for cls in error_classes():
        bases = " (a kind of " + code(cls.__bases__[0].__name__) + ")"
        base = bases if cls.__bases__[0] is not Exception else ""
        parts += [f"### {cls.__name__}", f"Exit code {cls.exit_code}{base}.", doc(cls)]
    return _joined(parts)


def error_classes() -> list[type[errors.NfilterError]]:
    """Return every exception type of nfilter, in the order of the source."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.NfilterError)
    ]


def exit_codes() -> dict[int, tuple[str, list[str]]]:
    """Return the meaning of every exit code, from the help of the command line, and the error types that end in it."""
    told = " ".join((main.epilog or "").replace("\b", "").split())
    meanings = {int(number): what for number, what in re.findall(r"(\d+) ([^;.(]+)", told)}
    names: dict[int, list[str]] = {}
    for cls in error_classes():
        names.setdefault(cls.exit_code, []).append(cls.__name__)
    return {
        number: (_INTERRUPTED.get(number) or meanings[number].strip(), names.get(number, []))
        for number in sorted({*meanings, *names, *_INTERRUPTED})
    }


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
