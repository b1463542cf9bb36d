"""``trusted: "@review"``: the labels that a person decided, for the neighbours and for nothing that estimates from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from nfilter import Message, Sample
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.keys import is_trusted
from nfilter_robustft.neighbors import NeighborsConfig

SAMPLE = Sample("a", (Message("user", "q"), Message("assistant", "1")), meta={"@review": "no"})


def test_reviewed_rows_are_the_pinned_ones():
    assert NeighborsConfig(trusted="@review").trusted == "@review"
    assert not is_trusted(SAMPLE, "@review")
    assert is_trusted(replace(SAMPLE, pinned=True), "@review")
    assert not is_trusted(replace(SAMPLE, pinned=True), None)


def test_a_check_does_not_estimate_from_rows_that_people_chose():
    with pytest.raises(ValidationError, match="name a column that marks rows drawn at random"):
        CheckConfig(views=["a"], trusted="@review")
