"""The declarations of settings: complete, and read by all that has to know what a setting means or decides."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import dkm
from dkm.config.checks import AtLeast, Choice, Fraction, NonNegative, Positive, format_value
from dkm.config.clustering import METHODS, DECConfig, DKMConfig, KMeansConfig
from dkm.config.compose import compose, parse
from dkm.config.data import DATASETS
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.model import MODELS
from dkm.config.page import help_text, settings_page
from dkm.config.roles import (
    declarations,
    distinguishing_settings,
    plain_sections,
    role_of,
    stages_of,
    that_processes_share,
)
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.settings import REQUIRED, Role, Section, Stage, section_from, setting, setting_of
from dkm.errors import UserError

ROOT = Path(dkm.__file__).parents[1]
SCHEMAS = [Config, *plain_sections(), *(schema for options in GROUPS.values() for schema in options.values())]


@dataclass
class Small(Section):
    section = "small"
    n: int = setting(3, "A number.", check=AtLeast(2))
    limit: float | None = setting(None, "A limit.", check=Positive(), example=0.5)
    names: list[str] = setting(["a"], "Names.")


@dataclass
class Smaller(Small):
    n: int = 2


# --- a declaration ------------------------------------------------------------------------------------------------


def test_a_declared_range_is_checked_with_the_default_as_the_example() -> None:
    with pytest.raises(UserError, match=r"^small\.n=1: expected a whole number, 2 or more; for example small\.n=3$"):
        Small(n=1)


def test_null_is_not_checked_where_it_is_a_value() -> None:
    assert Small().limit is None
    with pytest.raises(UserError, match=r"^small\.limit=0: expected a finite number above 0; for example small.limit="):
        Small(limit=0)


def test_a_subclass_that_changes_a_default_keeps_the_declaration() -> None:
    assert Smaller().n == 2
    assert setting_of(Smaller, "n") is setting_of(Small, "n")
    with pytest.raises(UserError, match="2 or more"):
        Smaller(n=0)


def test_a_list_is_copied_for_each_config() -> None:
    Small().names.append("b")
    assert Small().names == ["a"]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (AtLeast(2), [2, 3], [1, -5]),
        (Positive(), [1e-9, 5], [0, -1, float("inf"), float("nan")]),
        (NonNegative(), [0, 5], [-1e-9, float("inf"), float("nan")]),
        (Fraction(), [0, 0.99], [1, -0.1, float("nan")]),
        (Choice(("a", "b")), ["a"], ["c", None]),
    ],
)
def test_a_check_accepts_its_range(check, good, bad) -> None:  # type: ignore[no-untyped-def]
    assert [check.accepts(value) for value in good] == [True] * len(good)
    assert [check.accepts(value) for value in bad] == [False] * len(bad)


def test_a_section_is_made_from_values_of_which_one_has_a_keyword_as_its_name() -> None:
    config = section_from(MODELS["custom"].config, {"name": "custom", "class": "a.B", "options": {"width": 3}})
    assert (getattr(config, "class"), config.options) == ("a.B", {"width": 3})


# --- all settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", dict.fromkeys(SCHEMAS), ids=lambda schema: schema.__name__)
def test_every_field_is_declared_with_a_meaning(schema: type) -> None:
    sections = {part.name for part in fields(Config)} & {*GROUPS, *(s.section for s in plain_sections())}
    for part in fields(schema):
        if part.name != "name" and not (schema is Config and part.name in sections):
            declared = setting_of(schema, part.name)
            assert declared is not None, part.name
            assert declared.meaning.endswith("."), part.name


def test_one_key_has_one_role() -> None:
    for schema in SCHEMAS:
        for part in fields(schema):
            declared = setting_of(schema, part.name)
            if declared is not None:
                key = f"{schema.section}.{part.name}" if schema.section else part.name
                assert role_of(key) is declared.role, key


def test_every_default_is_in_its_range() -> None:
    for schema in dict.fromkeys(SCHEMAS[1:]):
        schema()


def test_the_dataclasses_know_no_hydra() -> None:
    program = (
        "import sys, dkm.config.run; "
        "assert not {'hydra', 'omegaconf', 'torch', 'numpy', 'yaml'} & {name.split('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("registry", [METHODS, MODELS, DATASETS], ids=["METHODS", "MODELS", "DATASETS"])
def test_an_entry_of_a_registry_has_its_name_and_code(registry) -> None:  # type: ignore[no-untyped-def]
    for name, entry in registry.items():
        assert entry.name == name
        assert callable(entry.load()), name


# --- roles --------------------------------------------------------------------------------------------------------

ROLES = {
    Role.LENGTH: {"pretrain.epochs", "joint.epochs"},
    Role.INPUT: {
        *("data.path", "data.labels", "data.images", "data.max_expansion"),
        *("data.encoder", "data.encoder_weights", "data.text_encoder"),
    },
    Role.EVALUATION: {"evaluation.every_epochs", "evaluation.kmeans_raw"},
    Role.MACHINE: {"device", "threads"},
    Role.OUTPUT: {
        *(
            "log.to",
            "log.tensorboard",
            "log.figures",
            "log.report",
            "log.progress",
            "log.map",
            "checkpoint.every_s",
            "distributed.timeout_s",
            "plugins",
        ),
        "safe_csv",
    },
    Role.PLACE: {"data.root", "pretrain.cache", "resume"},
}


def test_settings_decide_the_numbers_but_for_these() -> None:
    found = {role: {key for key, declared in declarations().items() if declared.role is role} for role in ROLES}
    assert found == ROLES


SAME_ROW = ["threads=1", "device=cpu", "evaluation.kmeans_raw=false", "evaluation.every_epochs=3", "log.map=tsne"]
OTHER_ROW = ["batch_size=8", "joint.epochs=3", "evaluation.samples=50", "precision=bf16", "model.hidden=[8]"]


@pytest.mark.parametrize("override", [*SAME_ROW, *OTHER_ROW])
def test_runs_share_a_row_of_a_comparison_if_no_number_of_theirs_is_decided_differently(override: str) -> None:
    one, two = (distinguishing_settings(dotted(compose(parse(words)).config)) for words in ([], [override]))
    assert (one == two) == (override in SAME_ROW)


def test_a_key_of_another_version_counts() -> None:
    assert distinguishing_settings({"nope.nope": 1, "threads": 2}) == {"nope.nope": 1}


def test_processes_that_train_together_share_what_decides_their_work() -> None:
    shared = that_processes_share(dotted(compose(parse(["data=npy", "data.path=x"])).config))
    assert {"data.path", "data.root", "device", "threads", "resume", "log.map"}.isdisjoint(shared)
    assert {"evaluation.kmeans_raw", "evaluation.every_epochs", "seed", "data.name", "joint.epochs"} <= shared.keys()


def test_stages_are_those_of_the_setting_or_of_its_section() -> None:
    assert stages_of("clustering.n_init") == Stage.BASELINE | Stage.JOINT
    assert stages_of("clustering.weight") == stages_of("clustering.name") == Stage.JOINT
    assert stages_of("model.hidden") == stages_of("model.name") == Stage.TRAINING
    assert stages_of("seed") == stages_of("nope") == Stage.ALL


# --- the text -----------------------------------------------------------------------------------------------------


def test_the_page_of_settings_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert committed == settings_page(), "python -m dkm.config.page > docs/settings.md"


def test_the_page_has_what_a_run_without_overrides_uses() -> None:
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in settings_page().splitlines() if "|" in line
    }
    assert rows["`pretrain.lr`"] == "`0.002`; with `recipe=classic` `0.003`"
    assert rows["`batch_size`"] == "`256`"
    used, classic = (dotted(compose(parse(words)).config) for words in ([], ["recipe=classic"]))
    for key, value in used.items():
        if value != classic[key]:
            assert rows[f"`{key}`"].startswith(f"`{format_value(value)}`; with "), key


def test_the_page_has_every_key_and_option() -> None:
    page = settings_page()
    for key in keys():
        assert f"| `{key}` |" in page, key
    for group, options in GROUPS.items():
        assert all(f"`{group}={option}`" in page for option in options)


def test_a_default_that_differs_between_options_is_shown_for_each() -> None:
    [row] = [line for line in settings_page().splitlines() if line.startswith("| `clustering.weight` |")]
    assert f"`{KMeansConfig().weight}`, `{DKMConfig().weight}` for `dkm`" in row
    assert f"`{DECConfig().weight}` for `dec`" in row


def test_help_has_the_settings_of_the_chosen_options_with_their_values() -> None:
    text = help_text(compose(parse(["clustering=dcn", "clustering.count=7", "data=blobs"])).config)
    assert "  clustering.count=7    (a whole number, 0 or more (points))\n" in text
    assert "  data.n_blobs=5" in text
    assert "data.path" not in text
    assert "clustering.alpha" not in text
    assert "  experiment: aspc_da_mnist, " in text
    assert max(map(len, text.splitlines())) < 400


def test_no_list_of_keys_is_kept_beside_the_declarations() -> None:
    """Tuples of keys that say which settings matter have drifted apart before."""
    for path in ("runs/reading.py", "runs/tensorboard.py", "training/cache.py", "training/resume.py"):
        tree = ast.parse((ROOT / "dkm" / path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Tuple | ast.List):
                words = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
                assert len(set(words) & set(declarations())) < 4, (path, words)


def test_a_required_setting_is_said_to_be_required() -> None:
    assert REQUIRED not in settings_page()
    assert "| `data.path` | required |" in settings_page()
