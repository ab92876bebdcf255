"""From images and options to runtime specs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oci.config import ImageConfig
from runtime.foreground import UnknownSignal, failure_code, parse_signal
from runtime.spec import (
    BindMount,
    InvalidOptions,
    Placement,
    Resources,
    RunOptions,
    environment,
    process_args,
    runtime_spec,
    working_dir,
)
from runtime.users import Identity
from runtime.volumes import VolumeError, VolumeMount

ROOT = Identity(0, 0, (), "/root")


def config(**values: Any) -> ImageConfig:
    value = {"architecture": "amd64", "os": "linux", "config": values, "rootfs": {"type": "layers", "diff_ids": []}}
    return ImageConfig.parse(json.dumps(value).encode())


def spec(options: RunOptions, identity: Identity = ROOT, **placed: Any) -> dict[str, Any]:
    placement = Placement("/merged", "host", "/portside/x", "amd64", **placed)
    return runtime_spec(config(Cmd=["sh"]), options, identity, placement)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        ({"Cmd": ["a", "b"]}, RunOptions(), ["a", "b"]),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, RunOptions(), ["e", "a"]),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, RunOptions(command=("c",)), ["e", "c"]),
        ({"Cmd": ["a"]}, RunOptions(command=("c", "d")), ["c", "d"]),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, RunOptions(entrypoint=("o",)), ["o"]),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, RunOptions(entrypoint=("o",), command=("c",)), ["o", "c"]),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, RunOptions(entrypoint=(), command=("c",)), ["c"]),
    ],
)
def test_entrypoint_and_command_are_joined_as_in_docker(
    image: dict[str, Any], options: RunOptions, expected: list[str]
) -> None:
    assert process_args(config(**image), options) == expected


@pytest.mark.parametrize("image", [{}, {"Cmd": []}, {"Cmd": [""]}])
def test_an_image_without_a_command_is_refused(image: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions, match="names no command"):
        process_args(config(**image), RunOptions())


def test_the_environment_has_defaults_that_image_and_person_change() -> None:
    image = config(Env=["A=image", "B=image", "PATH=/image", "broken"])
    options = RunOptions(env=("B=person", "C=a=b"))
    assert environment(image, options, "h", "/home/x") == [
        "PATH=/image",
        "HOSTNAME=h",
        "A=image",
        "B=person",
        "C=a=b",
        "HOME=/home/x",
    ]
    lines = environment(config(), RunOptions(env=("HOME=/own",), terminal=True), "h", "/")
    assert "HOME=/own" in lines
    assert "TERM=xterm" in lines


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [("", "", "/"), ("/srv", "", "/srv"), ("srv", "", "/srv"), ("/srv", "/a/../b", "/b"), ("//x", "", "/x")],
)
def test_the_working_directory(image: str, given: str, expected: str) -> None:
    assert working_dir(config(WorkingDir=image), RunOptions(working_dir=given)) == expected


def test_a_relative_working_directory_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="absolute"):
        working_dir(config(), RunOptions(working_dir="a"))


def test_only_root_has_capabilities_in_effect() -> None:
    as_root = spec(RunOptions())["process"]["capabilities"]
    assert len(as_root["effective"]) == 14
    assert "CAP_SYS_ADMIN" not in as_root["bounding"]
    assert "inheritable" not in as_root
    as_user = spec(RunOptions(), Identity(1000, 1000, (50,), "/"))["process"]
    assert as_user["capabilities"]["effective"] == as_user["capabilities"]["permitted"] == []
    assert as_user["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 50], "umask": 0o022}


def test_every_namespace_is_the_containers_own_but_a_shared_network() -> None:
    def kinds(options: RunOptions) -> set[str]:
        return {entry["type"] for entry in spec(options)["linux"]["namespaces"]}

    assert kinds(RunOptions()) == {"pid", "mount", "uts", "ipc", "cgroup", "network"}
    assert kinds(RunOptions(has_network=True)) == {"pid", "mount", "uts", "ipc", "cgroup"}
    assert "sysctl" not in spec(RunOptions(has_network=True))["linux"]


def test_limits_are_in_the_kernels_units() -> None:
    options = RunOptions(resources=Resources(memory=64 << 20, cpus=0.5, pids=10), read_only=True)
    found = spec(options, can_limit_swap=True)
    assert found["root"]["readonly"] is True
    resources = found["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert resources["cpu"] == {"period": 100_000, "quota": 50_000}
    assert resources["pids"] == {"limit": 10}
    assert resources["devices"][0] == {"allow": False, "access": "rwm"}
    assert "swap" not in spec(options)["linux"]["resources"]["memory"]
    assert set(spec(RunOptions())["linux"]["resources"]) == {"devices"}


@pytest.mark.parametrize("values", [{"memory": 1}, {"cpus": 0.0}, {"cpus": float("nan")}, {"pids": 0}])
def test_limits_that_no_container_could_live_with_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptions):
        Resources(**values)


def test_mounts_are_private_and_read_only_where_asked() -> None:
    mounts = spec(RunOptions(), mounts=(BindMount("/a", "/b", True), BindMount("/c", "/d")))["mounts"]
    assert mounts[-2:] == [
        {"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "rprivate", "ro"]},
        {"destination": "/d", "type": "bind", "source": "/c", "options": ["rbind", "rprivate", "rw"]},
    ]
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"} == {
        mount["destination"] for mount in mounts[:-2]
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", VolumeMount("/a", "/b")),
        ("/a:/b:ro", VolumeMount("/a", "/b", True)),
        ("/a:/b:ro,z", VolumeMount("/a", "/b", True)),
        ("data:/b/../c/", VolumeMount("data", "/c")),
        ("/only", VolumeMount("", "/only")),
        ("/only:ro", VolumeMount("", "/only", True)),
    ],
)
def test_volumes_are_read_as_docker_writes_them(text: str, expected: VolumeMount) -> None:
    assert VolumeMount.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "a:b", "/a:b", "/a:/", "/a:/b:rw,bad", "/a:/b:/c:ro", "../a:/b", ".a:/b", "a/b:/c", "/a:/.."]
)
def test_volumes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(VolumeError):
        VolumeMount.parse(text)


@pytest.mark.parametrize(("text", "number"), [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37)])
def test_stop_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "65", "RTMIN+x", "RTMIN+99", "-9"])
def test_signals_that_linux_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(UnknownSignal):
        parse_signal(text)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("executable file `x` not found in $PATH: No such file or directory", 127),
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": stat /x: no such file or directory', 127),
        ("open executable: Permission denied", 126),
        ('exec: "/etc": permission denied', 126),
        ("open executable: Operation not permitted", 126),
        ("mount `/nope` to `x`: No such file or directory", 125),
        ("writing file `pids.max`: Invalid argument", 125),
    ],
)
def test_what_a_runtime_says_becomes_dockers_exit_code(said: str, code: int) -> None:
    assert failure_code(said) == code
