"""Decisions about shards: every one ends once, whatever happens to workers; who is blamed, searched, given up."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions.engine.orders import (
    Beat,
    Done,
    Event,
    Failed,
    Give,
    Isolated,
    Kill,
    Lost,
    Order,
    Ready,
    Start,
    Stop,
)
from mobileclip.captions.engine.scheduler import Rules, Scheduler
from mobileclip.captions.engine.simulate import World, simulate
from mobileclip.errors import DataError


def begun(scheduler: Scheduler, now: float = 0.0) -> list[Give]:
    """Start all workers that are wanted, and see what they are given."""
    for order in scheduler.decide(now):
        if isinstance(order, Start):
            scheduler.hear(Ready(order.worker), now)
    return gives(scheduler.decide(now))


def gives(orders: list[Order]) -> list[Give]:
    return [order for order in orders if isinstance(order, Give)]


def test_no_more_workers_than_shards() -> None:
    orders = Scheduler(range(2), Rules(most=5)).decide(0.0)
    assert orders == [Start(1), Start(2)]


def test_shards_go_out_in_their_order_and_a_worker_holds_no_more_than_its_depth() -> None:
    scheduler = Scheduler(range(9), Rules(most=2, depth=2))
    assert begun(scheduler) == [Give(1, 0, False), Give(2, 1, False), Give(1, 2, False), Give(2, 3, False)]
    assert scheduler.decide(1.0) == []
    assert scheduler.in_flight == 4


def test_a_second_shard_is_not_given_ahead_when_few_are_left() -> None:
    scheduler = Scheduler(range(4), Rules(most=2, depth=2))
    assert begun(scheduler) == [Give(1, 0, False), Give(2, 1, False)]


def test_a_shard_whose_worker_ends_goes_to_another_and_is_searched_the_second_time() -> None:
    scheduler = Scheduler(range(1), Rules(most=1))
    begun(scheduler)
    assert scheduler.hear(Lost(1, "SIGSEGV"), 1.0) == 0
    assert begun(scheduler, 1.0) == [Give(2, 0, False)]
    assert scheduler.hear(Lost(2, "SIGSEGV"), 2.0) == 0
    assert begun(scheduler, 2.0) == [Give(3, 0, True)]
    scheduler.hear(Isolated(3, 0, (("k", "SIGSEGV"),)), 3.0)
    assert gives(scheduler.decide(3.0)) == [Give(3, 0, False)]
    scheduler.hear(Done(3, 0), 4.0)
    assert scheduler.left == 0
    assert not scheduler.failed


def test_a_machine_that_goes_away_blames_no_shard() -> None:
    scheduler = Scheduler(range(1), Rules(most=1))
    for number in range(1, 6):
        assert begun(scheduler) == [Give(number, 0, False)]
        assert scheduler.hear(Lost(number, "the node", blames=False), 0.0) is None


def test_the_first_shard_that_a_worker_holds_is_blamed() -> None:
    scheduler = Scheduler(range(9), Rules(most=1, depth=2))
    begun(scheduler)
    assert scheduler.hear(Lost(1, "SIGKILL"), 0.0) == 0
    assert begun(scheduler) == [Give(2, 0, False), Give(2, 1, False)]
    scheduler.hear(Done(2, 0), 0.0)
    scheduler.decide(0.0)
    assert scheduler.hear(Lost(2, "SIGKILL"), 0.0) == 1


def test_searches_that_find_nothing_end_with_the_shard_given_up() -> None:
    scheduler = Scheduler(range(1), Rules(most=1, searches=2), suspects=[0])
    assert begun(scheduler) == [Give(1, 0, True)]
    scheduler.hear(Isolated(1, 0, (), "some rows together"), 0.0)
    assert gives(scheduler.decide(0.0)) == [Give(1, 0, False)]
    scheduler.hear(Lost(1, "SIGSEGV"), 0.0)
    assert begun(scheduler) == [Give(2, 0, False)]
    scheduler.hear(Lost(2, "SIGSEGV"), 0.0)
    assert begun(scheduler) == [Give(3, 0, True)]
    scheduler.hear(Isolated(3, 0, (), "some rows together"), 0.0)
    assert scheduler.failed == {0: "some rows together"}
    assert scheduler.left == 0


def test_a_search_that_is_itself_ended_is_not_repeated_for_ever() -> None:
    scheduler = Scheduler(range(1), Rules(most=1, searches=2), suspects=[0])
    for number in (1, 2):
        assert begun(scheduler) == [Give(number, 0, True)]
        scheduler.hear(Lost(number, "SIGKILL"), 0.0)
    assert scheduler.failed == {0: "the search for the rows that end it was ended itself (SIGKILL)"}


def test_a_shard_that_raises_is_tried_again_after_pauses_that_grow() -> None:
    scheduler = Scheduler(range(1), Rules(most=1, attempts=3, pause=10.0))
    begun(scheduler)
    scheduler.hear(Failed(1, 0, "no tar"), 0.0)
    assert scheduler.decide(9.0) == []
    assert scheduler.wait(9.5) == pytest.approx(0.5)
    assert scheduler.decide(10.0) == [Give(1, 0, False)]
    scheduler.hear(Failed(1, 0, "no tar"), 10.0)
    assert scheduler.decide(29.0) == []
    assert scheduler.decide(30.0) == [Give(1, 0, False)]
    scheduler.hear(Failed(1, 0, "no tar"), 31.0)
    assert scheduler.failed == {0: "no tar"}


def test_an_exception_that_rows_may_cause_leads_to_a_search() -> None:
    scheduler = Scheduler(range(1), Rules(most=1))
    begun(scheduler)
    for isolate in (False, True):
        scheduler.hear(Failed(1, 0, "MemoryError", rows=True), 0.0)
        assert scheduler.decide(0.0) == [Give(1, 0, isolate)]


def test_the_watchdog_ends_who_makes_no_progress_and_nobody_else() -> None:
    scheduler = Scheduler(range(3), Rules(most=2, watchdog=100.0, hedge=0.0))
    begun(scheduler)
    scheduler.hear(Beat(1, 10, 100), 90.0)
    assert scheduler.decide(99.0) == []
    assert scheduler.decide(100.0) == [Kill(2, "no progress for 100 s")]
    assert scheduler.decide(189.0) == []
    assert scheduler.decide(190.0) == [Kill(1, "no progress for 100 s")]
    assert scheduler.hear(Lost(2, "no progress for 100 s"), 190.0) == 1


def test_a_worker_without_a_shard_is_not_watched() -> None:
    scheduler = Scheduler(range(2), Rules(most=2, least=2, watchdog=100.0, hedge=0.0))
    begun(scheduler)
    scheduler.hear(Done(1, 0), 1.0)
    scheduler.hear(Beat(2), 150.0)
    assert scheduler.decide(200.0) == []


def test_workers_that_are_not_needed_are_let_go_but_for_the_least() -> None:
    scheduler = Scheduler(range(4), Rules(most=4, least=2, idle=30.0, hedge=0.0))
    begun(scheduler)
    for worker in (1, 2, 3):
        scheduler.hear(Done(worker, worker - 1), 10.0)
    assert scheduler.decide(39.0) == []
    assert scheduler.decide(40.0) == [Stop(1), Stop(2)]


def test_an_idle_worker_takes_over_from_a_slow_one_and_the_first_counts() -> None:
    scheduler = Scheduler(range(5), Rules(most=2, hedge=3.0, idle=1e9))
    begun(scheduler)  # worker 1 keeps shard 0
    for item, now in ((1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)):
        scheduler.hear(Done(2, item), now)
        assert gives(scheduler.decide(now)) == ([Give(2, item + 1, False)] if item < 4 else [Give(2, 0, False)])
    scheduler.hear(Done(2, 0), 45.0)
    assert scheduler.left == 0
    scheduler.hear(Done(1, 0), 46.0)
    assert scheduler.left == 0
    assert scheduler.counts["done"] == 5


def test_one_of_two_that_hold_a_shard_may_end() -> None:
    scheduler = Scheduler(range(5), Rules(most=2, hedge=3.0, idle=1e9))
    begun(scheduler)
    for item, now in ((1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)):
        scheduler.hear(Done(2, item), now)
        scheduler.decide(now)
    assert scheduler.hear(Lost(1, "SIGKILL"), 41.0) is None
    assert gives(scheduler.decide(41.0)) == []
    scheduler.hear(Done(2, 0), 50.0)
    assert scheduler.left == 0


def test_a_worker_that_holds_nearly_too_much_is_replaced_between_two_shards() -> None:
    scheduler = Scheduler(range(3), Rules(most=1, memory=1_000))
    begun(scheduler)
    scheduler.hear(Done(1, 0, memory=700), 0.0)
    assert scheduler.decide(0.0) == [Give(1, 1, False)]
    scheduler.hear(Done(1, 1, memory=900), 0.0)
    assert scheduler.decide(0.0) == [Stop(1), Start(2)]


def test_a_worker_is_replaced_after_some_shards_and_what_it_holds_is_not_lost() -> None:
    scheduler = Scheduler(range(9), Rules(most=1, depth=2, recycle=2))
    begun(scheduler)
    scheduler.hear(Done(1, 0), 0.0)
    scheduler.decide(0.0)
    scheduler.hear(Done(1, 1), 0.0)
    assert scheduler.decide(0.0) == [Stop(1), Start(2)]
    scheduler.hear(Ready(2), 0.0)
    assert gives(scheduler.decide(0.0)) == [Give(2, 2, False), Give(2, 3, False)]


def test_workers_that_never_begin_end_the_hope() -> None:
    scheduler = Scheduler(range(1), Rules(most=1, stillborn=3, pause=1.0))
    now = 0.0
    for number in (1, 2, 3):
        assert not scheduler.hopeless
        assert scheduler.decide(now) == [Start(number)]
        scheduler.hear(Lost(number, "exit code 1"), now)
        now += 10.0
    assert scheduler.hopeless == "exit code 1"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"most": 0}, "0 workers are asked for: at least 1 is needed."),
        ({"most": 2, "least": 3}, "at least 3 workers of at most 2 are asked for: swap."),
        ({"watchdog": 0.0}, "the watchdog waits 0.0 s: give more than 0."),
    ],
)
def test_rules_that_cannot_be(options: dict[str, float], text: str) -> None:
    with pytest.raises(DataError) as caught:
        Rules(**options)  # type: ignore[arg-type]
    assert str(caught.value) == text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_shard_ends_once_whatever_happens(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 12), label="shards")
    rules = Rules(
        most=data.draw(st.integers(1, 4), label="workers"),
        depth=data.draw(st.integers(1, 3), label="depth"),
        watchdog=50.0,
        hedge=data.draw(st.sampled_from((0.0, 1.5))),
        recycle=data.draw(st.sampled_from((0, 2))),
    )
    scheduler = Scheduler(range(count), rules)
    held: dict[int, list[tuple[int, bool]]] = {}
    starting: list[int] = []
    ended: Counter[int] = Counter()
    now, luck = 0.0, 0
    while scheduler.left:
        for order in scheduler.decide(now):
            if isinstance(order, Start):
                starting.append(order.worker)
            elif isinstance(order, Give):
                held[order.worker].append((order.item, order.isolate))
            elif isinstance(order, Stop):
                del held[order.worker]
            assert len(held) + len(starting) <= rules.most
            assert all(len(items) <= rules.depth for items in held.values())
        for worker in starting:
            held[worker] = []
            scheduler.hear(Ready(worker), now)
        starting.clear()
        busy = [worker for worker, items in held.items() if items]
        if not busy:
            now += max(scheduler.wait(now), 0.01)
            continue
        worker = data.draw(st.sampled_from(busy))
        item, search = held[worker][0]
        luck += 1
        what = data.draw(st.sampled_from(("done", "lost", "gone", "failed", "rows"))) if luck < 40 else "done"
        left, failed = scheduler.left, len(scheduler.failed)
        event: Event
        if what in ("lost", "gone"):
            event = Lost(worker, "x", blames=what == "lost")
            del held[worker]
        else:
            held[worker].pop(0)
            event = Done(worker, item)
            if search:
                event = Isolated(worker, item, (("key", "x"),) if what == "done" else ())
            elif what in ("failed", "rows"):
                event = Failed(worker, item, "x", rows=what == "rows")
        scheduler.hear(event, now)
        now += 1.0
        assert scheduler.left in (left, left - 1)
        if scheduler.left < left:
            done = item if len(scheduler.failed) == failed else next(reversed(scheduler.failed))
            ended[done] += 1
    assert ended == Counter(range(count))


STORM = {"least_room": 0.5, "preempted": 0.5, "crashes": 0.2, "flaky": 0.01, "poisoned": 0.01, "hanging": 0.002}


def test_a_simulated_storm_loses_no_shard_and_is_the_same_each_time() -> None:
    world = World(shards=3_000, broken=0.001, seed=7, **STORM)
    first, second = (simulate(world, Rules(most=48, depth=2)) for _ in range(2))
    assert first == second
    assert first.done + first.failed == 3_000
    assert first.counts["done"] == first.done
    assert 0 < first.failed < 10
    assert first.counts["blocked"] > 20
    assert first.most_workers <= 48
    assert first.useful + first.redone <= first.asked
    assert first.ideal <= first.seconds < 1.5 * first.ideal
    assert simulate(World(shards=3_000, broken=0.001, seed=8, **STORM), Rules(most=48, depth=2)) != first


def test_a_calm_simulation_does_every_shard_once() -> None:
    found = simulate(World(shards=1_000, slow=0.0, start=(0.0, 0.0)), Rules(most=10))
    assert (found.done, found.failed, found.redone) == (1_000, 0, 0.0)
    assert found.seconds < 1.05 * found.ideal


def test_taking_over_from_slow_workers_shortens_the_end() -> None:
    world = World(shards=1_000, slow=0.05, slowness=20.0, seed=3)
    with_, without = (simulate(world, Rules(most=50, hedge=hedge, idle=1e9)) for hedge in (2.0, 0.0))
    assert with_.counts["hedged"] > 0
    assert with_.tail < 0.7 * without.tail


def test_a_world_needs_shards() -> None:
    with pytest.raises(DataError, match=r"^a world has at least one shard, which takes some time\.$"):
        World(shards=0)
