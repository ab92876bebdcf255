"""Containers on disk, and their life.

::

    ROOT/engine/containers/ID/          one container; its process holds a flock on it for as long as that process looks after it
        state.json                      what :class:`Container` says; replaced whole
        config.json, attach, ctl, …     the bundle: runtime spec, conmon's sockets and pid files, exits/ID
        upper/ work/ merged/            the overlay mount
        hosts hostname resolv.conf      mounted into it
        log                             its output, where it outlives its terminal
    ROOT/engine/containers/names/NAME   the id of the container of that name

    (nothing) → CREATED → RUNNING → STOPPED → (nothing)

Whoever is killed leaves a directory without a lock. :meth:`Containers.sweep`, at the start of every run, settles those: what still runs
goes on, what has ended is STOPPED or removed, what was half made is removed with its mounts, cgroups and processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import json
import os
import resource
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci.config import ImageConfig
from runtime import linux, users
from runtime.cgroups import CgroupError, Cgroups
from runtime.monitor import Console, Monitor, RuntimeFailed, exit_code
from runtime.names import random_name
from runtime.snapshots import mount_overlay, prepare_upper
from runtime.spec import OPEN_FILES_MAX, BindMount, InvalidOptions, Placement, RunOptions, runtime_spec, working_dir
from runtime.volumes import VolumeMount, VolumeStore

_NAMES = "names"


class NameInUse(Exception):
    """Another container has the name."""

    def __init__(self, name: str, container: str) -> None:
        self.name, self.container = name, container
        super().__init__(
            f"the name {name!r} is in use by the container {container[:12]}: stop that one, or choose another name"
        )


class Status(enum.Enum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Container:
    """What is known of a container. ``created`` in seconds since 1970; ``volumes`` are those of its own; pids 0 where there are none."""

    id: str
    name: str
    image: str
    args: tuple[str, ...]
    created: float
    status: Status
    auto_remove: bool
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    pid: int = 0
    monitor_pid: int = 0
    exit_code: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The object in state.json."""
        return {**dataclasses.asdict(self), "status": self.status.value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Container:
        """Read state.json's object; KeyError, TypeError or ValueError for one that another version, or a crash, left."""
        lists = {name: tuple(value[name]) for name in ("args", "volumes")}
        return cls(**{**value, **lists, "status": Status(value["status"])})


@dataclass(frozen=True, slots=True)
class Request:
    """A container to be made: the image's name, config and unpacked layers, and what the person asked for."""

    image: str
    config: ImageConfig
    layers: Sequence[Path]
    options: RunOptions
    name: str = ""
    volumes: Sequence[VolumeMount] = ()
    auto_remove: bool = False


class Held:
    """A container that this process looks after, until :meth:`close`."""

    def __init__(self, container: Container, path: Path, lock: int) -> None:
        self.container, self.path, self._lock = container, path, lock

    def update(self, **changes: Any) -> None:
        """Change what is known of the container, here and on disk."""
        self.container = dataclasses.replace(self.container, **changes)
        _write(self.path / "state.json", json.dumps(self.container.to_json()))

    def close(self) -> None:
        """Let go: from now on any sweep may settle it."""
        os.close(self._lock)


class Containers:
    """The containers of one root (ROOT/engine). Any number of processes may use it at once."""

    def __init__(self, root: Path, monitor: Monitor, cgroups: Cgroups, architecture: str) -> None:
        self._root = root / "containers"
        self._monitor, self._cgroups, self._architecture = monitor, cgroups, architecture
        self._volumes = VolumeStore(root)
        # 0700, as everything that has set-uid files of images below it.
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._root / _NAMES).mkdir(mode=0o700, exist_ok=True)

    def all(self) -> list[Container]:
        """Every container that is whole, the newest first."""
        found = [container for path in self._paths() if (container := _read(path)) is not None]
        return sorted(found, key=lambda container: -container.created)

    def create(self, request: Request) -> Held:
        """Make a container ready to be launched: mounted, its spec written. Nothing is left of it after an error:

        NameInUse, InvalidOptions, UnknownUser, SnapshotError, VolumeError.
        """
        identifier = secrets.token_hex(32)
        path = self._root / identifier
        path.mkdir(mode=0o700)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        container = Container(
            identifier,
            request.name,
            request.image,
            (),
            time.time(),
            Status.CREATED,
            request.auto_remove,
            stop_signal=request.config.stop_signal,
        )
        held = Held(container, path, lock)
        try:
            held.update(name=self._take_name(request.name, identifier))
            self._prepare(held, request)
            return held
        except BaseException:
            self._remove(held)
            raise

    def launch(self, held: Held, console: Console) -> None:
        """Create the processes of a container, with its program waiting; RuntimeFailed."""
        watched = self._monitor.create(held.container.id, held.path, console)
        held.update(pid=watched.pid, monitor_pid=watched.monitor_pid)

    def start(self, held: Held) -> None:
        """Let its program run; RuntimeFailed."""
        self._monitor.start(held.container.id)
        held.update(status=Status.RUNNING)

    def finish(self, held: Held) -> int | None:
        """Settle a container whose monitor has ended, or never was: its exit code, None where nothing ran. With ``auto_remove`` it goes."""
        code = exit_code(held.path, held.container.id)
        if held.container.auto_remove or held.container.status is Status.CREATED:
            self._remove(held)
        else:
            self._release(held)
            held.update(status=Status.STOPPED, exit_code=code, pid=0, monitor_pid=0)
            held.close()
        return code

    def discard(self, held: Held) -> None:
        """Remove a container that could not be started, with all that there is of it."""
        self._remove(held)

    def remove(self, identifier: str) -> bool:
        """Remove a container by its id, running or not; whether it was there and nobody else looks after it."""
        held = self._hold(self._root / identifier)
        if held is None:
            return False
        self._remove(held)
        return True

    def sweep(self) -> int:
        """Settle what killed processes left behind; how many containers."""
        count = 0
        for path in self._paths():
            state = _read(path)
            if state is not None and state.status is Status.STOPPED and not state.auto_remove:
                continue
            if state is not None and state.status is Status.RUNNING and _is_monitored(state):
                continue
            held = self._hold(path)
            if held is None:
                continue
            count += 1
            if _read(path) is None:
                self._remove(held)
            else:
                self.finish(held)
        return count

    def _paths(self) -> Iterator[Path]:
        return (Path(entry.path) for entry in os.scandir(self._root) if entry.name != _NAMES)

    def _hold(self, path: Path) -> Held | None:
        """Look after a container that nobody does; None where somebody does, or it is gone."""
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.stat()
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            return None
        half_made = Container(path.name, "", "", (), 0.0, Status.CREATED, True)
        return Held(_read(path) or half_made, path, lock)

    def _take_name(self, wanted: str, identifier: str) -> str:
        """Note a name as this container's; NameInUse."""
        while True:
            name = wanted or random_name()
            path = self._root / _NAMES / name
            try:
                # A symbolic link comes to be at once, whole.
                os.symlink(identifier, path)
                return name
            except FileExistsError:
                pass
            try:
                owner = os.readlink(path)
            except FileNotFoundError:
                continue
            if (self._root / owner).is_dir():
                if wanted:
                    raise NameInUse(name, owner)
            else:
                path.unlink(missing_ok=True)

    def _prepare(self, held: Held, request: Request) -> None:
        path, identifier, options = held.path, held.container.id, request.options
        prepare_upper(request.layers, path / "upper")
        for name in ("work", "merged"):
            (path / name).mkdir(mode=0o700)
        layers = request.layers
        if not layers:
            (path / "empty").mkdir()
            layers = [path / "empty"]
        merged = path / "merged"
        mount_overlay(layers, path / "upper", path / "work", merged, is_volatile=request.auto_remove)
        root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            identity = users.resolve(options.user or request.config.user, root)
            try:
                linux.make_directories(root, working_dir(request.config, options))
            except OSError as error:
                raise InvalidOptions(
                    f"the working directory {working_dir(request.config, options)} cannot be made: {error.strerror}"
                ) from error
            mounts = self._mounts(held, request, root)
        finally:
            os.close(root)
        hostname = options.hostname or (os.uname().nodename if options.has_network else identifier[:12])
        placement = Placement(
            str(merged),
            hostname,
            self._cgroups.path_of(identifier),
            self._architecture,
            (*_network_files(path, hostname, options.has_network), *mounts),
            self._cgroups.can_limit_swap,
            _open_files(),
        )
        spec = runtime_spec(request.config, options, identity, placement)
        _write(path / "config.json", json.dumps(spec))
        held.update(args=tuple(spec["process"]["args"]))

    def _mounts(self, held: Held, request: Request, root: int) -> list[BindMount]:
        """The person's volumes, and one for each path that the image wants one at."""
        wanted = {mount.destination: mount for mount in request.volumes}
        if len(wanted) != len(request.volumes):
            raise InvalidOptions("two volumes have the same destination")
        for destination in request.config.volumes:
            own = VolumeMount.parse(destination if destination.startswith("/") else f"/{destination}")
            wanted.setdefault(own.destination, own)
        out: list[BindMount] = []
        for destination in sorted(wanted):  # an outer one before those inside it
            mount = wanted[destination]
            source, own_name = self._volumes.provide(mount, root)
            if own_name:
                held.update(volumes=(*held.container.volumes, own_name))
            out.append(BindMount(str(source), destination, mount.read_only))
        return out

    def _release(self, held: Held) -> None:
        """Take down whatever of a container is not a file: its processes, cgroups and mount."""
        container = held.container
        _kill_monitor(held.path, container.id)
        # What the runtime cannot undo (its state was lost, its machine restarted) is undone below it.
        with contextlib.suppress(RuntimeFailed):
            self._monitor.delete(container.id)
        try:
            self._cgroups.kill(container.id)
        finally:
            linux.unmount(str(held.path / "merged"))

    def _remove(self, held: Held) -> None:
        try:
            with contextlib.suppress(CgroupError):
                self._release(held)
            for volume in held.container.volumes:
                with contextlib.suppress(FileNotFoundError):
                    self._volumes.remove(volume)
            name = self._root / _NAMES / held.container.name
            with contextlib.suppress(OSError):
                if held.container.name and os.readlink(name) == held.container.id:
                    name.unlink()
            # First what makes it a container: should this be cut short, the rest is rubbish by its look.
            (held.path / "state.json").unlink(missing_ok=True)
            shutil.rmtree(held.path)
        finally:
            held.close()


def _network_files(path: Path, hostname: str, is_host: bool) -> tuple[BindMount, ...]:
    """/etc/hosts, hostname and resolv.conf of the container's own, to be written to as it likes."""
    hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{hostname}\n"
    resolver = ""
    if is_host:
        hosts = _host_file("/etc/hosts") or hosts
        resolver = _host_file("/etc/resolv.conf")
    out: list[BindMount] = []
    for name, text in (("hosts", hosts), ("hostname", f"{hostname}\n"), ("resolv.conf", resolver)):
        (path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        (path / name).chmod(0o644)
        out.append(BindMount(str(path / name), f"/etc/{name}"))
    return tuple(out)


def _open_files() -> int:
    """The most descriptors that we can allow a process: our own limit, where raising it is not ours to do."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else hard


def _host_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _is_monitored(container: Container) -> bool:
    """Whether the container's conmon lives: a process of that pid that has the id among its arguments."""
    return container.monitor_pid > 0 and _is_conmon(container.monitor_pid, container.id)


def _is_conmon(pid: int, identifier: str) -> bool:
    try:
        return identifier.encode("ascii") in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_monitor(path: Path, identifier: str) -> None:
    """End a conmon that nobody waits for: one of a container that was never started, whose maker was killed."""
    try:
        pid = int((path / "conmon.pid").read_text("ascii"))
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        # Looked at with the pidfd in hand, so that it cannot become another process's.
        if _is_conmon(pid, identifier):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _read(path: Path) -> Container | None:
    try:
        value = json.loads((path / "state.json").read_bytes())
        return Container.from_json(value)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    """Replace a file whole. Not synced: after a power cut no container runs, and the sweep finds out."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8", errors="surrogateescape")
    new.replace(path)
