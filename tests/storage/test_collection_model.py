"""Collecting, as a model, explored whole; and that the exploration would find what goes wrong."""

from __future__ import annotations

import itertools

import pytest

from tests.storage.collection_model import (
    Step,
    Without,
    World,
    asker,
    begin,
    collector,
    deleter,
    explore,
    mounter,
    pusher,
)

CLIENTS: dict[str, Step] = {
    "push to 0": pusher(0),
    "push to 1": pusher(1),
    "ask in 0": asker(0),
    "mount from 0 to 1": mounter(0, 1),
    "delete in 0": deleter(0),
}


def worlds(processes: int) -> list[World]:
    """Where a hub may stand before: nothing there; an image; a blob without a manifest; bytes and a row that nobody holds."""
    return [
        begin(processes, has_blob=False, manifests=(False, False), links=(False, False)),
        begin(processes, has_blob=True, manifests=(True, False), links=(True, False)),
        begin(processes, has_blob=True, manifests=(False, False), links=(True, False)),
        begin(processes, has_blob=True, manifests=(False, False), links=(False, False)),
    ]


@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(CLIENTS, 2)), ids=" + ".join)
def test_two_clients_and_two_collectors(pair: tuple[str, str]) -> None:
    for start in worlds(4):
        found = explore(start, [CLIENTS[pair[0]], CLIENTS[pair[1]], collector, collector])
        assert found.fault is None, (found.fault, found.way)


def test_three_clients_and_a_collector() -> None:
    total = 0
    for three in itertools.combinations(CLIENTS, 3):
        for start in worlds(4):
            found = explore(start, [*(CLIENTS[name] for name in three), collector])
            assert found.fault is None, (found.fault, found.way)
            total += found.worlds
    assert total > 50_000


@pytest.mark.parametrize(
    ("without", "clients", "fault"),
    [
        (Without.GUARD, ["push to 0"], "a link without bytes"),
        (Without.LINK_RECHECK, ["ask in 0"], "a manifest without its link"),
        (Without.BLOB_RECHECK, ["push to 0"], "a link without bytes"),
        (Without.WINDOW, ["push to 0"], "a manifest without its link"),
        (Without.TOUCH, ["ask in 0"], "a manifest without its link"),
        (Without.MARKER, ["push to 0"], "bytes that no manifest refers to"),
    ],
    ids=lambda value: str(value),
)
def test_what_is_taken_out_is_missed(without: Without, clients: list[str], fault: str) -> None:
    faults = [explore(start, [*(CLIENTS[name] for name in clients), collector], without) for start in worlds(2)]
    assert any(found.fault is not None and fault in found.fault for found in faults), faults
