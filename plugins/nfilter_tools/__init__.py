"""Tools that a model may call while it judges a row: arithmetic, similar rows, local texts, a database, tests of programs."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_tools() -> list[type]:
    """Return the tools of this plugin."""
    from nfilter_tools.calculator import Calculator
    from nfilter_tools.lookup import Lookup
    from nfilter_tools.neighbours import Neighbours
    from nfilter_tools.sql import Sql
    from nfilter_tools.unit_test import UnitTest

    return [Calculator, Lookup, Neighbours, Sql, UnitTest]
