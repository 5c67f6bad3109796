"""How close pictures come to others: error, structural similarity, and the distance of their features' distributions.

Pictures are float, from 0 to 1, shape (picture, channel, row, column). With x and y two pictures

    MSE  = mean (x - y)^2,   PSNR = -10 log10 MSE in dB, of the mean error of all pictures
    SSIM = mean of (2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2)),   c1 = 0.01^2, c2 = 0.03^2

where m, s^2 and sxy are mean, variance and covariance under a Gaussian window of 11 x 11 with a deviation of 1.5, at all places
that lie within the picture. With m and S mean and covariance of features

    Frechet = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

which is the squared distance of two normal distributions. On features of Inception-v3 it is called FID; any other features give
other numbers.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), section III; Dowson and
Landau, The Frechet Distance between Multivariate Normal Distributions (1982); Heusel et al., GANs Trained by a Two Time-Scale
Update Rule (2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from lavasnn.errors import InputError

Array = NDArray[np.float64]
WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def mse(x: Array, y: Array) -> float:
    """Mean squared error of all pictures."""
    return float(np.mean(np.square(x - y)))


def psnr(error: float) -> float:
    """In dB, of a mean squared error; infinite without any."""
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(x: Array, y: Array) -> float:
    """Mean structural similarity of all pictures, -1 to 1; of several channels each by itself.

    Raises:
        InputError: Pictures of different shapes, or smaller than the window.
    """
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < WINDOW:
        raise InputError(
            f"SSIM: pictures of shapes {x.shape} and {y.shape}; needed are two alike (picture, channel, row, column), "
            f"at least {WINDOW} rows and columns"
        )
    mx, my = _local(x), _local(y)
    sx, sy, sxy = _local(x * x) - mx * mx, _local(y * y) - my * my, _local(x * y) - mx * my
    alike = (2 * mx * my + C1) * (2 * sxy + C2) / ((mx * mx + my * my + C1) * (sx + sy + C2))
    return float(alike.mean())


def _local(x: Array) -> Array:
    """Means under the window, at the places where it lies within the picture."""
    half = WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / DEVIATION) ** 2)
    weights /= weights.sum()
    return correlate1d(correlate1d(x, weights, 2), weights, 3)[:, :, half:-half, half:-half]


def frechet(x: Array, y: Array) -> float:
    """Squared Frechet distance of the normal distributions fitted to features, shape (sample, feature) each.

    Raises:
        InputError: Fewer than two samples, or numbers of features that differ.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(
            f"Frechet distance: features of shapes {x.shape} and {y.shape}; needed are (sample, feature), two samples or more"
        )
    apart = x.mean(0) - y.mean(0)
    S1, S2 = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (x, y))
    root = _root(S1)
    # S1 S2 has the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric.
    common = np.linalg.eigvalsh(root @ S2 @ root).clip(min=0)
    return float(apart @ apart + np.trace(S1) + np.trace(S2) - 2 * np.sqrt(common).sum())


def _root(S: Array) -> Array:
    values, vectors = np.linalg.eigh(S)
    return np.einsum("ij,j,kj->ik", vectors, np.sqrt(values.clip(min=0)), vectors)


def principal(train: Array, x: Array, counts: Sequence[int]) -> dict[int, Array]:
    """What the first principal components of `train` keep of `x`, both of shape (sample, feature).

    Args:
        train: Gives the mean and the components.
        x: What is brought back.
        counts: How many numbers describe a sample, 0..feature each.
    """
    mean = train.mean(0)
    largest_first = np.linalg.eigh(np.cov(train, rowvar=False))[1][:, ::-1]
    return {n: mean + (x - mean) @ largest_first[:, :n] @ largest_first[:, :n].T for n in counts}
