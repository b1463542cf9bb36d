"""The weights of every loss against numpy in float64 and against known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nfilter import RecipeError
from nfilter.registry.loading import load
from nfilter.testing import check_token_loss
from nfilter_losses.asft import Asft, AsftConfig
from nfilter_losses.deft import Deft, DeftConfig
from nfilter_losses.dft import Dft, DftConfig
from nfilter_losses.eaft import Eaft, EaftConfig
from nfilter_losses.frozen import Frozen, FrozenConfig
from nfilter_losses.prift import Prift, PriftConfig
from nfilter_losses.profit import Profit, ProfitConfig
from nfilter_losses.rho1 import Rho1, Rho1Config
from nfilter_tokens.excess import ExcessLoss, ExcessLossConfig

VOCABULARY = 50
REFERENCE = "loss.reference"


def drawn(n: int = 40, seed: int = 0, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, VOCABULARY)), rng.integers(0, VOCABULARY, n)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def weights(loss: Any, logits: np.ndarray, labels: np.ndarray, **cached: Any) -> np.ndarray:
    tensor = torch.from_numpy(np.asarray(logits)).float()
    scores = {name: torch.tensor(values, dtype=torch.float32) for name, values in cached.items()}
    done = check_token_loss(type(loss), loss.config, tensor, torch.from_numpy(labels), scores)
    return np.asarray(done, dtype=np.float64)


def dft() -> Dft:
    return Dft(DftConfig())


def rho1(**config: Any) -> Rho1:
    return Rho1(Rho1Config(**config))


def test_dft_is_the_probability_of_the_label() -> None:
    logits, labels = drawn()
    wanted = softmax(logits)[np.arange(len(labels)), labels]
    np.testing.assert_allclose(weights(dft(), logits, labels), wanted, rtol=1e-5, atol=1e-9)


def test_dft_of_uniform_and_of_certain_logits() -> None:
    labels = np.array([3, 3])
    logits = np.zeros((2, VOCABULARY))
    assert weights(dft(), logits, labels) == pytest.approx(1 / VOCABULARY)
    logits[0, 3], logits[1, 4] = 1000.0, 1000.0
    assert weights(dft(), logits, labels).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("top", [2, 20, 50, 500])
def test_eaft_is_the_entropy_of_the_most_likely(top: int) -> None:
    logits, labels = drawn()
    most = -np.sort(-softmax(logits), -1)[:, :top]
    most /= most.sum(-1, keepdims=True)
    wanted = -(most * np.log(most)).sum(-1) / math.log(most.shape[1])
    got = weights(Eaft(EaftConfig(top=top)), logits, labels)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    assert 0 < got.min() < 0.5 < got.max() < 1


def test_eaft_of_uniform_certain_and_forbidden_logits() -> None:
    logits = np.zeros((4, VOCABULARY))
    logits[1, 3] = 1000.0
    logits[2, 2:] = -np.inf
    logits[3, 1:] = -np.inf
    got = weights(Eaft(EaftConfig()), logits, np.array([3, 4, 0, 0]))
    assert got == pytest.approx([1.0, 0.0, math.log(2) / math.log(20), 0.0], abs=1e-6)


def test_eaft_ignores_the_label() -> None:
    logits, labels = drawn()
    eaft = Eaft(EaftConfig())
    assert (weights(eaft, logits, labels) == weights(eaft, logits, labels * 0)).all()


@pytest.mark.parametrize(
    ("settings", "scale"), [({"divisor": 3.0}, math.log(20) / 3), ({"divisor": 1.0}, math.log(20))]
)
def test_eaft_has_the_scale_of_other_trainers(settings: dict[str, Any], scale: float) -> None:
    """LlamaFactory divides the entropy by 3.0, axolotl does not divide it."""
    logits, labels = drawn()
    wanted = scale * weights(Eaft(EaftConfig()), logits, labels)
    got = weights(Eaft(EaftConfig(**settings)), logits, labels)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    squared = weights(Eaft(EaftConfig(**settings, power=2)), logits, labels)
    np.testing.assert_allclose(squared, wanted**2, rtol=1e-5)


def test_profit_masks_labels_below_the_probability() -> None:
    p = np.array([0.05, 0.0999, 0.1001, 0.9])
    logits = np.full((4, VOCABULARY), -np.inf)
    logits[:, 0], logits[:, 1] = np.log(p), np.log(1 - p)
    labels = np.zeros(4, dtype=np.int64)
    assert weights(Profit(ProfitConfig()), logits, labels).tolist() == [0, 0, 1, 1]
    assert weights(Profit(ProfitConfig(least=0.5)), logits, labels).tolist() == [0, 0, 0, 1]
    assert weights(Profit(ProfitConfig(least=0)), logits, labels).tolist() == [1] * 4


def test_deft_is_the_probability_to_the_power_of_the_concentration() -> None:
    logits, labels = drawn()
    p = softmax(logits)
    wanted = p[np.arange(len(labels)), labels] ** (p**2).sum(-1)
    np.testing.assert_allclose(weights(Deft(DeftConfig()), logits, labels), wanted, rtol=1e-4)


def test_deft_has_the_gradient_of_the_loss_of_the_paper() -> None:
    drawn_logits, drawn_labels = drawn()
    labels = torch.from_numpy(drawn_labels)
    logits = torch.from_numpy(drawn_logits).requires_grad_()
    p = logits.softmax(-1)
    label, a = p[torch.arange(len(labels)), labels], (p**2).sum(-1).detach()
    wanted = torch.autograd.grad(((1 - label**a) / a).sum(), logits)[0]
    given = torch.from_numpy(weights(Deft(DeftConfig()), drawn_logits, drawn_labels))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    got = torch.autograd.grad((given * losses).sum(), logits)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


def test_deft_of_uniform_certain_and_forbidden_logits() -> None:
    logits = np.zeros((3, VOCABULARY))
    logits[1:, 3] = 1000.0
    logits[2, 4] = -np.inf
    got = weights(Deft(DeftConfig()), logits, np.array([3, 3, 4]))
    # Uniform over V: p^a = V^(-1/V).
    assert got == pytest.approx([VOCABULARY ** (-1 / VOCABULARY), 1.0, 0.0])


def test_prift_is_the_cached_score_whatever_the_logits() -> None:
    logits, labels = drawn(3)
    got = weights(Prift(PriftConfig()), logits, labels, prift=[0.25, 0.0, 1.0])
    assert got.tolist() == [0.25, 0.0, 1.0]
    assert Prift.contract(PriftConfig(by="p")).reads == {"p"}


@pytest.mark.types(
    "put {use: prift.score} under tokens:, or set train.loss.by to the name of a score with weights"
)
def test_prift_without_its_score_names_the_stage_that_writes_it() -> None:
    logits, labels = drawn(4)
    with pytest.raises(RecipeError, match=r"no score 'prift' for 4 of 4 tokens") as caught:
        Prift(PriftConfig()).weigh({"none": torch.zeros(4)}, {"p": torch.zeros(4)}, 0)
    assert "put {use: prift.score} under tokens:" in str(caught.value)
    written = Frozen.contract(FrozenConfig()).writes
    assert (
        len(weights(Prift(PriftConfig()), logits, labels, **dict.fromkeys(written, [1] * 4))) == 4
    )
    assert len(weights(Prift(PriftConfig(by="p")), logits, labels, p=[1] * 4)) == 4
    with pytest.raises(RecipeError, match="for 1 of 4 tokens"):
        weights(Prift(PriftConfig()), logits, labels, prift=[1, 2, math.nan, 3])


@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.6, 1.0])
def test_rho1_keeps_the_highest_excess_loss(ratio: float) -> None:
    logits, labels = drawn()
    losses = -np.log(softmax(logits)[np.arange(len(labels)), labels])
    reference = np.random.default_rng(1).gamma(2.0, 1.0, len(labels))
    excess = losses - reference
    got = weights(rho1(ratio=ratio), logits, labels, **{REFERENCE: reference})
    keep = int(len(labels) * ratio)
    wanted = np.zeros(len(labels))
    wanted[np.argsort(-excess)[:keep]] = 1.0
    assert got.tolist() == wanted.tolist()
    # Neither loss alone selects the same tokens.
    if ratio < 1:
        assert got.tolist() != (losses >= -np.sort(-losses)[keep - 1]).astype(float).tolist()


def test_rho1_breaks_ties_by_position_and_keeps_at_least_one() -> None:
    logits, labels = np.zeros((64, VOCABULARY)), np.zeros(64, dtype=np.int64)
    same = {REFERENCE: np.full(64, 0.5)}
    assert weights(rho1(ratio=0.25), logits, labels, **same).tolist() == [1.0] * 16 + [0.0] * 48
    same[REFERENCE][40] = 0.25
    got = weights(rho1(ratio=0.25), logits, labels, **same)
    assert np.flatnonzero(got).tolist() == [*range(15), 40]
    assert np.flatnonzero(weights(rho1(ratio=0.01), logits, labels, **same)).tolist() == [40]


def test_rho1_reads_the_configured_score() -> None:
    assert Rho1.contract(Rho1Config(reference="mine")).reads == {"mine"}
    assert Rho1.contract(Rho1Config()).reads == {REFERENCE}
    logits, labels = np.zeros((2, VOCABULARY)), np.zeros(2, dtype=np.int64)
    scores = {"mine": [3.0, 1.0], REFERENCE: [1.0, 3.0]}
    assert weights(rho1(ratio=0.5, reference="mine"), logits, labels, **scores).tolist() == [0, 1]
    assert weights(rho1(ratio=0.5), logits, labels, **scores).tolist() == [1, 0]


WRITTEN_BY_STAGE = next(
    name for name in ExcessLoss.contract(ExcessLossConfig(warmup=0.2)).writes if name == REFERENCE
)


@pytest.mark.types("put a stage that writes it under tokens:")
def test_rho1_without_its_score_names_the_stage_that_writes_it() -> None:
    logits, labels = drawn(4)
    with pytest.raises(
        RecipeError, match=r"no score 'loss\.reference' for 4 of 4 tokens"
    ) as caught:
        rho1().weigh({"loss": torch.zeros(4)}, {"excess": torch.zeros(4)}, 0)
    assert "available: excess" in str(caught.value)
    assert "tokens.excess_loss" in str(caught.value)
    # The score that the stage writes, and a score under another name.
    assert len(weights(rho1(), logits, labels, **{WRITTEN_BY_STAGE: [1, 2, 3, 4]})) == 4
    assert len(weights(rho1(reference="excess"), logits, labels, excess=[1, 2, 3, 4])) == 4
    with pytest.raises(RecipeError, match="for 1 of 4 tokens"):
        weights(rho1(), logits, labels, **{REFERENCE: [1, 2, math.nan, 3]})


def test_half_precision_logits_are_read_in_float32() -> None:
    logits, labels = drawn()
    half = torch.from_numpy(logits).to(torch.bfloat16)
    for loss in (
        dft(),
        rho1(),
        Eaft(EaftConfig()),
        Deft(DeftConfig()),
        Profit(ProfitConfig()),
        Asft(AsftConfig()),
    ):
        for values in loss.stats(half, torch.from_numpy(labels)).values():
            assert values.dtype == torch.float32
    got = dft().stats(half, torch.from_numpy(labels))["p"].double().numpy()
    wanted = softmax(half.double().numpy())[np.arange(len(labels)), labels]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "settings"),
    [(Rho1Config, {"ratio": 0}), (Rho1Config, {"ratio": 1.1}), (EaftConfig, {"top": 1}), (EaftConfig, {"divisor": 0}),
     (ProfitConfig, {"least": 1.1}), (AsftConfig, {"kl": -1}), (DeftConfig, {"alpha": 1}), (DftConfig, {"scale": 2})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(config: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config.model_validate(settings)


def test_losses_are_registered(point: Any) -> None:
    import nfilter_losses

    plugins = load([point("nfilter_losses", nfilter_losses)], ())
    assert [item.name for item in plugins.of_kind("loss")] == [
        "asft", "deft", "dft", "eaft", "prift", "profit", "rho1",
    ]  # fmt: skip
    assert [item.name for item in plugins.of_kind("stage")] == ["prift.score"]


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def asft_penalty(logits: np.ndarray, reference: np.ndarray, **config: Any) -> np.ndarray:
    labels = np.zeros(len(logits), dtype=np.int64)
    given = [torch.from_numpy(values) for values in (logits, labels, reference)]
    config = Asft.Config(**config)
    done = check_token_loss(Asft, config, given[0], given[1], reference_logits=given[2])
    wanted = weights(dft(), logits, labels)
    np.testing.assert_allclose(done, wanted, rtol=1e-6, atol=1e-9)
    return np.asarray(Asft(config).penalty(*given), dtype=np.float64)


def test_asft_is_dft_with_a_tenth_of_the_divergence_from_the_base() -> None:
    (logits, _), (reference, _) = drawn(), drawn(seed=1)
    p, q = softmax(logits), softmax(reference)
    np.testing.assert_allclose(asft_penalty(logits, reference), 0.1 * divergence(q, p), rtol=1e-4)
    got = asft_penalty(logits, reference, kl=2, direction="reverse")
    np.testing.assert_allclose(got, 2 * divergence(p, q), rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_penalty_of_asft_is_0_at_the_base_and_known_for_two_tokens(direction: str) -> None:
    logits, _ = drawn()
    assert asft_penalty(logits, logits, direction=direction) == pytest.approx(0, abs=1e-6)
    # Two tokens have a probability: p = (1/2, 1/2), q = (1/4, 3/4).
    two, other = np.full((1, VOCABULARY), -np.inf), np.full((1, VOCABULARY), -np.inf)
    two[0, :2], other[0, :2] = 0.0, (0.0, math.log(3))
    known = {
        "forward": 0.25 * math.log(0.5) + 0.75 * math.log(1.5),
        "reverse": 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
    }
    got = asft_penalty(two, other, kl=1, direction=direction)
    assert got == pytest.approx([known[direction]], rel=1e-5)
    wanted = torch.from_numpy(two).requires_grad_()
    config = AsftConfig(kl=1, direction=direction)  # type: ignore[arg-type]
    Asft(config).penalty(wanted, torch.zeros(1), torch.from_numpy(other)).sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.isfinite().all()
    if direction == "forward":
        assert wanted.grad[0, :2].tolist() == pytest.approx([0.25, -0.25], rel=1e-5)
