"""From an image and options to an OCI runtime spec (runtime-spec 1.0.2, config.md and config-linux.md). Pure: no look at the machine.

Capabilities, masked and read-only paths, mounts and devices are Docker's defaults.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oci.config import ImageConfig
from runtime.seccomp import seccomp_filter
from runtime.users import Identity

VERSION = "1.0.2"
"""crun 1.8.1, Debian 12's, refuses newer ones."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD = 100_000
"""Microseconds."""
OPEN_FILES_MAX = 524288
"""The most descriptors that a process inside may ask for, as in Docker; it begins with 1024."""
MEMORY_MIN = 6 * 1024 * 1024
"""Bytes below which not even the runtime's own first steps fit, as in Docker."""

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    )
)
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class InvalidOptions(ValueError):
    """Options, or an image, that no container can be made of. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits: ``memory`` in bytes, ``cpus`` as a number of them, ``pids`` as a number of processes; None for none."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < MEMORY_MIN:
            raise InvalidOptions(
                f"a memory limit of {self.memory} bytes is too small: at least {MEMORY_MIN >> 20}m is needed"
            )
        if self.cpus is not None and not 0.01 <= self.cpus <= 100_000:
            raise InvalidOptions(f"{self.cpus:g} CPUs cannot be given: at least 0.01")
        if self.pids is not None and self.pids < 1:
            raise InvalidOptions(f"a limit of {self.pids} processes leaves none for the container: at least 1")


@dataclass(frozen=True, slots=True)
class BindMount:
    """A directory or file of the host at ``destination`` inside."""

    source: str
    destination: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a person asked for beyond the image. Empty or None leaves the image's own or the default.

    ``entrypoint`` and ``command`` are None where not given; ``env`` is ``NAME=VALUE`` each, complete.
    """

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    resources: Resources = field(default_factory=Resources)
    read_only: bool = False
    has_network: bool = False
    """Whether the host's network is shared; else there is none but lo."""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where on this machine a container is: made by the engine, not by the person."""

    root: str
    hostname: str
    cgroups_path: str
    architecture: str
    mounts: tuple[BindMount, ...] = ()
    can_limit_swap: bool = False
    open_files: int = OPEN_FILES_MAX


def runtime_spec(config: ImageConfig, options: RunOptions, identity: Identity, placement: Placement) -> dict[str, Any]:
    """The ``config.json`` of a bundle; InvalidOptions."""
    is_root = identity.uid == 0
    open_files = min(placement.open_files, OPEN_FILES_MAX)
    granted = list(CAPABILITIES)
    capabilities = {
        "bounding": granted,
        # As the kernel leaves them for a process that is not root; inheritable ones would be a hole (CVE-2022-24769).
        "permitted": granted if is_root else [],
        "effective": granted if is_root else [],
    }
    linux: dict[str, Any] = {
        "cgroupsPath": placement.cgroups_path,
        "namespaces": [{"type": kind} for kind in _namespaces(options)],
        "resources": _resources(options.resources, placement),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
        "seccomp": seccomp_filter(placement.architecture, CAPABILITIES),
    }
    if not options.has_network:
        # As Docker: ports below 1024 and ping need no privilege inside.
        linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    return {
        "ociVersion": VERSION,
        "hostname": placement.hostname,
        "root": {"path": placement.root, "readonly": options.read_only},
        "process": {
            "terminal": options.terminal,
            "user": {
                "uid": identity.uid,
                "gid": identity.gid,
                "additionalGids": [identity.gid, *(gid for gid in identity.additional_gids if gid != identity.gid)],
                "umask": 0o022,
            },
            "args": process_args(config, options),
            "env": environment(config, options, placement.hostname, identity.home),
            "cwd": working_dir(config, options),
            "capabilities": capabilities,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": min(1024, open_files), "hard": open_files}],
            "noNewPrivileges": False,
            "oomScoreAdj": 0,
        },
        "mounts": [*_system_mounts(), *map(_bind, placement.mounts)],
        "linux": linux,
    }


def process_args(config: ImageConfig, options: RunOptions) -> list[str]:
    """Entrypoint and command joined as in Docker: the person's entrypoint drops the image's command. InvalidOptions for none at all."""
    if options.entrypoint is not None:
        args = [*options.entrypoint, *options.command]
    else:
        args = [*config.entrypoint, *(options.command or config.cmd)]
    if not args or not args[0]:
        raise InvalidOptions("the image names no command to run; give one after the image's name")
    return args


def environment(config: ImageConfig, options: RunOptions, hostname: str, home: str) -> list[str]:
    """``NAME=VALUE`` lines, later ones first served: defaults, the image's, the person's."""
    out: dict[str, str] = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if options.terminal:
        out["TERM"] = "xterm"
    for line in (*config.env, *options.env):
        name, equals, value = line.partition("=")
        if name and equals:
            out[name] = value
    out.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in out.items()]


def working_dir(config: ImageConfig, options: RunOptions) -> str:
    """The absolute directory that the process starts in; InvalidOptions."""
    text = options.working_dir or config.working_dir or "/"
    if not text.startswith("/"):
        if options.working_dir:
            raise InvalidOptions(f"the working directory {text!r} must be an absolute path")
        text = f"/{text}"
    return "/" + posixpath.normpath(text).lstrip("/")


def _namespaces(options: RunOptions) -> Sequence[str]:
    kinds = ["pid", "mount", "uts", "ipc", "cgroup"]
    return kinds if options.has_network else [*kinds, "network"]


def _resources(resources: Resources, placement: Placement) -> dict[str, Any]:
    devices: list[dict[str, Any]] = [
        {"allow": False, "access": "rwm"},
        # Making nodes is allowed, opening them is not: package managers unpack some.
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    # null, zero, full, random, urandom; tty, ptmx; and every pseudo-terminal.
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)):
        device = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        devices.append(device if minor is None else device | {"minor": minor})
    out: dict[str, Any] = {"devices": devices}
    if resources.memory is not None:
        out["memory"] = {"limit": resources.memory}
        if placement.can_limit_swap:
            out["memory"]["swap"] = resources.memory * 2  # memory and swap together, as Docker
    if resources.cpus is not None:
        out["cpu"] = {"period": CPU_PERIOD, "quota": max(1000, round(resources.cpus * CPU_PERIOD))}
    if resources.pids is not None:
        out["pids"] = {"limit": resources.pids}
    return out


def _system_mounts() -> list[dict[str, Any]]:
    plain = ["nosuid", "noexec", "nodev"]
    rows: list[tuple[str, str, list[str]]] = [
        ("/proc", "proc", plain),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/sys", "sysfs", [*plain, "ro"]),
        ("/sys/fs/cgroup", "cgroup", [*plain, "ro"]),
        ("/dev/mqueue", "mqueue", plain),
        ("/dev/shm", "tmpfs", [*plain, "mode=1777", "size=65536k"]),  # nosec B108
    ]
    names: Mapping[str, str] = {"tmpfs": "tmpfs", "/dev/shm": "shm"}  # nosec B108
    return [
        {"destination": where, "type": kind, "source": names.get(where, names.get(kind, kind)), "options": options}
        for where, kind, options in rows
    ]


def _bind(mount: BindMount) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", "rprivate", "ro" if mount.read_only else "rw"],
    }
