"""A source: one row a line, ``question => answer``, with the true answer behind a bar where it is known."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from nfilter import JSON, Message, Row, Sample, StageConfig, Unreadable


class QuestionsAndAnswersConfig(StageConfig):
    """Where the file is, and whether lines end in ``| true answer``."""

    path: str
    truth: bool = Field(default=False, description="lines end in | true answer")


class QuestionsAndAnswers:
    """Lines of the form ``2+3 => 5``, or ``2+3 => 6 | 5`` with the truth behind the bar."""

    name: ClassVar[str] = "example.qa"
    Config: ClassVar[type[StageConfig]] = QuestionsAndAnswersConfig
    suffixes: ClassVar[tuple[str, ...]] = (".qa",)

    @classmethod
    def problems(cls, config: QuestionsAndAnswersConfig, base_dir: Path) -> Iterable[str]:
        """What can be seen without reading rows."""
        if not (base_dir / config.path).is_file():
            yield f"no file {base_dir / config.path}; paths start at the recipe's folder"

    @classmethod
    def columns(cls, config: QuestionsAndAnswersConfig, base_dir: Path) -> Mapping[str, str]:
        """The roles of a line's parts."""
        parts = {"prompt": "before =>", "response": "after =>"}
        return {**parts, "truth": "after |"} if config.truth else parts

    def __init__(self, config: QuestionsAndAnswersConfig, base_dir: Path) -> None:
        self.config = config
        self.path = base_dir / config.path

    def read(self) -> Iterator[Row | Unreadable]:
        """Rows in order; a line without an arrow is unreadable, and reading goes on."""
        seen: Counter[str] = Counter()
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                text, _, truth = (
                    line.strip().partition("|") if self.config.truth else (line.strip(), "", "")
                )
                question, arrow, answer = (part.strip() for part in text.partition("=>"))
                if not arrow or not question:
                    yield Unreadable(
                        number, "no 'question => answer' in this line", line.strip()[:200]
                    )
                    continue
                # An id says which row it is, whatever stands before it, and never depends on the truth.
                row = f"{question} => {answer}"
                seen[row] += 1
                key = hashlib.sha256(f"{row}\0{seen[row]}".encode()).hexdigest()[:12]
                messages = (Message("user", question), Message("assistant", answer))
                yield Row(Sample(key, messages), truth.strip() or None)

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """The row in the shape it came in, with its id."""
        return {"id": sample.id, "line": f"{sample.query} => {sample.response}"}
