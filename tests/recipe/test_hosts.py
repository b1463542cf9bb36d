"""Where data may go: here, to a provider's own hosts, and where the one who runs a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from pydantic import Field

from nfilter import RecipeError, StageConfig
from nfilter.recipe.hosts import granted, is_here, unlisted_hosts

RECIPE = """\
name: away
answer: exact
models:
  expert: {{use: litellm, model: x, api_base: "{url}"}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
"""


class Config(StageConfig):
    model: str = "x"
    api_base: str | None = None
    body: dict[str, Any] = Field(default_factory=dict)


class Backend:
    own_hosts: ClassVar[frozenset[str]] = frozenset({"api.provider.com"})


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", True),
        ("::ffff:127.0.0.1", True), ("localhost.evil.com", False), ("evil.localhost", False), ("127.0.0.1.evil.com", False),
        ("127.1", False), ("2130706433", False), ("10.0.0.5", False), ("169.254.169.254", False), ("::2", False), ("", False),
    ],
)  # fmt: skip
def test_what_this_machine_is(host: str, here: bool) -> None:
    assert is_here(host) == here


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"api_base": "http://localhost:8000/v1"}, []),
        ({"api_base": "http://[::1]:8000/v1"}, []),
        ({"api_base": "https://API.Provider.com/v1"}, []),
        ({"api_base": "https://api.provider.com.evil.com/v1"}, ["api.provider.com.evil.com"]),
        ({"api_base": "https://LLM.Example.org.:8443/v1"}, ["llm.example.org"]),
        ({"api_base": "https://localhost@evil.com/v1"}, ["evil.com"]),
        ({"api_base": "https://[2001:db8::1]:80/"}, ["2001:db8::1"]),
        ({"model": "huggingface/https://evil.com/predict"}, ["evil.com"]),
        ({"body": {"fallbacks": [{"api_base": "http://evil.com"}]}}, ["evil.com"]),
        ({"body": {"https://evil.com": 1}}, ["evil.com"]),
        ({"api_base": "https://a.com/x?then=https://b.com"}, ["a.com", "b.com"]),
        ({"model": "openai/gpt-5", "body": {"note": "a // b"}}, []),
    ],
)
def test_every_address_in_a_config_counts(config: dict[str, Any], found: list[str]) -> None:
    assert unlisted_hosts(Backend, Config(**config), ()) == found
    assert unlisted_hosts(Backend, Config(**config), found) == []


def test_both_readings_of_a_backslash_count() -> None:
    found = unlisted_hosts(Backend, Config(api_base="https://evil.com\\@localhost/v1"), ())
    assert "evil.com" in found


def test_a_backend_adds_hosts_that_no_address_shows() -> None:
    class Told(Backend):
        @classmethod
        def hosts(cls, config: Config) -> list[str]:
            return ["queue.example.org"]

    assert unlisted_hosts(Told, Config(), ()) == ["queue.example.org"]


def test_what_is_granted() -> None:
    environment = {"NFILTER_ALLOW_HOSTS": "a.org, B.org,,"}
    assert granted(["[::2]", "c.org."], environment) == {"a.org", "b.org", "c.org", "::2"}
    for wrong in ("https://a.org", "a.org:80", "a b", "*", "*.org", "a@b", "a.org/x"):
        with pytest.raises(RecipeError, match="is no name of a host"):
            granted([wrong], {})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NFILTER_ALLOW_HOSTS", raising=False)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?", "response": "2"}\n')
    (tmp_path / "r.yaml").write_text(RECIPE.format(url="https://llm.example.org/v1"))
    return tmp_path


def test_check_says_what_to_type_and_that_helps(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter.cli import entry, main

    with pytest.raises(RecipeError) as caught:
        main.main(["check", "r.yaml"], standalone_mode=False)
    assert str(caught.value) == (
        "r.yaml:4: models.expert: this would send data to llm.example.org, which only the recipe names; if you trust it, "
        "type: nfilter run r.yaml --allow-host llm.example.org, or export NFILTER_ALLOW_HOSTS=llm.example.org"
    )
    for verb in ("run", "plan", "lint"):
        assert entry([verb, "r.yaml"]) == 2
    assert not (home / "runs").exists()
    assert (
        CliRunner().invoke(main, ["check", "r.yaml", "--allow-host", "llm.example.org"]).exit_code
        == 0
    )
    assert entry(["check", "r.yaml", "--allow-host", "example.org"]) == 2
    assert entry(["check", "r.yaml", "--allow-host", "https://llm.example.org"]) == 2
    monkeypatch.setenv("NFILTER_ALLOW_HOSTS", "other.org,llm.example.org")
    assert CliRunner().invoke(main, ["check", "r.yaml"]).exit_code == 0


def test_a_program_that_checks_nothing_is_held_back_too(home: Path) -> None:
    from nfilter import ModelError
    from nfilter.engine.lookup import site_of
    from nfilter.models.pool import ModelPool
    from nfilter.recipe.model import load
    from nfilter.registry import loading as plugins

    found = plugins.load()
    recipe = load(home / "r.yaml", found, [])
    with pytest.raises(
        ModelError,
        match=r"'expert' would send data to llm\.example\.org.*--allow-host llm\.example\.org",
    ):
        ModelPool(recipe, site_of(recipe, found)).backend("expert")
