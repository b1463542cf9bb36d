"""A plugin that uses every hook; the hooks' reference page shows it, a test loads it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nfilter_example.model import Adder, Memory
from nfilter_example.source import QuestionsAndAnswers
from nfilter_example.stages import Agree, Ask, Lengths
from nfilter_example.tokens import First
from nfilter_example.words import Words

from nfilter import NotInstalled, RunFinished, RunStarted, StageFinished, hookimpl

HERE = Path(__file__).resolve().parent


@hookimpl
def nfilter_stages() -> Iterable[type]:
    """Stages over samples and over tokens; the methods of a class tell which it is."""
    return [Ask, Agree, Lengths, First]


@hookimpl
def nfilter_backends() -> Iterable[type]:
    """A model that needs no weights: ``models: {adder: {use: example.adder}}``."""
    return [Adder]


@hookimpl
def nfilter_trainers() -> Iterable[type]:
    """A trainer."""
    return [Memory]


@hookimpl
def nfilter_sources() -> Iterable[type]:
    """A file format."""
    return [QuestionsAndAnswers]


@hookimpl
def nfilter_exporters() -> Iterable[type]:
    """No format of its own."""
    return []


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """A figure that every run computes at its end."""
    return [Words]


@hookimpl
def nfilter_losses() -> Iterable[type]:
    """No loss of its own."""
    return []


@hookimpl
def nfilter_tools() -> Iterable[type]:
    """No tool of its own."""
    return []


@hookimpl
def nfilter_models() -> Mapping[str, Path | NotInstalled]:
    """A model by a short name: ``models: {student: {use: hf, model: house}}``."""
    weights = HERE / "house-model"
    missing = NotInstalled("house_weights", "house-weights")
    return {"house": weights if weights.exists() else missing}


@hookimpl
def nfilter_prompts() -> Iterable[Path]:
    """A folder with templates: ``prompt: house/ask`` is ``prompts/house/ask.jinja``."""
    return [HERE / "prompts"]


@hookimpl
def nfilter_recipes() -> Iterable[Path]:
    """A folder with recipes: ``nfilter init --template house`` copies ``recipes/house.yaml``."""
    return [HERE / "recipes"]


@hookimpl
def nfilter_run_started(event: RunStarted) -> None:
    """Write a line into a file of the run."""
    _note(event.directory, f"started {event.name} with seed {event.seed}")


@hookimpl
def nfilter_stage_finished(event: StageFinished) -> None:
    """Print one line per stage."""
    print(f"{event.stage}: kept {event.kept}, dropped {event.dropped}, {event.seconds:.1f} s")


@hookimpl
def nfilter_run_finished(event: RunFinished) -> None:
    """Write a line with a figure of the run."""
    samples: Any = event.metrics["samples"]
    _note(event.directory, f"finished {event.name} with {samples['kept']} rows")


def _note(directory: Path, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "house.log").open("a", encoding="utf-8") as log:
        log.write(f"{text}\n")
