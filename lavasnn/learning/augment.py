"""Training images changed at random, by draws of a given generator alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lavasnn.architecture import as_image
from lavasnn.errors import InputError


def augmented(pixels: Tensor, shape: tuple[int, ...], shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Samples moved by up to `shift` pixels (zeros come in), some mirrored, with all their channels and steps alike.

    Args:
        pixels: Shape (sample, ..., feature).
        shape: Of the features; its last two entries are rows and columns.
        shift: Pixels.
        flip: Whether half of them are mirrored left to right.
        generator: Of the draws.
    """
    n, device = len(pixels), pixels.device
    height, width = shape[-2:]
    images = pixels.view(n, -1, height, width)
    if flip:
        mirror = torch.rand(n, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirror[:, None], images.flip(3), images)
    padded = torch.nn.functional.pad(images, (shift,) * 4).flatten(2)
    wide = width + 2 * shift
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator, device=device)
    base = torch.arange(height, device=device)[:, None] * wide + torch.arange(width, device=device)
    index = (base.reshape(1, -1) + dy * wide + dx)[:, None].expand(-1, images.shape[1], -1)
    return padded.gather(2, index).view(pixels.shape)


def check_randaugment() -> None:
    """That what `randaugmented` needs is there.

    Raises:
        InputError: torchvision is not installed.
    """
    try:
        from torchvision.transforms import v2  # noqa: F401 # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]
    except ImportError as error:
        raise InputError(
            f"training.randaugment needs torchvision, which is not installed ({error}); pip install torchvision"
        ) from error


def randaugmented(pixels: Tensor, shape: tuple[int, ...], magnitude: int, generator: torch.Generator) -> Tensor:
    """Images with two random changes each, such as a rotation, a shear or a contrast, of torchvision's RandAugment.

    Args:
        pixels: Shape (sample, feature), uint8, 0..255.
        shape: Rows and columns, or channels, rows and columns of 1 or 3 channels.
        magnitude: Of the changes, 1..30.
        generator: Of the draws. torchvision has only torch's global one, which is seeded from it and put back afterwards.

    Source: RandAugment (Cubuk et al., 2020); torchvision.transforms.v2.RandAugment with num_ops 2.
    """
    from torchvision.transforms import v2  # pyright: ignore[reportMissingTypeStubs]

    image = as_image(shape)
    assert image is not None
    change = v2.RandAugment(num_ops=2, magnitude=magnitude)
    seed = int(torch.randint(0, 2**62, (), generator=generator, device=pixels.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = [change(one) for one in pixels.cpu().view(-1, *image)]
    return torch.stack(changed).view(pixels.shape).to(pixels.device)
