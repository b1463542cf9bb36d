"""What a plugin author tests with: fakes of the context and of models, and the conformance checks."""

from nfilter.testing.conformance import (
    check_backend,
    check_sample_stage,
    check_token_loss,
    check_token_stage,
)
from nfilter.testing.fakes import FakeContext, FakeEncoder, FakeGenerator, view

__all__ = [
    "FakeContext",
    "FakeEncoder",
    "FakeGenerator",
    "check_backend",
    "check_sample_stage",
    "check_token_loss",
    "check_token_stage",
    "view",
]
