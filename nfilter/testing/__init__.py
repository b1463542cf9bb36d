"""Tools for testing plugins: fakes of the context and of models, and conformance checks."""

from nfilter.testing.conformance import (
    check_class,
    check_sample_stage,
    check_token_loss,
    check_token_stage,
)
from nfilter.testing.data import check_exporter, check_metric, check_source
from nfilter.testing.executors import check_executor
from nfilter.testing.fakes import (
    FakeContext,
    FakeEncoder,
    FakeGenerator,
    FakeScorer,
    FakeTokenizer,
    token_sample,
    view,
)
from nfilter.testing.models import check_backend, check_trainer
from nfilter.testing.tools import check_tool

__all__ = [
    "FakeContext",
    "FakeEncoder",
    "FakeGenerator",
    "FakeScorer",
    "FakeTokenizer",
    "check_backend",
    "check_class",
    "check_executor",
    "check_exporter",
    "check_metric",
    "check_sample_stage",
    "check_source",
    "check_token_loss",
    "check_token_stage",
    "check_tool",
    "check_trainer",
    "token_sample",
    "view",
]
