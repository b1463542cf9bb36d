"""Estimate rating noise from ratings alone: the score transition matrix T and the true prior p (HOC, DS2).

Clusterability (arXiv 2102.05291) assumes that near samples have the same true class. The ratings of a sample and of its
two nearest neighbours are then three draws from one row of T, with joint frequencies (the consensus)

    c1_i = sum_y p_y T_yi        c2_ij = sum_y p_y T_yi T_yj        c3_ijk = sum_y p_y T_yi T_yj T_yk

T (row softmax) and p (softmax) are fitted by Adam from T0 = 5I - 1 and a uniform p; Levenberg-Marquardt steps then
finish, since Adam approaches the minimum slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEPS = 20_000  # maximum; exact moments need some thousands
_LEARNING_RATE = 0.1  # Adam's initial learning rate; halved when the loss stops falling
_MIN_LEARNING_RATE = 1e-5
_PATIENCE = 100
_BETA = (0.9, 0.999)
_EPSILON = 1e-12  # small, since gradients of squared frequencies are small
_TOLERANCE = 1e-12  # squared error far below sampling noise
_POLISH_STEPS = 200  # maximum number of final steps; about ten are usual
_EXACT_TOLERANCE = 1e-24  # squared error of exact moments in floating point
_MIN_GAIN = 1e-9  # relative gain that ends them
_MAX_STEP = 1.0  # maximum change of a logit per step
_DAMPING = (1e-9, 1e-3, 1e9)  # minimum, initial, maximum


@dataclass(frozen=True, slots=True)
class Moments:
    """Consensus frequencies of K classes: ``c1`` [K], ``c2`` [K, K], ``c3`` [K, K, K], each summing to 1."""

    c1: Array
    c2: Array
    c3: Array

    @classmethod
    def of(cls, labels: npt.NDArray[Any], near: npt.NDArray[Any], classes: int) -> Moments:
        """Return the consensus of n samples: ``labels`` [n] and those of their two nearest, ``near`` [n, 2], in 0..K-1.

        The model is symmetric in the three positions: c3 is the mean over their orders, and c1 and c2 are its marginals.
        """
        code = (labels.astype(np.int64) * classes + near[:, 0]) * classes + near[:, 1]
        counts = np.bincount(code, minlength=classes**3).reshape((classes,) * 3)
        orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        c3 = np.mean([counts.transpose(order) for order in orders], axis=0) / len(labels)
        return cls(c3.sum(axis=(1, 2)), c3.sum(axis=2), c3)

    @classmethod
    def implied(cls, p: Array, t: Array) -> Moments:
        """Return the moments implied by a prior ``p`` [K] and a transition matrix ``t`` [K, K]."""
        c2 = np.einsum("y,yi,yj->ij", p, t, t)
        return cls(p @ t, c2, np.einsum("y,yi,yj,yk->ijk", p, t, t, t, optimize=True))


@dataclass(frozen=True, slots=True)
class Transition:
    """The fit: ``p`` [K], ``t`` [K, K] with t[y, i] = P(rated i | truly y), the loss, the number of steps, and whether it converged."""

    p: Array
    t: Array
    loss: float
    steps: int
    converged: bool

    def posterior(self) -> Array:
        """Return P(truly y | rated i) as [i, y], by Bayes' rule."""
        joint = (self.p[:, None] * self.t).T
        total = joint.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(joint, total, out=np.zeros_like(joint), where=total > 0))

    def noise_rates(self) -> Array:
        """Return the share of wrong ratings per rated class, 1 - P(truly i | rated i), [K]."""
        return np.asarray(1.0 - np.diag(self.posterior()))

    def misfit(self, moments: Moments) -> float:
        """Return the total variation distance between c3 and the c3 implied by the fit, in [0, 1]."""
        return float(0.5 * np.abs(moments.c3 - Moments.implied(self.p, self.t).c3).sum())


def fit(moments: Moments, steps: int = STEPS) -> Transition:
    """Fit p and T by Adam, for at most ``steps`` steps, then by Levenberg-Marquardt."""
    k = len(moments.c1)
    theta = np.concatenate([np.zeros(k), (5.0 * np.eye(k) - 1.0).ravel()])
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    best, best_theta, since, rate, step = np.inf, theta, 0, _LEARNING_RATE, 0
    for step in range(1, steps + 1):
        loss, gradient = loss_and_gradient(theta, moments)
        if loss < best * (1 - 1e-4):
            since = 0
        if loss < best:
            best, best_theta = loss, theta
        if best < _TOLERANCE:
            break
        since += 1
        if since > _PATIENCE:
            rate, since, theta = rate / 2, 0, best_theta
            if rate < _MIN_LEARNING_RATE:
                break
            continue
        first = _BETA[0] * first + (1 - _BETA[0]) * gradient
        second = _BETA[1] * second + (1 - _BETA[1]) * gradient**2
        size = np.sqrt(second / (1 - _BETA[1] ** step)) + _EPSILON
        theta = theta - rate * first / (1 - _BETA[0] ** step) / size
    theta, best, polish_steps, converged = _polish(best_theta, moments)
    p, t = _unpack(theta, k)
    order = _class_order(t)
    return Transition(p[order], t[order], best, step + polish_steps, converged)


def loss_and_gradient(theta: Array, moments: Moments) -> tuple[float, Array]:
    """Return the squared error of the three consensus frequencies and its gradient; ``theta`` has K + K * K logits."""
    k = len(moments.c1)
    p, t = _unpack(theta, k)
    pt = p[:, None] * t
    pairs = (t[:, :, None] * t[:, None, :]).reshape(k, k * k)  # T_yi T_yj
    r1 = p @ t - moments.c1
    r2 = pt.T @ t - moments.c2
    r3 = (pt.T @ pairs).reshape(k, k, k) - moments.c3
    loss = float((r1**2).sum() + (r2**2).sum() + (r3**2).sum())
    # dL/dT_ya sums over the positions of T_ya; dL/dp_y is the same sum with T_ya counted once.
    by_first = pairs @ r3.reshape(k, k * k).T
    by_second = pairs @ r3.transpose(1, 0, 2).reshape(k, k * k).T
    by_third = pairs @ r3.transpose(2, 0, 1).reshape(k, k * k).T
    d_t = 2 * p[:, None] * (r1 + t @ (r2 + r2.T) + by_first + by_second + by_third)
    d_p = 2 * (t @ r1 + ((t @ r2) * t).sum(axis=1) + (by_first * t).sum(axis=1))
    # Chain rule through the two softmaxes.
    g_p = p * (d_p - p @ d_p)
    g_t = t * (d_t - (d_t * t).sum(axis=1, keepdims=True))
    return loss, np.concatenate([g_p, g_t.ravel()])


def _polish(theta: Array, moments: Moments) -> tuple[Array, float, int, bool]:
    """Run Levenberg-Marquardt from ``theta``; return the final theta, the loss, the number of steps and whether it converged."""
    residuals, jacobian = residuals_and_jacobian(theta, moments)
    loss, (least, damping, most) = float(residuals @ residuals), _DAMPING
    for step in range(_POLISH_STEPS):
        if loss < _EXACT_TOLERANCE:
            return theta, loss, step, True
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residuals
        # Shifting logits changes nothing, so add a small value to keep the diagonal above zero.
        scale = normal.diagonal() + 1e-9 * normal.diagonal().max()
        while damping < most:
            move = np.linalg.solve(normal + np.diag(damping * scale), gradient)
            # Limit the step: a very low logit has no gradient to return by.
            candidate = theta - move * _MAX_STEP / max(_MAX_STEP, float(np.abs(move).max()))
            new_residuals, new_jacobian = residuals_and_jacobian(candidate, moments)
            new = float(new_residuals @ new_residuals)
            if new < loss:
                break
            damping *= 4.0
        else:
            return theta, loss, step, True
        stalled = loss - new < _MIN_GAIN * loss
        theta, loss, residuals, jacobian = candidate, new, new_residuals, new_jacobian
        damping = max(damping / 9.0, least)
        if stalled:
            return theta, loss, step + 1, True
    return theta, loss, _POLISH_STEPS, False


def residuals_and_jacobian(theta: Array, moments: Moments) -> tuple[Array, Array]:
    """Return implied minus observed consensus, [m] with m = K + K**2 + K**3, and its Jacobian by ``theta``, [m, K + K**2]."""
    k = len(moments.c1)
    p, t = _unpack(theta, k)
    implied = Moments.implied(p, t)
    residuals = np.concatenate(
        [
            (predicted - observed).ravel()
            for predicted, observed in (
                (implied.c1, moments.c1),
                (implied.c2, moments.c2),
                (implied.c3, moments.c3),
            )
        ]
    )
    pairs = t[:, :, None] * t[:, None, :]
    by_p = np.concatenate(
        [t, pairs.reshape(k, -1), (pairs[:, :, :, None] * t[:, None, None, :]).reshape(k, -1)],
        axis=1,
    ).T
    # d/dT_ya sums over the positions of T_ya: [y, i, (j, (m,)) a].
    one = np.eye(k)
    scaled = p[:, None, None] * np.broadcast_to(one, (k, k, k))
    second = np.einsum("ia,yj->yija", one, t) + np.einsum("ja,yi->yija", one, t)
    third = (
        np.einsum("ia,yjm->yijma", one, pairs)
        + np.einsum("ja,yim->yijma", one, pairs)
        + np.einsum("ma,yij->yijma", one, pairs)
    )
    by_t = np.concatenate(
        [
            scaled,
            p[:, None, None] * second.reshape(k, -1, k),
            p[:, None, None] * third.reshape(k, -1, k),
        ],
        axis=1,
    )
    # Chain rule through the two softmaxes.
    d_p = by_p * p - np.outer(by_p @ p, p)
    d_t = by_t * t[:, None, :] - (by_t @ t[:, :, None]) * t[:, None, :]
    return residuals, np.concatenate(
        [d_p, d_t.transpose(1, 0, 2).reshape(len(residuals), -1)], axis=1
    )


def _class_order(t: Array) -> npt.NDArray[np.int64]:
    """Return the row order with the largest diagonal; the consensus does not determine which row is which class.

    If in every class the correct rating is the most frequent, this order is the true one.
    """
    indices = range(len(t))
    best = max(permutations(indices), key=lambda order: sum(t[y, i] for i, y in enumerate(order)))
    return np.array(best, dtype=np.int64)


def _unpack(theta: Array, k: int) -> tuple[Array, Array]:
    return _softmax(theta[:k]), _softmax(theta[k:].reshape(k, k))


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
