"""How long the next attempt waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.throttle import FORGOTTEN_AFTER, OWN_SECONDS, SlowDown, Throttle, network_of


def wait(throttle: Throttle, account: str, address: str, now: float) -> float:
    """Seconds until an attempt may be made, 0: now."""
    try:
        throttle.check(account, address, now)
    except SlowDown as error:
        return error.retry_after
    return 0.0


def fail(throttle: Throttle, account: str, address: str, now: float, times: int = 1) -> None:
    for _ in range(times):
        throttle.failed(account, address, now)


def test_an_account_from_an_address() -> None:
    throttle, now, waits = Throttle(), 1000.0, []
    for _ in range(13):
        now += wait(throttle, "bob", "192.0.2.1", now)
        throttle.failed("bob", "192.0.2.1", now)
        waits.append(wait(throttle, "bob", "192.0.2.1", now))
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert wait(throttle, "eve", "192.0.2.1", now) == 0
    assert wait(throttle, "bob", "192.0.2.2", now) == 0


def test_a_person_is_told_how_long() -> None:
    throttle = Throttle()
    fail(throttle, "bob", "192.0.2.1", 0.0, times=8)
    with pytest.raises(SlowDown, match=r"too many failed log-ins: try again in 7 s$"):
        throttle.check("bob", "192.0.2.1", 1.5)
    throttle.check("bob", "192.0.2.1", 8.0)


def test_an_account_from_everywhere() -> None:
    throttle = Throttle()
    for index in range(19):
        fail(throttle, "bob", f"192.0.2.{index}", index)
    assert wait(throttle, "bob", "198.51.100.1", 19) == 0
    fail(throttle, "bob", "192.0.2.19", 19)
    assert wait(throttle, "bob", "198.51.100.1", 19) == 5
    assert wait(throttle, "bob", "198.51.100.1", 23) == 1
    fail(throttle, "bob", "192.0.2.20", 24)
    assert wait(throttle, "bob", "198.51.100.1", 24) == 5, "never longer, so that nobody is kept out for long"
    assert wait(throttle, "eve", "198.51.100.1", 24) == 0


def test_twenty_failures_count_within_ten_minutes() -> None:
    throttle = Throttle()
    for index in range(19):
        fail(throttle, "bob", f"192.0.2.{index}", index)
    fail(throttle, "bob", "192.0.2.19", 600.0)
    assert wait(throttle, "bob", "198.51.100.1", 600.0) == 0
    for index in range(19):
        fail(throttle, "bob", f"192.0.2.{index}", 601.0)
    assert wait(throttle, "bob", "198.51.100.1", 601.0) == 5, "twenty of the next ten minutes"


def test_an_address_with_many_accounts() -> None:
    throttle = Throttle()
    for index in range(19):
        fail(throttle, f"user{index}", "192.0.2.1", 0)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 0
    waits = []
    for index in range(8):
        fail(throttle, f"more{index}", "192.0.2.1", 0)
        waits.append(wait(throttle, "bob", "192.0.2.1", 0))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert wait(throttle, "bob", "192.0.2.2", 0) == 0


def test_an_ipv6_address_stands_for_its_network() -> None:
    throttle = Throttle()
    for index in range(5):
        fail(throttle, "bob", f"2001:db8:0:1::{index:x}", 0)
    assert wait(throttle, "bob", "2001:db8:0:1:ffff:ffff:ffff:ffff", 0) == 1
    assert wait(throttle, "bob", "2001:db8:0:2::", 0) == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("", ""),
        ("x" * 5000, "x" * 64),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_success_starts_this_account_from_this_address_anew_and_nothing_else() -> None:
    throttle = Throttle()
    fail(throttle, "bob", "192.0.2.1", 0, times=4)
    fail(throttle, "bob", "192.0.2.2", 0, times=5)
    for index in range(11):
        fail(throttle, f"user{index}", "192.0.2.1", 0)
        fail(throttle, "bob", f"192.0.2.{index + 100}", 0)
    throttle.failed("bob", "192.0.2.1", 0)  # the attempt that succeeds: counted when it began
    assert wait(throttle, "bob", "192.0.2.1", 0) == 5
    throttle.succeeded("bob", "192.0.2.1", 0)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 0
    fail(throttle, "bob", "192.0.2.1", 0, times=4)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 0, "four of five, not eight"
    assert wait(throttle, "bob", "192.0.2.2", 0) == 5, "as the account's failures from everywhere still count"
    assert wait(throttle, "user99", "192.0.2.1", 0) == 0, "15 + 4: the one that succeeded does not count"
    fail(throttle, "eve", "192.0.2.1", 0)
    assert wait(throttle, "user99", "192.0.2.1", 0) == 1


def test_one_s_own_good_log_ins_buy_no_guesses() -> None:
    throttle = Throttle()
    for index in range(20):
        throttle.failed("eve", "192.0.2.1", 0)
        throttle.succeeded("eve", "192.0.2.1", 0)
        throttle.failed(f"user{index}", "192.0.2.1", 0)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 1


def test_an_owner_gets_in_from_home_while_others_guess_from_everywhere() -> None:
    throttle = Throttle()
    throttle.failed("bob", "203.0.113.7", 0)
    throttle.succeeded("bob", "203.0.113.7", 0)
    later = OWN_SECONDS - 1
    for index in range(100):
        fail(throttle, "bob", f"192.0.2.{index}", later)
    assert wait(throttle, "bob", "198.51.100.1", later) == 5
    assert wait(throttle, "bob", "203.0.113.7", later) == 0
    fail(throttle, "bob", "203.0.113.7", later, times=5)
    assert wait(throttle, "bob", "203.0.113.7", later) == 1, "guesses from there are slowed as any"
    assert wait(throttle, "bob", "203.0.113.7", later + 1) == 4, "a week is over"


def test_an_attempt_that_was_none_is_taken_back() -> None:
    throttle = Throttle()
    fail(throttle, "bob", "192.0.2.1", 0, times=5)
    throttle.forgive("bob", "192.0.2.1")
    assert wait(throttle, "bob", "192.0.2.1", 0) == 0
    for _ in range(9):
        throttle.forgive("bob", "192.0.2.1")
    fail(throttle, "bob", "192.0.2.1", 0, times=4)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 0
    fail(throttle, "bob", "192.0.2.1", 0)
    assert wait(throttle, "bob", "192.0.2.1", 0) == 1, "nobody has failures to their credit"


def test_failures_are_forgotten_and_leave_nothing() -> None:
    throttle = Throttle()
    fail(throttle, "bob", "192.0.2.1", 0, times=30)
    fail(throttle, "bob", "192.0.2.1", FORGOTTEN_AFTER)
    assert wait(throttle, "bob", "192.0.2.1", FORGOTTEN_AFTER) == 0
    for index in range(50):
        fail(throttle, f"user{index}", "192.0.2.1", FORGOTTEN_AFTER)
    throttle.succeeded("eve", "192.0.2.1", FORGOTTEN_AFTER)
    assert len(throttle) == 104
    fail(throttle, "bob", "192.0.2.9", 2 * FORGOTTEN_AFTER)
    assert len(throttle) == 4, "the last one's three, and where eve is at home"
    fail(throttle, "bob", "192.0.2.9", 2 * OWN_SECONDS)
    assert len(throttle) == 3


def test_what_was_seen_lately_stays_behind_what_was_not() -> None:
    throttle = Throttle()
    fail(throttle, "bob", "192.0.2.1", 0)
    fail(throttle, "eve", "192.0.2.2", 1)
    fail(throttle, "bob", "192.0.2.1", 800)
    fail(throttle, "joe", "192.0.2.3", 1000)
    assert len(throttle) == 6, "eve's are gone, though bob's were there before"
    throttle.succeeded("bob", "192.0.2.1", 1000)
    throttle.succeeded("eve", "192.0.2.2", 1001)
    throttle.succeeded("bob", "192.0.2.1", 2000)
    fail(throttle, "joe", "192.0.2.3", 1001 + OWN_SECONDS)
    assert len(throttle) == 4


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    throttle = Throttle(entries=300)
    fail(throttle, "bob", "192.0.2.1", 0, times=6)
    for index in range(99):
        fail(throttle, f"user{index}", f"10.0.0.{index}", 1)
        throttle.succeeded(f"own{index}", f"10.0.0.{index}", 1)
    assert wait(throttle, "bob", "192.0.2.1", 1) == 1, "300 entries: there is room for them all"
    for index in range(1000):
        fail(throttle, f"user{index}", f"10.1.{index // 256}.{index % 256}", 1)
        throttle.succeeded(f"own{index}", f"10.1.{index // 256}.{index % 256}", 1)
    assert len(throttle) == 600
    assert wait(throttle, "bob", "192.0.2.1", 1) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "succeeded", "forgive"]),
            st.sampled_from(["bob", "eve"]),
            st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
            st.floats(0, 100),
        ),
        max_size=200,
    )
)
def test_nobody_ever_waits_for_longer_than_a_minute(steps: list[tuple[str, str, str, float]]) -> None:
    throttle, now = Throttle(), 0.0
    for verb, account, address, seconds in steps:
        now += seconds
        if verb == "forgive":
            throttle.forgive(account, address)
        else:
            getattr(throttle, verb)(account, address, now)
        assert 0 <= wait(throttle, account, address, now) <= 60
        assert wait(throttle, account, address, now + 60) == 0
