"""The command line: parse, call, print. A command imports heavy modules only when it runs."""

from nfilter.cli import plugins, recipes, runs  # noqa: F401 (each registers its commands)
from nfilter.cli.group import entry, main, script

__all__ = ["entry", "main", "script"]
