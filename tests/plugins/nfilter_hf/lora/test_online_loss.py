"""``hf.lora`` with an online loss: its gradients against plain torch with full logits, its refusals, its learning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lent_llama import VOCABULARY, llama
from online_training import SAMPLES, SCORE, made, sample, train

from nfilter import Message, ModelError, RecipeError, Sample
from nfilter.testing import FakeContext
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.data import (
    cached_scores,
    coefficients,
    micro_batches,
    step_order,
    training_row,
    weighed_batches,
)
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_losses.dft import Dft, DftConfig
from nfilter_losses.eaft import Eaft, EaftConfig
from nfilter_losses.rho1 import Rho1, Rho1Config


class Signed:
    """Weights of both signs, that depend on the statistics, on what is cached and on the step."""

    name = "signed"
    mean_over = "given"

    def stats(self, logits: Any, labels: Any) -> Mapping[str, Any]:
        return {"top": logits.float().max(-1).values}

    def weigh(self, stats: Any, cached: Any, step: int) -> Any:
        return torch.sin(stats["top"]) + 0.1 * cached[SCORE] - step


LOSSES: dict[str, Callable[[], Any]] = {
    "dft": lambda: Dft(DftConfig()),
    "eaft": lambda: Eaft(EaftConfig()),
    "rho1": lambda: Rho1(Rho1Config(ratio=0.4)),
    "signed": Signed,
}


def plain(module: Any, name: str, norm: str = "tokens") -> torch.Tensor:
    """The loss of the step by hand: full logits of one sample at a time, weights written out and detached."""
    rows = []
    for one in SAMPLES:
        logits = module(input_ids=torch.from_numpy(one.ids)[None]).logits[0]
        at = np.flatnonzero(one.weights[1:]) + 1
        logs = torch.log_softmax(logits[at - 1].double(), -1)
        losses = -logs[torch.arange(len(at)), torch.from_numpy(one.ids[at])]
        given = torch.from_numpy(one.weights[at]).double()
        given = given / len(at) if norm == "samples" else given
        rows.append((losses, given, logs.detach(), torch.from_numpy(one.scores[SCORE][at])))
    losses, given, logs, cached = (torch.cat(parts) for parts in zip(*rows, strict=True))
    match name:
        case "dft":
            weights = torch.exp(-losses.detach())
        case "eaft":
            most = torch.sort(logs.exp(), descending=True).values[:, :20]
            most = most / most.sum(-1, keepdim=True)
            weights = -(most * most.log()).sum(-1) / np.log(20)
        case "rho1":
            excess = losses.detach() - cached
            keep = int(0.4 * len(excess))
            weights = (excess >= excess.sort(descending=True).values[keep - 1]).double()
            assert int(weights.sum()) == keep
            return (weights * given * losses).sum() / (weights * given).sum()
        case "signed":
            raw = torch.cat(
                [
                    module(input_ids=torch.from_numpy(one.ids)[None])
                    .logits[0][np.flatnonzero(one.weights[1:])]
                    .max(-1)
                    .values
                    for one in SAMPLES
                ]
            )
            weights = (torch.sin(raw) + 0.1 * cached).detach().double()
            assert weights.min() < 0 < weights.max()
    return (weights * given * losses).sum() / given.sum()


@pytest.mark.parametrize("norm", ["tokens", "samples"])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_loss_of_a_step_are_those_of_full_logits_whatever_the_split(
    tmp_path: Path, gradients: list[Any], name: str, budget: int, norm: str
) -> None:
    result = train(
        tmp_path, LOSSES[name](), max_steps=1, micro_batch_tokens=budget, max_grad_norm=None, loss_norm=norm
    )  # fmt: skip
    module = llama()
    torch.manual_seed(0)
    with attached(module, rank=4, alpha=16.0, dropout=0.0, targets=None):
        parameters = [p for p in module.parameters() if p.requires_grad]
        loss = plain(module, name, norm)
        wanted = torch.autograd.grad(loss, parameters)
    assert result.losses == pytest.approx((loss.item(),), abs=1e-5)
    assert len(gradients) == len(wanted) == 2 * 7 * 2
    assert max(float(w.abs().max()) for w in wanted) > 1e-3
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dft", "eaft", "rho1"])
def test_accumulation_changes_no_gradient_of_a_whole_training(
    tmp_path: Path, gradients: list[Any], name: str
) -> None:
    options = {"lr": 1e-4, "batch_size": 4, "epochs": 2}
    whole = train(tmp_path / "whole", LOSSES[name](), **options)
    first = gradients.copy()
    gradients.clear()
    split = train(tmp_path / "split", LOSSES[name](), **options, micro_batch_tokens=25)
    assert whole.steps == 4
    assert split.losses == pytest.approx(whole.losses, abs=1e-5)
    for one, other in zip(first, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_chunks_of_logits_change_nothing_and_are_never_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", LOSSES["dft"](), max_steps=1)
    monkeypatch.setattr("nfilter_hf.lora.step.chunk_size", lambda *_: 3)
    loss, sizes = LOSSES["dft"](), []

    def stats(logits: Any, labels: Any) -> Any:
        sizes.append(len(labels))
        assert logits.shape == (len(labels), VOCABULARY)
        assert not logits.requires_grad
        return real(logits, labels)

    real, loss.stats = loss.stats, stats
    chunked = train(tmp_path / "chunked", loss, max_steps=1)
    assert chunked.losses == pytest.approx(whole.losses, abs=1e-6)
    assert max(sizes) == 3
    assert sum(sizes) == sum(int((one.weights[1:] != 0).sum()) for one in SAMPLES)


def test_weights_of_one_are_the_plain_loss_to_the_byte(tmp_path: Path) -> None:
    # Dropout is on: what is rehearsed draws nothing from what is trained.
    options = {"dropout": 0.3, "epochs": 3, "micro_batch_tokens": 30}
    plain_loss = train(tmp_path / "plain", None, **options)
    ones = train(tmp_path / "ones", made(torch.ones), **options)
    assert ones.losses == plain_loss.losses
    assert ones.ref.digest == plain_loss.ref.digest


@pytest.mark.parametrize(("budget", "passes"), [(10_000, 1), (30, 2)])
def test_a_step_of_one_pass_runs_it_once_and_is_the_same(
    tmp_path: Path, budget: int, passes: int
) -> None:
    options = {"dropout": 0.3, "epochs": 3, "micro_batch_tokens": budget}
    plain_loss = train(tmp_path / "plain", None, **options)
    module, seen = llama(), []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        if module.training:
            seen.append(kwargs["input_ids"].shape)

    module.base_model.register_forward_pre_hook(note, with_kwargs=True)
    ones = train(tmp_path / "ones", made(torch.ones), module=module, **options)
    assert len(seen) == passes * sum(len(part) for part in _splits(budget, 3))
    assert ones.losses == plain_loss.losses
    assert ones.ref.digest == plain_loss.ref.digest
    train(tmp_path / "none", made(torch.zeros), module=module, **options)


def _splits(budget: int, steps: int) -> list[Any]:
    rows = [row for row in map(training_row, SAMPLES) if row is not None]
    return [
        micro_batches([rows[i] for i in members], budget, "tokens")
        for members in step_order(len(rows), 8, steps, 0)
    ]


@pytest.mark.parametrize("idle", [0, 7])
def test_statistics_are_of_the_passes_that_are_trained_dropout_included(
    tmp_path: Path, idle: int
) -> None:
    # With the first predictions at weight 0, the first pass has nothing to learn, and the others are as they were.
    seen: list[Any] = []
    loss = LOSSES["dft"]()

    def weigh(stats: Any, cached: Any, step: int) -> Any:
        seen.append(-torch.log(stats["p"]).double())
        weights = torch.ones(len(stats["p"]))
        weights[:idle] = 0
        return weights

    loss.weigh = weigh
    result = train(tmp_path, loss, dropout=0.5, max_steps=2, micro_batch_tokens=30, lr=0.1)
    rows = [row for row in (training_row(one) for one in SAMPLES) if row]
    order = step_order(len(rows), 8, result.steps, seed=0)
    for losses, got, members in zip(seen, result.losses, order, strict=True):
        batches = micro_batches([rows[i] for i in members], 30, "tokens")
        assert len(batches) > 2
        assert idle in (0, len(batches[0].labels))
        factors = torch.from_numpy(np.concatenate([batch.coefficients for batch in batches]))
        assert got == pytest.approx(float((losses * factors)[idle:].sum()), abs=1e-5)


def test_a_scale_counts_where_the_mean_is_over_the_weights_given(tmp_path: Path) -> None:
    options = {"max_steps": 1}
    plain_loss = train(tmp_path / "a", None, **options).losses[0]
    half = train(tmp_path / "b", made(lambda n: torch.full((n,), 0.5)), **options).losses[0]
    over = made(lambda n: torch.full((n,), 0.5), "weighed")
    assert half == pytest.approx(0.5 * plain_loss, abs=1e-6)
    assert train(tmp_path / "c", over, **options).losses[0] == pytest.approx(plain_loss, abs=1e-6)


@pytest.mark.parametrize("norm", ["tokens", "samples", "microbatch"])
@pytest.mark.parametrize("mean_over", ["given", "weighed"])
def test_weights_that_are_all_zero_teach_nothing_and_break_nothing(
    tmp_path: Path, norm: str, mean_over: str
) -> None:
    ctx = FakeContext(loss=made(torch.zeros, mean_over))
    result = train(tmp_path, None, ctx=ctx, loss_norm=norm, epochs=2, micro_batch_tokens=30)
    assert result.losses == (0.0, 0.0)
    from safetensors.torch import load_file

    adapter = load_file(tmp_path / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    said = [
        text for kind, text in ctx.log.lines if kind == "warning" and "optimiser step" not in text
    ]
    assert said == [
        "the online loss 'made' gave weight 0 to every token of step 1: the step does not change the adapter"
    ]


def test_a_pass_whose_weights_are_all_zero_takes_no_part(tmp_path: Path) -> None:
    # The longest sample stands first: without it, the step is that of the others.
    row = max((training_row(one) for one in SAMPLES), key=lambda row: len(row.inputs))
    first = [i for i, one in enumerate(SAMPLES) if len(training_row(one).inputs) == len(row.inputs)]
    loss = made(
        lambda n: torch.cat([torch.zeros(len(row.labels)), torch.ones(n - len(row.labels))]),
        "weighed",
    )
    others = [one for i, one in enumerate(SAMPLES) if i not in first]
    assert len(first) == 1
    got = train(tmp_path / "a", loss, max_steps=1, micro_batch_tokens=1)
    want = train(tmp_path / "b", None, samples=others, max_steps=1, micro_batch_tokens=1)
    assert got.losses == pytest.approx(want.losses, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (made(lambda n: torch.full((n,), torch.nan)), r"the online loss 'made'.* weights of step 1 are not finite"),
        (made(lambda n: torch.tensor([torch.inf] + [1.0] * (n - 1))), r"'made': 1 of \d+ weights.*first: inf"),
        (made(lambda n: torch.ones(n + 1)), r"'made': weigh returned weights of the shape"),
        (made(lambda n: -torch.ones(n), "weighed"), r"'made': a weight is negative"),
        (
            SimpleNamespace(name="flat", mean_over="given", stats=lambda logits, labels: {"all": logits}),
            r"'flat': its statistic 'all' has the shape",
        ),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_an_error_that_names_the_loss(
    tmp_path: Path, loss: Any, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        train(tmp_path, loss)


def test_a_model_that_breaks_in_training_is_told_from_a_loss_that_does(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="training failed: the loss or its gradient was not finite"
    ):
        train(tmp_path, LOSSES["dft"](), lr=1e37, epochs=5, max_grad_norm=None)


def test_rho1_without_a_reference_is_an_error_that_names_the_stage(tmp_path: Path) -> None:
    bare = [sample(i, scored=False) for i in range(8)]
    with pytest.raises(RecipeError, match=r"rho1: no score 'loss\.reference'.*tokens\.excess_loss"):
        train(tmp_path, LOSSES["rho1"](), samples=bare)
    with pytest.raises(RecipeError, match=r"available: loss\.reference"):
        train(tmp_path, LOSSES["rho1"](), samples=[*SAMPLES[:7], bare[7]])


def test_cached_scores_stand_at_the_predictions_and_are_nan_where_there_are_none() -> None:
    with_score = training_row(SAMPLES[0], scored=True)
    without = training_row(sample(1, scored=False), scored=True)
    assert with_score is not None
    assert without is not None
    assert training_row(SAMPLES[0]).scores == {}  # type: ignore[union-attr]
    batches = micro_batches([with_score, without], 1, "tokens")
    found = cached_scores(batches)[SCORE]
    order = [row is with_score for batch in batches for row in batch.rows]
    at = np.flatnonzero(SAMPLES[0].weights[1:]) + 1
    parts = {True: SAMPLES[0].scores[SCORE][at], False: np.full(len(without.labels), np.nan)}
    np.testing.assert_array_equal(found, np.concatenate([parts[which] for which in order]))


def test_coefficients_under_an_online_loss_are_the_definitions() -> None:
    w = [np.float32([1, 1, 2]), np.float32([0.5]), np.float32([3, 1])]
    v = [np.float32([0, 2, 1]), np.float32([4]), np.float32([1, 0])]
    groups, factors = [[w[0], w[1]], [w[2]]], [[v[0], v[1]], [v[2]]]
    flat = np.array([0, 2, 2, 2, 3, 0])

    def got(norm: Any, mean_over: Any) -> np.ndarray:
        found = coefficients(groups, norm, factors, mean_over)
        return np.concatenate([part for group in found for part in group])

    np.testing.assert_allclose(got("tokens", "given"), flat / 8.5, rtol=1e-6)
    np.testing.assert_allclose(got("tokens", "weighed"), flat / 9, rtol=1e-6)
    rows = flat / np.array([3, 3, 3, 1, 2, 2])
    np.testing.assert_allclose(got("samples", "given"), rows / (4 / 3 + 0.5 + 2), rtol=1e-6)
    np.testing.assert_allclose(got("samples", "weighed"), rows / rows.sum(), rtol=1e-6)
    micro = flat / np.array([4.5] * 4 + [4] * 2) / 2
    np.testing.assert_allclose(got("microbatch", "given"), micro, rtol=1e-6)
    micro = flat / np.array([6] * 4 + [3] * 2) / 2
    np.testing.assert_allclose(got("microbatch", "weighed"), micro, rtol=1e-6)


def test_predictions_of_no_weight_leave_their_pass() -> None:
    rows = [row for row in (training_row(one) for one in SAMPLES[:3]) if row]
    batches = micro_batches(rows, 1000, "tokens")
    n = len(batches[0].labels)
    factors = np.arange(n, dtype=np.float32) % 2
    (after,) = weighed_batches(batches, factors, "tokens", "given")
    assert after.labels.tolist() == batches[0].labels[1::2].tolist()
    assert after.positions.tolist() == batches[0].positions[1::2].tolist()
    np.testing.assert_allclose(after.coefficients, batches[0].coefficients[1::2])


def test_the_trainer_says_that_it_takes_one_and_records_which(tmp_path: Path) -> None:
    assert LoraTrainer.contract(LoraSettings()).online_loss
    train(tmp_path / "dft", LOSSES["dft"](), max_steps=1)
    train(tmp_path / "none", None, max_steps=1)
    names = [
        json.loads((tmp_path / arm / "training.json").read_text())["online_loss"]
        for arm in ("dft", "none")
    ]
    assert names == ["dft", None]


def test_the_embedded_model_trains_with_dft(tmp_path: Path, open_backend: Any) -> None:
    from nfilter_tiny import MODEL_DIR

    model = open_backend(MODEL_DIR)
    data = [
        Sample(
            str(i),
            (
                Message("user", f"{100 + 7 * i}+{200 + 3 * i}"),
                Message("assistant", str(300 + 10 * i)),
            ),
        )
        for i in range(24)
    ]
    encoded = model.encode(data, max_length=64, turns="all")
    before = float(np.nanmean(np.concatenate(model.score(encoded))))
    config = LoraSettings(rank=8, lr=5e-3, epochs=8, batch_size=24, dropout=0.0)
    ctx = FakeContext(models={"student": model}, loss=LOSSES["dft"]())
    result = LoraTrainer(config).train(encoded, model, tmp_path / "out", ctx)
    after = float(np.nanmean(np.concatenate(model.score(encoded, result.ref))))
    assert result.steps == 8
    assert np.isfinite(result.losses).all()
    assert list(result.losses) == sorted(result.losses, reverse=True)
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert after < 0.5 * before


@pytest.mark.types("the mean over the weights is undefined; write mean_over")
def test_negative_weights_are_taken_with_the_given_mean(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="write mean_over = 'given'"):
        train(tmp_path, made(lambda n: -torch.ones(n), "weighed"), max_steps=1)
    train(tmp_path, made(lambda n: -torch.ones(n), "given"), max_steps=1)
