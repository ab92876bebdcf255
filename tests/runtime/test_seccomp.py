"""The system call filter against what it is measured by: Docker's rules, and the profile that Debian ships for podman."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.seccomp import seccomp_filter
from runtime.spec import CAPABILITIES

DEBIAN = Path("/usr/share/containers/seccomp.json")
"""From golang-github-containers-common, which podman depends on."""

STRICTER = """
bpf clone3 fsconfig fsmount fsopen fspick get_mempolicy keyctl mbind mount mount_setattr move_mount open_tree pidfd_getfd pivot_root
readdir reboot set_mempolicy setns sigaction signal sigpending sigsuspend syscall syslog timerfd umount umount2 unshare
"""
"""What Docker denies and podman allows, whose containers are mostly those of users without privileges; and names without a number."""
NEWER = """
cachestat fchmodat2 futex_requeue futex_wait futex_waitv futex_wake getxattrat io_pgetevents io_pgetevents_time64 listmount listxattrat
map_shadow_stack mseal removexattrat riscv_hwprobe setxattrat statmount uretprobe vmsplice
"""
"""What Docker allows since Debian 12's file was written."""


def allowed(profile: dict[str, Any], capabilities: tuple[str, ...], architecture: str) -> set[str]:
    """The names that a profile in Docker's format lets through whatever their arguments."""
    names: set[str] = set()
    for rule in profile["syscalls"]:
        wanted, unwanted = rule.get("includes", {}), rule.get("excludes", {})
        if not set(wanted.get("caps", ())) <= set(capabilities) or set(unwanted.get("caps", ())) & set(capabilities):
            continue
        if wanted.get("arches") and architecture not in wanted["arches"]:
            continue
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"):
            names.update(rule["names"])
    return names


def test_the_effect_on_amd64_is_debians_but_where_docker_differs() -> None:
    theirs = allowed(json.loads(DEBIAN.read_bytes()), CAPABILITIES, "amd64")
    ours = allowed(seccomp_filter("amd64", CAPABILITIES), CAPABILITIES, "amd64")
    # These three are let through by their arguments.
    by_argument = {"clone", "personality", "socket"}
    assert theirs - ours - by_argument == set(STRICTER.split()) - {"bpf"}
    assert ours - theirs - by_argument == set(NEWER.split())


def test_each_capability_opens_what_it_is_for() -> None:
    for capability, name in {
        "CAP_SYS_ADMIN": "mount",
        "CAP_SYS_PTRACE": "kcmp",
        "CAP_SYS_MODULE": "init_module",
        "CAP_SYS_TIME": "clock_settime",
        "CAP_DAC_READ_SEARCH": "open_by_handle_at",
        "CAP_BPF": "bpf",
    }.items():
        assert name not in allowed(seccomp_filter("amd64", ()), (), "amd64")
        assert name in allowed(seccomp_filter("amd64", (capability,)), (), "amd64")


def test_namespaces_need_sys_admin() -> None:
    rules = {rule["names"][0]: rule for rule in seccomp_filter("amd64", CAPABILITIES)["syscalls"]}
    assert rules["clone"]["args"] == [
        {"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0},
    ]
    assert (rules["clone3"]["action"], rules["clone3"]["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    on_s390 = {rule["names"][0]: rule for rule in seccomp_filter("s390x", CAPABILITIES)["syscalls"]}
    assert on_s390["clone"]["args"][0]["index"] == 1
    free = allowed(seccomp_filter("amd64", ("CAP_SYS_ADMIN",)), (), "amd64")
    assert {"clone", "clone3", "unshare", "setns"} <= free


def test_sockets_to_the_hypervisor_and_the_kernels_ciphers_are_closed() -> None:
    rules = [rule for rule in seccomp_filter("amd64", CAPABILITIES)["syscalls"] if rule["names"] == ["socket"]]
    arguments = [rule["args"][0] for rule in rules]
    families = {argument["value"] for argument in arguments if argument["op"] == "SCMP_CMP_EQ"}
    assert {"index": 0, "value": 12, "op": "SCMP_CMP_LT"} in arguments
    assert {16, 17} <= families
    assert not {38, 40} & families


def test_architectures_come_with_those_that_they_run_too() -> None:
    assert seccomp_filter("amd64", ())["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert "arch_prctl" in allowed(seccomp_filter("amd64", ()), (), "amd64")
    assert "arch_prctl" not in allowed(seccomp_filter("arm64", ()), (), "arm64")
    assert "architectures" not in seccomp_filter("mips64", ())
