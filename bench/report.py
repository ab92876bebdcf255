"""``python -m bench.report RESULTS.json [LATER.json …] > bench/README.md``: medians, goals, and whether they are met."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.accounts import PEOPLE
from bench.clients import PULLS
from bench.goals import BY_ID, FLAT, PEAK_LIMIT, PLAIN_ROWS, REMOTE_ROWS, ROWS, SECURE_ROWS, Figures, Row, Table
from bench.servers import DISTRIBUTION, PORTSIDE, ZOT, ZOT_NO_SYNC

SECTIONS = (("Results", PLAIN_ROWS), ("Accounts and TLS", SECURE_ROWS), ("S3 and PostgreSQL", REMOTE_ROWS))
SERVERS = (PORTSIDE, DISTRIBUTION, ZOT, ZOT_NO_SYNC)
MARKS = {True: "met", False: "**not met**", None: "not measured"}

INTRODUCTION = """# Side by side

Written by `python -m bench.report` from the results of `make bench`; do not edit it by hand.

```
make bench                                        # Portside and distribution
make bench ZOT=/path/to/zot ZB=/path/to/zb        # and zot with its load tester
python -m bench --rows get,put,'zb-*' --json out.json && python -m bench.report out.json
```

It needs root: each turn of each server gets an ext4 made anew on a loop device, and clients read and write in a tmpfs."""

METHOD = f"""## How it is measured

- Medians of all rounds; in each round every server takes its turn, and who begins rotates. Only one server runs at a time.
- Every server is at its durable settings (zot: `commit`), with deletion enabled, no garbage collection, and a line of log for each request,
  at level info, to `/dev/null`. Portside has no other setting than its defaults: one process, every sync. There is neither
  authentication nor TLS but in the rows of that section.
- Large transfers are made by a client that copies nothing (sendfile from memory up, `MSG_TRUNC` down) and hashes beforehand; small
  requests by `load.c`, one thread with epoll, 16 keep-alive connections in a closed loop after a warm-up. Both share the server's cores.
- CPU is user and system time of the server's process tree over the measurement; memory the sum of its processes' peaks in that row.
- Half of the memory is touched at the start and freed in pieces too small for a virtual machine to give back to its host: the first
  touch of a page that was given back costs ten times the write to it, and would fall on whoever comes first.
- S3: versitygw on the same disk, anew in each turn; its processor time and PostgreSQL's are in no server's column.
  Blobs go through the server, no client is sent to S3. distribution keeps its facts in S3 as well.
- Page n=100 of a list, one more tag, a manifest: the same request again and again, but for "each of the 20,000 tags in turn". A server
  that keeps answers may use them; Portside does until anything is written.
- The stores of the 20,000 tags and the 2,000 and 50,000 repositories are pushed over HTTP for Portside. For the others one is pushed and
  its files are multiplied on disk in the format that they wrote. zot is left out at 50,000 repositories: it reads its whole tree at start.
- distribution is left out of zot's load tests: they drop the query of the upload's URL, where it keeps the upload's state.
- Probes beside large transfers are sent at fixed times, 200 a second over 4 connections, and a latency counts from when it was due.
- The hundred transfers are 50 whole downloads and 50 uploads that announce 1 GiB and are cut after 256 MiB, for want of disk.
- Images: 49 MB in 5 layers, 1 GiB in 4, of bytes that do not compress. crane pushes an OCI layout and pulls into memory; docker
  compresses and unpacks as it does for everybody, so that most of its time is its own.
- Tokens: ES256, for one repository. Portside's are its own; the others, which issue none, are shown those of a key that is in their
  configuration. Passwords: the others keep them as `htpasswd -B` makes them (bcrypt, cost 5), Portside as argon2id, and it takes one that
  was right as right for 30 seconds. What is issued goes to one account that has logged in just before.
- Log-ins beside GETs: as Docker asks (`offline_token`), half of them with a wrong password, of {PEOPLE} accounts in turn, each on a
  connection and from an address of its own, at fixed times. What Portside has no time for it answers with 429.
- docker pull with a log-in: {PULLS} pairs of pulls in each round from two servers of Portside, one with accounts and one without, by turns;
  the difference of the medians. Each pull is the whole command.
- TLS: one certificate of ECDSA P-256, HTTP/1.1, and a client that offers AES-128-GCM first, as Go's do; what a server chooses is its own
  affair. Large bodies are sent and thrown away by `bulk.c`, one thread with OpenSSL, and take their time without the handshake. A
  handshake is full, on a connection of its own, and over when the server has closed it; it costs the client more than any of the
  servers, so that its rate says less than the CPU.
- "flat" means at least {FLAT:g} times the rate where the store is small. MB are 10⁶ bytes, GiB 2³⁰."""


def table_of(samples: Iterable[Mapping[str, Any]]) -> Table:
    """The medians of the samples that have a value, by row and server."""
    grouped: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        if sample["value"] is not None:
            grouped[sample["row"], sample["server"]].append(sample)
    return {key: _figures(found) for key, found in grouped.items()}


def _figures(samples: list[Mapping[str, Any]]) -> Figures:
    values = [sample["value"] for sample in samples]
    latencies = [sample["detail"]["p99_us"] / 1000 for sample in samples if "p99_us" in sample.get("detail", {})]
    return Figures(
        value=statistics.median(values),
        cpu=statistics.median(sample["cpu_seconds"] / (sample["work"] or 1.0) for sample in samples),
        peak_bytes=max(sample["peak_bytes"] for sample in samples),
        rounds=len(samples),
        low=min(values),
        high=max(values),
        p99=statistics.median(latencies) if latencies else None,
    )


def number(value: float) -> str:
    """Three significant digits, with separators instead of exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"


def cpu_text(row: Row, seconds: float) -> str:
    """CPU time per unit of work, in the unit in which it is readable."""
    return f"{seconds * 1e6:.0f} µs" if row.per in ("request", "tag") else f"{seconds:.2f} s"


def report(*runs: Mapping[str, Any]) -> str:
    """The whole page, as Markdown. A later run's rows take the place of an earlier one's, with all servers: no row mixes two runs."""
    samples = _merged(runs)
    table = table_of(samples)
    servers = [server for server in SERVERS if any(key[1] == server for key in table)]
    parts = [
        INTRODUCTION,
        *(_origin(run, runs, servers) for run in runs),
        _summary(table),
        *(
            f"## {title}\n\n" + "\n".join(_main_table(table, rows, servers))
            for title, rows in SECTIONS
            if any(row.id == measured for row in rows for measured, _ in table)
        ),
        "## What the servers spent\n\nCPU per unit of work, and the peak of memory in MB.\n\n"
        + "\n".join(_cost_table(table, servers)),
        METHOD,
    ]
    failures = _failures(samples)
    if failures:
        parts.insert(-1, "## What failed\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"


def _merged(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    latest = {sample["row"]: number for number, run in enumerate(runs) for sample in run["samples"]}
    return [sample for number, run in enumerate(runs) for sample in run["samples"] if latest[sample["row"]] == number]


def _origin(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], servers: Sequence[str]) -> str:
    """Where and when a run was made, of what; which rows it gave unless it gave all."""
    machine, settings = run["machine"], run["settings"]
    text = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; Linux {machine['kernel']}; Python"
        f" {machine['python']}; {machine['filesystem']}. {settings['rounds']} rounds, begun {run['began']},"
        f" load average at the end {run['load_average'][0]:.1f}. "
    )
    text += "; ".join(f"{server}: {run['versions'][server]}" for server in servers if server in run["versions"]) + "."
    if run is runs[0]:
        return text
    rows = dict.fromkeys(sample["row"] for sample in run["samples"])
    return f"Measured again afterwards, in a run of their own: {', '.join(BY_ID[row].title for row in rows)}. {text}"


def verdicts(table: Table) -> list[tuple[Row, str, str, bool | None]]:
    """Every goal of every row: the row, the goal's text, our figure, and whether it is met."""
    found: list[tuple[Row, str, str, bool | None]] = []
    for row in ROWS:
        for goal in row.goals:
            verdict = goal.judge(row, table)
            found.append((row, goal.text, verdict.figure, verdict.is_met))
    return found


def _summary(table: Table) -> str:
    judged = verdicts(table)
    met = sum(is_met is True for *_, is_met in judged)
    missed = [f"{row.title} ({text}: {figure})" for row, text, figure, is_met in judged if is_met is False]
    peaks = {
        row.id: table[key].peak_bytes for row in ROWS if (key := (row.id, PORTSIDE)) in table and row.id != "hundred"
    }
    over = [f"{name} ({peak / 1e6:.0f} MB)" for name, peak in peaks.items() if peak > PEAK_LIMIT]
    lines = [f"**{met} of {met + len(missed)} goals that could be judged are met.**"]
    if missed:
        lines.append("Not met: " + "; ".join(missed) + ". What holds them back: [profile.md](profile.md).")
    if peaks:
        highest = max(peaks.values()) / 1e6
        lines.append(f"Portside's highest peak of memory: {highest:.0f} MB (goal: at most {PEAK_LIMIT / 1e6:.0f}).")
    if over:
        lines.append("Above it: " + ", ".join(over) + ".")
    return " ".join(lines)


def _main_table(table: Table, rows: Sequence[Row], servers: list[str]) -> list[str]:
    lines = ["| row | unit | " + " | ".join(servers) + " | goal | |", "|---|---|" + "---:|" * len(servers) + "---|---|"]
    for row in rows:
        if not any((row.id, server) in table for server in servers):
            continue
        cells = [_cell(table, row, server) for server in servers]
        judged = [(goal.text, goal.judge(row, table)) for goal in row.goals]
        goals = "<br>".join(text for text, _ in judged)
        marks = "<br>".join(
            f"{verdict.figure}: {MARKS[verdict.is_met]}" for _, verdict in judged if verdict.is_met is not None
        )
        lines.append(f"| {row.title} | {row.unit} | " + " | ".join(cells) + f" | {goals} | {marks} |")
    return lines


def _cell(table: Table, row: Row, server: str) -> str:
    figures = table.get((row.id, server))
    if figures is None:
        return ""
    if figures.rounds == 1:
        return number(figures.value)
    return f"{number(figures.value)} ({number(figures.low)} to {number(figures.high)})"


def _cost_table(table: Table, servers: list[str]) -> list[str]:
    lines = ["| row | per | " + " | ".join(servers) + " |", "|---|---|" + "---:|" * len(servers)]
    for row in ROWS:
        if not any((row.id, server) in table for server in servers) or row.per == "start":
            continue
        cells = []
        for server in servers:
            figures = table.get((row.id, server))
            cells.append("" if figures is None else f"{cpu_text(row, figures.cpu)}, {figures.peak_bytes / 1e6:.0f}")
        lines.append(f"| {row.title} | {row.per} | " + " | ".join(cells) + " |")
    return lines


def _failures(samples: Iterable[Mapping[str, Any]]) -> list[str]:
    counted: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for sample in samples:
        if sample["failure"]:
            counted[sample["row"], sample["server"]].append(sample["failure"])
    return [
        f"- {row} on {server}, {len(texts)} times: `{' '.join(texts[-1].split())[:200]}`"
        for (row, server), texts in counted.items()
    ]


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python -m bench.report RESULTS.json [LATER.json …]", file=sys.stderr)
        return 2
    runs = []
    for name in sys.argv[1:]:
        try:
            runs.append(json.loads(Path(name).read_text()))
        except (OSError, ValueError) as error:
            print(f"bench.report: {name} cannot be read: {error}", file=sys.stderr)
            return 1
    sys.stdout.write(report(*runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
