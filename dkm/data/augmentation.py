"""Random rotation and shift of images, on whole batches and on the device.

Rotation uniform in +-10 degrees, shifts uniform in +-10 % of the side, bilinear, edge pixels repeated outside: the
augmentation of DEC-DA (Guo et al., "Deep embedded clustering with data augmentation", ACML 2018).
"""

# Shapes: B batch, C channels, H height, W width, F = C * H * W features.

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.config.augmentation import AffineConfig, AugmentationConfig, AutoAugmentationConfig
from dkm.errors import UserError
from dkm.runtime.devices import to_device


class RandomAffine:
    """Rotate and shift each image of a batch by an independent random amount.

    Parameters
    ----------
    image_shape : (C, H, W)
    rotation : float
        Largest angle, in degrees.
    shift : float
        Largest shift, as a fraction of the side.
    """

    def __init__(self, image_shape: tuple[int, int, int], rotation: float, shift: float) -> None:
        self.image_shape = image_shape
        self.rotation = rotation
        self.shift = shift

    def __call__(self, x: Tensor, seed: int, *, first: int = 0, n_rows: int | None = None) -> Tensor:
        """Return an augmented copy of ``x`` (B, F); it depends on ``x`` and ``seed`` alone.

        ``x`` may be the part of a batch of ``n_rows`` that begins at row ``first``. Its rows are then augmented as in
        the whole batch.
        """
        B = len(x)
        _, H, W = self.image_shape
        # Draw on the CPU, so that a seed gives the same numbers on every device; only three per image are copied.
        draws = torch.rand(n_rows or B, 3, generator=torch.Generator().manual_seed(seed))[first : first + B]
        draws = to_device(draws, x.device) * 2 - 1
        angle = draws[:, 0] * math.radians(self.rotation)
        cos, sin = angle.cos(), angle.sin()
        # affine_grid's coordinates run from -1 to 1 over each side, so the rotation of a W x H image contains the
        # aspect ratio, and a shift by a fraction of the side is twice that fraction.
        right, down = (draws[:, 1:] * 2 * self.shift).unbind(1)
        theta = torch.stack([cos, -sin * H / W, right, sin * W / H, cos, down], 1).view(B, 2, 3)
        images = x.view(B, *self.image_shape)
        grid = F.affine_grid(theta.to(x.dtype), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return moved.view(B, -1)


def build_augmentation(config: AugmentationConfig, image_shape: tuple[int, int, int] | None) -> RandomAffine | None:
    """Build the augmentation of the config; None for no augmentation.

    Raises
    ------
    UserError
        If ``augmentation=affine`` is set, by the user or by a recipe for images, and the data are not images.
    """
    if not isinstance(config, AffineConfig):
        return None
    if image_shape is None:
        if isinstance(config, AutoAugmentationConfig):
            return None
        raise UserError(
            "augmentation=affine: expected image data, got rows of a table; use recipe=auto instead of a recipe for "
            "images (aspc_da, dec_da, flagship), or augmentation=none"
        )
    return RandomAffine(image_shape, config.rotation, config.shift)
