"""Feed broken input to the readers of configs, data, models and run directories:

    python scripts/fuzz.py 10000                 10,000 examples of each target
    python scripts/fuzz.py 1000 csv checkpoint   of these targets

Each example is a valid input with changes: settings drawn from their own declarations with valid and broken values;
files with flipped, removed, inserted or repeated bytes; JSON with other values in it. A reader may accept an example or
refuse it with a ``UserError`` or ``Failure`` of one line; any other exception is a fault, and so is an example that
takes longer than 10 seconds. Faults are printed, each kind once, and the exit code is then 1.

The examples are Hypothesis strategies (extra ``test``), which ``tests/test_properties.py`` uses too.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import hashlib
import io
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dkm.config.checks import Choice
from dkm.config.commands import PredictConfig
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.resolved import read_config, section_of
from dkm.config.roles import declarations
from dkm.data.datasets import load_dataset
from dkm.errors import Failure, UserError
from dkm.predict import predict
from dkm.runs import reading
from dkm.runtime import checkpoints

# An example that takes longer is a fault.
LONGEST_S = 10
OLD_RUNS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "runs_0.1"

# --- changes --------------------------------------------------------------------------------------------------------

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 10**6, 2**31, 2**63, 10**400, -(2**63), 0.0, -0.5, 1e-320, 1e308),
    *(float("nan"), float("inf"), "", "a", "null", "1", "-1", "1e5", "auto", "???", "${seed}", "${oc.env:HOME}"),
    *("../..", "\ud800", "\x00", "ä", "=1+1", "x" * 300, [], [1], [None], ["a"], [[1]], {}, {"a": 1}, {"name": "mlp"}),
]
_WORDS = [
    *("", "null", "true", "0", "1", "-1", "2.5", "1e-3", "1e400", "nan", "-inf", "99999999999999999999", "auto"),
    *("auto:2-3", "[]", "[1,2]", "[a,b]", "[[1]]", "{a: 1}", "{}", "${seed}", "${oc.env:NO_SUCH_VARIABLE}", "${nope}"),
    *("???", "a,b", "range(1,3)", "choice(1,2)", "'", '"', "\\", "a b", "é", "=", "a=b", "/no/such/file", ".", "~"),
    *("s3://b/k", "\x00", "x" * 300, "\ud800", "!!python/name:os.system", "tag(log,interval(1,2))", "glob(*)", "*"),
    *("&a", "#", "%s", "{", "["),
]


@st.composite
def changed_bytes(draw: st.DrawFn, original: bytes) -> bytes:
    """Return a file with one to four changes."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "set", "remove", "insert", "repeat", "end"]))
        position = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(1, 40))
        if not content:
            break
        if kind == "flip":
            content[position] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            content[position : position + 4] = draw(st.binary(min_size=4, max_size=4))
        elif kind == "remove":
            del content[position : position + length]
        elif kind == "insert":
            content[position:position] = draw(st.binary(max_size=length))
        elif kind == "repeat":
            content[position:position] = content[position : position + length] * draw(st.integers(1, 50))
        else:
            del content[position:]
    return bytes(content)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


@st.composite
def changed_values(draw: st.DrawFn, original: Any) -> Any:
    """Return plain values of which one to three are replaced, removed or repeated."""
    changed = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(_paths(changed))
        if not paths:
            break
        *sections, name = draw(st.sampled_from(paths))
        part = changed
        for section in sections:
            part = part[section]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"]))
        if kind == "remove":
            del part[name]
        elif kind == "double" and isinstance(part[name], list):
            part[name] = part[name] * 2
        else:
            part[name] = copy.deepcopy(draw(st.sampled_from(_VALUES)))
    return changed


@cache
def _valid_words(key: str) -> list[str]:
    declared = declarations().get(key)
    if declared is None:
        return ["null"]
    values = declared.check.choices if isinstance(declared.check, Choice) else (declared.example,)
    texts = [json.dumps(v) if isinstance(v, list | dict) else "null" if v is None else str(v) for v in values]
    return [text.lower() if text in ("True", "False") else text for text in texts]


@st.composite
def override_words(draw: st.DrawFn) -> list[str]:
    """Return the words of a command line: options of groups, and settings with valid and broken values."""
    words = []
    for group, options in GROUPS.items():
        if draw(st.integers(0, 2)) == 0:
            words.append(f"{group}={draw(st.sampled_from([*options, 'nope', '']))}")
    # Modules of the user are imported, which is what they are for.
    known = [key for key in keys() if key != "plugins" and not key.endswith(".class")]
    for _ in range(draw(st.integers(0, 5))):
        key = draw(st.sampled_from(known))
        key = draw(
            st.sampled_from([key] * 8 + [f"+{key}", f"++{key}", f"~{key}", f"{key}x", f"hydra.{key}", f"{key}.a"])
        )
        is_valid = draw(st.booleans())
        value = draw(st.sampled_from(_valid_words(key.strip("+~")) if is_valid else _WORDS))
        words.append(f"{key}={value}")
    return words


# --- targets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A strategy for examples, and a function that reads one in a folder."""

    examples: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]


def _read_data(option: str, name: str, **more: Any) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        place = folder / name.partition("/")[0]
        values = {"name": option, "path": str(place), "root": str(folder / "root"), **more}
        load_dataset(section_of("data", GROUPS["data"][option], values))

    return read


def _bytes_of(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _csv() -> bytes:
    lines = [f'{i},{i % 7 / 3:.3f},{"abc"[i % 3]},2024-01-{i % 28 + 1:02d},"x, {i}"' for i in range(30)]
    return "\n".join(["id,size,kind,day,note", *lines, ""]).encode()


def _table() -> Any:
    import pyarrow as pa

    n = 30
    numbers = np.arange(n) % 7 / 3
    columns = {"id": [f"r{i}" for i in range(n)], "size": numbers, "kind": pa.array(["a", "b", None] * 10)}
    return pa.table({**columns, "list": pa.array([[float(i), 1.0] for i in range(n)]), "whole": np.arange(n) % 5})


def _data_targets() -> Iterator[tuple[str, Target]]:
    from PIL import Image
    from pyarrow import feather, parquet
    from scipy import io as scipy_io
    from scipy import sparse

    rows = np.random.default_rng(0).normal(size=(20, 3))
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    labels = np.array(list("ab") * 10)
    texts = "\n".join(json.dumps({"text": f"some words {i} and more", "id": f"r{i}"}) for i in range(20)).encode()
    files: dict[str, tuple[bytes, str, str, dict[str, Any]]] = {
        "csv": (_csv(), "csv", "x.csv", {}),
        "csv_labels": (_csv(), "csv", "x.csv", {"labels": "kind", "strict": False}),
        "parquet": (_bytes_of(lambda file: parquet.write_table(_table(), file)), "parquet", "x.parquet", {}),
        "feather": (_bytes_of(lambda file: feather.write_feather(_table(), file)), "feather", "x.feather", {}),
        "npy": (_bytes_of(lambda file: np.save(file, rows)), "npy", "x.npy", {"labels": None}),
        "npz": (_bytes_of(lambda file: np.savez_compressed(file, x=rows, y=labels)), "npz", "x.npz", {"labels": "y"}),
        "sparse": (_bytes_of(lambda file: sparse.save_npz(file, sparse.csr_array(rows))), "npz", "x.npz", {}),
        "mat": (_bytes_of(lambda file: scipy_io.savemat(file, {"X": rows}, do_compression=True)), "mat", "x.mat", {}),
        "texts": (texts, "text", "x.jsonl", {"text": "text", "id": "id"}),
    }
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind)
        content = buffer.getvalue()
        files[kind.lower()] = (content, "image_folder", f"images/x.{kind.lower()}", {"image_size": 8})
    with contextlib.suppress(ImportError):
        import h5py

        def write(file: Any) -> None:
            with h5py.File(file, "w") as store:
                store.create_dataset("x", data=rows, compression="gzip")
                store["y"] = np.arange(20) % 2

        files["hdf5"] = (_bytes_of(write), "hdf5", "x.h5", {"array": "x", "labels": "y"})
    for name, (content, option, file_name, more) in files.items():
        yield name, Target(changed_bytes(content), _read_data(option, file_name, **more))


def _compose(words: list[str], folder: Path) -> None:
    compose(parse(words))


def _read_run_config(values: Any, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    read_config(path)


def _read_run_config_bytes(content: bytes, folder: Path) -> None:
    (folder / "config.yaml").write_bytes(content)
    read_config(folder / "config.yaml")


def _predict(folder: Path) -> None:
    source = OLD_RUNS / "people.csv"
    predict(PredictConfig(run=str(folder / "model"), input=str(source), output=str(folder / "out.csv"), device="cpu"))


def _read_model(values: Any, folder: Path) -> None:
    shutil.copytree(OLD_RUNS / "table" / "model", folder / "model")
    (folder / "model" / "model.json").write_text(json.dumps(values))
    _predict(folder)


def _read_weights(content: bytes, folder: Path) -> None:
    shutil.copytree(OLD_RUNS / "table" / "model", folder / "model")
    (folder / "model" / "weights.safetensors").write_bytes(content)
    _predict(folder)


def _read_checkpoint(content: bytes, folder: Path) -> None:
    (folder / "last.pt").write_bytes(content)
    checkpoints.read(folder / "last.pt")


def _read_signed_checkpoint(payload: bytes, folder: Path) -> None:
    """Read a checkpoint whose digest is right, as an attacker would write it."""
    digest = hashlib.sha256(payload).hexdigest().encode()
    _read_checkpoint(payload + checkpoints._MARK + digest + b"\n", folder)


def _read_run(change: tuple[str, bytes], folder: Path) -> None:
    name, content = change
    run = folder / "run"
    shutil.copytree(OLD_RUNS / "kmeans", run)
    (run / name).write_bytes(content)
    with contextlib.suppress(reading.DamagedRun):
        reading.read(run)


def _changed_run_file() -> st.SearchStrategy[tuple[str, bytes]]:
    names = ("config.yaml", "manifest.json", "result.json", "metrics.jsonl")
    one_of = [st.tuples(st.just(name), changed_bytes((OLD_RUNS / "kmeans" / name).read_bytes())) for name in names]
    for name in ("manifest.json", "result.json"):
        values = json.loads((OLD_RUNS / "kmeans" / name).read_text(encoding="utf-8"))
        one_of.append(st.tuples(st.just(name), changed_values(values).map(lambda v: json.dumps(v).encode())))
    return st.one_of(one_of)


@cache
def targets() -> dict[str, Target]:
    """Return all targets by their names."""
    table, run = OLD_RUNS / "table" / "model", OLD_RUNS / "kmeans"
    description = json.loads((table / "model.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    state = {"phase": "joint", "weights": {"w": torch.zeros(3, 2)}, "step": 3, "list": [1, 2.5, "a", None]}
    checkpoint = checkpoints.serialized(state)
    payload = checkpoint[: -checkpoints._TRAILER_BYTES]
    return {
        "config": Target(override_words(), _compose),
        "run_config": Target(changed_values(config), _read_run_config),
        "run_config_bytes": Target(changed_bytes((run / "config.yaml").read_bytes()), _read_run_config_bytes),
        "run": Target(_changed_run_file(), _read_run),
        "model": Target(changed_values(description), _read_model),
        "weights": Target(changed_bytes((table / "weights.safetensors").read_bytes()), _read_weights),
        "checkpoint": Target(changed_bytes(checkpoint), _read_checkpoint),
        "signed_checkpoint": Target(changed_bytes(payload), _read_signed_checkpoint),
        **dict(_data_targets()),
    }


# --- the property ---------------------------------------------------------------------------------------------------


class Fault(AssertionError):
    """An example that is neither read nor refused in one line."""


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    stderr = sys.__stderr__  # of the process, also where the tests replace it
    assert stderr is not None
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=stderr)  # where no signal is handled: in C
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def check(target: Target, example: Any) -> bool:
    """Read an example; return whether it was accepted.

    Raises
    ------
    Fault
        If it is neither read nor refused in one line, or leaves an output behind that is refused.
    """
    with tempfile.TemporaryDirectory(prefix="dkm-fuzz-") as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with _at_most(LONGEST_S), contextlib.redirect_stdout(io.StringIO()):
                target.read(example, Path(name))
        except (UserError, Failure) as error:
            text = str(error)
            if "\n" in text or not text.isprintable() or len(text) > 3000:
                raise Fault(f"not one printable line: {text!r}") from error
            if (Path(name) / "out.csv").exists():
                raise Fault("refused, and an output remains") from error
            return False
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {error}") from error
        return True


def _kind(error: BaseException) -> str:
    """Return what tells faults apart: the type of the cause and where it was raised in this package."""
    cause = error.__cause__ or error
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "/dkm/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(cause).__name__} in {where}"


def fuzz(name: str, n_examples: int, seed_: int) -> dict[str, str]:
    """Run a target; return its faults by kind, each with an example and its message."""
    target, counts = targets()[name], {"read": 0, "refused": 0}
    faults: dict[str, str] = {}

    @seed(seed_)
    @settings(
        max_examples=n_examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.examples)
    def run(example: Any) -> None:
        try:
            counts["read" if check(target, example) else "refused"] += 1
        except Fault as error:
            faults.setdefault(_kind(error), f"{str(error)[:300]}\n    {str(ascii(example))[:600]}")

    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    counted = f"{counts['read']:,} read, {counts['refused']:,} refused, {len(faults)} kinds of faults"
    print(f"{name}: {n_examples:,} examples in {seconds:.0f} s: {counted}", flush=True)
    return faults


def main(words: list[str]) -> int:
    """Run the targets that the words name; return 1 if there are faults."""
    logging.disable(logging.WARNING)
    n_examples = int(words[0]) if words else 1000
    names = words[1:] or list(targets())
    n_faults = 0
    for name in names:
        for kind, text in fuzz(name, n_examples, seed_=0).items():
            n_faults += 1
            print(f"  {kind}: {text}", flush=True)
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
