"""The arithmetic of the benchmark's table: medians, ratios in both directions, and what is said of figures that are missing."""

from __future__ import annotations

from typing import Any

import pytest

from bench.goals import (
    BY_ID,
    ROWS,
    AtLeast,
    AtMost,
    CpuAtMost,
    Figures,
    Flat,
    Goal,
    P99AtMost,
    PartOf,
    Row,
    TimeAtMost,
    TimesBetter,
    Verdict,
)
from bench.groups import GROUPS
from bench.report import cpu_text, number, report, table_of
from bench.rounds import rotated
from bench.servers import DISTRIBUTION, PORTSIDE, ZOT, ZOT_NO_SYNC, Server

RATE = Row("rate", "a rate", "GiB/s", True, "GiB", ())
TIME = Row("time", "a time", "ms", False, "tag", ())


def figures(value: float, cpu: float = 1.0) -> Figures:
    return Figures(value, cpu, 1e6, 5, value, value)


def sample(row: str, server: str, value: float | None, **more: Any) -> dict[str, Any]:
    usual = {"round": 0, "work": 2.0, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 10**7, "failure": ""}
    return {"row": row, "server": server, "value": value} | usual | more


@pytest.mark.parametrize(
    ("goal", "ours", "distribution", "zot", "expected"),
    [
        (TimesBetter(3.0), 6.0, 2.0, 1.0, Verdict(True, "3.00x")),
        (TimesBetter(3.0), 5.9, 2.0, 1.0, Verdict(False, "2.95x")),
        (TimesBetter(1.5, (ZOT,)), 3.0, 9.0, 2.0, Verdict(True, "1.50x")),
        (TimesBetter(1.0), 1.9, 2.0, None, Verdict(False, "0.95x")),
        (TimesBetter(1.0), None, 2.0, 2.0, Verdict(None, "not measured")),
        (TimesBetter(1.0), 2.0, None, None, Verdict(None, "not measured")),
        (AtMost(4.0), 4.0, None, None, Verdict(True, "4")),
        (AtMost(4.0), 4.1, None, None, Verdict(False, "4.1")),
        (AtLeast(3000.0), 3000.0, None, None, Verdict(True, "3,000")),
        (AtLeast(3000.0), 2999.0, None, None, Verdict(False, "2,999")),
        (AtLeast(3000.0), None, 9.0, 9.0, Verdict(None, "not measured")),
    ],
)
def test_goals_of_a_rate(
    goal: Goal, ours: float | None, distribution: float | None, zot: float | None, expected: Verdict
) -> None:
    values = {PORTSIDE: ours, DISTRIBUTION: distribution, ZOT: zot}
    table = {("rate", server): figures(value) for server, value in values.items() if value is not None}
    assert goal.judge(RATE, table) == expected


def test_of_a_time_less_is_better() -> None:
    table = {("time", PORTSIDE): figures(2.0), ("time", DISTRIBUTION): figures(3.0), ("time", ZOT): figures(8.0)}
    assert TimesBetter(1.5).judge(TIME, table) == Verdict(True, "1.50x")
    assert TimesBetter(1.6).judge(TIME, table) == Verdict(False, "1.50x")


def test_a_time_against_a_row_of_a_peer() -> None:
    table = {("many", PORTSIDE): figures(3.6), ("one", DISTRIBUTION): figures(3.0)}
    many = Row("many", "", "ms", False, "tag", ())
    assert TimeAtMost(1.2, DISTRIBUTION, "one").judge(many, table) == Verdict(True, "1.20x")
    assert TimeAtMost(1.1, DISTRIBUTION, "one").judge(many, table) == Verdict(False, "1.20x")
    assert TimeAtMost(1.1, ZOT, "one").judge(many, table).is_met is None


def test_cpu_is_compared_with_the_thriftier_peer() -> None:
    table = {
        ("rate", PORTSIDE): figures(1.0, cpu=0.2),
        ("rate", DISTRIBUTION): figures(1.0, cpu=0.6),
        ("rate", ZOT): figures(9.0, cpu=0.5),
    }
    assert CpuAtMost(0.4).judge(RATE, table) == Verdict(True, "CPU 0.40x")
    assert CpuAtMost(1 / 3).judge(RATE, table).is_met is False


@pytest.mark.parametrize(("large", "is_met"), [(85.0, True), (84.0, False), (120.0, True)])
def test_flat_compares_ours_with_ours(large: float, is_met: bool) -> None:
    table = {("rate", PORTSIDE): figures(large), ("small", PORTSIDE): figures(100.0), ("small", ZOT): figures(1.0)}
    assert Flat("small").judge(RATE, table).is_met is is_met


@pytest.mark.parametrize(("ours", "is_met"), [(65.0, True), (64.0, False)])
def test_a_part_of_another_row(ours: float, is_met: bool) -> None:
    table = {("rate", PORTSIDE): figures(ours), ("open", PORTSIDE): figures(100.0), ("open", ZOT): figures(1.0)}
    goal = PartOf("open", 0.65)
    assert goal.judge(RATE, table) == Verdict(is_met, f"{ours / 100:.2f}x")
    assert goal.text == "≥ 0.65x of open"
    assert goal.judge(RATE, {("rate", PORTSIDE): figures(ours)}).is_met is None


def test_latencies_are_judged_by_their_median() -> None:
    samples = [sample("token-get", PORTSIDE, 3000.0, detail={"p99_us": p99}) for p99 in (9000, 20_000, 50_000)]
    table = table_of(samples)
    row, goal = BY_ID["token-get"], P99AtMost(20.0)
    assert goal in row.goals
    assert goal.judge(row, table) == Verdict(True, "p99 20 ms")
    assert P99AtMost(19.9).judge(row, table).is_met is False
    assert goal.judge(row, table_of([sample("token-get", PORTSIDE, 3000.0)])).is_met is None


def test_medians_leave_failures_out_and_divide_cpu_by_work() -> None:
    samples = [
        sample("get", PORTSIDE, 1.0, cpu_seconds=2.0, peak_bytes=5),
        sample("get", PORTSIDE, 9.0, cpu_seconds=4.0, peak_bytes=7),
        sample("get", PORTSIDE, 2.0, cpu_seconds=6.0, peak_bytes=6),
        sample("get", PORTSIDE, None, failure="the server closed the connection"),
        sample("get", ZOT, None, failure="500"),
    ]
    table = table_of(samples)
    assert table == {("get", PORTSIDE): Figures(2.0, 2.0, 7, 3, 1.0, 9.0)}


def run_of(*samples: dict[str, Any], began: str = "2026-01-01T00:00:00+00:00") -> dict[str, Any]:
    return {
        "began": began,
        "machine": {
            "processor": "P",
            "cores": 2,
            "memory_gib": 8,
            "kernel": "6",
            "python": "3.11.2",
            "filesystem": "ext4",
        },
        "versions": {PORTSIDE: "a", DISTRIBUTION: "v3", ZOT: "z"},
        "settings": {"rounds": 1, "seconds": 1},
        "load_average": [0.5, 0.4, 0.3],
        "samples": list(samples),
    }


def test_a_page_says_what_is_met_what_is_not_and_what_failed() -> None:
    page = report(
        run_of(
            sample("get", PORTSIDE, 6.0, cpu_seconds=0.2),
            sample("get", DISTRIBUTION, 2.0),
            sample("put", PORTSIDE, 1.0, peak_bytes=151_000_000),
            sample("put", DISTRIBUTION, 0.9),
            sample("tags", ZOT, None, failure="the server closed\nthe connection"),
        )
    )
    assert "**2 of 3 goals that could be judged are met.**" in page
    assert "Not met: PUT of 1 GiB (≥ 1.5x the better: 1.11x). What holds them back: [profile.md](profile.md)." in page
    assert "Above it: put (151 MB)." in page
    assert "| GET of 1 GiB | GiB/s | 6 | 2 |" in page
    assert "- tags on zot, 1 times: `the server closed the connection`" in page


def test_accounts_and_tls_have_a_section_of_their_own() -> None:
    plain, secure = sample("manifest", PORTSIDE, 60_000.0), sample("manifest-token", PORTSIDE, 30_000.0)
    page = report(run_of(plain, secure, sample("manifest-token", ZOT, 10_000.0)))
    results, accounts = page.index("## Results"), page.index("## Accounts and TLS")
    title = "| manifest GET by tag with a token, 16 connections | requests/s | 30,000 | 10,000 |"
    assert results < page.index("| manifest GET by tag, 16 connections |") < accounts < page.index(title)
    assert "≥ 2x zot<br>≥ 4x distribution<br>≥ 0.65x of manifest | 3.00x: met<br>0.50x: **not met** |" in page
    assert "## Accounts and TLS" not in report(run_of(plain))
    assert "## Results" not in report(run_of(secure))


def test_a_row_of_a_later_run_takes_the_place_of_all_that_was_known_of_it() -> None:
    first = run_of(
        sample("get", PORTSIDE, 6.0), sample("get", ZOT, 5.0), sample("put", PORTSIDE, 1.0), sample("put", ZOT, 0.5)
    )
    page = report(first, run_of(sample("get", PORTSIDE, 8.0), sample("get", DISTRIBUTION, 2.0), began="2026-01-02"))
    assert "| GET of 1 GiB | GiB/s | 8 | 2 |  |" in page
    assert "| PUT of 1 GiB | GiB/s | 1 |  | 0.5 |" in page
    assert "Measured again afterwards, in a run of their own: GET of 1 GiB. P, 2 cores" in page
    assert "begun 2026-01-02" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(31730.4, "31,730"), (100.0, "100"), (2.118, "2.12"), (0.0352, "0.0352"), (0.00004, "0.00004"), (-3.25, "-3.25")],
)
def test_numbers_are_read_without_exponents(value: float, text: str) -> None:
    assert number(value) == text


def test_cpu_of_small_work_is_in_microseconds() -> None:
    assert cpu_text(BY_ID["manifest"], 0.000031) == "31 µs"
    assert cpu_text(BY_ID["get"], 0.125) == "0.12 s"


def test_every_row_is_measured_once_and_has_a_goal() -> None:
    measured = [row for group in GROUPS for row in group.rows]
    assert sorted(measured) == sorted(BY_ID)
    assert len(BY_ID) == len(ROWS)
    assert all(row.goals for row in ROWS)
    assert all(PORTSIDE in group.servers for group in GROUPS)
    assert [group.name for group in GROUPS if ZOT_NO_SYNC in group.servers] == ["put", "patch", "stream"]


def test_each_server_begins_in_turn() -> None:
    servers = [Server(name, name, ("x",)) for name in "abc"]
    orders = ["".join(server.name for server in rotated(servers, number)) for number in range(4)]
    assert orders == ["abc", "bca", "cab", "abc"]
