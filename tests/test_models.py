"""`dkm.models.build`: the layers of the autoencoders, their initial weights, the image shapes that they take."""

import math

import pytest
import torch
from torch import nn

from dkm.config.model import ConvConfig, MLPConfig
from dkm.errors import UserError
from dkm.models.autoencoder import mix_encoder
from dkm.models.build import build_autoencoder
from dkm.models.conv import conv_autoencoder
from dkm.models.mlp import mlp_autoencoder


def rows(B, n_features, seed=0):
    return torch.rand(B, n_features, generator=torch.Generator().manual_seed(seed))


def kinds(module):
    return [type(layer).__name__ for layer in module]


def linear_widths(module):
    return [(layer.in_features, layer.out_features) for layer in module if isinstance(layer, nn.Linear)]


def layers_with_weights(autoencoder):
    return [m for m in autoencoder.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]


def default_mlp(seed=0):
    return build_autoencoder(MLPConfig(), 64, (1, 8, 8), 10, seed)


def default_conv(seed=0):
    return build_autoencoder(ConvConfig(), 784, (1, 28, 28), 10, seed)


def images_for(build, B):
    return rows(B, 64 if build is default_mlp else 784)


builds = pytest.mark.parametrize("build", [default_mlp, default_conv])


# --- fully connected ----------------------------------------------------------------------------------------


def test_the_default_mlp_is_that_of_the_papers_and_its_mirror():
    autoencoder = default_mlp()
    assert linear_widths(autoencoder.encoder) == [(64, 500), (500, 500), (500, 2000), (2000, 10)]
    assert linear_widths(autoencoder.decoder) == [(10, 2000), (2000, 500), (500, 500), (500, 64)]
    assert autoencoder.latent_dim == 10


@pytest.mark.parametrize("config", [MLPConfig(initial_weights="glorot"), ConvConfig(initial_weights="glorot")])
def test_glorots_weights_are_uniform_by_inputs_and_outputs(config):
    autoencoder = build_autoencoder(config, 784, (1, 28, 28), 10, seed=0)
    for layer in layers_with_weights(autoencoder):
        field = layer.weight[0, 0].numel() if layer.weight.dim() > 2 else 1
        bound = math.sqrt(6 / (field * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.95 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not layer.bias.any()
    again = build_autoencoder(config, 784, (1, 28, 28), 10, seed=0)
    assert all(map(torch.equal, again.parameters(), autoencoder.parameters()))


def test_relu_stands_between_the_linear_layers_and_at_no_end():
    between = ["Linear", "ReLU", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    autoencoder = default_mlp()
    assert kinds(autoencoder.encoder) == between
    assert kinds(autoencoder.decoder) == between


def test_hidden_widths_are_configured_and_mirrored():
    autoencoder = build_autoencoder(MLPConfig(hidden=[7, 5]), 9, None, 3, seed=0)
    assert linear_widths(autoencoder.encoder) == [(9, 7), (7, 5), (5, 3)]
    assert linear_widths(autoencoder.decoder) == [(3, 5), (5, 7), (7, 9)]


def test_without_hidden_layers_the_autoencoder_is_linear():
    autoencoder = mlp_autoencoder(9, [], 3)
    assert kinds(autoencoder.encoder) == kinds(autoencoder.decoder) == ["Linear"]


def test_encode_and_decode_are_the_two_halves():
    autoencoder, x = mlp_autoencoder(9, [7], 3), rows(4, 9)
    z = autoencoder.encode(x)
    assert z.shape == (4, 3)
    assert torch.equal(z, autoencoder.encoder(x))
    assert autoencoder.decode(z).shape == (4, 9)
    assert torch.equal(autoencoder.decode(z), autoencoder.decoder(z))


@builds
def test_embedding_and_reconstruction_take_negative_values(build):
    autoencoder = build()
    z = autoencoder.encode(images_for(build, 20))
    assert (z < 0).any()
    assert (autoencoder.decode(z) < 0).any()


# --- initial weights ----------------------------------------------------------------------------------------


@builds
def test_biases_start_at_zero(build):
    assert all(not layer.bias.any() for layer in layers_with_weights(build()))


@builds
def test_weights_start_uniform_within_one_over_the_root_of_fan_in(build):
    for layer in layers_with_weights(build()):
        weight = layer.weight.detach()
        # torch's convention: what stands behind the first dimension, which for a transposed convolution is its output.
        bound = 1 / math.sqrt(weight[0].numel())
        n = weight.numel()
        assert weight.abs().max() <= bound
        assert weight.abs().max() > bound * (1 - 20 / n)  # missed by e^-20
        # Mean and variance within 5 standard errors of n uniform numbers.
        assert abs(weight.mean().item()) < 5 * bound / math.sqrt(3 * n)
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / n))


@builds
def test_the_same_seed_gives_the_same_weights_and_another_one_others(build):
    first, second, other = build(seed=0), build(seed=0), build(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    pairs = zip(layers_with_weights(first), layers_with_weights(other), strict=True)
    assert not any(torch.equal(a.weight, b.weight) for a, b in pairs)


def test_building_leaves_the_global_generator_alone_and_does_not_depend_on_it():
    first = default_mlp()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        before = torch.get_rng_state()
        second = default_mlp()
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# --- convolutional ------------------------------------------------------------------------------------------


def test_the_default_conv_is_that_of_dec_da():
    autoencoder = default_conv()
    conv = ["Conv2d", "ReLU"]
    assert kinds(autoencoder.encoder) == ["Unflatten", *conv, *conv, *conv, "Flatten", "Linear"]
    up = ["ReLU", "ConvTranspose2d"]
    assert kinds(autoencoder.decoder) == ["Linear", "ReLU", "Unflatten", *(up * 3)[1:], "Flatten"]
    described = [
        (c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding)
        for c in layers_with_weights(autoencoder)
        if not isinstance(c, nn.Linear)
    ]
    assert described == [
        (1, 32, (5, 5), (2, 2), (2, 2)),
        (32, 64, (5, 5), (2, 2), (2, 2)),
        (64, 128, (3, 3), (2, 2), (0, 0)),  # 28 is no multiple of 8
        (128, 64, (3, 3), (2, 2), (0, 0)),
        (64, 32, (5, 5), (2, 2), (2, 2)),
        (32, 1, (5, 5), (2, 2), (2, 2)),
    ]


def test_images_of_28_by_28_are_flattened_to_1152():
    autoencoder = default_conv()
    assert linear_widths(autoencoder.encoder) == [(128 * 3 * 3, 10)] == [(1152, 10)]
    assert linear_widths(autoencoder.decoder) == [(10, 1152)]


# The sides after three convolutions: padded where the side is a multiple of 8, so that it is halved three times.
SIDES = {8: 1, 9: 1, 13: 1, 16: 2, 28: 3, 30: 3, 31: 3, 32: 4, 33: 4, 96: 12}
SHAPES = [
    *((1, side, side) for side in SIDES),
    (3, 32, 32),
    (3, 96, 96),
    (1, 28, 32),  # one side padded, the other not
    (2, 33, 8),
    (1, 13, 96),
]


@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
def test_images_of_any_shape_are_decoded_to_that_shape(image_shape):
    C, H, W = image_shape
    filters = [4, 5, 6]
    autoencoder = conv_autoencoder(image_shape, filters, 7)
    assert linear_widths(autoencoder.encoder) == [(6 * SIDES[H] * SIDES[W], 7)]
    x = rows(2, C * H * W)
    z = autoencoder.encode(x)
    assert z.shape == (2, 7)
    assert autoencoder.decode(z).shape == x.shape
    assert autoencoder.decoder[:-1](z).shape == (2, C, H, W)  # before it is made a row again


def test_rows_are_read_as_channels_height_width():
    autoencoder = conv_autoencoder((3, 16, 24), [4, 5, 6], 7)
    picture = rows(2, 3 * 16 * 24).view(2, 3, 16, 24)
    assert torch.equal(autoencoder.encode(picture.flatten(1)), autoencoder.encoder[1:](picture))


def test_filters_and_latent_dimensions_are_configured():
    autoencoder = build_autoencoder(ConvConfig(filters=[2, 3, 4]), 256, (1, 16, 16), 6, seed=0)
    convolutions = [m for m in autoencoder.encoder if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [2, 3, 4]
    assert linear_widths(autoencoder.encoder) == [(4 * 2 * 2, 6)]


@pytest.mark.parametrize(("H", "W"), [(7, 7), (7, 28), (28, 7), (1, 1)])
def test_images_below_8_by_8_are_refused(H, W):
    with pytest.raises(UserError, match=rf"model=conv: expected images of at least 8x8, got {H}x{W}; use model=mlp"):
        build_autoencoder(ConvConfig(), H * W, (1, H, W), 10, seed=0)


def test_convolutions_on_a_table_are_refused():
    with pytest.raises(UserError, match="model=conv: expected image data, got rows of a table; use model=mlp"):
        build_autoencoder(ConvConfig(), 64, None, 10, seed=0)


@builds
def test_every_parameter_gets_a_gradient(build):
    autoencoder = build()
    x = images_for(build, 8)
    autoencoder.decode(autoencoder.encode(x)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in autoencoder.parameters())


@builds
def test_mixing_moves_every_layer_of_the_encoder_but_the_last_towards_fresh_weights(build):
    ours, fresh = build(seed=0), build(seed=1)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    mix_encoder(ours, fresh, 0.2)
    last = [name for name in before if name.startswith("encoder.")][-2:]
    for name, value in ours.state_dict().items():
        is_mixed = name.startswith("encoder.") and name not in last
        expected = 0.8 * before[name] + 0.2 * fresh.state_dict()[name] if is_mixed else before[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_an_autoencoder_maps_rows_to_their_reconstructions():
    autoencoder, x = mlp_autoencoder(6, [5], 3), torch.rand(4, 6)
    assert torch.equal(autoencoder(x), autoencoder.decode(autoencoder.encode(x)))
