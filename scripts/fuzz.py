"""Feed broken input to the readers of configs, data, models and run directories:

    python scripts/fuzz.py 10000                            10,000 examples of each target
    python scripts/fuzz.py 1000 csv checkpoint              of these targets
    python scripts/fuzz.py 10000 --results runs/fuzz.json   figures as JSON; the same command continues after a stop

Each example is a valid input with changes: settings drawn from their own declarations with valid and broken values;
files with flipped, removed, inserted or repeated bytes; JSON with other values in it. The target ``train`` runs the
whole command on a changed table with drawn settings, in a process of its own. A fault is

- an exception other than a ``UserError`` or ``Failure`` of one printable line; of ``train``, an exit code other than 0
  and 2, or 1 with one line, or another line on standard error beside the one of the error;
- an example that takes longer than 10 seconds, twice; of ``train``, which trains, longer than 60;
- the end of the process, for example by a segmentation fault;
- a file that is made, changed or removed anywhere but in the place of the output; anything left behind by an example
  that is refused;
- a started program, a connection, or an object of a pickle, while a file is read.

Each example has folders of its own for input, working directory, home and temporary files; they are compared before and
after. Python's audit events tell what is opened for writing, renamed or removed anywhere else. Faults are printed, each
kind once, and the exit code is then 1. The examples are read in forked processes of 250 each, which have imported
everything.

The examples are Hypothesis strategies (extra ``test``), which ``tests/test_properties.py`` uses too.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import getpass
import hashlib
import importlib
import io
import json
import logging
import math
import os
import pickle
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dkm.config.checks import AtLeast, Between, Choice, ClusterCount, Fraction, NonNegative, Positive
from dkm.config.commands import PredictConfig
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.resolved import read_config, section_of
from dkm.config.roles import declarations, declaring_schema
from dkm.config.settings import Role, is_nullable
from dkm.data.datasets import load_dataset
from dkm.errors import Failure, UserError
from dkm.predict import predict
from dkm.runs import reading
from dkm.runtime import checkpoints

# An example that takes longer, twice, is a fault; a command trains as well, and may take a multiple.
LONGEST_S = 10
_COMMAND_FACTOR = 6
# The examples that one process reads.
CHUNK = 250
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
def _annotation(key: str) -> str:
    schema, name = declaring_schema(key), key.rpartition(".")[2]
    return next((str(part.type) for part in fields(schema) if part.name == name), "") if schema else ""


def _text(value: object) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list | dict | bool) or value is None:
        return json.dumps(value)
    return str(value)


@cache
def _setting_values(key: str) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    """Return strategies for the valid and the broken values of a setting, from its type and its check."""
    declared = declarations().get(key)
    if declared is None:
        return st.just("null"), st.sampled_from(_WORDS)
    annotation, check = _annotation(key), declared.check
    valid: list[st.SearchStrategy[Any]] = [st.just(declared.example)]
    broken: list[Any] = [-1, "nan", "-inf"]
    if isinstance(check, Choice):
        valid.append(st.sampled_from(check.choices))
        broken += [choice[:-1] for choice in check.choices] + [choice.upper() for choice in check.choices]
    elif isinstance(check, AtLeast):
        valid.append(st.integers(check.least, check.least + 30))
        broken += [check.least - 1, check.least + 0.5]
    elif isinstance(check, Between):
        valid.append(st.integers(check.low, check.high))
        valid += [st.floats(check.low, check.high)] * ("float" in annotation)
        broken += [check.low - 1, check.high + 1]
    elif isinstance(check, ClusterCount):
        valid.append(st.sampled_from([1, 2, 3, 8, "auto", "auto:2-4"]))
        broken += [0, "auto:3-2", "auto:1-3"]
    elif isinstance(check, Positive | NonNegative | Fraction):
        valid.append(st.floats(1e-6, 0.99) if isinstance(check, Fraction) else st.floats(1e-6, 20))
        broken += [1, 1.5] if isinstance(check, Fraction) else [0]
    elif annotation.startswith("bool"):
        valid.append(st.booleans())
    elif annotation.startswith("list[str]"):
        valid.append(st.lists(st.sampled_from(["id", "size", "kind", "day", "note"]), max_size=3))
    elif annotation.startswith("str"):
        valid.append(st.sampled_from(["id", "size", "kind", "day", "note", "x.csv"]))
    if is_nullable(annotation):
        valid.append(st.none())
    else:
        broken.append(None)
    return st.one_of(valid).map(_text), st.sampled_from([*map(_text, broken), *_WORDS])


def _drawn_keys() -> list[str]:
    # Modules of the user are imported, which is what they are for.
    return [key for key in keys() if key != "plugins" and not key.endswith(".class")]


@st.composite
def _word_of(draw: st.DrawFn, known: list[str], share_valid: int) -> str:
    """Return KEY=VALUE; ``share_valid`` valid values are drawn for each broken one."""
    key = draw(st.sampled_from(known))
    valid, broken = _setting_values(key)
    if draw(st.integers(0, share_valid)) > 0:
        return f"{key}={draw(valid)}"
    forms = [key] * 8 + [f"+{key}", f"++{key}", f"~{key}", f"{key}x", f"hydra.{key}", f"{key}.a"]
    return f"{draw(st.sampled_from(forms))}={draw(broken)}"


@st.composite
def override_words(draw: st.DrawFn) -> list[str]:
    """Return the words of a command line: options of groups, and settings with valid and broken values."""
    words = []
    for group, options in GROUPS.items():
        if draw(st.integers(0, 3)) == 0:
            words.append(f"{group}={draw(st.sampled_from([*options, 'nope', '']))}")
    known = _drawn_keys()
    words += [draw(_word_of(known, 1)) for _ in range(draw(st.integers(0, 5)))]
    return words


# --- targets --------------------------------------------------------------------------------------------------------


def _nothing(example: Any, folder: Path) -> None:
    """Write no input."""


def _no_place(example: Any) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Target:
    """A strategy for examples, a function that reads one in a folder, and one that writes its input there before.

    ``places`` returns where that may write: paths relative to the folder; everything below them may change.
    """

    examples: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    write: Callable[[Any, Path], object] = _nothing
    places: Callable[[Any], Sequence[str]] = _no_place
    is_command: bool = False
    original: bytes | None = None


def changing(original: bytes, read: Callable[..., object], write: Callable[..., object], **more: Any) -> Target:
    """Return a target whose examples are changed bytes of a valid file."""
    return Target(changed_bytes(original), read, write, original=original, **more)


def _data_target(original: bytes, option: str, name: str, **more: Any) -> Target:
    def write(content: bytes, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    def read(content: bytes, folder: Path) -> None:
        place = folder / name.partition("/")[0]
        values = {"name": option, "path": str(place), "root": str(folder / "root"), **more}
        load_dataset(section_of("data", GROUPS["data"][option], values))

    return changing(original, read, write)


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
        yield name, _data_target(content, option, file_name, **more)


def _compose(words: list[str], folder: Path) -> None:
    compose(parse(words))


def _write_run_config(values: Any, folder: Path) -> None:
    text = yaml.safe_dump(values, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")


def _write_run_config_bytes(content: bytes, folder: Path) -> None:
    (folder / "config.yaml").write_bytes(content)


def _read_run_config(_: Any, folder: Path) -> None:
    read_config(folder / "config.yaml")


def _predict(_: Any, folder: Path) -> None:
    source = OLD_RUNS / "people.csv"
    predict(PredictConfig(run=str(folder / "model"), input=str(source), output=str(folder / "out.csv"), device="cpu"))


def _output(_: Any) -> Sequence[str]:
    return ("out.csv",)


def _write_model(values: Any, folder: Path) -> None:
    shutil.copytree(OLD_RUNS / "table" / "model", folder / "model")
    (folder / "model" / "model.json").write_text(json.dumps(values))


def _write_model_bytes(content: bytes, folder: Path) -> None:
    shutil.copytree(OLD_RUNS / "table" / "model", folder / "model")
    (folder / "model" / "model.json").write_bytes(content)


def _write_weights(content: bytes, folder: Path) -> None:
    shutil.copytree(OLD_RUNS / "table" / "model", folder / "model")
    (folder / "model" / "weights.safetensors").write_bytes(content)


def _write_checkpoint(content: bytes, folder: Path) -> None:
    (folder / "last.pt").write_bytes(content)


def _write_signed_checkpoint(payload: bytes, folder: Path) -> None:
    """Write a checkpoint whose digest is right, as an attacker would."""
    digest = hashlib.sha256(payload).hexdigest().encode()
    _write_checkpoint(payload + checkpoints._MARK + digest + b"\n", folder)


def _read_checkpoint(_: Any, folder: Path) -> None:
    checkpoints.read(folder / "last.pt")


def _write_run(change: tuple[str, bytes], folder: Path) -> None:
    name, content = change
    shutil.copytree(OLD_RUNS / "kmeans", folder / "run")
    (folder / "run" / name).write_bytes(content)


def _read_run(_: Any, folder: Path) -> None:
    with contextlib.suppress(reading.DamagedRun):
        reading.read(folder / "run")


def _changed_run_file() -> st.SearchStrategy[tuple[str, bytes]]:
    names = ("config.yaml", "manifest.json", "result.json", "metrics.jsonl")
    one_of = [st.tuples(st.just(name), changed_bytes((OLD_RUNS / "kmeans" / name).read_bytes())) for name in names]
    for name in ("manifest.json", "result.json"):
        values = json.loads((OLD_RUNS / "kmeans" / name).read_text(encoding="utf-8"))
        one_of.append(st.tuples(st.just(name), changed_values(values).map(lambda v: json.dumps(v).encode())))
    return st.one_of(one_of)


# Settings that decide how long a run takes: no huge values, which are valid.
_WORK = re.compile(
    r"epochs|steps|n_init|n_samples|n_blobs|n_features|n_terms|count|hidden|filters|image_size|latent_dim"
)
_HUGE = re.compile(r"=[\[]?(9{9}|1e4|inf)")
# A run of less than a second, unless other settings are drawn.
_SHORT_RUN = [
    *("clustering.n_clusters=3", "model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=2"),
    *("log.figures=false", "log.report=false", "log.tensorboard=false", "device=cpu", "hydra.run.dir=run"),
]
_DATA = {"csv": ["data.path=x.csv"], "blobs": ["data.n_samples=50"], "moons": ["data.n_samples=50"]}
# Options that a table of 30 rows can be trained with, and that need nothing else; the first is the default.
_OPTIONS = {
    "model": ["mlp"],
    "clustering": ["kmeans", "dkm", "dcn", "dec", "idec", "none"],
    "regularization": ["weight_decay", "l2_penalty", "none"],
    "optimizer": ["adam", "adamw", "sgd"],
    "augmentation": ["auto", "none"],
}


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Return the words of ``dkm train``, most of them valid and fit for each other, and a table."""
    options = {"data": draw(st.sampled_from(["csv"] * 6 + [*_DATA]))}
    for group, names in _OPTIONS.items():
        options[group] = draw(st.sampled_from([names[0], *names]))
    words = [f"{group}={option}" for group, option in options.items()]
    words += [*_SHORT_RUN, *_DATA[options["data"]]]
    fitting = {f"{group}.{part.name}" for group, option in options.items() for part in fields(GROUPS[group][option])}
    # Compiling takes minutes on a busy machine.
    general = {key for key in _drawn_keys() if key.partition(".")[0] not in GROUPS} - {"compile"}
    known = [key for key in _drawn_keys() if key in fitting or key in general]
    drawn = [draw(_word_of(known, 6)) for _ in range(draw(st.integers(0, 4)))]
    words += [word for word in drawn if not (_WORK.search(word) and _HUGE.search(word))]
    table = _csv()
    return words, draw(st.one_of(st.just(table), st.just(table), changed_bytes(table)))


def _write_table(example: tuple[list[str], bytes], folder: Path) -> None:
    (folder / "cwd" / "x.csv").write_bytes(example[1])


def _places_of_run(example: tuple[list[str], bytes]) -> Sequence[str]:
    """Return the run directory, and the places that settings name."""
    named = [word.partition("=") for word in example[0] if "=" in word]
    is_place = (declarations().get(key.lstrip("+")) for key, _, _ in named)
    chosen = [value for (_, _, value), declared in zip(named, is_place, strict=True) if _is_place(declared)]
    expanded = ["home" + value[1:] if value.startswith("~") else f"cwd/{value}" for value in chosen]
    return ["cwd/run", *map(os.path.normpath, expanded)]


def _is_place(declared: Any) -> bool:
    return declared is not None and declared.role is Role.PLACE


def _train(example: tuple[list[str], bytes], folder: Path) -> None:
    """Run ``dkm train`` in a process of its own; raise its error as ``main`` would have got it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as notes:
        process = os.fork()
        if process == 0:
            _run_command(["dkm-train", *example[0]], out, err, notes)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            process = 0
        finally:
            if process:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
        err.seek(0), notes.seek(0)
        _watch.events += [str(event) for event in json.loads(notes.read() or b"[]")]
        text = err.read().decode(errors="replace")
    lines = text.splitlines()
    if code == 0 and "Traceback" not in text:
        return
    if code not in (1, 2) or len(lines) != 1 or not lines[0].startswith("error: "):
        raise RuntimeError(f"exit code {code}, standard error: {text[-2500:]}")
    raise (UserError if code == 2 else Failure)(lines[0].removeprefix("error: "))


def _run_command(words: list[str], out: IO[bytes], err: IO[bytes], notes: IO[bytes]) -> NoReturn:
    """Run the command line in this process, which ends with its exit code."""
    code: Any = 1
    try:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        logging.disable(logging.NOTSET)
        warnings.resetwarnings()
        sys.argv = words
        _watch.events.clear()
        try:
            importlib.import_module("dkm.train").main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
            code = 3
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.stderr.flush()
        _watch.is_on = False
        notes.write(json.dumps(_watch.events).encode())
        notes.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


@cache
def targets() -> dict[str, Target]:
    """Return all targets by their names."""
    table, run = OLD_RUNS / "table" / "model", OLD_RUNS / "kmeans"
    description = json.loads((table / "model.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    state = {"phase": "joint", "weights": {"w": torch.zeros(3, 2)}, "step": 3, "list": [1, 2.5, "a", None]}
    checkpoint = checkpoints.serialized(state)
    payload = checkpoint[: -checkpoints._TRAILER_BYTES]
    description_bytes = (table / "model.json").read_bytes()
    weights = (table / "weights.safetensors").read_bytes()
    return {
        "config": Target(override_words(), _compose),
        "train": Target(command_lines(), _train, _write_table, _places_of_run, is_command=True),
        "run_config": Target(changed_values(config), _read_run_config, _write_run_config),
        "run_config_bytes": changing((run / "config.yaml").read_bytes(), _read_run_config, _write_run_config_bytes),
        "run": Target(_changed_run_file(), _read_run, _write_run),
        "model": Target(changed_values(description), _predict, _write_model, _output),
        "model_bytes": changing(description_bytes, _predict, _write_model_bytes, places=_output),
        "weights": changing(weights, _predict, _write_weights, places=_output),
        "checkpoint": changing(checkpoint, _read_checkpoint, _write_checkpoint),
        "signed_checkpoint": changing(payload, _read_checkpoint, _write_signed_checkpoint),
        **dict(_data_targets()),
    }


# --- what an example touches ----------------------------------------------------------------------------------------

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_CHANGES |= {"os.chown", "os.utime", "os.setxattr"}
# What must not happen while a file is read; a command may start git.
_CODE = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """Notes files that this process changes outside a folder, and code that it starts, as Python's audit events."""

    def __init__(self) -> None:
        self.is_on = False
        self.is_hooked = False
        self.folder = ""
        self.is_command = False
        self.events: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            if arguments[2] & _WRITING and not isinstance(arguments[0], int):
                self._note(event, arguments[0])
        elif event in _CHANGES:
            folder = next((a for a in reversed(arguments) if isinstance(a, int)), -1)
            n_paths = 2 if event in ("os.rename", "os.link", "os.symlink") else 1
            for path in arguments[:n_paths]:
                self._note(event, path, folder if event in ("os.mkdir", "os.remove", "os.rmdir") else -1)
        elif event in _CODE and (not self.is_command or event == "socket.connect"):
            self.events.append(f"{event} {arguments[:2]!r}"[:300])
            if event == "socket.connect":
                raise OSError("no connection while fuzzing")

    def _note(self, event: str, path: Any, folder: int = -1) -> None:
        text = os.fsdecode(path)
        if folder >= 0 and not text.startswith("/"):
            text = str(Path(f"/proc/self/fd/{folder}").readlink() / text)
        place = os.path.realpath(text)
        if place != "/dev/null" and not f"{place}/".startswith(f"{self.folder}/"):
            self.events.append(f"{event} {place}")

    @contextlib.contextmanager
    def on(self, folder: Path, *, is_command: bool) -> Iterator[None]:
        """Watch this process, which may change what is below the folder."""
        if not self.is_hooked:
            sys.addaudithook(self.hook)
            self.is_hooked = True
        self.folder, self.is_command, self.is_on = os.path.realpath(folder), is_command, True
        self.events.clear()
        try:
            yield
        finally:
            self.is_on = False


_watch = _Watch()


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a folder, by its path."""
    paths = (Path(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))
    described = ((path.relative_to(folder).as_posix(), path.lstat(), path.is_dir()) for path in paths)
    return {name: (0, 0) if is_dir else (status.st_size, status.st_mtime_ns) for name, status, is_dir in described}


@contextlib.contextmanager
def _own_places(folder: Path) -> Iterator[None]:
    """Have a working directory, a home and a place for temporary files in a folder."""
    before, cwd, temporary = dict(os.environ), Path.cwd(), tempfile.tempdir
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir()
    try:
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder / "cwd")
        yield
    finally:
        os.chdir(cwd)
        tempfile.tempdir = temporary
        os.environ.clear()
        os.environ |= before


# --- the property ---------------------------------------------------------------------------------------------------


class Fault(AssertionError):
    """An example that is neither read nor refused in one line."""


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Watchdog:
    """Ends this process if an example takes far too long where no signal is handled: in C."""

    def __init__(self) -> None:
        self.started_s = -math.inf

    def start(self) -> None:
        """Call this before each example; starting a thread for each would take longer than most examples."""
        now_s = time.monotonic()
        if now_s - self.started_s > LONGEST_S:
            stderr = sys.__stderr__  # of the process, also where the tests replace it
            assert stderr is not None
            faulthandler.dump_traceback_later((2 * _COMMAND_FACTOR + 4) * LONGEST_S, exit=True, file=stderr)
            self.started_s = now_s


def check(target: Target, example: Any) -> str:
    """Read an example; return whether it was "read", "refused" or "failed", the last after work of some kind.

    Raises
    ------
    Fault
        If it is neither read nor refused in one line, changes a file that it should not, or runs code.
    """
    outcome, allowed = "read", list(target.places(example))
    with _new_folder() as folder, warnings.catch_warnings(), _own_places(folder):
        warnings.simplefilter("error")
        target.write(example, folder)
        before = _state(folder)
        try:
            with (
                _at_most(LONGEST_S * (_COMMAND_FACTOR if target.is_command else 1)),
                contextlib.redirect_stdout(io.StringIO()),
                _watch.on(folder, is_command=target.is_command),
            ):
                target.read(example, folder)
        except (UserError, Failure) as error:
            text = str(error)
            if "\n" in text or not text.isprintable() or len(text) > 3000:
                raise Fault(f"not one printable line: {text!r}") from error
            outcome = "refused" if isinstance(error, UserError) else "failed"
            if outcome == "refused" or not target.is_command:
                allowed = []
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {error}") from error
        _require_untouched(before, _state(folder), allowed, outcome)
    return outcome


@contextlib.contextmanager
def _new_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # many small files
    with tempfile.TemporaryDirectory(prefix="dkm-fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def _require_untouched(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], allowed: Sequence[str], outcome: str
) -> None:
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    compiler = f"tmp/torchinductor_{getpass.getuser()}"  # torch makes this folder when it is imported late
    places = [f"{place}/" for place in (*allowed, compiler)]
    outside = [path for path in changed if not any(f"{path}/".startswith(place) for place in places)]
    if outside:
        raise Fault(f"{outcome}, and changed {', '.join(outside[:5])}")
    if _watch.events:
        raise Fault(f"{outcome}, and did {'; '.join(_watch.events[:5])}")


def kind_of(error: BaseException) -> str:
    """Return what tells faults apart: the type of the cause and where it was raised in this package."""
    cause = error.__cause__ or error
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "/dkm/" in frame.filename]
    text = re.sub(r"[0-9a-z_]*-?[0-9]+[0-9a-z_]*", "N", str(cause))[-120:] if not frames else ""
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else text
    return f"{type(cause).__name__} in {where}"


# --- processes ------------------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """What came of the examples that one process read; ``faults`` by kind, each with its message and an example."""

    counts: dict[str, int]
    faults: dict[str, str]
    seconds: float
    slowest_s: float


def read_chunk(target: Target, n_examples: int, seed_: int, note: Callable[[bytes], object]) -> Chunk:
    """Read examples in this process; ``note`` takes each example before it is read."""
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    slowest_s = 0.0
    watchdog = Watchdog()

    @seed(seed_)
    @settings(
        max_examples=n_examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.examples)
    def run(example: Any) -> None:
        nonlocal slowest_s
        note(pickle.dumps(example))
        watchdog.start()
        counts["examples"] += 1
        start = time.perf_counter()
        try:
            try:
                outcome = check(target, example)
            except Fault as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                counts["repeated"] += 1  # something else may have kept the machine
                outcome = check(target, example)
            counts[outcome] += 1
        except Fault as error:
            counts["faults"] += 1
            faults.setdefault(kind_of(error), f"{str(error)[:600]}\n    {str(ascii(example))[:600]}")
        slowest_s = max(slowest_s, time.perf_counter() - start)

    start = time.perf_counter()
    run()
    return Chunk(dict(counts), faults, time.perf_counter() - start, slowest_s)


def read_chunk_in_process(target: Target, n_examples: int, seed_: int) -> Chunk:
    """Call ``read_chunk`` in a forked process; its end by a signal is a fault of the last example."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as last:

        def note(example: bytes) -> None:
            last.seek(0)
            last.truncate()
            last.write(example)
            last.flush()

        process = os.fork()
        if process == 0:
            code = 1
            try:
                pickle.dump(read_chunk(target, n_examples, seed_, note), answer)
                answer.flush()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            answer.seek(0)
            chunk: Chunk = pickle.load(answer)
            return chunk
        last.seek(0)
        example = pickle.load(last) if last.seek(0, os.SEEK_END) and not last.seek(0) else None
        text = f"the process ended with {code}\n    {str(ascii(example))[:2000]}"
        return Chunk({"examples": 1, "faults": 1}, {f"the process ended with {code}": text}, 0.0, 0.0)


def import_everything() -> None:
    """Import what readers and runs import late, so that forked processes need not."""
    for name in (
        *("matplotlib.font_manager", "torch._dynamo", "torch.utils.tensorboard", "pandas", "pyarrow.parquet"),
        *("pyarrow.csv", "pyarrow.feather", "scipy.io", "sklearn.metrics", "sklearn.linear_model", "sklearn.svm"),
        *("sklearn.discriminant_analysis", "sklearn.model_selection", "sklearn.decomposition", "PIL.ImageOps"),
        *("dkm.training.trainer", "dkm.training.resume", "dkm.evaluation.figures", "dkm.reports.page", "dkm.train"),
    ):
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("h5py")
    importlib.import_module("PIL.Image").init()
    compose(parse([]))  # looks for plugins of Hydra


def _described() -> dict[str, str]:
    names = ("numpy", "pyarrow", "PIL", "torch", "hydra", "yaml")
    versions = {name: str(getattr(importlib.import_module(name), "__version__", "?")) for name in names}
    return {"python": platform.python_version(), **versions}


# --- the command ----------------------------------------------------------------------------------------------------


def fuzz(name: str, n_examples: int, results: dict[str, Any], save: Callable[[], object] = lambda: None) -> None:
    """Read examples of a target until there are ``n_examples``, and add them to its results."""
    target = targets()[name]
    result = results.setdefault(name, {"chunks": 0, "examples": 0, "seconds": 0.0, "slowest_s": 0.0, "faults": {}})
    while result["examples"] < n_examples:
        n_more = min(CHUNK, n_examples - result["examples"])
        chunk = read_chunk_in_process(target, n_more, result["chunks"])
        result["chunks"] += 1
        counts = dict(chunk.counts)
        n_faults = counts.pop("faults", 0)
        for key, count in counts.items():
            result[key] = result.get(key, 0) + count
        result["n_faults"] = result.get("n_faults", 0) + n_faults
        result["seconds"] = round(result["seconds"] + chunk.seconds, 1)
        result["slowest_s"] = round(max(result["slowest_s"], chunk.slowest_s), 2)
        for kind, text in chunk.faults.items():
            if kind not in result["faults"]:
                print(f"  {name}: {kind}: {text}", flush=True)
            result["faults"].setdefault(kind, text)
        save()
        if counts.get("examples", 0) < n_more and not n_faults:
            break  # Hypothesis has no more examples
    counted = ", ".join(f"{result[key]:,} {key}" for key in ("read", "refused", "failed") if result.get(key))
    kinds = f"{len(result['faults'])} kinds of faults"
    print(f"{name}: {result['examples']:,} examples in {result['seconds']:.0f} s: {counted}, {kinds}", flush=True)


def main(words: Sequence[str]) -> int:
    """Run the targets that the words name; return 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n_examples", nargs="?", type=int, default=1000, help="examples of each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--results", type=Path, help="JSON file with the figures")
    options = parser.parse_args(words)
    logging.disable(logging.WARNING)
    sys.dont_write_bytecode = True
    results: dict[str, Any] = {"longest_s": LONGEST_S, "versions": _described(), "targets": {}}
    if options.results is not None and options.results.exists():
        results = json.loads(options.results.read_text(encoding="utf-8"))

    def save() -> None:
        if options.results is not None:
            text = json.dumps(results, indent=1, ensure_ascii=True) + "\n"
            options.results.with_suffix(".tmp").write_text(text, encoding="utf-8")
            options.results.with_suffix(".tmp").replace(options.results)

    import_everything()
    names = options.targets or list(targets())
    for name in names:
        fuzz(name, options.n_examples, results["targets"], save)
    return 1 if any(results["targets"][name]["faults"] for name in names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
