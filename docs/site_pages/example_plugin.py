"""A plugin that uses every hook; the hooks' reference page shows it, a test runs it as ``house.py``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from nfilter_example.model import Adder, Memory
from nfilter_example.source import QuestionsAndAnswers
from nfilter_example.stages import Agree, Ask, Lengths
from nfilter_example.tokens import First
from nfilter_example.words import Words
from pydantic import Field

from nfilter import (
    Contract,
    Exported,
    Job,
    NotInstalled,
    RankEnd,
    RunFinished,
    RunStarted,
    Sample,
    StageConfig,
    StageFinished,
    ToolArgs,
    ToolCost,
    ToolResult,
    ToolSite,
    hookimpl,
    run_rank,
)

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


class Lines:
    """Writes one response per line."""

    name: ClassVar[str] = "house.lines"
    Config: ClassVar[type[StageConfig]] = StageConfig
    takes_rows: ClassVar[bool] = True  # runs without tokens can be exported too

    def __init__(self, config: StageConfig) -> None:
        """Take the settings of ``--set``: none."""

    def export(self, run: Exported, out: Path) -> Sequence[str]:
        """Write files into the empty folder ``out``; return a line on each."""
        text = "".join(f"{sample.response!r}\n" for sample in run.samples)
        (out / "lines.txt").write_text(text, encoding="utf-8")
        return [f"lines.txt: {len(run.samples)} rows"]


@hookimpl
def nfilter_exporters() -> Iterable[type]:
    """A format for another program."""
    return [Lines]


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """A figure that every run computes at its end."""
    return [Words]


class FlatConfig(StageConfig):
    """Settings of ``house.flat``."""

    weight: float = Field(default=1.0, ge=0, description="The weight of every token.")


class Flat:
    """Gives every token the same weight, at every step."""

    name: ClassVar[str] = "house.flat"
    Config: ClassVar[type[StageConfig]] = FlatConfig
    mean_over: ClassVar[Literal["given", "weighed"]] = "given"

    @classmethod
    def contract(cls, config: FlatConfig) -> Contract:
        """Read no score of a token stage."""
        return Contract()

    def __init__(self, config: FlatConfig) -> None:
        self.config = config

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return statistics of a chunk, [m] each, from logits [m, vocabulary] and labels [m]."""
        return {"n": logits_chunk.new_ones(len(labels))}

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return the weights of all tokens of a step, [n]."""
        return stats["n"] * self.config.weight


@hookimpl
def nfilter_losses() -> Iterable[type]:
    """A loss whose weights are computed during training."""
    return [Flat]


class CountArgs(ToolArgs):
    """What a model gives."""

    text: str = Field(description="The text whose words are counted.")


class Count:
    """Counts the words of a text."""

    name: ClassVar[str] = "house_count"
    description: ClassVar[str] = "Counts the words of a text."
    cost: ClassVar[ToolCost] = "free"
    Config: ClassVar[type[StageConfig]] = StageConfig
    Args: ClassVar[type[ToolArgs]] = CountArgs

    @classmethod
    def reads(cls, config: StageConfig) -> frozenset[str]:
        """Read nothing but the arguments."""
        return frozenset()

    @classmethod
    def problems(cls, config: StageConfig, site: ToolSite) -> Iterable[str]:
        """Nothing can be missing."""
        return ()

    def __init__(self, config: StageConfig, site: ToolSite) -> None:
        """Build the tool once; each call stands alone."""

    def call(self, args: CountArgs, row: Sample | None) -> ToolResult:
        """Answer one call."""
        words = len(args.text.split())
        return ToolResult(f"{words} words", words, untrusted=False)


@hookimpl
def nfilter_tools() -> Iterable[type]:
    """A function that a model may call."""
    return [Count]


class Here:
    """Starts no process: the whole run is in this one."""

    name: ClassVar[str] = "house.here"
    Config: ClassVar[type[StageConfig]] = StageConfig

    @classmethod
    def workers(cls, config: StageConfig) -> int:
        """Return the number of ranks."""
        return 1

    @classmethod
    def problems(cls, config: StageConfig) -> Iterable[str]:
        """Nothing can be missing."""
        return ()

    def __init__(self, config: StageConfig) -> None:
        """Take the settings: none."""

    def run(self, job: Job) -> Iterator[RankEnd]:
        """Yield how each rank ended; another executor calls ``run_rank`` in other processes."""
        for rank in range(job.world):
            yield RankEnd.of(run_rank(job.values(), rank))


@hookimpl
def nfilter_executors() -> Iterable[type]:
    """Where the processes of a run are started."""
    return [Here]


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
