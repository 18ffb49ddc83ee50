"""The mask of filled cells: one bit for each, and none for a feature without gaps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dkm.config.data import CsvData
from dkm.data.gaps import GapMask, GapMaskBuilder
from dkm.data.tables import rows
from dkm.data.tables.reader import TableReader


@pytest.mark.parametrize("n_gaps", [1, 8, 9, 20])
def test_a_packed_mask_is_the_mask(n_gaps: int) -> None:
    rng = np.random.default_rng(0)
    cells = np.zeros((5000, 23), dtype=bool)
    with_gaps = rng.choice(23, n_gaps, replace=False)
    cells[:, with_gaps] = rng.random((5000, n_gaps)) < 0.1
    mask = GapMask.pack(cells)
    assert mask.bits.shape == (5000, -(-n_gaps // 8))
    index = np.array([4999, 0, 17, 17])
    np.testing.assert_array_equal(mask[torch.from_numpy(index)].numpy(), cells[index])
    for feature in range(23):
        np.testing.assert_array_equal(mask.of_feature(feature, index), cells[index, feature])
    assert mask.sha256() == hashlib.sha256(cells.data).hexdigest()
    assert mask.to(torch.device("cpu")).any()


def test_parts_without_gaps_count_their_rows() -> None:
    builder = GapMaskBuilder(10, 3, np.array([1]))
    builder.append(np.zeros((0, 0), dtype=bool), 4)
    builder.append(np.array([[False, True, False]]), 1)
    mask = builder.finish()
    assert len(mask) == 5
    assert mask.of_feature(1, np.arange(5)).tolist() == [False] * 4 + [True]


def test_a_table_with_a_gap_in_each_part_keeps_a_bit_for_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_CHUNK_ROWS", 10)
    lines = [f"{i}.5,{'' if i % 10 == 3 else i * 7 % 60},{i * 11 % 60}.25" for i in range(60)]
    lines[20] = ",,"  # left out
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n", encoding="utf-8")
    reader = TableReader(CsvData(path=str(tmp_path / "t.csv")))
    raw = reader.read()
    assert raw.filled is not None
    assert raw.filled.bits.shape == (59, 1)
    cells = raw.filled[torch.arange(59)].numpy()
    expected = np.array([i % 10 == 3 for i in range(60) if i != 20])
    np.testing.assert_array_equal(cells, np.stack([expected * 0, expected, expected * 0], axis=1).astype(bool))
    assert reader.report.filled == {"b": 6}
