"""`dkm.training.requirements`: the largest and smallest numbers that data and processes allow."""

from __future__ import annotations

import dataclasses

import pytest

from dkm.config.compose import compose, parse
from dkm.config.run import Config
from dkm.data.datasets import Dataset, load_dataset
from dkm.errors import UserError
from dkm.runtime import distributed
from dkm.training.requirements import require_rows_for_all_processes, resolve_n_clusters


def inputs(*overrides: str) -> tuple[Config, Dataset]:
    """Return a config with the overrides, and its data: 30 rows of 3 classes."""
    config = compose(parse(["data=blobs", "data.n_samples=30", "data.n_blobs=3", *overrides])).config
    return config, load_dataset(config.data)


@pytest.mark.parametrize(("setting", "expected"), [("null", 3), (1, 1), (7, 7), (30, 30)])
def test_clusters_are_those_of_the_config_else_the_classes_of_the_data(setting: object, expected: int) -> None:
    assert resolve_n_clusters(*inputs(f"clustering.n_clusters={setting}")) == expected


def test_data_without_labels_or_with_fewer_rows_than_clusters_are_refused() -> None:
    config, data = inputs()
    with pytest.raises(UserError, match=r"clustering\.n_clusters=null: expected a number, as data=blobs has no labels"):
        resolve_n_clusters(config, dataclasses.replace(data, y=None))
    with pytest.raises(UserError, match=r"clustering\.n_clusters=31: expected at most n_samples=30"):
        resolve_n_clusters(*inputs("clustering.n_clusters=31"))


def test_a_number_that_is_still_to_be_found_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"clustering\.n_clusters=auto: expected a number, as a trainer finds none; for "
    ):
        resolve_n_clusters(*inputs("clustering.n_clusters=auto"))


@pytest.mark.parametrize("key", ["init_samples", "partition_samples"])
def test_a_sample_has_at_least_as_many_rows_as_clusters(key: str) -> None:
    assert resolve_n_clusters(*inputs(f"clustering.{key}=3")) == 3
    with pytest.raises(UserError, match=rf"clustering\.{key}=2: expected at least the number of clusters, 3"):
        resolve_n_clusters(*inputs(f"clustering.{key}=2"))


def test_each_process_has_a_row_of_the_smallest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = inputs("batch_size=8")
    monkeypatch.setattr(distributed, "world_size", lambda: 7)
    require_rows_for_all_processes(config, data, 4)  # 30 rows in 4 batches: 8, 8, 7, 7
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    with pytest.raises(UserError, match=r"torchrun with 8 processes: expected at most 7, .*\(batch_size=8, 30 samples"):
        require_rows_for_all_processes(config, data, 4)
