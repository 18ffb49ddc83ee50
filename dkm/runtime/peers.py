"""What the processes of a job tell each other beside their tensors: that they live, and that one has failed.

Rank 0 has a connection to every other rank, and a thread of each rank listens to its connections. A process that ends
closes its connections, so its peers learn at once which one is gone. One that fails says first what happened, and rank
0 passes that on. One that is stopped or unreachable falls silent: every rank sends a sign of life each few seconds. A
collective operation of torch would report the first two late or not at all (NCCL), and none of them by name.

A rank that learns of a failure ends by itself: where it exchanges tensors, where it waits (``Peers.meet``), or in a
computation that a signal may interrupt. If it does none of that, the thread ends the process after a while.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from dkm.errors import Failure, printable

# Seconds between the news of a failure and the interrupt of a rank's computation, and the end of its process. torchrun
# kills all processes 30 s after one has failed.
_INTERRUPTED_AFTER_S, _ENDED_AFTER_S = 1, 20
# Seconds that a failing rank waits until its message has arrived, and others for the reason of a lost connection.
_ANSWER_S = 5
# Between two signs of life, and between two looks at the clock.
_BEAT_S, _TICK_S = 5.0, 1.0
# A thread that could not run for this long does not know who was silent.
_PAUSED_S = 10.0
# Seconds to connect to rank 0.
_CONNECT_S = 60
_MAX_HELLO_BYTES = 200


class RankFailure(NamedTuple):
    """How a rank failed: its number, a line that names it and the cause, the exit code, the traceback of a bug."""

    rank: int
    text: str
    code: int = 1
    traceback: str = ""


class Peers:
    """The other processes of the job, as one of them sees them.

    Parameters
    ----------
    connections : dict of int to Connection
        By rank: on rank 0 one to every other rank, on the others one to rank 0.
    rank : int
    n_ranks : int
    limit_s : float
        A rank that is silent for longer is given up.

    Attributes
    ----------
    failure : RankFailure or None
        The first failure in the job that this rank knows of.
    limit_s : float
    is_ending : bool
        True while this rank ends by itself, for instance writes its last checkpoint: it is not interrupted.
    remedy : str
        What the line about a failure ends with.
    log : str
        The log of the run, which gets the traceback of a bug; empty as long as there is none.
    """

    def __init__(self, connections: dict[int, Connection], rank: int, n_ranks: int, limit_s: float) -> None:
        self.failure: RankFailure | None = None
        self.limit_s = limit_s
        self.is_ending = False
        self.remedy = "nothing was trained yet; start all processes again"
        self.log = ""
        self._connections = dict(connections)
        self._rank = rank
        self._changed = threading.Condition()  # guards all that follows
        self._failed_at_s = 0.0
        self._n_meetings = 0  # that this rank came to
        self._n_held = 0  # at which all ranks have been
        self._arrived = dict.fromkeys(range(n_ranks), 0)
        self._left: set[int] = set()
        self._informed: set[int] = set()  # of the failure; on another rank than 0: rank 0, which prints it
        self._warnings: list[tuple[int, str]] = []
        now_s = time.monotonic()
        self._heard_at_s = dict.fromkeys(connections, now_s)
        self._is_interrupted = False
        self._is_closed = False
        self._sending = threading.Lock()
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="dkm-peers", daemon=True)
        self._thread.start()

    # --- the main thread ---

    def meet(self) -> None:
        """Wait until all ranks have called this, however long their work takes as long as they live.

        Raises
        ------
        ConnectionError
            If a rank has failed, or has left the job.
        """
        with self._changed:
            self._n_meetings += 1
            self._arrived[self._rank] = number = self._n_meetings
            self._count_arrivals()
        if self._rank != 0:
            self._send(0, kind="arrived", number=number)
        with self._changed:
            self._changed.wait_for(lambda: self._n_held >= number or self.failure or self._left)
            if self._n_held < number:
                raise ConnectionError("a process of the job is gone")

    def warn(self, text: str) -> None:
        """Pass a warning on to rank 0, which has it when both have met."""
        self._send(0, kind="warning", text=text)

    def take_warnings(self) -> list[tuple[int, str]]:
        """Return the warnings of other ranks, with their rank, that were not taken yet."""
        with self._changed:
            taken, self._warnings = self._warnings, []
        return taken

    def fail(self, failure: RankFailure) -> bool:
        """Tell all ranks that this one has failed; return whether rank 0 has got the message."""
        self.is_ending = True
        if self._rank == 0:
            self._learn(failure)
            self._wait_for(lambda: not self._connections.keys() - self._informed)
            return True
        self._send(0, kind="failed", failure=failure)
        self._wait_for(lambda: self.failure is not None)
        return 0 in self._informed

    def reason(self, problem: str) -> RankFailure:
        """Return why an exchange with another process has failed; ``problem`` if no other reason is known in time."""
        self.is_ending = True
        self._wait_for(lambda: self.failure is not None)
        if self.failure is None:
            self.fail(RankFailure(self._rank, f"rank {self._rank}: {problem}"))
        return self.failure or RankFailure(self._rank, f"rank {self._rank}: {problem}")

    def line(self, failure: RankFailure) -> str:
        """Return the line about a failure, without the remedy."""
        has_traceback = failure.traceback and self.log
        return f"{failure.text}; its traceback is in {self.log}" if has_traceback else failure.text

    @property
    def must_tell(self) -> bool:
        """Whether this rank prints the failure: rank 0 does; if it is the one that is gone, one of each machine."""
        if self._rank == 0:
            return True
        return 0 not in self._informed and (self._rank == 1 or os.environ.get("LOCAL_RANK") == "0")

    def close(self) -> None:
        """Leave the job; rank 0 waits a moment for the others, which would take its end for a failure."""
        if self._is_closed:
            return
        for peer in list(self._connections):
            self._send(peer, kind="left")
        if self._rank == 0 and self.failure is None:
            self._wait_for(lambda: not self._connections.keys() - self._left or self.failure is not None)
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        self._thread.join(_ANSWER_S)

    def _wait_for(self, condition: Callable[[], object]) -> None:
        with self._changed:
            self._changed.wait_for(condition, _ANSWER_S)

    def _send(self, peer: int, **message: Any) -> None:
        connection = self._connections.get(peer)
        if connection is None:
            return
        # One that is closed is noticed by the thread, which reads from it.
        with contextlib.suppress(OSError), self._sending:
            connection.send_bytes(json.dumps(message).encode())

    # --- the thread ---

    def _listen(self) -> None:
        beat_at_s = ticked_at_s = time.monotonic()
        while not self._is_closed:
            by_object: dict[Any, int] = {connection: peer for peer, connection in self._connections.items()}
            for item in wait([*by_object, self._waker], timeout=min(_TICK_S, self.limit_s / 4)):
                if item is not self._waker:
                    self._receive(by_object[item])
            now_s = time.monotonic()
            if now_s - ticked_at_s > _PAUSED_S:  # the job was paused, or this thread was kept from running
                self._heard_at_s = dict.fromkeys(self._heard_at_s, now_s)
            ticked_at_s = now_s
            if now_s - beat_at_s >= min(_BEAT_S, self.limit_s / 4):
                beat_at_s = now_s
                for peer in list(self._connections):
                    self._send(peer, kind="beat")
            self._look_for_silent(now_s)
            self._end_if_due(now_s)
        ends: list[Connection | socket.socket] = [*self._connections.values(), self._waker, self._wake]
        for closing in ends:
            closing.close()

    def _receive(self, peer: int) -> None:
        try:
            message = json.loads(self._connections[peer].recv_bytes())
        except (EOFError, OSError):
            self._lose(peer)
            return
        self._heard_at_s[peer] = time.monotonic()
        getattr(self, f"_on_{message.pop('kind')}")(peer, **message)

    def _lose(self, peer: int) -> None:
        with self._changed:
            connection = self._connections.pop(peer)
            is_expected = peer in self._left
            self._changed.notify_all()
        connection.close()
        if not is_expected:
            self._learn(RankFailure(peer, f"rank {peer} ended without a message (was it killed?)"))

    def _on_beat(self, peer: int) -> None:
        """Nothing but a sign of life."""

    def _on_arrived(self, peer: int, number: int) -> None:
        with self._changed:
            self._arrived[peer] = number
            self._count_arrivals()

    def _on_held(self, peer: int, number: int) -> None:
        with self._changed:
            self._n_held = number
            self._changed.notify_all()

    def _count_arrivals(self) -> None:
        """Note on rank 0 that all have met, and tell them; called with the condition held."""
        number = min(self._arrived.values())
        if self._rank == 0 and number > self._n_held:
            self._n_held = number
            self._changed.notify_all()
            for peer in list(self._connections):
                self._send(peer, kind="held", number=number)

    def _on_left(self, peer: int) -> None:
        with self._changed:
            self._left.add(peer)
            self._changed.notify_all()

    def _on_warning(self, peer: int, text: str) -> None:
        with self._changed:
            self._warnings.append((peer, text))

    def _on_failed(self, peer: int, failure: list[Any]) -> None:
        if self._rank != 0:
            with self._changed:
                self._informed.add(0)
        self._learn(RankFailure(*failure))
        if self._rank != 0:
            self._send(0, kind="informed")

    def _on_informed(self, peer: int) -> None:
        with self._changed:
            self._informed.add(peer)
            self._changed.notify_all()

    def _learn(self, failure: RankFailure) -> None:
        """Note the first failure; rank 0 passes it on."""
        with self._changed:
            if self.failure is not None:
                return
            self.failure, self._failed_at_s = failure, time.monotonic()
            self._changed.notify_all()
        if self._rank == 0:
            for peer in list(self._connections):
                self._send(peer, kind="failed", failure=failure)

    def _look_for_silent(self, now_s: float) -> None:
        for peer in list(self._connections):
            if peer not in self._left and now_s - self._heard_at_s[peer] > self.limit_s:
                silence = f"has not answered for {self.limit_s:g} s (distributed.timeout_s)"
                self._learn(RankFailure(peer, f"rank {peer} {silence}"))

    def _end_if_due(self, now_s: float) -> None:
        """Interrupt the main thread after a failure, and end the process if that does not help."""
        if self.failure is None:
            return
        passed_s = now_s - self._failed_at_s
        if passed_s >= _INTERRUPTED_AFTER_S and not self.is_ending and not self._is_interrupted:
            self._is_interrupted = True
            _thread.interrupt_main()
        # A rank that ends by itself may be writing a large checkpoint.
        if passed_s >= (max(self.limit_s, _ENDED_AFTER_S) if self.is_ending else _ENDED_AFTER_S):
            if self.must_tell:
                print(f"error: {printable(self.line(self.failure))}; {self.remedy}", file=sys.stderr, flush=True)
            os._exit(self.failure.code)


# --- connecting ---------------------------------------------------------------------------------------------------


def listen(*, is_local: bool) -> tuple[socket.socket, dict[str, Any]]:
    """Return rank 0's listening socket, and what the others need to connect to it.

    Parameters
    ----------
    is_local : bool
        Whether all processes run on this machine: then no other machine can connect.
    """
    if is_local:
        server = socket.create_server(("127.0.0.1", 0))
    elif socket.has_dualstack_ipv6():
        server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        server = socket.create_server(("", 0))
    hosts = ["127.0.0.1"] if is_local else [os.environ["MASTER_ADDR"], socket.getfqdn(), socket.gethostname()]
    return server, {"hosts": hosts, "port": server.getsockname()[1], "token": secrets.token_hex()}


def accept(server: socket.socket, token: str, n_ranks: int) -> dict[int, Connection]:
    """Return rank 0's connections to the other ranks, by rank; whoever does not know the token is turned away.

    Raises
    ------
    Failure
        If not all of them connect in time.
    """
    connections: dict[int, Connection] = {}
    end_s = time.monotonic() + _CONNECT_S
    with server:
        while len(connections) < n_ranks - 1:
            try:
                server.settimeout(max(0.001, end_s - time.monotonic()))
                connected = server.accept()[0]
            except TimeoutError:
                missing = sorted(set(range(1, n_ranks)) - connections.keys())
                raise Failure(f"rank {missing[0]} did not connect to rank 0; start all processes again") from None
            with contextlib.suppress(OSError, EOFError, TypeError, ValueError):
                sent, rank = json.loads(_first_line(connected))
                if secrets.compare_digest(str(sent), token):
                    connections[int(rank)] = _framed(connected)
                    continue
            connected.close()
    return connections


def connect(place: dict[str, Any], rank: int) -> Connection:
    """Return this rank's connection to rank 0.

    Raises
    ------
    Failure
        If none of its addresses can be reached.
    """
    problem: OSError | None = None
    for host in place["hosts"]:
        try:
            connected = socket.create_connection((host, place["port"]), _CONNECT_S / len(place["hosts"]))
        except OSError as error:
            problem = problem or error
            continue
        connected.sendall(json.dumps([place["token"], rank]).encode() + b"\n")
        return _framed(connected)
    where = f"{place['hosts'][0]}, port {place['port']}"
    raise Failure(f"rank {rank} cannot reach rank 0 at {where} ({problem}); let no firewall stand between the machines")


def _first_line(connected: socket.socket) -> bytes:
    """Return the line that a process begins with, and read no further.

    Raises
    ------
    OSError, EOFError
        If it does not arrive in time: whoever else connects must not hold up the job.
    """
    end_s, line = time.monotonic() + _ANSWER_S, b""
    while not line.endswith(b"\n") and len(line) < _MAX_HELLO_BYTES:
        connected.settimeout(max(0.001, end_s - time.monotonic()))
        byte = connected.recv(1)
        if not byte:
            raise EOFError
        line += byte
    return line


def _framed(connected: socket.socket) -> Connection:
    """Return a connection that sends and receives whole messages."""
    connected.settimeout(None)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(connected.detach())


def collective_timeout(limit_s: float, *, with_cuda: bool) -> timedelta:
    """Return the limit of a collective operation of torch, which starts when all ranks have reached it.

    It is longer than the silence that the thread of ``Peers`` allows, so that a line names the silent rank. Of a gloo
    operation that ends soon after that, rank 0 comes back and writes a checkpoint. NCCL ends the process instead, so it
    is given the time in which the thread ends it with a line.
    """
    return timedelta(seconds=limit_s + (3 * _ENDED_AFTER_S if with_cuda else _ENDED_AFTER_S / 2))
