"""What ``check`` says to write into a recipe is written, and the fault is gone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import RecipeError
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins

API = "expert: {use: litellm, model: x, api_base: 'http://localhost:1/v1', logprobs: false}"
MODELS = "models:\n  student: {use: hf, model: tiny}\n"
TEST = "evaluate: {metric: accuracy, source: {use: jsonl, path: test.jsonl}}\n"
SOURCE = "source: {use: jsonl, path: data.jsonl}\n"
TRAIN = "train: {use: hf.lora, model: student}\n"
EXCESS = "tokens:\n  - {use: tokens.excess_loss, reference: student}\n"
RELABEL = (
    f"{SOURCE}{MODELS}  {API}\nsamples:\n  - {{use: robustft.answer, llm: expert, into: base}}\n"
    "  - {use: robustft.check, views: [base]}\n  - {use: robustft.relabel, llm: expert, encoder: student}\n"
)
EVOLVE = "tokens:\n  - {use: tokens.self_evolve}\n"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(block=())


@pytest.fixture
def faults(tmp_path: Path, plugins: Plugins) -> Callable[..., list[str]]:
    for name in ("data.jsonl", "test.jsonl"):
        rows = "".join(
            f'{{"prompt": "{name[0]} {n}+1", "response": "{n + 1}", "gold": "{n + 1}"}}\n'
            for n in range(9)
        )
        (tmp_path / name).write_text(rows)

    def find(text: str, *assignments: str) -> list[str]:
        (tmp_path / "r.yaml").write_text(text)
        try:
            recipe = load(tmp_path / "r.yaml", plugins, assignments)
        except RecipeError as error:
            return list(error.faults)
        return list(check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults)  # fmt: skip

    return find


# The recipe; what its one fault says to write; what was there, and what stands there then.
CASES = [
    (
        SOURCE + MODELS + "arms: [cleaned]\n",
        "add train: {use: hf.lora, model: student}",
        [("arms: [cleaned]\n", "arms: [cleaned]\n" + TRAIN)],
    ),
    (
        SOURCE + MODELS + TRAIN + TEST + "arms: [truth]\n",
        "name their column: source: {truth: COLUMN}",
        [("path: data.jsonl", "path: data.jsonl, truth: gold")],
    ),
    (
        SOURCE + MODELS + "arms: [vanilla]\n",
        "add evaluate: {metric: accuracy, source: {...}}",
        [("arms: [vanilla]\n", "arms: [vanilla]\n" + TEST)],
    ),
    (
        SOURCE + MODELS + EVOLVE + "train: {use: adopt, from: tokens.self_evolve, with: {use: hf.lora, model: student, loss: dft}}\n",
        "no arm trains with 'dft': stages train with the plain loss, and the cleaned arm adopts; leave it out",
        [(", loss: dft", "")],
    ),
    (
        SOURCE + MODELS + EVOLVE + "train: {use: adopt, from: tokens.self_evolve}\n",
        "add with: {use: hf.lora, model: student} under train:",
        [("from: tokens.self_evolve}", "from: tokens.self_evolve, with: {use: hf.lora, model: student}}")],
    ),
    (
        SOURCE + MODELS + "encode: {model: student}\ntokens:\n  - {use: tokens.keep_top, by: excess, k: 0.6}\n" + EXCESS[8:],
        "tokens.keep_top reads 'excess', which tokens.excess_loss writes only after it; move it up",
        [("  - {use: tokens.keep_top, by: excess, k: 0.6}\n", ""), (EXCESS[8:], EXCESS[8:] + "  - {use: tokens.keep_top, by: excess, k: 0.6}\n")],
    ),
    (
        SOURCE + "models:\n  student: {use: hf, model: tiny}\n  " + API + "\nsamples:\n  - {use: robustft.neighbors, encoder: expert, into: near}\n",
        "; use 'student'",
        [("encoder: expert", "encoder: student")],
    ),
    (
        SOURCE + "models:\n  " + API + "\nsamples:\n  - {use: robustft.neighbors, encoder: expert, into: near}\n",
        "; use a local model, {use: hf, model: ...}",
        [(API, "expert: {use: hf, model: tiny}")],
    ),
    (
        RELABEL,
        "write `- {use: robustft.relabel, llm: expert, encoder: student, logprobs: false}` in its place",
        [("encoder: student}", "encoder: student, logprobs: false}")],
    ),
    (
        RELABEL,
        "or name a model that gives them there, {use: hf, ...} for one",
        [(API, "expert: {use: hf, model: tiny}")],
    ),
    (
        SOURCE + MODELS + "encode: {model: student}\n" + "train: {use: hf.lora, model: student, loss: {use: rho1, reference: loss.reference}}\narms: [raw, cleaned]\n" + EXCESS,
        "leave the arm out",
        [("arms: [raw, cleaned]", "arms: [cleaned]")],
    ),
    (
        SOURCE + MODELS + "samples:\n  - {view: x}\n",
        "missing; name the stage to use: ",
        [("{view: x}", "{use: entp.purge}")],
    ),
    (
        MODELS + "samples:\n  - {use: entp.purge}\n",
        "missing; write for example source: {use: jsonl, path: data.jsonl}",
        [(MODELS, MODELS + SOURCE)],
    ),
    (
        SOURCE + "models:\n  student: student\n",
        "stands for itself in a circle; make one of them {use: NAME, ...}",
        [("student: student", "student: {use: hf, model: tiny}")],
    ),
    (
        SOURCE + "budget: {usd: 3}\nmodels:\n  " + API + "\nsamples:\n  - {use: robustft.answer, llm: expert, into: base, logprobs: false}\n",
        "set price: {prompt: 0.15, completion: 0.6}",
        [("logprobs: false}\nsamples", "logprobs: false, price: {prompt: 0.15, completion: 0.6}}\nsamples")],
    ),
    (
        SOURCE + "budget: {usd: 3}\nmodels:\n  " + API + "\nsamples:\n  - {use: robustft.answer, llm: expert, into: base, logprobs: false}\n",
        "or price: {prompt: 0, completion: 0} where it costs nothing",
        [("logprobs: false}\nsamples", "logprobs: false, price: {prompt: 0, completion: 0}}\nsamples")],
    ),
    (
        "seed: 0x8000000000000000\n" + SOURCE,
        "is larger than a recipe can hold; write at most 9223372036854775807",
        [("0x8000000000000000", "9223372036854775807")],
    ),
    (
        "name: 0x8000000000000000\n" + SOURCE,
        "or put it in quotes if it is text",
        [("0x8000000000000000", "'0x8000000000000000'")],
    ),
]  # fmt: skip


@pytest.mark.types(
    "is trained; add train: «»", "source: {truth: COLUMN}", "add evaluate: {metric: accuracy",
    "the cleaned arm adopts; leave it out", "trains a model with these settings; add", "writes only after it; move it up",
    "; use «»", "; use a local model, {use: hf, model: ...}", "write «» in its place, or name a model that gives them there", "name the «» to use",
    "write for example source:", "make one of them {use: NAME, ...}", "set price: {prompt: 0.15, completion: 0.6} (dollars",
    "larger than a recipe can hold",
)  # fmt: skip
@pytest.mark.parametrize(("text", "told", "edits"), CASES, ids=range(len(CASES)))
def test_what_is_told_is_written_and_the_fault_is_gone(
    faults: Callable[..., list[str]], text: str, told: str, edits: list[tuple[str, str]]
) -> None:
    (fault,) = faults(text)
    assert told in fault
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    assert faults(text) == []


@pytest.mark.types("use a model that does, {use: hf, ...}")
def test_a_model_that_gives_log_probabilities_is_named(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins]
) -> None:
    from nfilter_example.model import Adder
    from nfilter_example.stages import Agree

    from nfilter import Abilities, Contract, Generates, ModelNeed

    class Sure(Agree):
        """Needs log-probabilities, and has no setting to do without."""

        name = "extra.sure"

        @classmethod
        def contract(cls, config: Any) -> Contract:
            return Contract(needs=(ModelNeed("expert", Generates, logprobs=True),))

    class Frank(Adder):
        """Gives them."""

        name = "extra.frank"

        @classmethod
        def abilities(cls, config: Any) -> Abilities:
            return Abilities(frozenset({Generates}), logprobs=True)

    home = folder({"sums.qa": "1+1 => 2\n"})
    plugins = catalogue(stages=[Sure], backends=[Frank])
    text = "models: {expert: {use: example.adder}}\nsource: {use: example.qa, path: sums.qa}\nsamples: [{use: extra.sure, view: x}]\n"
    found = []
    for written in (text, text.replace("example.adder", "extra.frank")):
        (home / "r.yaml").write_text(written)
        recipe = load(home / "r.yaml", plugins)
        found.append(check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults)  # fmt: skip
    ((fault,), none) = found
    assert "use a model that does, {use: hf, ...}" in fault
    assert none == []


@pytest.mark.types("does not support online losses; remove")
def test_a_loss_is_left_out_or_goes_to_a_trainer_that_takes_one(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins], faults: Callable[..., list[str]]
) -> None:
    import importlib

    losses = importlib.import_module("nfilter_losses")
    home = folder({"sums.qa": "1+1 => 2\n", "r.yaml": ""})
    plugins = catalogue(losses=losses.nfilter_losses())
    text = "models: {student: {use: example.adder}}\nsource: {use: example.qa, path: sums.qa}\ntrain: {use: example.memory, model: student, loss: dft}\n"

    def found(text: str) -> list[str]:
        (home / "r.yaml").write_text(text)
        recipe = load(home / "r.yaml", plugins)
        return list(check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults)  # fmt: skip

    (fault,) = found(text)
    assert "remove 'dft', or use a trainer that does" in fault
    assert found(text.replace(", loss: dft", "")) == []
    assert faults(SOURCE + MODELS + "train: {use: hf.lora, model: student, loss: dft}\n") == []


@pytest.mark.types("choose another loss, or use a trainer that does")
def test_a_loss_with_a_penalty_goes_to_a_trainer_that_supports_it(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins], faults: Callable[..., list[str]]
) -> None:
    import importlib

    from nfilter import Contract

    losses = importlib.import_module("nfilter_losses")
    memory = importlib.import_module("nfilter_example.model").Memory
    online = classmethod(lambda cls, config: Contract(online_loss=True))
    plain = type("Plain", (memory,), {"name": "extra.plain", "contract": online})
    home = folder({"sums.qa": "1+1 => 2\n", "r.yaml": ""})
    plugins = catalogue(losses=losses.nfilter_losses(), trainers=[plain])
    text = "models: {student: {use: example.adder}}\nsource: {use: example.qa, path: sums.qa}\ntrain: {use: extra.plain, model: student, loss: asft}\n"

    def found(text: str) -> list[str]:
        (home / "r.yaml").write_text(text)
        recipe = load(home / "r.yaml", plugins)
        return list(check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults)  # fmt: skip

    (fault,) = found(text)
    assert "extra.plain does not support the penalty of 'asft'; choose another loss" in fault
    assert found(text.replace("asft", "dft")) == []
    assert faults(SOURCE + MODELS + "train: {use: hf.lora, model: student, loss: asft}\n") == []


@pytest.mark.types("cannot adopt a stage's model; leave it out, or name what it trains with")
def test_an_arm_that_cannot_adopt_is_left_out_or_gets_a_trainer(
    faults: Callable[..., list[str]],
) -> None:
    text = SOURCE + MODELS + TEST + EVOLVE + "arms: [raw, cleaned]\ntrain: {use: adopt, from: tokens.self_evolve}\n"  # fmt: skip
    told = next(fault for fault in faults(text) if "arm 'raw' cannot adopt" in fault)
    written = told.split("name what it trains with: ")[1]
    assert faults(text.replace("train: {use: adopt, from: tokens.self_evolve}", written)) == []
    left = faults(text.replace("[raw, cleaned]", "[cleaned]"))
    assert not any("cannot adopt" in fault for fault in left)


@pytest.mark.types("write it as path=value")
def test_the_form_of_an_override_is_the_one_that_is_shown(
    faults: Callable[..., list[str]],
) -> None:
    text = SOURCE + MODELS + TRAIN
    (fault,) = faults(text, "train.epochs 1")
    example = re.search(r"write it as path=value, for example (\S+)", fault)
    assert example is not None
    assert faults(text, example[1]) == []


@pytest.mark.types("write it as llm.example.org or 10.0.0.5")
def test_the_hosts_that_are_shown_can_be_allowed() -> None:
    from nfilter.recipe.hosts import granted

    with pytest.raises(RecipeError) as error:
        granted(["https://llm.example.org:8000/v1"], {})
    shown = re.search(r"write it as (\S+) or (\S+),", str(error.value))
    assert shown is not None
    assert granted(list(shown.groups()), {}) == set(shown.groups())


@pytest.mark.types("«», or export «»=«»")
def test_a_host_is_allowed_by_the_variable_that_is_named(
    faults: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SOURCE + "models: {expert: {use: litellm, model: x, api_base: 'https://llm.example.org/v1'}}\n"  # fmt: skip
    (fault,) = faults(text)
    name, value = re.search(r"or export (\w+)=(\S+)$", fault).groups()  # type: ignore[union-attr]
    monkeypatch.setenv(name, value)
    assert os.environ["NFILTER_ALLOW_HOSTS"] == "llm.example.org"
    assert faults(text) == []


@pytest.mark.types(
    "the model's own wrong answers have no steps",
    "set rows to at most that, or use wrong: uniform",
)
def test_wrong_answers_of_the_embedded_model(plugins: Plugins, tmp_path: Path) -> None:
    from nfilter import SourceError

    tiny: Any = plugins.get("source", "tiny").cls

    def read(**settings: Any) -> int:
        config = tiny.Config.model_validate(settings)
        return sum(1 for _ in tiny(config, tmp_path).read())

    with pytest.raises(SourceError, match="have no steps: use wrong: uniform with steps"):
        read(rows=4, wrong="own", steps=True)
    assert read(rows=4, wrong="uniform", steps=True) == 4
    with pytest.raises(
        SourceError, match="set rows to at most that, or use wrong: uniform"
    ) as error:
        read(rows=4000, wrong="own")
    most = int(re.search(r"the first (\d+) rows", str(error.value))[1])  # type: ignore[index]
    assert read(rows=most, wrong="own") == most
    assert read(rows=most + 1, wrong="uniform") == most + 1
    with pytest.raises(SourceError, match="; set rows to at most that") as error:
        read(split="dev", rows=10**6)
    most = int(re.search(r"has (\d+) rows", str(error.value))[1])  # type: ignore[index]
    assert read(split="dev", rows=most) == most
