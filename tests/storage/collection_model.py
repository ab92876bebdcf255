"""A model of collecting, small enough to be explored whole: every interleaving of a few processes, with a crash after any step.

One blob and two repositories, each with at most one manifest that refers to it. The steps are those that the real code takes in one piece:
a system call, or a transaction. Time is in it as who still counts on a link: one that was told that the blob is there does so until it has
put its manifest, or has died. (A window that is over means that nobody does.)

Readers need no process of their own: that a link has its bytes, and a manifest its links, is looked at in every world.

`explore` searches breadth first, so that the first counter-example is a shortest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import TypeVar

Value = TypeVar("Value")

DONE, DEAD = 98, 99
"""Where a process ends well, and where a crash leaves it."""


class Without(Flag):
    """What is taken out, to see whether it is missed."""

    NOTHING = 0
    GUARD = auto()
    LINK_RECHECK = auto()
    BLOB_RECHECK = auto()
    WINDOW = auto()
    TOUCH = auto()
    MARKER = auto()


@dataclass(frozen=True, slots=True)
class World:
    """Everything at one moment. A link is the set of processes that count on it, None where it is not there."""

    has_file: bool
    has_row: bool
    links: tuple[frozenset[int] | None, ...]
    manifests: tuple[bool, ...]
    at: tuple[int, ...]
    """The step that each process takes next."""
    seen: tuple[frozenset[int], ...]
    """What each collector found in its last question."""
    sharing: frozenset[int] = frozenset()
    alone: int | None = None
    writing: int | None = None
    """Who has the database's one writer across steps."""
    markers: frozenset[int] = frozenset()

    def damage(self) -> str | None:
        """What does not hold, None where all is well."""
        for number, link in enumerate(self.links):
            if link is not None and not (self.has_file and self.has_row):
                return f"repository {number} has a link without bytes"
            if self.manifests[number] and link is None:
                return f"repository {number} has a manifest without its link"
        return None

    def orphan(self) -> str | None:
        """What is kept that nothing needs."""
        if self.has_file and not any(self.manifests):
            return "bytes that no manifest refers to"
        if self.has_row != self.has_file or self.markers:
            return "a row or a marker without bytes"
        if any(link is not None and not self.manifests[number] for number, link in enumerate(self.links)):
            return "a link that no manifest refers to"
        return None


Step = Callable[[World, int, Without], "World | None"]
"""What a process does next: the world after it, None where it has to wait."""


def _go(world: World, me: int, step: int) -> World:
    return replace(world, at=_set(world.at, me, step))


def _set(values: tuple[Value, ...], at: int, value: Value) -> tuple[Value, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _link(world: World, me: int, repository: int) -> World:
    known = world.links[repository] or frozenset()
    return replace(world, links=_set(world.links, repository, known | {me}))


def _put(world: World, me: int, repository: int) -> World | None:
    """The manifest that refers to the blob. From now on nobody has to count on the link alone."""
    if world.writing is not None:
        return None
    links = tuple(None if link is None else link - {me} for link in world.links)
    return _go(replace(world, manifests=_set(world.manifests, repository, True), links=links), me, DONE)


def pusher(repository: int) -> Step:
    """Uploads the blob, then puts a manifest: the steps of `UploadHandlers._commit`."""

    def step(world: World, me: int, without: Without) -> World | None:
        match world.at[me]:
            case 0:
                if Without.GUARD in without:
                    return _go(world, me, 2)
                if world.alone is not None:
                    return None
                return _go(replace(world, sharing=world.sharing | {me}), me, 1)
            case 1:
                markers = world.markers if Without.MARKER in without else world.markers | {me}
                return _go(replace(world, markers=markers), me, 2)
            case 2:
                return _go(replace(world, has_file=True), me, 3)
            case 3:
                if world.writing is not None:
                    return None
                return _go(_link(replace(world, has_row=True), me, repository), me, 4)
            case 4:
                return _go(replace(world, markers=world.markers - {me}), me, 5)
            case 5:
                return _go(replace(world, sharing=world.sharing - {me}), me, 6)
        return _put(world, me, repository)

    return step


def asker(repository: int) -> Step:
    """Asks by HEAD whether the blob is there, and counts on a yes."""

    def step(world: World, me: int, without: Without) -> World | None:
        match world.at[me]:
            case 0:
                is_there = world.links[repository] is not None and world.has_file
                if Without.TOUCH in without:
                    return _go(world, me, 2 if is_there else DONE)
                return _go(world, me, 1 if is_there else DONE)
            case 1:
                if world.writing is not None:
                    return None
                if world.links[repository] is None:
                    return _go(world, me, DONE)
                return _go(_link(world, me, repository), me, 2)
        return _put(world, me, repository)

    return step


def mounter(source: int, target: int) -> Step:
    """Mounts the blob from another repository, and puts a manifest."""

    def step(world: World, me: int, without: Without) -> World | None:
        match world.at[me]:
            case 0:
                return _go(world, me, 1 if world.has_file else DONE)
            case 1:
                if world.writing is not None:
                    return None
                if world.links[source] is None:
                    return _go(world, me, DONE)
                return _go(_link(world, me, target), me, 2)
        return _put(world, me, target)

    return step


def deleter(repository: int) -> Step:
    """Deletes the manifest."""

    def step(world: World, me: int, without: Without) -> World | None:
        if world.writing is not None:
            return None
        return _go(replace(world, manifests=_set(world.manifests, repository, False)), me, DONE)

    return step


def _unreferenced(world: World, number: int, without: Without) -> bool:
    link = world.links[number]
    return link is not None and not world.manifests[number] and (not link or Without.WINDOW in without)


def collector(world: World, me: int, without: Without) -> World | None:
    """One collection with no grace: the steps of `Collector.collect`."""
    match world.at[me]:
        case 0:
            found = frozenset(n for n in range(len(world.links)) if _unreferenced(world, n, without))
            return _go(replace(world, seen=_set(world.seen, me, found)), me, 1)
        case 1:
            return _drop_link(world, me, without)
        case 2:
            has_none = world.has_row and all(link is None for link in world.links)
            return _go(world, me, 3 if has_none else 7)
        case 3 | 7:
            if world.at[me] == 7 and not world.markers:
                return _go(world, me, DONE)
            if world.alone is not None or world.sharing:
                return None
            return _go(replace(world, alone=me), me, world.at[me] + 1)
        case 4:
            if world.writing is not None:
                return None
            is_held = any(link is not None for link in world.links)
            if not world.has_row or (is_held and Without.BLOB_RECHECK not in without):
                return _go(world, me, 6)
            return _go(replace(world, writing=me, has_file=False), me, 5)
        case 5:
            return _go(replace(world, writing=None, has_row=False), me, 6)
        case 6:
            return _go(replace(world, alone=None), me, 7)
        case 8:
            if world.writing is not None:
                return None
            return _go(replace(world, has_file=world.has_file and world.has_row), me, 9)
        case 9:
            return _go(replace(world, markers=frozenset()), me, 10)
    return _go(replace(world, alone=None), me, DONE)


def _drop_link(world: World, me: int, without: Without) -> World | None:
    if not world.seen[me]:
        return _go(world, me, 2)
    if world.writing is not None:
        return None
    number = min(world.seen[me])
    is_due = Without.LINK_RECHECK in without or _unreferenced(world, number, without)
    links = _set(world.links, number, None) if is_due else world.links
    return replace(world, links=links, seen=_set(world.seen, me, world.seen[me] - {number}))


def _crash(world: World, me: int) -> World:
    """The process is gone, and with it its locks, its transaction, and whoever counted on what it was told."""
    return replace(
        _go(world, me, DEAD),
        sharing=world.sharing - {me},
        alone=None if world.alone == me else world.alone,
        writing=None if world.writing == me else world.writing,
        links=tuple(None if link is None else link - {me} for link in world.links),
        seen=_set(world.seen, me, frozenset()),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What an exploration came to: how many worlds, and the shortest way to one that is not well."""

    worlds: int
    fault: str | None = None
    way: tuple[World, ...] = ()


def begin(processes: int, *, has_blob: bool, manifests: tuple[bool, bool], links: tuple[bool, bool]) -> World:
    """A world in which nothing has begun yet."""
    held = tuple(frozenset[int]() if link else None for link in links)
    return World(has_blob, has_blob, held, manifests, (0,) * processes, (frozenset(),) * processes)


def explore(start: World, steps: list[Step], without: Without = Without.NOTHING) -> Found:
    """Every world that the processes can get into from ``start``, with at most one crash of each."""
    came_from: dict[World, World | None] = {start: None}
    waiting = deque([start])
    while waiting:
        world = waiting.popleft()
        fault = world.damage()
        if fault is None and all(at >= DONE for at in world.at):
            fault = _settled(world).orphan()
        if fault is not None:
            return Found(len(came_from), fault, _way(world, came_from))
        alive = [me for me in range(len(steps)) if world.at[me] < DONE]
        after = [following for me in alive if (following := steps[me](world, me, without)) is not None]
        if alive and not after:
            return Found(len(came_from), "everybody waits for somebody", _way(world, came_from))
        for following in (*after, *(_crash(world, me) for me in alive)):
            if following not in came_from:
                came_from[following] = world
                waiting.append(following)
    return Found(len(came_from))


def _settled(world: World) -> World:
    """After one last collection, when nobody counts on anything any more."""
    links = tuple(None if link is None else frozenset[int]() for link in world.links)
    world = replace(world, links=links, at=(0,), seen=(frozenset(),))
    while world.at[0] < DONE:
        following = collector(world, 0, Without.NOTHING)
        assert following is not None, "alone it waits for nobody"
        world = following
    return world


def _way(world: World, came_from: dict[World, World | None]) -> tuple[World, ...]:
    way: list[World] = []
    at: World | None = world
    while at is not None:
        way.append(at)
        at = came_from[at]
    return tuple(reversed(way))
