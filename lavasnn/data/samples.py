"""Labelled samples: images, or events binned into steps; what each data set looks like; how to hold some out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavasnn.errors import DataError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Kind:
    """What the samples of a data set are.

    Args:
        shape: Rows and columns; or channels (of events polarities), rows and columns.
        classes: Number of classes.
        levels: Largest pixel; 1 of events.
        events: Whether they are recordings of events instead of images.
    """

    shape: tuple[int, ...]
    classes: int = 10
    levels: int = 255
    events: bool = False


SETS = {
    "digits": Kind((8, 8), levels=16),
    "mnist": Kind((28, 28)),
    "fashion_mnist": Kind((28, 28)),
    "svhn": Kind((3, 32, 32)),
    "cifar10": Kind((3, 32, 32)),
    "cifar10_jpeg75": Kind((3, 32, 32)),
    "cifar100": Kind((3, 32, 32), classes=100),
    "nmnist": Kind((2, 34, 34), levels=1, events=True),
    "nmnist_small": Kind((2, 34, 34), levels=1, events=True),
    "dvs_gesture": Kind((2, 32, 32), classes=11, levels=1, events=True),
    "shd": Kind((1, 1, 700), classes=20, levels=1, events=True),
}
"""All data sets by name; those of DVS-Gesture with 4 x 4 pixels of the sensor taken as one."""
NAMES = tuple(SETS)


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images, or of recorded events as frames of spikes.

    Args:
        name: Data set, such as "mnist".
        split: Part of it, such as "test".
        pixels: Shape (sample, feature), uint8, 0..levels: channel after channel, in each row after row. Of events shape
            (sample, step, feature), 0 or 1.
        labels: Shape (sample,), int64, 0..classes-1.
        shape: Rows and columns, or channels, rows and columns; their product is the number of features.
        levels: Largest pixel value the set may hold, 1..255.
        classes: Number of classes, 1 or more.

    Raises:
        DataError: The fields do not fit each other.
    """

    name: str
    split: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    levels: int
    classes: int

    def __post_init__(self) -> None:
        who = f"{self.name}:{self.split}"
        if self.pixels.dtype != np.uint8 or self.pixels.ndim not in (2, 3) or self.pixels.size == 0:
            found = f"{self.pixels.dtype} of shape {self.pixels.shape}"
            raise DataError(
                f"{who}: pixels are {found}, allowed is uint8 of shape (sample, feature), at least (1, 1), of events "
                "(sample, step, feature)"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.pixels.shape[:1]:
            found = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise DataError(f"{who}: labels are {found}, allowed is int64 of shape ({len(self.pixels)},)")
        if len(self.shape) not in (2, 3) or min(self.shape) < 1 or int(np.prod(self.shape)) != self.features:
            raise DataError(f"{who}: image shape {self.shape} does not give the {self.features} features of the pixels")
        if not 1 <= self.levels <= 255 or self.classes < 1:
            raise DataError(
                f"{who}: {self.levels} levels and {self.classes} classes, allowed are 1..255 levels and 1 class or more"
            )
        if int(self.pixels.max()) > self.levels:
            raise DataError(f"{who}: the largest pixel is {int(self.pixels.max())}, allowed is 0..{self.levels}")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.classes:
            span = f"{int(self.labels.min())} to {int(self.labels.max())}"
            raise DataError(f"{who}: labels run from {span}, allowed is 0..{self.classes - 1}")

    @property
    def label(self) -> str:
        """Name for a person."""
        return f"{self.name}:{self.split}"

    @property
    def features(self) -> int:
        """Numbers of one image, or of one step of events."""
        return self.pixels.shape[-1]

    @property
    def events(self) -> bool:
        """Whether the samples are events, which bring their own steps."""
        return self.pixels.ndim == 3

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: int | Sequence[int] | NDArray[np.integer[Any]]) -> "Images":
        """Return the first `which` images, or those with the indices `which`, in that order.

        Raises:
            DataError: No image is asked for, or one that is not there, or `which` is not made of integers.
        """
        indices = np.asarray(which)
        if indices.dtype.kind not in "iu" or indices.ndim > 1 or indices.size == 0:
            raise DataError(
                f"{self.name}:{self.split}: cannot take {indices.dtype} of shape {indices.shape}, "
                "allowed are a count or a list of at least one integer index"
            )
        if indices.ndim == 0:
            if not 1 <= int(indices) <= len(self):
                raise DataError(f"{self.name}:{self.split}: {int(indices)} images asked for, allowed is 1..{len(self)}")
            return replace(self, pixels=self.pixels[: int(indices)], labels=self.labels[: int(indices)])
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(self):
            raise DataError(f"{self.name}:{self.split}: indices run from {low} to {high}, allowed is 0..{len(self) - 1}")
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])


def validation_split(images: Images, n: int, seed: int) -> tuple[Images, Images]:
    """Set `n` images aside, with the classes in the same proportions as in the whole.

    Args:
        images: What to split.
        n: Size of the validation set, 1..len(images)-1. Each class gives its exact share, rounded down or up.
        seed: Chooses the images, 0..2^63-1.

    Returns:
        (train, validation), both in the order of `images`; validation has the split name "validation".

    Raises:
        DataError: `n` or `seed` lies outside its range.
    """
    if not 1 <= n < len(images):
        raise DataError(f"{images.name}:{images.split}: a validation set of {n} images, allowed is 1..{len(images) - 1}")
    aside = stratified(images.labels, n, seed)
    return images.take(np.flatnonzero(~aside)), replace(images.take(np.flatnonzero(aside)), split="validation")


def stratified(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.bool_]:
    """Return a mask, shape (sample,), of `n` samples, drawn from every class by its share (largest remainders)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"split: seed is {seed!r}, allowed are integers 0..{MAX_SEED}")
    counts = np.bincount(labels)
    shares, remainders = np.divmod(counts * n, len(labels))
    n_left = n - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:n_left]] += 1
    chosen = np.zeros(len(labels), np.bool_)
    rng = np.random.Generator(np.random.PCG64(int(seed)))
    for label, share in enumerate(shares):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return chosen
