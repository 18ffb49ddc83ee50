"""`dkm.data.augmentation`: rotations and shifts against torchvision and by hand, their ranges, what a seed fixes."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from dkm.config.augmentation import AffineConfig, AutoAugmentationConfig, NoAugmentationConfig
from dkm.data.augmentation import RandomAffine, build_augmentation
from dkm.errors import UserError

# Values are in [0, 1]; a bilinear weight comes from a float32 coordinate of a pixel number up to 40, whose rounding is
# some 40 * 6e-8, through a few sums and products.
ATOL = 2e-5


def images(B, *image_shape, seed=0):
    return torch.rand(B, *image_shape, generator=torch.Generator().manual_seed(seed))


def draw(monkeypatch, angle, right, down):
    """Let every image draw these parts, from -1 to 1, of the largest rotation and shifts."""

    def rand(n_images, n_numbers, *, generator):
        assert n_numbers == 3
        return ((torch.tensor([angle, right, down], dtype=torch.float64) + 1) / 2).float().repeat(n_images, 1)

    monkeypatch.setattr(torch, "rand", rand)


def augmented(x, rotation, shift, seed=0):
    """Augment images (B, C, H, W)."""
    transform = RandomAffine(tuple(x.shape[1:]), rotation, shift)
    return transform(x.flatten(1), seed).view_as(x)


def rotated_by_torchvision(x, degrees):
    """Rotate counterclockwise; torchvision's ``affine`` counts clockwise and leaves black corners."""
    return reference.affine(
        x, angle=-degrees, translate=[0, 0], scale=1.0, shear=[0.0, 0.0], interpolation=InterpolationMode.BILINEAR
    )


# --- what a seed fixes --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    x = images(5, 1, 12, 12)
    assert torch.equal(augmented(x, 10, 0.1, seed=0), augmented(x, 10, 0.1, seed=0))
    assert not torch.equal(augmented(x, 10, 0.1, seed=0), augmented(x, 10, 0.1, seed=1))


def test_no_global_random_numbers_are_drawn():
    before = torch.get_rng_state()
    augmented(images(5, 1, 12, 12), 10, 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_global_random_numbers_do_not_matter():
    x = images(5, 1, 12, 12)
    first = augmented(x, 10, 0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(augmented(x, 10, 0.1), first)


def test_rows_come_back_as_rows_of_the_same_type_and_the_input_stays():
    x = images(4, 3, 6, 9).flatten(1).double()
    copy = x.clone()
    out = RandomAffine((3, 6, 9), 10, 0.1)(x, seed=0)
    assert out.shape == (4, 3 * 6 * 9)
    assert out.dtype == torch.float64
    assert torch.equal(x, copy)


# --- no rotation, no shift ----------------------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 9, 20), (2, 1, 7)])
def test_without_rotation_and_shift_images_stay_as_they_are(image_shape):
    x = images(5, *image_shape)
    torch.testing.assert_close(augmented(x, 0.0, 0.0), x, rtol=0, atol=ATOL)


def test_a_draw_of_zero_is_the_identity_whatever_the_ranges(monkeypatch):
    x = images(5, 1, 12, 17)
    draw(monkeypatch, 0, 0, 0)
    torch.testing.assert_close(augmented(x, 180, 0.9), x, rtol=0, atol=ATOL)


# --- shifts -------------------------------------------------------------------------------------------------


def shifted_by_hand(x, right, down):
    """The pixel ``right`` and ``down`` of each place, or the nearest one on the edge."""
    _, _, H, W = x.shape
    rows, columns = (torch.arange(H) + down).clamp(0, H - 1), (torch.arange(W) + right).clamp(0, W - 1)
    return x[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize(("right", "down"), [(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (0.5, 1)])
@pytest.mark.parametrize("image_shape", [(1, 20, 20), (3, 20, 40)])
def test_a_shift_is_a_fraction_of_its_own_side_and_repeats_the_edge(image_shape, right, down, monkeypatch):
    x = images(2, *image_shape)
    _, H, W = image_shape
    draw(monkeypatch, 0, right, down)
    expected = shifted_by_hand(x, round(right * 0.1 * W), round(down * 0.1 * H))  # 10 %: whole pixels here
    torch.testing.assert_close(augmented(x, 10, 0.1), expected, rtol=0, atol=ATOL)


def test_a_shift_is_torchvisions_translation_of_the_content_the_other_way(monkeypatch):
    x = images(2, 1, 20, 30)
    draw(monkeypatch, 0, 1, 1)
    expected = reference.affine(x, angle=0.0, translate=[-3, -2], scale=1.0, shear=[0.0, 0.0])
    actual = augmented(x, 0, 0.1)
    torch.testing.assert_close(actual[:, :, :-2, :-3], expected[:, :, :-2, :-3], rtol=0, atol=ATOL)


def test_half_a_pixel_is_the_mean_of_two(monkeypatch):
    x = images(2, 1, 5, 5)
    draw(monkeypatch, 0, 1, 0)
    expected = (x + shifted_by_hand(x, 1, 0)) / 2
    torch.testing.assert_close(augmented(x, 0, 0.1), expected, rtol=0, atol=ATOL)


# --- rotations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 28, 28), (1, 20, 36), (1, 37, 16)])
@pytest.mark.parametrize("part", [1, -1, 0.3])
@pytest.mark.parametrize("rotation", [10.0, 45.0])
def test_a_rotation_is_torchvisions_without_shear_on_images_of_any_shape(image_shape, part, rotation, monkeypatch):
    x = images(3, *image_shape)
    expected = rotated_by_torchvision(x, part * rotation)
    inside = rotated_by_torchvision(torch.ones_like(x), part * rotation) > 1 - 1e-4  # no part from beyond the edge
    assert inside.float().mean() > 0.3
    draw(monkeypatch, part, 0, 0)
    actual = augmented(x, rotation, 0.1)
    torch.testing.assert_close(actual[inside], expected[inside], rtol=0, atol=1e-4)  # torchvision's own rounding


def test_a_right_angle_is_exact(monkeypatch):
    x = images(3, 2, 9, 9)
    draw(monkeypatch, 1, 0, 0)
    torch.testing.assert_close(augmented(x, 90, 0), torch.rot90(x, 1, (2, 3)), rtol=0, atol=ATOL)


def test_what_turns_in_from_outside_repeats_the_edge():
    # A frame of ones stays ones at any angle: black corners would show.
    ones = torch.ones(20, 1, 15, 10)
    torch.testing.assert_close(augmented(ones, 180, 0.9), ones, rtol=0, atol=ATOL)


def test_channels_move_together():
    gray = images(4, 1, 16, 16).expand(-1, 3, -1, -1).contiguous()
    out = augmented(gray, 10, 0.1)
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


# --- the ranges ---------------------------------------------------------------------------------------------

N_DRAWS = 4000


def measured(rotation, shift, seed=0):
    """Angles in degrees and shifts in parts of the side that a batch got, read off its center.

    The images hold their own coordinates, x in the first channel and y in the second, so that each pixel tells where it
    came from: differences between neighbors tell the angle, the values at the center the shift.
    """
    n = 41
    ramp = torch.arange(n, dtype=torch.float64) - n // 2
    image = torch.stack([ramp.expand(n, n), ramp[:, None].expand(n, n)])
    out = augmented(image.expand(N_DRAWS, 2, n, n).contiguous(), rotation, shift, seed)
    center = n // 2
    along = out[:, :, center, center + 1] - out[:, :, center, center - 1]  # (B, 2): where a step to the right leads
    angle = torch.rad2deg(torch.atan2(along[:, 1], along[:, 0]))
    return angle, out[:, 0, center, center] / n, out[:, 1, center, center] / n


def assert_uniform(values, limit):
    """Within the limits and close to both; mean and variance within 4 standard errors of 4000 uniform numbers."""
    assert values.abs().max() <= limit * (1 + 1e-6)
    assert values.max() > 0.99 * limit
    assert values.min() < -0.99 * limit
    assert abs(values.mean().item()) < 4 * limit / math.sqrt(3 * N_DRAWS)
    assert values.var().item() == pytest.approx(limit**2 / 3, rel=4 * math.sqrt(0.8 / N_DRAWS))


def test_rotations_and_shifts_are_uniform_in_their_ranges_and_differ_between_images():
    angle, right, down = measured(rotation=10, shift=0.1)
    assert_uniform(angle, 10)
    assert_uniform(right, 0.1)
    assert_uniform(down, 0.1)
    assert all(len(values.unique()) > 0.99 * N_DRAWS for values in (angle, right, down))
    correlations = torch.stack([angle, right, down]).corrcoef() - torch.eye(3)
    assert correlations.abs().max() < 4 / math.sqrt(N_DRAWS)


@pytest.mark.parametrize(("rotation", "shift"), [(25, 0.0), (0, 0.2)])
def test_each_range_is_its_own(rotation, shift):
    angle, right, down = measured(rotation, shift)
    assert angle.abs().max().item() == pytest.approx(rotation, rel=0.01, abs=1e-5)
    assert right.abs().max().item() == pytest.approx(shift, rel=0.01, abs=1e-6)
    assert down.abs().max().item() == pytest.approx(shift, rel=0.01, abs=1e-6)


# --- build_augmentation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [AffineConfig(rotation=7.0, shift=0.2), AutoAugmentationConfig("auto", 7.0, 0.2)])
def test_images_are_augmented_with_the_configured_ranges(config):
    augment = build_augmentation(config, (1, 8, 9))
    assert (augment.image_shape, augment.rotation, augment.shift) == ((1, 8, 9), 7.0, 0.2)


def test_the_default_ranges_are_those_of_dec_da():
    augment = build_augmentation(AutoAugmentationConfig(), (1, 8, 8))
    assert (augment.rotation, augment.shift) == (10.0, 0.1)


def test_auto_leaves_tables_alone():
    assert build_augmentation(AutoAugmentationConfig(), None) is None


def test_affine_on_a_table_is_refused():
    with pytest.raises(UserError, match=r"augmentation=affine: expected image data, .* use recipe=auto .*, or augmen"):
        build_augmentation(AffineConfig(), None)


@pytest.mark.parametrize("image_shape", [(1, 8, 8), None])
def test_none_augments_nothing(image_shape):
    assert build_augmentation(NoAugmentationConfig(name="none"), image_shape) is None
