"""The line in front of a ledger: who may join it, in a world whose clock the test turns."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest

from scanengine.errors import OverloadedError
from scanengine.ledger import waiting
from scanengine.ledger.waiting import WAITING_MAX, Line

DEADLINE_S = 5.0
BATCH = 16


class World:
    """A clock, and a line in front of a ledger."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.line = Line(DEADLINE_S, BATCH)

    def is_let_in(self, count: int = 1) -> bool:
        try:
            self.line.check(count)
        except OverloadedError:
            return False
        self.line.join(count)
        return True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: world.now_s))
    return world


def test_nobody_joins_a_whole_batch_whose_oldest_has_waited_for_a_tenth_of_the_deadline(world: World) -> None:
    assert world.is_let_in()
    world.now_s += 0.3
    assert world.is_let_in(BATCH - 1)
    world.now_s += 0.3
    assert not world.is_let_in()
    assert not world.is_let_in(BATCH)
    world.line.leave(1, 1)
    assert world.is_let_in()
    assert world.line.refused == 1 + BATCH


def test_less_than_a_batch_is_joined_however_long_it_has_waited(world: World) -> None:
    """Whoever joins it is taken with it: to refuse them would send the batch half empty."""
    assert world.is_let_in()
    world.now_s += DEADLINE_S / 2
    assert sum(world.is_let_in() for _ in range(3 * BATCH)) == BATCH - 1


def test_a_call_of_any_size_is_let_in_where_nobody_waits(world: World) -> None:
    assert world.is_let_in(BATCH)
    world.now_s += DEADLINE_S
    assert not world.is_let_in()
    world.line.join(2 * WAITING_MAX)  # Its other parts.
    world.line.leave(BATCH + 2 * WAITING_MAX, BATCH)
    assert world.is_let_in()


def test_no_more_wait_than_there_is_memory_for(world: World) -> None:
    assert sum(world.is_let_in() for _ in range(2 * WAITING_MAX)) == WAITING_MAX


@pytest.mark.parametrize("offered", [0.5, 0.95, 1.5, 3, 10])
@pytest.mark.parametrize("batch_s", [0.002, 0.05, 0.4, 0.6])
def test_an_overloaded_ledger_is_never_idle_and_answers_long_before_the_deadline(
    world: World, offered: float, batch_s: float
) -> None:
    """Goal: past its capacity a ledger does as much as at its best, and all of it in time.

    Method: simulate a ledger whose batches take their time, and arrivals at a share of its capacity.
    """
    line: deque[float] = deque()
    waits_s, sizes, missed = [], [], 0
    arrivals = 0.0
    for _ in range(round(4 / batch_s)):
        begun_s = world.now_s
        arrivals += BATCH * offered
        count, arrivals = int(arrivals), arrivals % 1
        for number in range(count):
            world.now_s = begun_s + batch_s * number / count
            if world.is_let_in():
                line.append(world.now_s)
            else:
                missed += 1
        world.now_s = begun_s + batch_s
        taken = [line.popleft() for _ in range(min(BATCH, len(line)))]
        world.line.leave(len(taken), len(taken))
        waits_s += [world.now_s - since_s for since_s in taken]
        sizes.append(len(taken))
    assert max(waits_s) < DEADLINE_S
    if offered < 1:
        assert missed == 0
    else:
        assert missed > 0
        assert set(sizes[1:]) == {BATCH}


def test_a_ledger_that_comes_back_takes_all_again(world: World) -> None:
    """After a stall the line is refused until what waited in it is taken; all may join when the ledger has to wait."""
    for _ in range(10):
        assert world.is_let_in(BATCH)
    world.now_s += 3
    for _ in range(10):
        assert not world.is_let_in()
        world.line.leave(BATCH, BATCH)
        world.now_s += 0.01
    # Nine batches in less than a tenth of a second are some thousand requests in half a second.
    let_in = sum(world.is_let_in() for _ in range(10_000))
    assert let_in == pytest.approx(900, rel=0.2)
    world.line.leave(let_in, 1)
    assert all(world.is_let_in() for _ in range(10_000))


def test_a_rush_after_a_rest_is_let_in(world: World) -> None:
    """The ledger could have taken more than it was asked for: how much that was does not count."""
    assert world.is_let_in()
    world.line.leave(1, 1)
    world.now_s += 60
    assert world.is_let_in(50 * BATCH)
    for _ in range(40):
        world.line.leave(BATCH, BATCH)
        world.now_s += 0.01
        assert world.is_let_in()


def test_a_full_batch_says_how_quick_the_ledger_is_though_nobody_waits_behind_it(world: World) -> None:
    """Else a rush could join, each time a ledger with long rounds has taken all, for several times the deadline."""
    assert world.is_let_in(BATCH)
    world.now_s += 1
    world.line.leave(BATCH, BATCH)
    assert sum(world.is_let_in() for _ in range(1_000)) == BATCH


def test_requests_that_were_given_up_do_not_make_the_ledger_look_quick(world: World) -> None:
    for _ in range(10):
        assert world.is_let_in(BATCH)
    world.now_s += 0.2
    world.line.leave(9 * BATCH, BATCH)
    # One batch in a fifth of a second is some three in half a second.
    assert sum(world.is_let_in() for _ in range(1_000)) == pytest.approx(1.5 * BATCH, abs=BATCH)


def test_the_log_has_a_line_a_second_with_the_count(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.is_let_in(BATCH)
    world.now_s += 1
    for _ in range(2_500):
        world.is_let_in()
        world.now_s += 1 / 1024
    assert [record.args for record in caplog.records] == [(1, BATCH), (1_024, BATCH), (1_024, BATCH)]
    world.now_s += 1
    world.line.leave(BATCH, BATCH)
    assert [record.args for record in caplog.records][3:] == [(451, 0)]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
