"""Texts with addresses: what is one, and what of it is shown."""

from __future__ import annotations

import pickle

import pytest

from nfilter import RecipeError, SourceError, ToolError, is_address
from nfilter.api.addresses import without_secrets


@pytest.mark.parametrize("text", ["https://a.org/x", "s3://b/c", "S3a+x.y-z://", "hf://datasets"])
def test_an_address(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize("text", ["rows.jsonl", "/a/b", "C:/rows", "a:b", "1x://a", "://a", " https://a"])  # fmt: skip
def test_a_path(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.org/x?sig=KEY: is odd", "https://a.org/x?***: is odd"),
        ("Path 'https://a.org/x?a=1&sig=KEY' is odd.", "Path 'https://a.org/x?***' is odd."),
        ('{path: "https://a.org/x?sig=KEY"}', '{path: "https://a.org/x?***"}'),
        ("https:/a.org/x?sig=KEY", "https:/a.org/x?***"),
        ("https://a.org/x#KEY", "https://a.org/x#***"),
        ("https://me:KEY@a.org/x", "https://***@a.org/x"),
        ("https://KEY@a.org", "https://***@a.org"),
        ("https://me:K@Y@a.org:80/x", "https://***@a.org:80/x"),
        ("s3://AKIA:K/EY@bucket/x y", "s3://***@bucket/x y"),
        ("a https://a.org/x?KEY and http://b.org/?KEY, too", "a https://a.org/x?*** and http://b.org/?***, too"),
        ("hf://datasets/o/n@v1/x, http://[::1]:80/x@y, c:/d?", "hf://datasets/o/n@v1/x, http://[::1]:80/x@y, c:/d?***"),
        ("no address? none: /a/b", "no address? none: /a/b"),
        ("https://a.org/x: what? yes", "https://a.org/x: what? yes"),
    ],
)  # fmt: skip
def test_an_address_shows_no_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    assert str(SourceError(text)) == shown
    error = RecipeError([text, "b"])
    assert error.faults == (shown, "b")
    assert str(error) == f"{shown}\nb"
    again = pickle.loads(pickle.dumps(SourceError(text)))
    assert str(again) == shown


def test_a_tool_shows_a_model_its_own_text() -> None:
    assert str(ToolError("no https://a.org/x?id=1")) == "no https://a.org/x?id=1"


def test_a_long_text_takes_no_long_time() -> None:
    for piece in (":/", "://a@", "://?'", "://[", ":@", "a:/@"):
        text = f"://{piece * 200_000}"
        assert len(without_secrets(text)) <= len(text) + 400_000
