"""``calculator``: exact arithmetic for a model."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from fractions import Fraction
from typing import ClassVar

from pydantic import Field

from nfilter import JSON, Sample, StageConfig, ToolArgs, ToolCost, ToolResult, ToolSite
from nfilter_tools.expressions import Number, compute


class CalculatorConfig(StageConfig):
    """Settings of ``calculator``."""

    digits: int = Field(
        default=12, ge=1, le=40, description="Significant digits of a value that no decimal states exactly, 1 to 40."
    )  # fmt: skip


class CalculatorArgs(ToolArgs):
    """One expression."""

    expression: str = Field(
        description="Arithmetic or one comparison, e.g. (12.5 + 3) * 4, 15% of 80, 17 mod 5, sqrt(2) > 1.41."
    )


class Calculator:
    """Computes arithmetic over exact fractions: + - * / // ^ mod, percentages, comparisons, sqrt, round and more.

    The expression is parsed with the grammar in ``expressions`` and never run as code; its size, depth and numbers are bounded.
    """

    name: ClassVar[str] = "calculator"
    description: ClassVar[str] = (
        "Computes one arithmetic expression exactly, or says whether one comparison is true. Use it for every "
        "computation with more than one digit."
    )
    cost: ClassVar[ToolCost] = "free"
    Config: ClassVar[type[StageConfig]] = CalculatorConfig
    Args: ClassVar[type[ToolArgs]] = CalculatorArgs

    @classmethod
    def reads(cls, config: CalculatorConfig) -> frozenset[str]:
        return frozenset()

    @classmethod
    def problems(cls, config: CalculatorConfig, site: ToolSite) -> Iterable[str]:
        return ()

    def __init__(self, config: CalculatorConfig, site: ToolSite) -> None:
        self._digits = config.digits

    def call(self, args: CalculatorArgs, row: Sample | None) -> ToolResult:
        """Return the value as a decimal if that is exact, else as a fraction and a rounded decimal.

        Raises:
            ToolError: if the text is not arithmetic, or a number is too large.
        """
        found = compute(args.expression)
        if isinstance(found, bool):
            return ToolResult("true" if found else "false", {"value": found}, untrusted=False)
        text = self._text(found)
        data: dict[str, JSON] = {"value": str(found.value), "text": text, "exact": found.exact}
        return ToolResult(text, data, untrusted=False)

    def _text(self, number: Number) -> str:
        if number.exact:
            exact = exact_decimal(number.value)
            return exact or f"{number.value} (about {self._rounded(number.value)})"
        return f"about {self._rounded(number.value)}"

    def _rounded(self, value: Fraction) -> str:
        context = Context(prec=self._digits)
        rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
        return str(rounded.normalize(context))


def exact_decimal(value: Fraction) -> str | None:
    """Return ``value`` as an exact decimal; None if it has none of at most 40 digits after the point."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1 or places > 40:
        return None
    scaled = abs(value.numerator) * 10**places // value.denominator
    digits = str(scaled).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
