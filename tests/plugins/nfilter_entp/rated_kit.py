"""Points in Gaussian clusters with ratings, some of them wrong, and samples that carry them."""

import numpy as np

from nfilter import Message, Sample

CLASSES = 6


def clusters(seed, apart, n=3000, kind="uniform", rate=0.2, classes=CLASSES):
    """Points [n, 16] in four Gaussian clusters a class, true classes, and ratings of which ``rate`` are wrong.

    ``uniform``: any other class; ``kind``: classes 0 and 1 are rated one too high in 45% of cases, others in 7.5%.
    """
    rng = np.random.default_rng([seed, 7])
    true = rng.integers(classes, size=n)
    centres = rng.normal(size=(classes, 4, 16))
    centres *= apart / np.linalg.norm(centres, axis=-1, keepdims=True)
    points = centres[true, rng.integers(4, size=n)] + rng.normal(size=(n, 16)) / 4
    if kind == "uniform":
        wrong = rng.random(n) < rate
        rated = np.where(wrong, (true + rng.integers(1, classes, n)) % classes, true)
    else:
        wrong = rng.random(n) < np.where(true < 2, 0.45, 0.075)
        rated = np.where(wrong, np.where(true == classes - 1, true - 1, true + 1), true)
    return points, true, rated


def samples_of(rated, texts=None, pinned=()):
    """A sample a rating; None is no rating. Its text is its number, which the encoder below looks up."""
    return [
        Sample(
            f"s{n}",
            (Message("user", "Q"), Message("assistant", str(n if texts is None else texts[n]))),
            notes={
                "rating": {"label": None if label is None else int(label), "failure": "no line"}
            },
            pinned=n in pinned,
        )
        for n, label in enumerate(rated)
    ]
