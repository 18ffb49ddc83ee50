"""Words for the command line that a message shows: they can be pasted into a shell, and are read back as they were."""

from __future__ import annotations

import shlex

import pytest

from dkm.config.compose import compose, parse
from dkm.config.schema import dotted
from dkm.config.values import as_list, auto_bounds, override
from dkm.errors import UserError

NAMES = [
    "Gender (M/F)",
    "it's",
    'say "x"',
    "both ' and \"",
    "12",
    "1e5",
    "null",
    "True",
    "Income [k$]",
    "größe",
    "a\\",
    "a\\'",
]
NAMES += ["Name, first", "a:b", "x=y", "{z}", " padded ", "$HOME", "${x}", "*", "~", "#", "a-b.c"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pasted_name_is_read_back(name: str) -> None:
    if "${" in name:
        pytest.skip("OmegaConf reads ${} in any text as a reference")
    words = [*shlex.split(override("data.exclude", [name, "b"])), *shlex.split(override("data.id", name))]
    config = compose(parse(["data=csv", "data.path=x.csv", *words])).config.data
    assert config.exclude == [name, "b"]  # type: ignore[attr-defined]
    assert config.id == name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "word", ["data.exclude=[Gender (M/F)]", 'data.exclude="[Gender (M/F)]"', "data.exclude=Gender (M/F)"]
)
def test_a_list_that_is_no_list_gets_a_remedy_that_works(word: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(parse(["data=csv", "data.path=x.csv", word]))
    remedy = str(caught.value).partition("; write ")[2]
    config = compose(parse(["data=csv", "data.path=x.csv", *shlex.split(remedy)])).config.data
    assert config.exclude == ["Gender (M/F)"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", ["data.exclude=", "data.exclude=null", "log.to=null"])
def test_a_list_without_entries_gets_a_remedy_that_works(word: str) -> None:
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"; write {key}=\[\]$"):
        compose(parse(["data=csv", "data.path=x.csv", word]))
    assert dotted(compose(parse(["data=csv", "data.path=x.csv", f"{key}=[]"])).config)[key] == []


def test_a_list_keeps_plain_words_plain() -> None:
    assert override("data.exclude", ["age", "city"]) == "data.exclude=[age,city]"
    assert as_list("data.exclude", "[a, 'b c']") == """'data.exclude=[a,"b c"]'"""


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        ("auto", (2, 30)),
        ("auto:2-3", (2, 3)),
        ("auto:5-15", (5, 15)),
        *((bad, None) for bad in ("auto:", "auto:5", "auto:1-4", "auto:4-4", "auto:9-3", "auto:2-5-9", "Auto")),
        *((other, None) for other in (5, None, True, "5")),
    ],
)
def test_the_bounds_of_a_number_that_is_to_be_found(value: object, bounds: tuple[int, int] | None) -> None:
    assert auto_bounds(value) == bounds


def test_a_number_in_quotes_is_a_number() -> None:
    assert compose(parse(["clustering.n_clusters='7'"])).config.clustering.n_clusters == 7
    assert compose(parse(["clustering.n_clusters=auto:5-15"])).config.clustering.n_clusters == "auto:5-15"
