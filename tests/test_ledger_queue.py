"""The queue in front of a ledger's thread: parts, deadlines, calls that are given up, and a thread that never ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from scanengine.errors import LedgerUnavailableError
from scanengine.ledger import calls as calls_module
from scanengine.ledger.calls import Calls

Handle = Callable[[list[str]], list[str] | None]
Opener = Callable[..., "Calls[str, str]"]


@pytest.fixture
def open_calls() -> Iterator[Opener]:
    opened: list[Calls[str, str]] = []

    def opener(
        handle: Handle, background: Callable[[], bool] = lambda: False, timeout_s: float = 60
    ) -> Calls[str, str]:
        opened.append(Calls(handle, background, batch_max=2, timeout_s=timeout_s))
        return opened[-1]

    yield opener
    for calls in opened:
        calls.close()


def shout(requests: list[str]) -> list[str]:
    return [request.upper() for request in requests]


def refuse_c(requests: list[str]) -> list[str] | None:
    """Knows nothing of a batch with the letter c, and stumbles over the letter x."""
    if "x" in requests:
        raise RuntimeError("x")
    return None if "c" in requests else shout(requests)


@contextmanager
def held(calls: Calls[str, str]) -> Iterator[None]:
    """The thread is busy meanwhile, and everything that is asked waits in the queue."""
    gate, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        gate.wait()

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(calls.run, hold)
        reached.wait()
        try:
            yield
        finally:
            gate.set()
            holding.exception()  # It may have waited longer than the deadline of these calls.


# Parts.


def test_call_larger_than_a_batch_is_taken_in_parts(open_calls: Opener) -> None:
    batches: list[list[str]] = []

    def answer(requests: list[str]) -> list[str]:
        batches.append(requests)
        return shout(requests)

    calls = open_calls(answer)
    assert calls.ask(list("abcde")) == list("ABCDE")
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert calls.requests_taken == 5
    assert calls.close()
    assert not calls.close()
    with pytest.raises(LedgerUnavailableError, match="closed"):
        calls.ask(["f"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("abcde", ["A", "B", None, None, "E"]),
        ("abxde", ["A", "B", None, None, "E"]),
        ("cbade", [None, None, "A", "D", "E"]),
        ("abdec", ["A", "B", "D", "E", None]),
        ("xacxx", [None] * 5),
        ("", []),
    ],
)
async def test_part_that_fails_takes_no_other_with_it(
    open_calls: Opener, asked: str, expected: list[str | None]
) -> None:
    calls = open_calls(refuse_c)
    assert calls.ask(list(asked)) == expected
    assert await calls.ask_async(list(asked)) == expected


# Deadlines.


def test_all_parts_of_a_call_share_one_deadline(open_calls: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a large call waits no longer than a small one. Method: a clock that the test turns on with every wait."""
    now_s = iter((100.0, 100.0, 103.0, 104.5, 107.0))
    monkeypatch.setattr(calls_module, "time", SimpleNamespace(monotonic=lambda: next(now_s)))
    waits_s: list[float] = []
    monkeypatch.setattr(calls_module._Blocked, "wait", lambda _, timeout_s: waits_s.append(timeout_s))
    calls = open_calls(shout, timeout_s=5)
    assert calls.ask(list("abcdefg")) == [None] * 7
    assert waits_s == [5, 2, 0.5, 0]


def test_part_in_time_is_answered_though_a_later_one_is_not(
    open_calls: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    now_s = iter((100.0, 100.0, 160.0))
    monkeypatch.setattr(calls_module, "time", SimpleNamespace(monotonic=lambda: next(now_s)))

    def answer(requests: list[str]) -> list[str]:
        if "c" in requests:
            gate.wait()
        return shout(requests)

    calls = open_calls(answer)
    try:
        assert calls.ask(list("abcd")) == ["A", "B", None, None]
    finally:
        gate.set()


async def test_calls_that_were_given_up_are_passed_over(open_calls: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nobody's "pending" becomes a claim long after. One whose caller went away untold is carried out."""
    monkeypatch.setattr("scanengine.ledger.waiting.OLD_SHARE", 1_000)  # However long others wait, all are let in.
    batches: list[list[str]] = []

    def answer(requests: list[str]) -> list[str]:
        batches.append(requests)
        return shout(requests)

    calls = open_calls(answer, timeout_s=0.05)
    with held(calls):
        assert await asyncio.to_thread(calls.ask, ["a"]) == [None]
        assert await calls.begin(["b"]) is None
        assert await calls.ask_async(list("cde")) == [None] * 3
        gone = calls.begin(["f"])
        gone.cancel()
    calls.close()
    assert batches == [["f"]]
    assert calls.requests_taken == 1


# A thread that never ends before it is told to.


def test_thread_outlives_every_failure_of_its_background_work(
    open_calls: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    failures = threading.Semaphore(0)
    steps = iter([True, RuntimeError("lost"), True, True, KeyError("lost")])

    def background() -> bool:
        step = next(steps, False)
        if isinstance(step, Exception):
            failures.release()
            raise step
        return step

    calls = open_calls(shout, background)
    for letter in "abc":
        assert calls.ask([letter]) == [letter.upper()]
    assert failures.acquire(timeout=60)
    assert failures.acquire(timeout=60)
    assert calls.run(lambda: "done") == "done"
    assert calls.ask(["d"]) == ["D"]
    assert calls.close()
    assert caplog.messages == ["the ledger failed at its background work"] * 2


async def test_calls_that_slip_in_while_closing_are_let_go(open_calls: Opener) -> None:
    gate, reached = threading.Event(), threading.Event()
    calls = open_calls(list)
    with ThreadPoolExecutor(5) as threads:
        holding = threads.submit(calls.run, lambda: (reached.set(), gate.wait()))
        reached.wait()
        closing = threads.submit(calls.close)
        while not calls._is_closed or calls._queue.empty():
            pass
        calls._is_closed = False  # The moment in which another thread has looked and not yet put its call.
        asked = calls.begin(["a"])
        blocked, task = threads.submit(calls.ask, ["b"]), threads.submit(calls.run, list)
        while calls._queue.qsize() < 4:
            pass
        gate.set()
        assert closing.result()
        holding.result()
        assert (await asked, blocked.result()) == (None, [None])
        with pytest.raises(LedgerUnavailableError, match="closed before its turn"):
            task.result()
