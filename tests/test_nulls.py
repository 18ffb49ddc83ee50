"""Nulls in place of some values, in whole arrays and in slices of them."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dkm
from dkm.data.tables.nulls import null_where

RANDOM = random.Random(0)
TEXTS = [str(RANDOM.randrange(10**7))[: i % 8] if i % 11 else None for i in range(3000)]
MASK = [RANDOM.random() < 0.3 if i % 13 else None for i in range(3000)]


@pytest.mark.parametrize("start", [0, 1, 7, 8, 64, 2999, 3000])
@pytest.mark.parametrize("values", [TEXTS, [None if text is None else float(len(text)) for text in TEXTS]], ids=type)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_slices_are_as_good_as_arrays(values: list[Any], start: int, is_chunked: bool) -> None:
    """Before pyarrow 24, if_else with None makes other texts of a slice."""
    expected = [None if is_null or is_null is None else x for is_null, x in zip(MASK, values, strict=True)]
    mask, array = pa.array(MASK), pa.array(values)
    if is_chunked:
        mask, array = pa.chunked_array([mask[:900], mask[900:]]), pa.chunked_array([array[:2000], array[2000:]])
    assert null_where(mask[start:], array[start:]).to_pylist() == expected[start:]


def test_no_other_place_sets_nulls_with_if_else() -> None:
    """A None beside a constant is no slice."""
    found = []
    for path in Path(dkm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "if_else":
                is_none = [isinstance(word, ast.Constant) and word.value is None for word in node.args[1:]]
                is_constant = [isinstance(word, ast.Constant) for word in node.args[1:]]
                if any(is_none) and not all(is_constant):
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []
