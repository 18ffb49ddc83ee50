"""`dkm.evaluation.figures`: what stands in the pictures, equal bytes from equal arrays, and the extremes of K and N."""

import inspect
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from matplotlib import style
from matplotlib.image import imread

from dkm.evaluation.figures import clusters, images, training
from dkm.evaluation.figures import comparison as comparisons
from dkm.evaluation.figures.clusters import (
    cluster_sizes_bar,
    contingency_map,
    contrast_map,
    decoded_profiles,
    embedding_map,
    margin_histogram,
    silhouette_plot,
)
from dkm.evaluation.figures.comparison import comparison, search, selection
from dkm.evaluation.figures.images import exemplar_grid, image_grid, reconstruction_pairs
from dkm.evaluation.figures.style import (
    DPI,
    MAX_HEIGHT,
    MAX_WIDTH,
    PALETTE,
    cluster_colors,
    figure_to_array,
    save_figure,
)
from dkm.evaluation.figures.training import loss_curves

MANY = [1, 10, 100]


def embedding(n_samples=150, latent_dim=3, n_clusters=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % n_clusters
    centroids = rng.normal(size=(n_clusters, latent_dim))
    return centroids[labels] + 0.1 * rng.normal(size=(n_samples, latent_dim)), labels, centroids


def gray(*levels, size=4):
    """One (1, size, size) image for each level."""
    return np.stack([np.full((1, size, size), level) for level in levels])


def canvas(figure):
    """The pixels of an image figure before matplotlib enlarges them."""
    return np.asarray(figure.axes[0].images[0].get_array())


def tick_texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def points_of(figure):
    return np.asarray(figure.axes[0].collections[0].get_offsets())


def crosses_of(figure):
    return figure.axes[0].lines[0].get_xydata()


# --- colors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_clusters", [*MANY, len(PALETTE) + 1])
def test_every_cluster_has_its_own_color(n_clusters):
    colors = cluster_colors(n_clusters)
    assert colors.shape == (n_clusters, 4)
    assert len(np.unique(colors, axis=0)) == n_clusters


# --- embedding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_clusters", MANY)
def test_embedding_map_draws_all_points_and_numbers_all_centroids(n_clusters):
    Z, labels, centroids = embedding(n_clusters=n_clusters)
    figure = embedding_map(Z, labels, centroids)
    axes = figure.axes[0]
    assert len(points_of(figure)) == 150
    assert [text.get_text() for text in axes.texts] == [str(k) for k in range(n_clusters)]
    assert np.array_equal([text.xy for text in axes.texts], crosses_of(figure))
    colors = axes.collections[0].get_facecolors()[:, :3]
    assert np.array_equal(colors, cluster_colors(n_clusters)[labels, :3])
    assert figure_to_array(figure).shape[2] == 3


def test_embedding_map_shows_the_principal_components_and_their_variance():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 2)) - 5.0
    scores[:, 0] *= 10.0
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    Z = scores @ rotation[:2]
    figure = embedding_map(Z, np.zeros(200, dtype=int), np.zeros((1, 4)))
    points = points_of(figure)
    variance = points.var(axis=0)
    assert variance.sum() == pytest.approx(Z.var(axis=0).sum())
    assert np.cov(points.T)[0, 1] == pytest.approx(0.0, abs=1e-9)
    assert figure.axes[0].get_xlabel() == f"component 1 ({variance[0] / variance.sum():.0%} of the variance)"
    # The centroid at the origin is in the plane of the points: its distance to their mean stays.
    assert np.linalg.norm(crosses_of(figure)) == pytest.approx(np.linalg.norm(Z.mean(axis=0)))


def test_embedding_map_names_the_axes_of_other_layouts():
    Z, labels, centroids = embedding()
    axes = embedding_map(Z, labels, centroids, method="tsne").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert len(points_of(axes.figure)) == 150


def test_embedding_map_has_no_arbitrary_sign():
    Z, labels, centroids = embedding()
    mirrored = points_of(embedding_map(-Z, labels, -centroids))
    assert mirrored == pytest.approx(-points_of(embedding_map(Z, labels, centroids)), abs=1e-12)


def test_embedding_map_draws_a_fixed_sample_of_at_most_max_points():
    Z, labels, centroids = embedding()
    first, again, other = (
        points_of(embedding_map(Z, labels, centroids, max_points=40, seed=seed)) for seed in (0, 0, 1)
    )
    assert len(first) == 40
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n_samples", "latent_dim"), [(50, 1), (1, 3), (1, 1), (2, 2)])
def test_embedding_map_of_too_few_dimensions_or_samples(n_samples, latent_dim):
    Z, labels, centroids = embedding(n_samples, latent_dim)
    figure = embedding_map(Z, labels, centroids)
    assert points_of(figure).shape == (n_samples, 2)
    assert np.isfinite(points_of(figure)).all()
    figure_to_array(figure)


def test_embedding_map_of_one_dimension_keeps_its_scale_and_jitters_the_other():
    Z, labels, centroids = embedding(latent_dim=1)
    figure = embedding_map(Z, labels, centroids)
    points = points_of(figure)
    assert points[:, 0] == pytest.approx(Z[:, 0] - Z.mean())
    assert np.abs(points[:, 1]).max() <= 1
    assert points[:, 1].std() > 0.4
    assert figure.axes[0].get_ylabel() == "jitter"


# --- sizes, contingency, profiles ---------------------------------------------------------------------------


def test_cluster_sizes_bar_is_sorted_and_marks_the_empty_clusters():
    figure = cluster_sizes_bar(np.array([5, 0, 9, 0, 6]))
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [9, 6, 5, 0, 0]
    assert tick_texts(axes.xaxis) == ["2", "4", "0", "1", "3"]
    equal, empty = axes.lines
    assert set(equal.get_ydata()) == {4.0}
    assert empty.get_xdata().tolist() == [3, 4]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["equal: 4.0", "empty: 2"]


@pytest.mark.parametrize("n_clusters", [*MANY, 250])
def test_cluster_sizes_bar_names_what_fits(n_clusters):
    figure = cluster_sizes_bar(np.arange(n_clusters, 0, -1))
    axes = figure.axes[0]
    assert len(axes.patches) == n_clusters
    assert len(axes.lines) == 1
    assert len(tick_texts(axes.xaxis)) == {250: 84}.get(n_clusters, n_clusters)  # every third
    figure_to_array(figure)


def test_contingency_map_puts_the_match_on_the_diagonal_and_writes_the_counts():
    table = np.array([[0, 8, 2], [5, 0, 0]])
    figure = contingency_map(table, ["cat", "dog"])
    axes = figure.axes[0]
    assert tick_texts(axes.xaxis) == ["1", "0", "2"]
    assert tick_texts(axes.yaxis) == ["cat", "dog"]
    assert [text.get_text() for text in axes.texts] == ["8", "2", "5"]
    assert [text.get_position() for text in axes.texts] == [(0, 0), (2, 0), (1, 1)]
    shares = [[0.8, 0, 0.2], [0, 1, 0]]
    assert np.array_equal(axes.images[0].get_array(), shares)
    # Dark cells carry white text.
    assert [text.get_color() for text in axes.texts] == ["white", "black", "white"]


@pytest.mark.parametrize("n_clusters", MANY)
def test_contingency_map_writes_counts_only_where_they_fit(n_clusters):
    table = np.random.default_rng(0).integers(1, 50, size=(10, n_clusters))
    figure = contingency_map(table)
    assert len(figure.axes[0].texts) == (table.size if n_clusters <= 20 else 0)
    assert sorted(map(int, tick_texts(figure.axes[0].xaxis))) == list(range(n_clusters))
    figure_to_array(figure)


def test_contingency_map_of_an_empty_table_has_no_division_by_zero():
    figure = contingency_map(np.zeros((2, 3), dtype=np.int64))
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.zeros((2, 3)))
    figure_to_array(figure)


def test_decoded_profiles_keep_the_features_with_the_largest_spread_in_their_order():
    profiles = np.zeros((2, 60))
    profiles[1] = np.arange(60)[::-1]  # the spread falls: the first 50 features stay
    figure = decoded_profiles(profiles, [f"feature {f}" for f in range(60)])
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), profiles[:, :50])
    assert tick_texts(axes.xaxis) == [f"feature {f}" for f in range(50)]
    assert axes.get_title() == "Decoded centroids: 50 of 60 features"


@pytest.mark.parametrize("n_clusters", MANY)
def test_decoded_profiles_draw_one_row_per_cluster(n_clusters):
    profiles = np.random.default_rng(0).normal(size=(n_clusters, 7))
    figure = decoded_profiles(profiles)
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), profiles)
    assert tick_texts(axes.xaxis) == list("0123456")
    assert len(tick_texts(axes.yaxis)) == min(n_clusters, 50)
    figure_to_array(figure)


def test_names_are_cut_to_length_and_never_read_as_formulas():
    figure = decoded_profiles(np.eye(2), ["a" * 40, "$\\undefined$"])
    assert tick_texts(figure.axes[0].xaxis) == ["a" * 21 + "...", "$\\undefined$"]
    figure_to_array(figure)  # would raise at the undefined symbol


def test_contingency_map_may_compare_two_clusterings():
    figure = contingency_map(np.eye(3, dtype=int), title="before and now", rows="cluster before")
    assert figure.axes[0].get_title() == "before and now"
    assert figure.axes[0].get_ylabel() == "cluster before"


def test_decoded_profiles_tell_the_sizes():
    figure = decoded_profiles(np.random.default_rng(0).random((2, 3)), sizes=np.array([1200, 7]))
    assert tick_texts(figure.axes[0].yaxis) == ["0: 1,200", "1: 7"]


def test_silhouette_plot_has_the_points_of_each_cluster_from_high_to_low():
    silhouettes = np.array([0.1, 0.9, -0.2, 0.5, 0.4])
    figure = silhouette_plot(silhouettes, np.array([0, 2, 0, 2, 2]), 3)
    axes = figure.axes[0]
    assert tick_texts(axes.yaxis) == ["0", "2"]
    first, second = (np.unique(patch.get_paths()[0].vertices[:, 0]).tolist() for patch in axes.collections)
    assert first == [-0.2, 0.0, 0.1]
    assert second == [0.0, 0.4, 0.5, 0.9]
    assert axes.get_legend().get_texts()[0].get_text() == "mean: 0.340"


def test_margin_histogram_counts_all_points_and_marks_the_medians():
    margin = np.array([0.0, 1.0, 2.0, 4.0])
    axes = margin_histogram(margin, np.array([0, 0, 0, 1]), 2).axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert [line.get_xdata()[0] for line in axes.lines] == [1.0, 4.0]


@pytest.mark.parametrize("low", [0.0, 2.0, 1e6])
def test_margins_that_differ_by_rounding_alone_are_drawn(low: float):
    margin = np.float32([low, np.nextafter(np.float32(low), np.float32(9e9)), low])
    axes = margin_histogram(margin, np.array([0, 0, 1]), 2).axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 3


@pytest.mark.parametrize("n_clusters", MANY)
def test_silhouettes_and_margins_of_many_clusters_fit(n_clusters):
    labels = np.arange(300) % n_clusters
    values = np.linspace(-1, 1, 300)
    for figure in (silhouette_plot(values, labels, n_clusters), margin_histogram(values + 1, labels, n_clusters)):
        assert figure.get_size_inches()[1] <= 9
        figure_to_array(figure)


# --- images -------------------------------------------------------------------------------------------------


def test_image_grid_has_exact_gray_levels_and_clips():
    pixels = canvas(image_grid(gray(0.0, 0.2, 1.0, -3.0, 7.0), n_columns=3))
    assert pixels.dtype == np.uint8
    # Images of 4 pixels, 2 between them: rows and columns begin at 2, 8, 14.
    corners = pixels[[[2], [8]], [2, 8, 14]]
    assert corners[..., 0].tolist() == [[0, 51, 255], [0, 255, 255]]  # the sixth place is background
    assert (pixels == pixels[..., :1]).all()
    assert pixels.shape == (14, 20, 3)
    assert (pixels[:2] == 255).all()
    assert (pixels[2:6, 8:12] == 51).all()


def test_image_grid_keeps_the_levels_in_the_rendered_picture():
    rendered = figure_to_array(image_grid(gray(0.0, 0.2, 0.4, size=5), n_columns=3))
    levels, areas = np.unique(rendered[..., 0], return_counts=True)
    assert levels.tolist() == [0, 51, 102, 255]
    assert areas[0] == areas[1] == areas[2]
    assert areas[0] % 25 == 0  # each pixel is enlarged to an equal square


def test_image_grid_draws_rgb_in_channel_order():
    red_over_blue = np.zeros((1, 3, 2, 5))
    red_over_blue[0, 0, 0] = red_over_blue[0, 2, 1] = 1.0
    pixels = canvas(image_grid(red_over_blue, n_columns=10))
    assert pixels[2, 2].tolist() == [255, 0, 0]
    assert pixels[3, 6].tolist() == [0, 0, 255]


def test_image_grid_sets_a_title_above_each_image():
    figure = image_grid(gray(0.0, 0.0, 0.0), n_columns=2, titles=["a", "b", "c"])
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["a", "b", "c"]
    pixels = canvas(figure)
    for text in texts:
        column, row = np.round(text.get_position()).astype(int)
        assert (pixels[row - 1, column] == 255).all()
        assert (pixels[row + 1, column] == 0).all()


def test_image_grid_shrinks_many_large_images_to_the_width_of_a_screen():
    assert figure_to_array(image_grid(gray(*[0.5] * 40, size=96), n_columns=40)).shape[1] <= 1500


@pytest.mark.parametrize("n_images", [20, 100, 300])
def test_image_grid_fits_on_a_screen(n_images):
    images = gray(*[0.5] * n_images, size=28)
    height, width, _ = figure_to_array(image_grid(images, n_columns=10, titles=["99: 1,000"] * n_images)).shape
    assert height <= 1.1 * MAX_HEIGHT * DPI
    assert width <= 1.1 * MAX_WIDTH * DPI


def test_image_grid_refuses_two_channels():
    with pytest.raises(ValueError, match=r"shape \(5, 2, 4, 4\), so 2 channels: expected 1 \(gray\) or 3"):
        image_grid(np.zeros((5, 2, 4, 4)), n_columns=2)


def test_reconstruction_pairs_stand_one_above_the_other_with_a_thin_line_between():
    pixels = canvas(reconstruction_pairs(gray(0.0, 0.2), gray(0.4, 0.6)))
    assert pixels.shape == (2 + 4 + 1 + 4 + 2, 2 + 4 + 2 + 4 + 2, 3)
    assert pixels[[[2], [6], [7]], [2, 8], 0].tolist() == [[0, 51], [255, 255], [102, 153]]


@pytest.mark.parametrize(("n_clusters", "n_drawn"), [(1, 8), (10, 8), (20, 8), (40, 8), (100, 5)])
def test_exemplar_grid_labels_every_cluster_and_draws_the_nearest_points(n_clusters, n_drawn):
    levels = np.linspace(0, 0.8, n_clusters)[:, None] + np.linspace(0, 0.1, 8)
    images = np.broadcast_to(levels[..., None, None, None], (n_clusters, 8, 1, 4, 4))
    figure = exemplar_grid(images, 1000 + np.arange(n_clusters))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [f"{k}  n={1000 + k:,}" for k in range(n_clusters)]
    pixels = canvas(figure)
    for k, text in enumerate(axes.texts):
        start, middle = text.get_position()
        drawn = pixels[int(middle), int(np.ceil(start)) :, 0][: 6 * n_drawn]
        drawn = drawn[drawn < 255][::4]
        assert drawn.tolist() == np.round(levels[k, :n_drawn] * 255).astype(int).tolist()
    assert figure_to_array(figure).shape[1] <= 1600


def test_exemplar_grid_leaves_missing_points_white():
    images = np.zeros((2, 3, 1, 4, 4))
    images[1, 1:] = np.nan
    assert (canvas(exemplar_grid(images, np.array([3, 1]))) == 0).all(axis=2).sum() == 4 * 16


def test_exemplar_grid_draws_the_largest_of_very_many_clusters():
    sizes = np.ones(130, dtype=int)
    sizes[[7, 129]] = 5
    texts = [text.get_text() for text in exemplar_grid(np.zeros((130, 1, 1, 2, 2)), sizes).axes[0].texts]
    assert len(texts) == 100
    assert texts[7] == "7  n=5"
    assert texts[-1] == "129  n=5"


# --- training -----------------------------------------------------------------------------------------------


def history():
    pretrain = [{"phase": "pretrain", "step": s, "loss/total": 2.0**-s, "loss/l2": 1.0} for s in range(4)]
    joint = [
        {
            "phase": "joint",
            "step": s,
            "loss/total": 1.0,
            "loss/clustering": 3.0 - s,
            "loss_weighted/clustering": 0.1,
            "loss/l2": None,
            "clusters/label_change": None if s == 4 else 0.5,
        }
        for s in range(4, 7)
    ]
    return [*pretrain, *joint]


def test_loss_curves_have_one_panel_for_each_term_and_one_for_the_label_change():
    figure = loss_curves(history())
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["loss/total", "loss/l2", "loss/clustering", "clusters/label_change"]
    pretrain, joint, change = panels["loss/total"].lines
    assert pretrain.get_xydata().tolist() == [[0, 1], [1, 0.5], [2, 0.25], [3, 0.125]]
    assert joint.get_xydata().tolist() == [[4, 1], [5, 1], [6, 1]]
    assert set(change.get_xdata()) == {4}
    assert len(panels["loss/l2"].lines[1].get_xydata()) == 0  # None is left out
    assert panels["clusters/label_change"].lines[1].get_xdata().tolist() == [5, 6]
    figure_to_array(figure)


def test_loss_curves_are_logarithmic_where_values_are_positive_and_spread():
    scales = {axes.get_title(): axes.get_yscale() for axes in loss_curves(history()).axes}
    assert scales["loss/total"] == "log"
    assert scales["loss/l2"] == "linear"  # constant
    assert scales["loss/clustering"] == "linear"  # down to -3


def test_loss_curves_share_their_steps():
    panels = loss_curves(history()).axes
    assert len({axes.get_xlim() for axes in panels}) == 1


def test_loss_curves_of_one_record():
    figure = loss_curves(history()[:1])
    assert [axes.get_title() for axes in figure.axes] == ["loss/total", "loss/l2"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 1]]
    figure_to_array(figure)


@pytest.mark.parametrize(
    "records", [[], [{"phase": "pretrain", "step": 0, "loss/total": None}]], ids=["none", "without values"]
)
def test_loss_curves_of_nothing_say_so(records):
    figure = loss_curves(records)
    assert not figure.axes
    assert figure.texts[0].get_text() == "no losses recorded"


# --- several runs -------------------------------------------------------------------------------------------


def test_comparison_has_a_dot_for_each_run_and_a_bar_at_the_mean():
    values = {"ACC": [[0.5, 0.75], [1.0], []], "seconds": [[3.0, 5.0], [2.0], [np.nan]]}
    figure = comparison(["a", "b", "c"], values)
    acc, seconds = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["ACC", "seconds"]
    dots, bar = acc.lines[:2]
    assert dots.get_xydata().tolist() == [[0.5, 0], [0.75, 0]]
    assert list(bar.get_xdata()) == [0.625, 0.625]
    assert list(seconds.lines[3].get_xdata()) == [2.0, 2.0]
    assert len(acc.lines) == 5  # the last group has no values
    assert tick_texts(acc.yaxis) == ["a", "b", "c"]


def test_comparison_shows_who_agrees_with_whom():
    ari = np.array([[1.0, 0.25], [0.25, 1.0]])
    axes = comparison(["a"], {"ACC": [[0.5, 0.75]]}, ari, ["a, seed=0", "a, seed=1"]).axes[1]
    np.testing.assert_array_equal(axes.images[0].get_array(), ari)
    assert tick_texts(axes.yaxis) == ["a, seed=0", "a, seed=1"]


def test_selection_has_a_dot_for_each_run_and_marks_the_choice():
    figure = selection([2, 3], {"a": [[0.5, 0.7], [0.9]], "b": [[], [1.0]]}, 3, [2, 3])
    first = figure.axes[0]
    assert len(first.patches) == 2  # the plausible numbers
    assert first.lines[0].get_xdata()[0] == 3
    assert first.lines[1].get_xydata().tolist() == [[2, 0.5], [2, 0.7]]
    np.testing.assert_allclose(first.lines[-1].get_xydata(), [[2, 0.6], [3, 0.9]])


@pytest.mark.parametrize(("n_scores", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 3), (7, 3, 3)])
def test_selection_has_rows_of_three_panels_of_one_size(n_scores, rows, columns):
    figure = selection([2, 3], {f"score {n}": [[0.5], [0.9]] for n in range(n_scores)}, 3, [3])
    assert figure.get_size_inches().tolist() == pytest.approx([4 * columns, 2.8 * rows])
    assert [axes.get_title() for axes in figure.axes] == [f"score {n}" for n in range(n_scores)]
    assert figure.axes[0].get_subplotspec().get_geometry()[:2] == (rows, columns)


@pytest.mark.parametrize(("is_maximized", "best"), [(True, 2), (False, 0)])
def test_search_marks_the_best_completed_trial(is_maximized, best):
    settings = {"lr": [0.1, 0.01, 1.0, 0.5], "n": ["10", "2", "10", "2"], "init": ["b", "a", "b", "a"]}
    figure = search(
        [0, 1, 2, 4],
        [0.2, 0.3, 0.4, 0.9],
        [False, False, False, True],
        settings,
        logarithmic=["lr"],
        orders={"n": ["2", "10", "18"]},
        objective="score",
        is_maximized=is_maximized,
    )
    trials, lr, n, init = figure.axes
    assert figure.get_size_inches().tolist() == pytest.approx([3 * 4, 2 * 2.8])
    for axes, x in ((trials, [0, 1, 2, 4]), (lr, settings["lr"]), (n, [1, 0, 1, 0]), (init, [1, 0, 1, 0])):
        done, pruned, ring = axes.collections
        assert done.get_offsets()[:, 0].tolist() == pytest.approx(x[:3])
        assert pruned.get_offsets().tolist() == [pytest.approx([x[3], 0.9])]
        assert ring.get_offsets().tolist() == [pytest.approx([x[best], [0.2, 0.3, 0.4][best]])]
    assert trials.lines[0].get_ydata().tolist() == ([0.2, 0.3, 0.4] if is_maximized else [0.2, 0.2, 0.2])
    assert lr.get_xscale() == "log"
    assert tick_texts(init.xaxis) == ["a", "b"]
    assert tick_texts(n.xaxis) == ["2", "10", "18"]


def test_search_with_nothing_but_pruned_trials_is_drawn():
    figure = search([3], [0.5], [True], {"x": [1]}, logarithmic=[], orders={}, objective="score", is_maximized=True)
    assert figure.axes[1].collections[1].get_offsets().tolist() == [[1, 0.5]]
    assert len(figure.axes[1].collections) == 2  # no ring around a best one


@pytest.mark.parametrize("n_groups", [1, 40, 300])
def test_comparison_of_many_groups_fits(n_groups):
    n_runs = min(n_groups, 100)
    agreement, names = np.full((n_runs, n_runs), 0.5), [f"run {i}" for i in range(n_runs)]
    figure = comparison([f"group {i}" for i in range(n_groups)], {"ACC": [[0.5]] * n_groups}, agreement, names)
    assert figure.get_size_inches()[1] <= 18
    assert len(figure.axes[0].get_yticks()) == min(n_groups, 40)
    figure_to_array(figure)


# --- output -------------------------------------------------------------------------------------------------


def test_saved_figures_are_equal_to_the_byte_and_leave_nothing_beside(tmp_path):
    arrays = embedding(n_clusters=10)
    for name in ("a.png", "b.png"):
        save_figure(embedding_map(*arrays), tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"tEXt" not in first  # neither versions nor dates
    assert len(first) < 200_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def wide_silhouettes(n_clusters):
    values = np.linspace(-1, 1, 2 * n_clusters)
    return silhouette_plot(values, np.arange(2 * n_clusters) % n_clusters, n_clusters)


FRAMED = {
    "embedding_map": lambda K: embedding_map(
        *(1e4 * part if n != 1 else part for n, part in enumerate(embedding(n_clusters=K)))
    ),
    "cluster_sizes_bar": lambda K: cluster_sizes_bar(np.full(K, 999_999)),
    "contingency_map": lambda K: contingency_map(np.full((K, K), 99_999), [f"{k:03}" for k in range(K)]),
    "named contingency_map": lambda K: contingency_map(np.ones((K, K), int), ["W" * 40] * K),
    "contrast_map": lambda K: contrast_map(np.ones((K, 60)), ["W" * 40] * 60),
    "decoded_profiles": lambda K: decoded_profiles(
        np.arange(60.0 * K).reshape(K, 60), ["W" * 40] * 60, np.full(K, 10**6)
    ),
    "exemplar_grid": lambda K: exemplar_grid(np.zeros((K, 8, 1, 28, 28)), np.full(K, 99_999)),
    "image_grid": lambda K: image_grid(
        np.zeros((K, 1, 28, 28)), n_columns=10, titles=[f"{k}: 9,999" for k in range(K)]
    ),
    "silhouette_plot": wide_silhouettes,
    "margin_histogram": lambda K: margin_histogram(np.linspace(0, 1e5, 10 * K), np.arange(10 * K) % K, K),
    "loss_curves": lambda K: loss_curves(
        [
            {"phase": "joint", "step": 10**6 * n, "loss/a": n * 1e-4, "loss/b": 10.0**-n, "loss/c": 1e4 * n}
            for n in range(K)
        ]
    ),
}


@pytest.mark.parametrize("n_clusters", MANY)
@pytest.mark.parametrize("name", FRAMED)
def test_nothing_reaches_beyond_the_edge_of_a_picture(name, n_clusters):
    figure = FRAMED[name](n_clusters)
    figure_to_array(figure)
    inside = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    assert inside.x0 >= 0 and inside.y0 >= 0
    assert inside.x1 <= width and inside.y1 <= height


def test_small_numbers_have_room_too():
    Z, labels, centroids = embedding()
    figure = embedding_map(1e-3 * Z, labels, 1e-3 * centroids)
    figure_to_array(figure)
    assert figure.get_tightbbox().x0 >= 0


def test_the_frames_of_a_runs_pictures_lie_on_each_other():
    small, large = (
        embedding_map(factor * Z, labels, factor * C) for Z, labels, C in [embedding()] for factor in (1, 1e5)
    )
    for figure in (small, large):
        figure_to_array(figure)
    assert small.axes[0].get_position().bounds == large.axes[0].get_position().bounds


def test_save_figure_replaces_an_older_file(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    save_figure(cluster_sizes_bar(np.array([1, 2])), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_figure_to_array_equals_the_saved_picture_on_white(tmp_path):
    figure = cluster_sizes_bar(np.array([3, 1, 0]))
    array = figure_to_array(figure)
    save_figure(figure, tmp_path / "figure.png")
    saved = imread(BytesIO((tmp_path / "figure.png").read_bytes()))
    assert array.dtype == np.uint8
    assert array.shape == (432, 720, 3)
    assert np.array_equal(array, np.round(saved[..., :3] * 255))
    assert array[0, 0].tolist() == [255, 255, 255]


def test_figures_never_load_pyplot():
    program = (
        "import sys, numpy as np;"
        "from dkm.evaluation.figures.clusters import cluster_sizes_bar;"
        "from dkm.evaluation.figures.style import figure_to_array;"
        "figure_to_array(cluster_sizes_bar(np.array([1, 2])));"
        "print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def samples():
    """Every figure there is, by the name of its function."""
    Z, labels, centroids = embedding()
    records = [
        {"phase": "joint", "step": step, "loss/total": 1.0, "clusters/label_change": 0.5 / step} for step in (1, 2, 3)
    ]
    return {
        "embedding_map": lambda: embedding_map(Z, labels, centroids),
        "cluster_sizes_bar": lambda: cluster_sizes_bar(np.array([3, 0, 2])),
        "contingency_map": lambda: contingency_map(np.array([[3, 1], [0, 2]])),
        "contrast_map": lambda: contrast_map(np.array([[0.5, -1.0], [0.1, 2.0]]), ["a", "b"]),
        "decoded_profiles": lambda: decoded_profiles(np.array([[0.5, -1.0], [0.1, 2.0]]), ["a", "b"]),
        "silhouette_plot": lambda: silhouette_plot(np.linspace(-0.5, 1, 9), np.arange(9) % 3, 3),
        "margin_histogram": lambda: margin_histogram(np.linspace(0, 1, 9), np.arange(9) % 3, 3),
        "image_grid": lambda: image_grid(gray(0, 0.5, 1), n_columns=2, titles=["a", "b", "c"]),
        "reconstruction_pairs": lambda: reconstruction_pairs(gray(0, 1), gray(0.5, 1)),
        "exemplar_grid": lambda: exemplar_grid(gray(0, 1)[:, None], np.array([4, 2])),
        "loss_curves": lambda: loss_curves(records),
        "comparison": lambda: comparison(["a", "b"], {"ACC": [[0.5, 0.7], [0.9]]}, np.eye(3), ["a", "a", "b"]),
        "selection": lambda: selection([2, 3], {"a": [[0.5, 0.7], [0.9]]}, 3, [2, 3]),
        "search": lambda: search(
            *([0, 1], [0.5, 0.7], [False, True], {"x": [1, 2]}),
            logarithmic=[],
            orders={},
            objective="score",
            is_maximized=True,
        ),
    }


def test_the_samples_are_of_every_figure():
    modules = (clusters, comparisons, images, training)
    found = [
        member
        for module in modules
        for member in inspect.getmembers(module, inspect.isfunction)
        if member[1].__module__ == module.__name__
    ]
    own = {name for name, function in found if function.__annotations__.get("return") == "Figure"}
    assert samples().keys() == {name for name in own if not name.startswith("_")}


@pytest.mark.parametrize("name", samples())
def test_a_style_of_the_users_own_changes_no_figure(name):
    draw = samples()[name]
    plain = figure_to_array(draw())
    with style.context("dark_background"):
        np.testing.assert_array_equal(figure_to_array(draw()), plain)


def test_figures_leave_the_style_of_the_process_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure_to_array(cluster_sizes_bar(np.array([1, 2])))
    assert dict(matplotlib.rcParams) == before
