"""The connections between the ranks: who is told of what, and what happens to those who do not listen.

The ranks of a test are objects in one process, each with its own thread. ``connected`` takes the place of the network.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pytest

from dkm.errors import Failure
from dkm.runtime import peers
from dkm.runtime.peers import Peers, RankFailure, accept, collective_timeout, connect, listen

BUG = RankFailure(1, "rank 1: RuntimeError: boom", 1, "Traceback ...")
LONG_S = 60.0

Make = Callable[..., list[Any]]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that makes ranks; a rank in ``bare`` is only the other end of its connection."""
    monkeypatch.setattr(_thread, "interrupt_main", lambda: None)
    made: list[Any] = []

    def make(n_ranks: int = 2, limit_s: float = LONG_S, bare: tuple[int, ...] = ()) -> list[Any]:
        ends = {rank: Pipe() for rank in range(1, n_ranks)}
        if 0 in bare:
            ranks: list[Any] = [{rank: end for rank, (end, _) in ends.items()}]
        else:
            ranks = [Peers({rank: end for rank, (end, _) in ends.items()}, 0, n_ranks, limit_s)]
        for rank, (_, end) in ends.items():
            ranks.append(end if rank in bare else Peers({0: end}, rank, n_ranks, limit_s))
        made.extend(ranks)
        return ranks

    yield make
    for rank in reversed(made):
        for part in rank.values() if isinstance(rank, dict) else [rank]:
            part.close()


def eventually(condition: Callable[[], object], within_s: float = 10) -> bool:
    end_s = time.monotonic() + within_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.005)
    return bool(condition())


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


# --- meetings -----------------------------------------------------------------------------------------------------


def test_ranks_wait_for_the_last_one(connected: Make) -> None:
    first, second, last = connected(3)
    waiting = [in_thread(first.meet), in_thread(second.meet)]
    time.sleep(0.05)
    assert all(thread.is_alive() for thread in waiting)
    last.meet()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


def test_a_meeting_is_not_limited_in_time_while_all_live(connected: Make) -> None:
    main, other = connected(limit_s=0.4)
    thread = in_thread(other.meet)
    time.sleep(1.2)
    assert thread.is_alive()
    assert main.failure is other.failure is None
    main.meet()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_meeting_ends_when_a_rank_has_left(gone: int, connected: Make) -> None:
    ranks = connected()
    in_thread(ranks[gone].close)
    with pytest.raises(ConnectionError, match="gone"):
        ranks[1 - gone].meet()
    assert ranks[1 - gone].failure is None


# --- failures -----------------------------------------------------------------------------------------------------


def test_all_ranks_learn_of_a_failure_and_rank_0_prints_it(connected: Make) -> None:
    main, failing, third = connected(3)
    meeting = in_thread(lambda: meet_in_vain(third))
    assert failing.fail(BUG)
    assert eventually(lambda: third.failure)
    meeting.join(10)
    assert main.failure == failing.failure == third.failure == BUG
    assert [rank.must_tell for rank in (main, failing, third)] == [True, False, False]


def test_rank_0_tells_of_its_own_failure(connected: Make) -> None:
    main, other = connected()
    own = RankFailure(0, "rank 0: no space left", 1)
    assert main.fail(own)
    assert other.failure == own
    assert not other.must_tell


def meet_in_vain(rank: Peers) -> None:
    with pytest.raises(ConnectionError):
        rank.meet()


def test_the_first_failure_counts(connected: Make) -> None:
    main, second, third = connected(3)
    second.fail(BUG)
    third.fail(RankFailure(2, "rank 2: later"))
    assert main.failure == third.failure == BUG


@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_ends_without_a_message_is_named(gone: int, connected: Make) -> None:
    ranks = connected(bare=(gone,))
    (ranks[0][1] if gone == 0 else ranks[1]).close()
    other = ranks[1 - gone]
    assert eventually(lambda: other.failure)
    assert other.failure == RankFailure(gone, f"rank {gone} ended without a message (was it killed?)")
    assert other.reason("lost").rank == gone
    assert other.must_tell  # also where rank 0 cannot


def test_only_one_rank_of_a_machine_prints_that_rank_0_is_gone(
    connected: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = connected(4, bare=(0,))
    for local, expected in (("1", [True, False, False]), ("0", [True, True, True])):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert [rank.must_tell for rank in ranks[1:]] == expected


@pytest.mark.parametrize("silent", [0, 1])
def test_a_rank_that_is_silent_for_too_long_is_given_up(silent: int, connected: Make) -> None:
    ranks = connected(limit_s=0.4, bare=(silent,))
    other = ranks[1 - silent]
    assert eventually(lambda: other.failure)
    assert other.failure.text == f"rank {silent} has not answered for 0.4 s (distributed.timeout_s)"


@pytest.mark.thorough
def test_a_rank_that_was_stopped_itself_gives_nobody_up(connected: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    main, end = connected(bare=(1,))
    monkeypatch.setattr(peers, "_PAUSED_S", 0.0)  # every look at the clock follows a pause
    main.limit_s = 0.2
    time.sleep(1.5)
    assert main.failure is None
    assert not end.closed


def test_the_reason_of_a_lost_connection_is_the_problem_if_no_rank_tells(
    connected: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_ANSWER_S", 0.1)
    main, other = connected()
    assert main.reason("an exchange failed").text == "rank 0: an exchange failed"
    assert eventually(lambda: other.failure)
    assert other.reason("whatever").text == "rank 0: an exchange failed"


def test_a_rank_whose_message_does_not_arrive_prints_it(connected: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_ANSWER_S", 0.1)
    _, other = connected(bare=(0,))
    assert not other.fail(BUG)


def test_the_line_says_where_a_traceback_is(connected: Make) -> None:
    main, _ = connected()
    assert main.line(BUG) == BUG.text
    main.log = "runs/a/train.log"
    assert main.line(BUG) == f"{BUG.text}; its traceback is in runs/a/train.log"
    assert main.line(RankFailure(1, "rank 1: full")) == "rank 1: full"


# --- a rank that does not end by itself ---------------------------------------------------------------------------


def stopped(ranks: list[Peers]) -> Peers:
    """Return rank 0 without its thread, so that a test can look at the clock for it."""
    for rank in reversed(ranks):
        rank.close()
    return ranks[0]


def test_a_rank_that_goes_on_is_interrupted_and_then_ended_with_the_line(
    connected: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = stopped(connected())
    interrupts: list[float] = []
    exits: list[int] = []
    monkeypatch.setattr(_thread, "interrupt_main", lambda: interrupts.append(now_s))
    monkeypatch.setattr(os, "_exit", exits.append)
    main.remedy = "the last checkpoint is kept"
    main.failure = RankFailure(1, "rank 1:\ninterrupted", 130)
    main._failed_at_s = 0.0
    for now_s in (0.5, 1.0, 2.0, 19.0):
        main._end_if_due(now_s)
    assert (interrupts, exits) == ([1.0], [])
    main._end_if_due(20.0)
    assert exits == [130]
    assert capsys.readouterr().err == "error: rank 1: interrupted; the last checkpoint is kept\n"


def test_a_rank_that_ends_by_itself_gets_the_time_for_its_checkpoint(
    connected: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = stopped(connected())
    exits: list[int] = []
    monkeypatch.setattr(_thread, "interrupt_main", lambda: pytest.fail("it needs no interrupt"))
    monkeypatch.setattr(os, "_exit", exits.append)
    main.failure, main._failed_at_s, main.is_ending = BUG, 0.0, True
    main._end_if_due(LONG_S - 1)
    assert exits == []
    main._end_if_due(LONG_S)
    assert exits == [1]


# --- warnings -----------------------------------------------------------------------------------------------------


def test_warnings_of_other_ranks_have_arrived_when_all_have_met(connected: Make) -> None:
    main, second, third = connected(3)
    second.warn("a file is odd")
    third.warn("another one")
    threads = [in_thread(rank.meet) for rank in (second, third)]
    main.meet()
    assert sorted(main.take_warnings()) == [(1, "a file is odd"), (2, "another one")]
    assert main.take_warnings() == []
    for thread in threads:
        thread.join(10)


# --- connecting ---------------------------------------------------------------------------------------------------


def hello(place: Mapping[str, Any], token: str, rank: int) -> Connection:
    return connect({**place, "token": token}, rank)


@pytest.mark.parametrize("is_local", [True, False])
def test_ranks_connect_and_others_are_turned_away(is_local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    server, place = listen(is_local=is_local)
    stranger, noise = hello(place, "guess", 1), socket.create_connection((place["hosts"][0], place["port"]))
    noise.sendall(b"\x7f\xff\xff\xffGET / HTTP/1.1\r\n\r\n")
    ends = [hello(place, place["token"], rank) for rank in (2, 1)]
    connections = accept(server, place["token"], 3)
    assert sorted(connections) == [1, 2]
    connections[1].send_bytes(b"for 1")
    assert ends[1].recv_bytes() == b"for 1"
    with pytest.raises((EOFError, OSError)):
        stranger.recv_bytes()
    for connection in (stranger, noise, *ends, *connections.values()):
        connection.close()


@pytest.mark.parametrize("is_dripping", [False, True])
def test_a_stranger_who_sends_half_a_message_holds_nobody_up(
    is_dripping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_ANSWER_S", 0.2)
    server, place = listen(is_local=True)
    accepted: list[dict[int, Connection]] = []
    with socket.create_connection((place["hosts"][0], place["port"])) as stranger:
        stranger.sendall(b"\x00\x00\x00\xc8")
        end = hello(place, place["token"], 1)
        thread = threading.Thread(target=lambda: accepted.append(accept(server, place["token"], 2)), daemon=True)
        thread.start()
        for _ in range(40 if is_dripping else 0):
            with contextlib.suppress(OSError):  # it was turned away
                stranger.sendall(b"\x00")
            thread.join(0.05)
        thread.join(2)
        assert not thread.is_alive()
    [connections] = accepted
    connections[1].send_bytes(b"for 1")
    assert end.recv_bytes() == b"for 1"
    end.send_bytes(b"for 0")
    assert connections[1].recv_bytes() == b"for 0"
    for connection in (end, connections[1]):
        connection.close()


def test_a_stranger_who_says_something_else_is_turned_away() -> None:
    server, place = listen(is_local=True)
    strangers = []
    for text in (b"1\n", b'["\xc3\xa9", 1]\n', b"[1]\n", b"{}\n", b"\xff\n", b"\n", b"[" * 300):
        strangers.append(socket.create_connection((place["hosts"][0], place["port"])))
        strangers[-1].sendall(text)
    end = hello(place, place["token"], 1)
    connections = accept(server, place["token"], 2)
    assert list(connections) == [1]
    for connection in (*strangers, end, connections[1]):
        connection.close()


def test_what_follows_the_first_message_is_not_lost() -> None:
    server, place = listen(is_local=True)
    end = hello(place, place["token"], 1)
    end.send_bytes(b"at once")
    connections = accept(server, place["token"], 2)
    assert connections[1].recv_bytes() == b"at once"
    for connection in (end, connections[1]):
        connection.close()


def test_a_local_job_listens_to_this_machine_only() -> None:
    server, place = listen(is_local=True)
    with server:
        assert server.getsockname()[0] == "127.0.0.1"
    assert json.loads(json.dumps(place)) == place
    assert len(place["token"]) == 64


def test_a_rank_that_does_not_connect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_CONNECT_S", 0.1)
    server, place = listen(is_local=True)
    with hello(place, place["token"], 1), pytest.raises(Failure, match=r"^rank 2 did not connect to rank 0; start"):
        for connection in accept(server, place["token"], 3).values():
            connection.close()


def test_a_rank_0_that_cannot_be_reached_is_named() -> None:
    server, place = listen(is_local=True)
    server.close()
    with pytest.raises(Failure, match=rf"^rank 3 cannot reach rank 0 at 127.0.0.1, port {place['port']} \(.*refused"):
        connect(place, 3)


# --- the timeouts of torch ----------------------------------------------------------------------------------------


def test_collective_operations_wait_a_little_longer_than_the_thread() -> None:
    """gloo comes back before the thread ends the process; NCCL would end it, so it does so after the thread."""
    with_gloo, with_nccl = (collective_timeout(600, with_cuda=with_cuda) for with_cuda in (False, True))
    silent, ended = timedelta(seconds=600), timedelta(seconds=600 + peers._ENDED_AFTER_S)
    assert silent < with_gloo < ended < with_nccl < timedelta(seconds=700)
