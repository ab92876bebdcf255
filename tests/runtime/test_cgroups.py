"""Telling the three kinds of machine apart, and choosing a runtime for each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runtime.cgroups import CgroupError, Cgroups, Layout
from runtime.runtimes import RuntimeMissing, choose

V1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
BESIDE = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n"
OTHERS = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /sys/fs/cgroup tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "layout", "hierarchies", "unified"),
    [
        (V1, Layout.V1, 2, None),
        (V1 + BESIDE, Layout.HYBRID, 2, Path("/sys/fs/cgroup/unified")),
        (V2, Layout.V2, 0, Path("/sys/fs/cgroup")),
    ],
)
def test_the_layout_is_told_by_the_mounts(mounts: str, layout: Layout, hierarchies: int, unified: Path | None) -> None:
    found = Cgroups.detect(OTHERS + mounts)
    assert (found.layout, len(found.hierarchies), found.unified) == (layout, hierarchies, unified)


def test_a_machine_without_cgroups_is_told_what_to_mount() -> None:
    with pytest.raises(CgroupError, match="mount -t cgroup2"):
        Cgroups.detect(OTHERS)


def test_crun_alone_sees_no_second_version() -> None:
    hybrid = choose(Cgroups.detect(V1 + BESIDE), "crun")
    assert hybrid.argv[-2:] == ("/sys/fs/cgroup/unified", "/usr/bin/crun")
    assert "unshare" in hybrid.argv[0]
    assert choose(Cgroups.detect(V2), "crun").argv == ("/usr/bin/crun",)
    assert choose(Cgroups.detect(V1)).name == "crun"


def test_debians_runc_is_warned_of() -> None:
    version = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    is_old = tuple(int(part) for part in version.split("+")[0].split(".")) < (1, 2, 8)
    warning = choose(Cgroups.detect(V1), "runc").warning
    assert (warning is not None and "CVE-2025-31133" in warning) == is_old


def test_a_runtime_that_is_not_there_is_named() -> None:
    with pytest.raises(RuntimeMissing, match="gvisor was found"):
        choose(Cgroups.detect(V1), "gvisor")


def test_killing_a_cgroup_ends_what_is_in_it() -> None:
    cgroups = Cgroups.detect()
    name = f"test-{os.getpid()}"
    top = (cgroups.hierarchies or (cgroups.unified,))[0]
    assert top is not None
    folder = top / "portside" / name / "inner"
    folder.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (folder / "cgroup.procs").write_text(str(process.pid))
        assert list(cgroups.directories(name)) == [folder.parent]
        cgroups.kill(name)
        assert process.wait(timeout=10) == -9
        assert not folder.parent.exists()
    finally:
        process.kill()
        process.wait()
