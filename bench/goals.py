"""The rows of the table: what each measures, in which unit, and what is asked of Portside.

Goals are ratios to the better of the peers at their durable settings, in the same run on the same machine, unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from bench.servers import DISTRIBUTION, PORTSIDE, ZOT, ZOT_NO_SYNC

FLAT = 0.85
"""What "flat" means: at least this part of the rate where the store is small (and for times its inverse)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians of a row on one server. ``cpu`` is seconds per unit of work; ``p99`` milliseconds, of small requests."""

    value: float
    cpu: float
    peak_bytes: float
    rounds: int
    low: float
    high: float
    p99: float | None = None


Table = Mapping[tuple[str, str], Figures]
"""(row, server) -> figures; what was not measured or failed is absent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``is_met`` is None where a figure that the goal needs was not measured."""

    is_met: bool | None
    figure: str


class Goal(Protocol):
    """``text`` is the goal as the table shows it; ``judge`` compares."""

    @property
    def text(self) -> str: ...
    def judge(self, row: Row, table: Table) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Row:
    """``is_rate``: more is better. ``per`` names the unit of work that CPU seconds are divided by."""

    id: str
    title: str
    unit: str
    is_rate: bool
    per: str
    goals: tuple[Goal, ...]


UNKNOWN = Verdict(None, "not measured")


def advantage(row: Row, ours: float, theirs: float) -> float:
    """How many times better ours is; above 1 is ahead."""
    return ours / theirs if row.is_rate else theirs / ours


@dataclass(frozen=True, slots=True)
class TimesBetter:
    """At least ``factor`` times as good as the best of ``peers`` that was measured; ``at`` names the peers' row, if another."""

    factor: float
    peers: tuple[str, ...] = (DISTRIBUTION, ZOT)
    at: str = ""

    @property
    def text(self) -> str:
        against = "the better" if len(self.peers) > 1 else self.peers[0]
        ahead = "ahead of" if self.factor == 1.0 else f"≥ {self.factor:g}x"
        return f"{ahead} {against}"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours = table.get((row.id, PORTSIDE))
        theirs = [table[key].value for peer in self.peers if (key := (self.at or row.id, peer)) in table]
        if ours is None or not theirs:
            return UNKNOWN
        ratio = min(advantage(row, ours.value, value) for value in theirs)
        return Verdict(ratio >= self.factor, f"{ratio:.2f}x")


@dataclass(frozen=True, slots=True)
class CpuAtMost:
    """The server's CPU seconds per unit of work, as a part of the better peer's."""

    part: float

    @property
    def text(self) -> str:
        return f"CPU ≤ {self.part:.2f}x the better"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours = table.get((row.id, PORTSIDE))
        theirs = [table[key].cpu for peer in (DISTRIBUTION, ZOT) if (key := (row.id, peer)) in table]
        if ours is None or not theirs:
            return UNKNOWN
        part = ours.cpu / min(theirs)
        return Verdict(part <= self.part, f"CPU {part:.2f}x")


@dataclass(frozen=True, slots=True)
class PartOf:
    """Our figure is at least a part of that of another row of ours."""

    other: str
    part: float

    @property
    def text(self) -> str:
        return f"≥ {self.part:g}x of {self.other}"

    def judge(self, row: Row, table: Table) -> Verdict:
        here, there = table.get((row.id, PORTSIDE)), table.get((self.other, PORTSIDE))
        if here is None or there is None:
            return UNKNOWN
        part = advantage(row, here.value, there.value)
        return Verdict(part >= self.part, f"{part:.2f}x")


@dataclass(frozen=True, slots=True)
class Flat:
    """Our figure is that of another row of ours, where the store is small."""

    small: str

    @property
    def text(self) -> str:
        return f"flat (≥ {FLAT:g}x of {self.small})"

    def judge(self, row: Row, table: Table) -> Verdict:
        return PartOf(self.small, FLAT).judge(row, table)


@dataclass(frozen=True, slots=True)
class TimeAtMost:
    """Our time against one peer's in a row of its own: at most ``factor`` times."""

    factor: float
    peer: str
    at: str

    @property
    def text(self) -> str:
        return f"≤ {self.factor:g}x {self.peer}'s {self.at}"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours, theirs = table.get((row.id, PORTSIDE)), table.get((self.at, self.peer))
        if ours is None or theirs is None:
            return UNKNOWN
        ratio = ours.value / theirs.value
        return Verdict(ratio <= self.factor, f"{ratio:.2f}x")


@dataclass(frozen=True, slots=True)
class AtMost:
    """An absolute bound in the row's unit."""

    bound: float

    @property
    def text(self) -> str:
        return f"≤ {self.bound:g}"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours = table.get((row.id, PORTSIDE))
        if ours is None:
            return UNKNOWN
        return Verdict(ours.value <= self.bound, f"{ours.value:.3g}")


@dataclass(frozen=True, slots=True)
class AtLeast:
    """An absolute bound from below in the row's unit."""

    bound: float

    @property
    def text(self) -> str:
        return f"≥ {self.bound:,g}"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours = table.get((row.id, PORTSIDE))
        if ours is None:
            return UNKNOWN
        return Verdict(ours.value >= self.bound, f"{ours.value:,.0f}")


@dataclass(frozen=True, slots=True)
class P99AtMost:
    """A bound in milliseconds of the 99th percentile of what a row of small requests measured."""

    bound: float

    @property
    def text(self) -> str:
        return f"p99 ≤ {self.bound:g} ms"

    def judge(self, row: Row, table: Table) -> Verdict:
        ours = table.get((row.id, PORTSIDE))
        if ours is None or ours.p99 is None:
            return UNKNOWN
        return Verdict(ours.p99 <= self.bound, f"p99 {ours.p99:.3g} ms")


AHEAD = TimesBetter(1.0)
TWENTY_THOUSAND = 20_000
PEAK_LIMIT = 150e6
"""Bytes of resident memory that Portside may peak at in any row (the row of 100 transfers has a bound of its own)."""

ZB_TESTS = (
    "Get Catalog",
    "Push Monolith 1MB",
    "Push Monolith 10MB",
    "Push Monolith 100MB",
    "Push Chunk Streamed 1MB",
    "Push Chunk Streamed 10MB",
    "Push Chunk Streamed 100MB",
    "Pull 1MB",
    "Pull 10MB",
    "Pull 100MB",
    "Pull Mixed 20% 1MB, 70% 10MB, 10% 100MB",
    "Push Monolith Mixed 20% 1MB, 70% 10MB, 10% 100MB",
    "Push Chunk Mixed 33% 1MB, 33% 10MB, 33% 100MB",
    "Pull 75% and Push 25% Mixed 1MB",
    "Pull 75% and Push 25% Mixed 10MB",
    "Pull 75% and Push 25% Mixed 100MB",
)
"""zot's load tests, by their own names; those of its pull-through cache need an upstream and are left out."""


def zb_row(test: str) -> str:
    """The row's id of one of :data:`ZB_TESTS`."""
    return "zb-" + "-".join("".join(c if c.isalnum() else " " for c in test.lower()).split())


def _bytes(id: str, title: str, *goals: Goal) -> Row:
    return Row(id, title, "GiB/s", True, "GiB", goals)


def _requests(id: str, title: str, *goals: Goal) -> Row:
    return Row(id, title, "requests/s", True, "request", goals)


def _client(id: str, title: str) -> Row:
    return Row(id, title, "s", False, "image", (AHEAD,))


def _uploads(id: str, title: str) -> Row:
    return _bytes(id, title, TimesBetter(1.5), TimesBetter(1.0, (ZOT_NO_SYNC,)))


def _issue(id: str, title: str) -> Row:
    return _requests(id, title, AtLeast(3000.0), P99AtMost(20.0))


PLAIN_ROWS: tuple[Row, ...] = (
    Row("start", "start until /v2/ answers", "s", False, "start", (AtMost(0.6),)),
    Row("idle", "memory when idle", "MB", False, "start", (AtMost(60.0),)),
    _bytes("get", "GET of 1 GiB", TimesBetter(3.0), CpuAtMost(1 / 3)),
    _uploads("put", "PUT of 1 GiB"),
    _uploads("patch", "PATCH in 16 MiB chunks, 1 GiB"),
    _uploads("stream", "one streamed PATCH of 1 GiB, chunked as Docker pushes"),
    _bytes("four", "4 x 256 MiB at once, up", TimesBetter(1.3)),
    _requests("manifest", "manifest GET by tag, 16 connections", TimesBetter(1.5, (ZOT,)), TimesBetter(1.0)),
    _requests("blob", "blob of 89 bytes", TimesBetter(1.5, (ZOT,)), TimesBetter(1.0)),
    Row("tag-one", "one more tag at 1", "ms", False, "tag", (TimeAtMost(1.2, DISTRIBUTION, "tag-one"),)),
    _requests(
        "manifest-many",
        "manifest GET by tag in a repository of 20,000 tags",
        TimesBetter(1.5, (ZOT,)),
        Flat("manifest"),
    ),
    _requests("manifest-each", "the same, each of the 20,000 tags in turn", TimesBetter(1.5, (ZOT,))),
    _requests("tags", "tags page n=100 of 20,000", TimesBetter(50.0)),
    _requests("tags-last", "tags page n=100 of 20,000 with last in the middle", TimesBetter(50.0), Flat("tags")),
    Row(
        "tag-many",
        "one more tag at 20,000",
        "ms",
        False,
        "tag",
        (TimeAtMost(1.2, DISTRIBUTION, "tag-one"), Flat("tag-one")),
    ),
    _requests("catalogue", "catalogue page n=100 of 2,000 repositories", TimesBetter(50.0)),
    _requests("catalogue-last", "the same with last in the middle", TimesBetter(50.0), Flat("catalogue")),
    _requests("catalogue-many", "catalogue page n=100 of 50,000 repositories", TimesBetter(50.0), Flat("catalogue")),
    _requests("catalogue-many-last", "the same with last in the middle", TimesBetter(50.0), Flat("catalogue")),
    _client("crane-push-49mb", "crane push, 49 MB"),
    _client("crane-pull-49mb", "crane pull, 49 MB"),
    _client("crane-push-1gib", "crane push, 1 GiB"),
    _client("crane-pull-1gib", "crane pull, 1 GiB"),
    _client("docker-push-49mb", "docker push, 49 MB"),
    _client("docker-pull-49mb", "docker pull, 49 MB"),
    _client("docker-push-1gib", "docker push, 1 GiB"),
    _client("docker-pull-1gib", "docker pull, 1 GiB"),
    *(Row(zb_row(test), f"zb: {test}", "requests/s", True, "run", (AHEAD,)) for test in ZB_TESTS),
    Row("fair-down", "p99 of small GETs beside four large downloads", "ms", False, "request", (AtMost(4.0),)),
    Row("fair-up", "p99 of small GETs beside four large uploads", "ms", False, "request", (AtMost(10.0),)),
    Row("hundred", "peak memory, 50 uploads and 50 downloads of 1 GiB at once", "MB", False, "GiB", (AtMost(200.0),)),
)

SECURE_ROWS: tuple[Row, ...] = (
    _requests(
        "manifest-token",
        "manifest GET by tag with a token, 16 connections",
        TimesBetter(2.0, (ZOT,)),
        TimesBetter(4.0, (DISTRIBUTION,)),
        PartOf("manifest", 0.65),
    ),
    _requests("manifest-basic", "the same with name and password each time", TimesBetter(5.0)),
    _issue("token-get", "tokens issued, GET with name and password, 16 connections"),
    _issue("token-post", "tokens issued, POST with name and password"),
    _issue("token-refresh", "tokens issued, POST with a refresh token"),
    Row(
        "fair-log-ins", "p99 of GETs with a token beside 200 log-ins a second", "ms", False, "request", (AtMost(10.0),)
    ),
    Row(
        "docker-log-in",
        "docker pull, 1 MB, with a log-in: beyond one without accounts",
        "ms",
        False,
        "image",
        (AtMost(10.0),),
    ),
    _bytes("tls-get", "TLS: GET of 1 GiB", TimesBetter(1.5)),
    _bytes("tls-put", "TLS: PUT of 1 GiB", TimesBetter(1.8)),
    Row("tls-handshakes", "TLS: full handshakes, 16 at a time", "handshakes/s", True, "request", (TimesBetter(0.7),)),
    _requests("tls-manifest", "TLS: manifest GET by tag, 16 connections", TimesBetter(1.5)),
)
"""Accounts and TLS: a section of their own."""

REMOTE_ROWS: tuple[Row, ...] = (
    _bytes("s3-put", "S3: PUT of 1 GiB", TimesBetter(1.5, (DISTRIBUTION,))),
    _bytes("s3-four", "S3: 4 x 256 MiB at once, up", TimesBetter(1.5, (DISTRIBUTION,))),
    _bytes("s3-get", "S3: GET of 1 GiB, through the server", TimesBetter(1.0, (DISTRIBUTION,))),
    _requests(
        "s3-manifest", "S3 and PostgreSQL: manifest GET by tag, 16 connections", TimesBetter(5.0, (DISTRIBUTION,))
    ),
    Row("s3-tag", "S3 and PostgreSQL: one more tag", "ms", False, "tag", (TimesBetter(1.0, (DISTRIBUTION,)),)),
)
"""On one S3 service, and Portside on PostgreSQL: a section of their own."""

ROWS = PLAIN_ROWS + SECURE_ROWS + REMOTE_ROWS
BY_ID = {row.id: row for row in ROWS}
