"""Compare labels with views."""

from __future__ import annotations

from collections.abc import Sequence

from nfilter import Context, Sample, View


def views_of(samples: Sequence[Sample], name: str) -> list[View]:
    """Return the view ``name`` of each sample; a view without an answer where there is none."""
    missing = View(None, failure=f"there is no view {name!r}")
    return [View.of(sample, name) or missing for sample in samples]


def agreeing(samples: Sequence[Sample], views: Sequence[View], ctx: Context) -> list[bool]:
    """Return whether each view has the answer of the sample's label; a label or view without an answer agrees with nothing."""
    labels = [ctx.answers.parse(sample.response, sample) for sample in samples]
    return ctx.answers.agree(
        [
            (label, view.answer if view.asked else None)
            for label, view in zip(labels, views, strict=True)
        ]
    )


def why_no_answer(view: View) -> str:
    """Return the reason why ``view`` has no answer."""
    return view.skipped or view.failure or "no answer can be read from the reply"
