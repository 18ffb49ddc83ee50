"""`dkm.runtime.checkpoints`: what is saved is loaded, damage is found, nothing runs, no crash loses the last state."""

import errno
import hashlib
import io
import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from malicious import Malicious
from torch import nn

from dkm.errors import UserError
from dkm.runtime.atomic import write_atomically
from dkm.runtime.checkpoints import DAMAGED, FORMAT_VERSION, LAST, PREVIOUS, CheckpointError, load, save


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


def with_digest(payload):
    """What a checkpoint file with this content looks like: the digest is no secret."""
    return payload + b"\ndkm sha256 " + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def torch_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def store(directory, content, name=LAST):
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(content)


def message_of(directory):
    """The error of a load that is refused, which is one line for the user."""
    with pytest.raises(CheckpointError) as error:
        load(directory)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    return str(error.value)


def step_of(state):
    return None if state is None else state["step"]


# --- round trip ---------------------------------------------------------------------------------------------


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    else:
        assert actual == expected


def test_nested_state_comes_back_as_it_was(directory):
    state = {
        "tensors": {
            "float32": torch.tensor([1.5, -2.0, float("inf")]),
            "float64": torch.tensor(1 / 3, dtype=torch.float64),
            "bfloat16": torch.ones(2, 3, dtype=torch.bfloat16),
            "int64": torch.arange(5),
            "bool": torch.tensor([True, False]),
            "uint8": torch.get_rng_state(),
            "empty": torch.zeros(0, 4),
            "strided": torch.arange(6.0).view(2, 3).T,
        },
        "position": [0, (1, 2), {"epoch": 3, "is_stopped": False, "name": "größe", "none": None}],
        "float": 0.1,
        3: "a number as key",
        "ordered": OrderedDict(b=1, a=2),
    }
    save(directory, state)
    loaded = load(directory)
    assert loaded.pop("format_version") == FORMAT_VERSION
    assert_same(loaded, state)


def test_model_and_optimizer_go_on_from_their_states(directory):
    def fresh():
        model = nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = fresh()
    step(model, optimizer)
    save(directory, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    step(model, optimizer)
    resumed, resumed_optimizer = fresh()
    state = load(directory)
    resumed.load_state_dict(state["model"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    step(resumed, resumed_optimizer)
    assert torch.equal(resumed.weight, model.weight)


def test_saving_does_not_change_the_state(directory):
    state = {"step": 1}
    save(directory, state)
    assert state == {"step": 1}


def test_without_a_checkpoint_there_is_none(directory):
    assert load(directory) is None  # no directory
    directory.mkdir()
    assert load(directory) is None


def test_previous_holds_the_state_before(directory):
    save(directory, {"step": 1})
    assert sorted(p.name for p in directory.iterdir()) == [LAST]
    for step in (2, 3):
        save(directory, {"step": step})
        assert sorted(p.name for p in directory.iterdir()) == [LAST, PREVIOUS]
        assert step_of(load(directory)) == step
        assert step_of(torch.load(directory / PREVIOUS, weights_only=True)) == step - 1


def test_previous_is_a_copy_where_there_are_no_hard_links(directory, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    for step in (1, 2, 3):
        save(directory, {"step": step})
    assert sorted(p.name for p in directory.iterdir()) == [LAST, PREVIOUS]
    assert step_of(load(directory)) == 3
    (directory / LAST).unlink()
    assert step_of(load(directory)) == 2


def test_a_checkpoint_is_a_file_that_torch_load_reads(directory):
    save(directory, {"step": 1, "w": torch.arange(3)})
    assert torch.load(directory / LAST, weights_only=True)["w"].tolist() == [0, 1, 2]


# --- damage -------------------------------------------------------------------------------------------------


def cut(part):
    return lambda content: content[: int(len(content) * part)]


def without_last_bytes(n):
    return lambda content: content[:-n]


def flipped(position):
    def flip(content):
        damaged = bytearray(content)
        damaged[int(len(content) * position)] ^= 1
        return bytes(damaged)

    return flip


DAMAGES = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "cut at 10 %": cut(0.1),
    "cut at 50 %": cut(0.5),
    "cut at 99 %": cut(0.99),
    "last byte missing": without_last_bytes(1),
    "digest missing": without_last_bytes(len(with_digest(b""))),
    "half of the digest missing": without_last_bytes(40),
    "first byte flipped": flipped(0),
    "byte in the middle flipped": flipped(0.5),
    "byte of the digest altered": lambda content: content[:-2] + (b"0" if content[-2:-1] != b"0" else b"1") + b"\n",
    "digest of something else": lambda content: content[: -len(with_digest(b""))] + with_digest(b""),
    "something appended": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@damages
def test_a_damaged_last_checkpoint_falls_back_to_the_previous_with_a_warning(directory, damage, caplog):
    for step in (1, 2):
        save(directory, {"step": step, "w": torch.zeros(100)})
    last = directory / LAST
    last.write_bytes(damage(last.read_bytes()))
    with caplog.at_level(logging.WARNING, logger="dkm.runtime.checkpoints"):
        assert step_of(load(directory)) == 1
    [record] = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING
    assert f"{last}: damaged or altered" in message
    assert f"going back to {directory / PREVIOUS}" in message
    assert "\n" not in message


def test_a_missing_last_checkpoint_falls_back_to_the_previous_with_a_warning(directory, caplog):
    for step in (1, 2):
        save(directory, {"step": step})
    (directory / LAST).unlink()
    assert step_of(load(directory)) == 1
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    previous = directory / PREVIOUS
    assert record.getMessage() == f"{directory / LAST} is missing; going back to {previous}, the one before it"


PASSING = {
    "no memory": MemoryError(),
    "no memory for torch": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "a disk that fails": OSError(errno.EIO, "Input/output error"),
    "an interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("where", ["read_bytes", "torch.load"])
def test_a_good_checkpoint_that_cannot_be_loaded_now_is_kept(directory, where, error, monkeypatch, caplog):
    for step in (1, 2):
        save(directory, {"step": step})
    before = {path: path.read_bytes() for path in directory.iterdir()}

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, where) if where == "read_bytes" else (torch, "load")), fail)
        with pytest.raises(type(error)) as raised:
            load(directory)
    assert raised.value is error
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    assert caplog.records == []
    assert step_of(load(directory)) == 2


def test_a_damaged_last_checkpoint_is_kept_where_the_previous_one_cannot_be_read(directory, monkeypatch):
    start_with_a_damaged_last_one(directory)
    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == PREVIOUS:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(OSError, match="Input/output error"):
            load(directory)
    assert sorted(path.name for path in directory.iterdir()) == [LAST, PREVIOUS]
    assert step_of(load(directory)) == 1
    assert sorted(path.name for path in directory.iterdir()) == [DAMAGED, PREVIOUS]


def test_the_format_is_that_of_the_released_versions():
    """Another number needs a reader of the former ones."""
    assert FORMAT_VERSION == 1


def test_an_intact_last_checkpoint_is_loaded_without_a_word_whatever_the_previous(directory, caplog):
    for step in (1, 2):
        save(directory, {"step": step})
    (directory / PREVIOUS).write_bytes(b"torn")
    assert step_of(load(directory)) == 2
    assert caplog.records == []


@damages
def test_two_damaged_checkpoints_are_an_error_that_names_both(directory, damage):
    for step in (1, 2):
        save(directory, {"step": step})
    for name in (LAST, PREVIOUS):
        store(directory, damage((directory / name).read_bytes()), name)
    message = message_of(directory)
    assert f"{directory / LAST}: damaged or altered" in message
    assert f"{directory / PREVIOUS}: damaged or altered" in message
    assert "start a new run" in message


def test_a_damaged_only_checkpoint_is_an_error_not_a_new_start(directory):
    save(directory, {"step": 1})
    store(directory, b"torn")
    assert f"{directory / LAST}: damaged or altered" in message_of(directory)


# --- another format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"step": 1, "format_version": FORMAT_VERSION + 1}, {"step": 1}, [1, 2], "text"])
def test_a_checkpoint_of_another_format_is_refused(directory, content):
    store(directory, with_digest(torch_bytes(content)))
    version = content.get("format_version") if isinstance(content, dict) else None
    assert f"{directory / LAST}: format_version={version}, expected {FORMAT_VERSION}" in message_of(directory)


def test_a_checkpoint_of_a_later_version_is_not_taken_for_a_damaged_one(directory, caplog):
    """Its run would lose an epoch to the older state, and the version that wrote it could not go on."""
    save(directory, {"step": 1})
    save(directory, {"step": 2})
    content = with_digest(torch_bytes({"step": 2, "format_version": FORMAT_VERSION + 1}))
    store(directory, content)
    assert "resume the run with the version of dkm that wrote it" in message_of(directory)
    assert (directory / LAST).read_bytes() == content
    assert caplog.records == []


# --- nothing in a checkpoint runs ---------------------------------------------------------------------------


def malicious_pickle(path, protocol=2):
    return pickle.dumps({"format_version": FORMAT_VERSION, "step": Malicious(path)}, protocol=protocol)


def malicious_checkpoint(path):
    return torch_bytes({"format_version": FORMAT_VERSION, "step": Malicious(path)})


def test_the_malicious_files_would_run(tmp_path):
    pickle.loads(malicious_pickle(tmp_path / "first"))
    torch.load(io.BytesIO(malicious_checkpoint(tmp_path / "second")), weights_only=False)
    assert (tmp_path / "first").exists()
    assert (tmp_path / "second").exists()


MALICIOUS = {
    "torch.save": malicious_checkpoint,
    **{f"pickle protocol {n}": lambda path, n=n: malicious_pickle(path, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("build", MALICIOUS.values(), ids=MALICIOUS)
@pytest.mark.parametrize("wrap", [lambda content: content, with_digest], ids=["raw", "with its digest"])
def test_a_malicious_file_is_refused_and_not_run(directory, tmp_path, build, wrap):
    store(directory, wrap(build(tmp_path / "executed")))
    assert str(directory / LAST) in message_of(directory)
    assert not (tmp_path / "executed").exists()


def test_a_malicious_file_is_refused_though_there_is_a_previous_one(directory, tmp_path):
    for step in (1, 2):
        save(directory, {"step": step})
    store(directory, with_digest(malicious_checkpoint(tmp_path / "executed")))
    assert "holds something other than tensors and plain containers" in message_of(directory)
    assert not (tmp_path / "executed").exists()


GARBAGE = {
    "nothing": b"",
    "text": b"hello world",
    "a truncated pickle": pickle.dumps({"format_version": 1, "step": 1}, protocol=2)[:-5],
    "a pickle with a wrong length": b"\x80\x02X\xff\xff\xff",
    "a damaged zip file": torch_bytes({"step": 1}).replace(b"data.pkl", b"data.pxl"),
    "a zip file cut short": torch_bytes({"step": 1})[:30] + torch_bytes({"step": 1})[90:],
}


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE)
def test_garbage_with_its_digest_is_refused_in_one_line(directory, payload):
    store(directory, with_digest(payload))
    assert str(directory / LAST) in message_of(directory)


# --- crashes ------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here: nothing may catch it."""


def crash_at(monkeypatch, n_calls, *, after):
    """Crash right before or after the n-th change of the file system; return the names of the calls that were made."""
    made = []

    def wrapped(name, call):
        def changed(*args, **kwargs):
            if n_calls and len(made) >= n_calls:  # nothing is cleaned up by a process that has ended
                raise Crash
            made.append(name)
            is_last = len(made) == n_calls
            if is_last and not after:
                raise Crash
            try:
                return call(*args, **kwargs)
            finally:  # also where it fails, as the removal of a file that is not there
                if is_last:
                    raise Crash

        return changed

    for name in ("mkdir", "link", "unlink", "rename", "replace", "fsync"):  # pathlib calls these too
        monkeypatch.setattr(os, name, wrapped(name, getattr(os, name)))
    return made


def start_empty(directory):
    """No checkpoint yet."""


def start_with_one(directory):
    save(directory, {"step": 1})


def start_with_two(directory):
    for step in (0, 1):
        save(directory, {"step": step})


def start_with_a_damaged_last_one(directory):
    for step in (1, 99):
        save(directory, {"step": step})
    store(directory, b"torn")


def start_with_a_previous_one_only(directory):
    start_with_two(directory)
    (directory / PREVIOUS).unlink()
    (directory / LAST).rename(directory / PREVIOUS)


def start_after_a_crash(directory):
    start_with_two(directory)
    for name in (LAST, PREVIOUS):
        store(directory, b"half written", name + ".tmp")


STARTS = [
    start_empty,
    start_with_one,
    start_with_two,
    start_with_a_damaged_last_one,
    start_with_a_previous_one_only,
    start_after_a_crash,
]
starts = pytest.mark.parametrize("start", STARTS)


@starts
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_crash_at_any_moment_of_a_save_leaves_the_old_or_the_new_state(tmp_path, start, after, monkeypatch):
    allowed = {None, 2} if start is start_empty else {1, 2}
    outcomes = []
    for n_calls in range(1, 100):
        directory = tmp_path / str(n_calls)
        start(directory)
        before = step_of(load(directory))
        had_last = (directory / LAST).exists()
        with monkeypatch.context() as patch:
            made = crash_at(patch, n_calls, after=after)
            try:
                save(directory, {"step": 2})
            except Crash:
                has_crashed = True
            else:
                has_crashed = False
        outcomes.append(step_of(load(directory)))
        assert outcomes[-1] in allowed, f"{before} -> {outcomes[-1]} after {made}"
        assert (directory / LAST).exists() >= had_last, f"{LAST} is missing after {made}"
        save(directory, {"step": 3})  # and the next run goes on
        assert step_of(load(directory)) == 3
        if not has_crashed:
            break
    # Crashes were made, some of them left the old state, and the save that was let through made the new one.
    assert len(outcomes) > 2
    assert outcomes[0] == before
    assert outcomes[-1] == 2


@starts
def test_a_save_that_fails_for_a_full_disk_can_be_tried_again(directory, start, monkeypatch):
    start(directory)
    before = step_of(load(directory))

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left on device"):
            save(directory, {"step": 2})
    assert step_of(load(directory)) == before
    save(directory, {"step": 2})
    assert step_of(load(directory)) == 2


def test_after_falling_back_the_good_previous_one_is_kept(directory):
    start_with_a_damaged_last_one(directory)
    assert step_of(load(directory)) == 1
    save(directory, {"step": 2})
    store(directory, b"torn")
    assert step_of(load(directory)) == 1


def test_the_file_reaches_the_disk_before_its_name_and_the_name_before_the_save_ends(directory, monkeypatch):
    start_with_two(directory)
    made = crash_at(monkeypatch, n_calls=0, after=False)
    save(directory, {"step": 2})
    assert made[-3:] == ["fsync", "replace", "fsync"]


# --- write_atomically ---------------------------------------------------------------------------------------


def test_write_atomically_replaces_the_content_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "file.json"
    for content in (b"old and longer", b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("n_calls", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_write_atomically_shows_the_old_or_the_new_content_after_a_crash(tmp_path, n_calls, after, monkeypatch):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        made = crash_at(patch, n_calls, after=after)
        with pytest.raises(Crash):
            write_atomically(path, b"new")
    assert made == ["fsync", "replace", "fsync"][:n_calls]
    is_renamed = n_calls == 3 or (n_calls == 2 and after)
    assert path.read_bytes() == (b"new" if is_renamed else b"old")
