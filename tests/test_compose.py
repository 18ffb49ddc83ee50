"""`compose` neither changes Hydra's global state nor depends on it, and threads may call it together."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import OmegaConf

from dkm.config.compose import compose, parse
from dkm.config.schema import from_dictconfig, to_dict
from dkm.config.values import quoted


def global_state() -> dict[str, Any]:
    return {
        "hydra": GlobalHydra.instance().hydra,
        "config": HydraConfig.instance().cfg,
        "job": JobRuntime.instance().get("name"),
        "version_base": VersionBase.instance().getbase(),
        "groups": sorted(ConfigStore.instance().repo),
    }


class Spy(SearchPathPlugin):
    """Looks at the global state in the middle of a composition."""

    seen: list[dict[str, Any]] | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if Spy.seen is not None:
            Spy.seen.append(global_state())


@pytest.fixture
def seen() -> Iterator[list[dict[str, Any]]]:
    Plugins.instance().register(Spy)
    Spy.seen = []
    yield Spy.seen
    Spy.seen = None


@pytest.fixture
def their_hydra(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "theirs.yaml").write_text("x: 1\n", encoding="utf-8")
    with hydra.initialize_config_dir(str(tmp_path), job_name="theirs", version_base="1.2"):
        yield


def test_hydras_global_state_stays_during_and_after(their_hydra: None, seen: list[dict[str, Any]]) -> None:
    before = global_state()
    compose(parse(["seed=3"]))
    assert seen == [before]
    assert global_state() == before
    assert hydra.compose("theirs") == {"x": 1}


def test_the_callers_job_name_and_version_base_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    command = parse(["experiment=debug", "hydra.run.dir=out/${hydra.job.name}"])
    alone = compose(command)
    oldest = type(VersionBase.instance().getbase())("1.1")
    monkeypatch.setattr(VersionBase.instance(), "version_base", oldest)
    monkeypatch.setattr(JobRuntime.instance(), "conf", OmegaConf.create({"name": "theirs"}))
    inside = compose(command)
    assert inside.config == alone.config
    assert OmegaConf.to_yaml(inside.hydra) == OmegaConf.to_yaml(alone.hydra)
    assert (inside.hydra.run.dir, inside.hydra.runtime.version_base) == ("out/train", "1.3")


def test_a_schema_of_the_caller_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Adam:
        rate: float = 0.1

    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    ConfigStore.instance().store(group="optimizer", name="adam", node=Adam)
    assert compose(parse(["optimizer=adam"])).config.optimizer.name == "adam"


@pytest.mark.thorough
def test_threads_get_the_config_that_each_asked_for() -> None:
    with ThreadPoolExecutor(4) as pool:
        seeds = list(pool.map(lambda seed: compose(parse([f"seed={seed}"])).config.seed, range(24)))
    assert seeds == list(range(24))


def test_a_config_leaves_nothing_in_the_next_one() -> None:
    """They share the schema, into a copy of which the values are merged."""
    plain = to_dict(compose(parse(["data=blobs"])).config)
    other = from_dictconfig(OmegaConf.create({**plain, "seed": 5, "model": {**plain["model"], "hidden": [7]}}))
    assert (other.seed, other.model.hidden) == (5, [7])
    assert to_dict(from_dictconfig(OmegaConf.create(plain))) == plain


TEXTS = ["a b", "a,b", "it's", "lr=0.1 (a)", "a\\b, c", "ends in \\", "x\\'y", "\\\\srv\\x y", "[a", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_quoted_text_arrives_as_it_is(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text
