"""Real containers: what they see from inside, how they end, and that nothing is left. Needs root, as containers do."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.runtime.running import Engine, cgroups_of, until
from tests.runtime.tars import END, file, folder, header, node, symlink

BUSYBOX = "localhost/busybox:1"


@pytest.fixture(scope="module", params=["crun", "runc"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with busybox in it; at the end nothing runs, is mounted, or has a cgroup."""
    made = Engine(tmp_path_factory.mktemp("engine"), request.param)
    made.add(images.busybox(), BUSYBOX)
    yield made
    assert made.containers() == []
    assert made.leftovers() == []


def test_it_runs_and_its_streams_stay_apart(engine: Engine) -> None:
    result = engine.run(BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")


def test_the_images_own_command_runs(engine: Engine) -> None:
    name = engine.add(
        images.busybox(config={"Entrypoint": ["echo", "-n"], "Cmd": ["own"], "WorkingDir": "/new/dir"}),
        "localhost/cmd:1",
    )
    assert engine.run(name).out == "own"
    assert engine.run(name, "given").out == "given"
    assert engine.run("--entrypoint", "pwd", name).out == "/new/dir\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nope"], 127, "not found"),
        (["/bin/nope"], 127, "such file"),
        (["/etc"], 126, ""),
        (["/etc/passwd"], 126, "ermission denied"),
        (["sh", "-c", "exit 255"], 255, ""),
        (["sh", "-c", "sleep 100 & kill -9 $!; wait $!"], 137, ""),
    ],
)
def test_exit_codes_are_dockers(arguments: list[str], code: int, said: str, engine: Engine) -> None:
    result = engine.run(BUSYBOX, *arguments)
    assert result.code == code
    assert said in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "ghost", BUSYBOX, "true"], "no user 'ghost'"),
        (["-w", "relative", BUSYBOX, "true"], "absolute"),
        (["-w", "/bin/busybox", BUSYBOX, "true"], "working directory"),
        (["-v", "a/b:/c", BUSYBOX, "true"], "volume's name"),
        (["-m", "1k", BUSYBOX, "true"], "too small"),
        (["-m", "much", BUSYBOX, "true"], "no size"),
        (["--network", "bridge", BUSYBOX, "true"], "none or host"),
        (["--name", "-x", BUSYBOX, "true"], "container name"),
        (["--hostname", "a b", BUSYBOX, "true"], "host name"),
        (["-e", "=x", BUSYBOX, "true"], "NAME=VALUE"),
        (["-t", "-i", BUSYBOX, "true"], "terminal"),
        (["NOT A NAME", "true"], "not an image reference"),
        (["localhost:1/nobody/listens:1", "true"], "does not answer"),
    ],
)
def test_what_cannot_be_run_is_said_with_125(arguments: list[str], said: str, engine: Engine) -> None:
    result = engine.run(*arguments)
    assert result.code == 125, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    assert engine.containers() == []


def test_it_is_alone(engine: Engine) -> None:
    script = "echo $$; hostname; ps; ls /proc | grep -c '^[0-9]'; ip -o link | wc -l; cat /proc/net/dev | grep -c :"
    result = engine.run("--hostname", "island", BUSYBOX, "sh", "-c", script)
    lines = result.lines
    assert lines[:2] == ["1", "island"]
    assert str(os.getpid()) not in result.out
    assert int(lines[-3]) <= 4
    assert lines[-2:] == ["1", "1"]  # lo, and nothing else


def test_every_namespace_but_the_users_is_its_own(engine: Engine) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    script = "".join(f"readlink /proc/self/ns/{kind};" for kind in kinds).replace("readlink", "busybox readlink")
    inside = engine.run(BUSYBOX, "sh", "-c", script).lines
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside) == len(kinds)
    assert not set(inside) & set(outside)
    shared = engine.run("--network", "host", BUSYBOX, "busybox", "readlink", "/proc/self/ns/net").lines
    assert shared == [os.readlink("/proc/self/ns/net")]


def test_capabilities_seccomp_and_privileges(engine: Engine) -> None:
    status = engine.run(BUSYBOX, "cat", "/proc/self/status").out
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["CapEff"] == found["CapBnd"] == "00000000a80425fb"
    assert found["CapInh"] == found["CapAmb"] == "0000000000000000"
    assert found["Seccomp"] == "2"
    as_user = engine.run("-u", "1000", BUSYBOX, "grep", "CapEff", "/proc/self/status").out
    assert as_user.split() == ["CapEff:", "0000000000000000"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("busybox mount -t tmpfs x /tmp", "permi"),
        ("busybox unshare -m true", "not permitted"),
        ("busybox mknod /tmp/sda b 8 0 && cat /tmp/sda", "not permitted"),
        ("busybox mknod /tmp/mem c 1 1 && cat /tmp/mem", "not permitted"),
        ("echo x > /proc/sys/kernel/hostname", "ead-only file system"),
        ("echo 1 > /proc/irq/default_smp_affinity", "ead-only file system"),
        ("cd /sys/fs/cgroup; test -d memory && cd memory; busybox mkdir new", "ead-only file system"),
        ("busybox hostname other", "not permitted"),
        ("busybox date -s 2000-01-01", "not permitted"),
        ("busybox reboot -f", "not permitted"),
        ("busybox chroot / busybox dmesg", "not permitted"),
    ],
)
def test_the_machine_is_out_of_reach(command: str, said: str, engine: Engine) -> None:
    result = engine.run(BUSYBOX, "sh", "-c", command)
    assert said in result.err


def test_masked_paths_show_nothing(engine: Engine) -> None:
    script = "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts | wc -c; ls /sys/firmware | wc -l; ls /proc/acpi | wc -l"
    result = engine.run(BUSYBOX, "sh", "-c", script)
    assert result.lines == ["0", "0", "0"]


def test_devices_are_the_few_that_programs_need(engine: Engine) -> None:
    result = engine.run(BUSYBOX, "sh", "-c", "ls /dev; head -c 4 /dev/zero | wc -c; echo x > /dev/null; ls /dev/pts")
    names = set(result.out.split())
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"} <= names
    assert not {name for name in names if name.startswith(("sd", "vd", "loop", "mem", "kvm", "fuse", "net"))}


def test_limits_hold(engine: Engine) -> None:
    script = (
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes "
        "/sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max "
        "/sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; true"
    )
    result = engine.run("-m", "64m", "--pids-limit", "20", "--cpus", "0.5", BUSYBOX, "sh", "-c", script)
    assert result.lines[:2] == [str(64 << 20), "20"]
    assert result.lines[2].split()[0] == "50000"


def test_more_processes_than_allowed_do_not_start(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done"
    result = engine.run("--pids-limit", "6", BUSYBOX, "sh", "-c", script)
    assert result.code != 0
    assert "can't fork" in result.err


def test_more_memory_than_allowed_kills_it(engine: Engine) -> None:
    result = engine.run("-m", "16m", BUSYBOX, "sh", "-c", "head -c 200000000 /dev/zero | busybox sort | wc -c; echo $?")
    assert result.code in (0, 137)
    assert "200000000" not in result.out


def test_a_read_only_root_takes_nothing(engine: Engine) -> None:
    result = engine.run("--read-only", BUSYBOX, "sh", "-c", "touch /x; touch /dev/shm/y && echo shm")
    assert "Read-only file system" in result.err
    assert result.out == "shm\n"


def test_users_come_from_the_images_files(engine: Engine) -> None:
    assert (
        engine.run("-u", "alice", BUSYBOX, "id").out == "uid=1000(alice) gid=1000(alice) groups=50(staff),1000(alice)\n"
    )
    assert engine.run("-u", "4711:12", BUSYBOX, "id").out == "uid=4711 gid=12 groups=12\n"
    name = engine.add(images.busybox(config={"User": "nobody"}), "localhost/user:1")
    assert engine.run(name, "id", "-u").out == "65534\n"
    assert engine.run("-u", "0", name, "id", "-u").out == "0\n"


def test_the_environment_is_made_of_image_and_options(engine: Engine) -> None:
    name = engine.add(images.busybox(config={"Env": ["PATH=/bin", "A=image", "B=image"]}), "localhost/env:1")
    result = engine.run(
        "-e", "B=given", "-e", "FROM_HERE", "-e", "NOT_SET", "-e", "C=a b=c", name, "env", env={"FROM_HERE": "here"}
    )
    lines = set(result.lines)
    assert {"PATH=/bin", "A=image", "B=given", "FROM_HERE=here", "C=a b=c", "HOME=/root"} <= lines
    assert not any(line.startswith("NOT_SET") for line in lines)
    hostname = next(line for line in lines if line.startswith("HOSTNAME="))
    assert len(hostname) == len("HOSTNAME=") + 12


def test_directories_of_the_host_are_mounted(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("from the host\n")
    arguments = ["-v", f"{tmp_path}/in:/data", "-v", f"{tmp_path}/in:/ro:ro", "-v", f"{tmp_path}/made:/made"]
    result = engine.run(
        *arguments, BUSYBOX, "sh", "-c", "cat /data/file; echo x > /data/out; echo y > /made/z; touch /ro/no"
    )
    assert result.out == "from the host\n"
    assert "Read-only file system" in result.err
    assert (tmp_path / "in/out").read_text() == "x\n"
    assert (tmp_path / "made/z").read_text() == "y\n"


def test_named_volumes_stay_and_begin_as_the_images_directory(engine: Engine) -> None:
    layer = (
        folder(b"data", mode=0o1770, uid=1000, gid=50)
        + file(b"data/a", b"image", uid=1000)
        + symlink(b"data/l", b"/etc/passwd")
    )
    base = images.busybox()
    name = engine.add(
        images.image(busybox_layer(base), layer + END, config={"Volumes": {"/data": {}}}), "localhost/volume:1"
    )
    script = "cat /data/a; echo; stat -c '%u:%g %a' /data; busybox readlink /data/l; echo changed > /data/a"
    first = engine.run("-v", "kept:/data", name, "sh", "-c", script)
    assert first.lines == ["image", "1000:50 1770", "/etc/passwd"]
    assert engine.run("-v", "kept:/elsewhere", name, "cat", "/elsewhere/a").out == "changed\n"
    volumes = engine.root / "engine/volumes"
    before = set(volumes.iterdir())
    # The image asks for one of its own, which goes with the container.
    assert engine.run(name, "cat", "/data/a").out == "image"
    assert set(volumes.iterdir()) == before


def busybox_layer(content: images.Content) -> bytes:
    """The uncompressed tar of busybox itself."""
    import gzip

    return gzip.decompress(content.blobs[content.json["layers"][0]["digest"]])


def test_what_upper_layers_hide_is_gone(engine: Engine) -> None:
    base = busybox_layer(images.busybox())
    lower = (
        folder(b"d", mode=0o711, uid=3) + file(b"d/gone") + file(b"d/stays", b"1") + folder(b"o") + file(b"o/hidden")
    )
    upper = file(b"d/.wh.gone") + file(b"d/new") + file(b"o/.wh..wh..opq") + file(b"o/seen") + file(b"d/stays", b"2")
    name = engine.add(images.image(base, lower + END, upper + END), "localhost/whiteouts:1")
    result = engine.run(name, "sh", "-c", "ls /d /o; cat /d/stays; stat -c ' %u %a' /d")
    # /d is used by the upper layer and not described: it looks as below.
    assert result.out == "/d:\nnew\nstays\n\n/o:\nseen\n2 3 711\n"


def test_hostile_content_is_harmless_inside(engine: Engine) -> None:
    base = busybox_layer(images.busybox())
    layer = node(b"sda", b"4", 8, 0) + node(b"kmem", b"3", 1, 2) + symlink(b"up", b"../../../../../../etc/hostname")
    layer += header(b"bin/su", b"0", mode=0o4755) + symlink(b"etc/resolv.conf", b"/../../../../tmp/target")
    name = engine.add(images.image(base, layer + END), "localhost/hostile:1")
    result = engine.run("--hostname", "inside", name, "sh", "-c", "cat /sda; cat /kmem; cat /up; stat -c %a /bin/su")
    assert result.err.count("not permitted") == 2
    assert result.out == "inside\n4755\n"
    assert not Path("/tmp/target").exists()


@pytest.mark.parametrize(
    ("layer", "said"),
    [(file(b"../up"), "leads out of the root"), (file(b"a") + b"x" * 512, "checksum"), (file(b".wh.."), "whiteout")],
)
def test_a_hostile_layer_is_refused_and_nothing_stays(layer: bytes, said: str, engine: Engine) -> None:
    name = engine.add(images.image(busybox_layer(images.busybox()), layer + END), "localhost/refused:1")
    before = sorted((engine.root / "engine/layers").iterdir())
    result = engine.run(name, "true")
    assert result.code == 125
    assert said in result.err
    assert "sha256:" in result.err
    assert sorted((engine.root / "engine/layers").iterdir()) == before


def test_a_wrong_diff_id_is_refused_and_nothing_stays(engine: Engine) -> None:
    content = images.image(file(b"a") + END)
    config = json.loads(content.blobs[content.json["config"]["digest"]])
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    raw = images.encode(config)
    manifest = content.json
    manifest["config"] |= {"digest": images.sha256(raw), "size": len(raw)}
    lying = images.Content(
        content.media_type,
        images.encode(manifest),
        {**content.blobs, images.sha256(raw): raw, images.sha256(images.encode(manifest)): images.encode(manifest)},
    )
    result = engine.run(engine.add(lying, "localhost/lying:1"), "true")
    assert result.code == 125
    assert f"the image config says sha256:{'0' * 64}" in result.err
    assert not list((engine.root / "engine/layers").glob(".new-*"))


def test_input_is_passed_on_and_ends(engine: Engine) -> None:
    data = os.urandom(500_000)
    done = subprocess.run(
        engine.command("--rm", "-i", BUSYBOX, "cat"), input=data, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == data
    assert engine.run(BUSYBOX, "cat").out == ""  # without -i there is none


def test_a_reader_that_goes_away_ends_it(engine: Engine) -> None:
    process = engine.start("--rm", BUSYBOX, "sh", "-c", "trap 'exit 3' TERM; while :; do echo y; done")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(2)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=60) == 3


@pytest.mark.parametrize(("sent", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGUSR1, "USR1")])
def test_signals_reach_it(sent: signal.Signals, name: str, engine: Engine) -> None:
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    process = engine.start("--rm", BUSYBOX, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(sent)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, f"got {name}\n".encode())


def test_the_images_stop_signal_is_used(engine: Engine) -> None:
    name = engine.add(images.busybox(config={"StopSignal": "SIGQUIT"}), "localhost/quit:1")
    script = "trap 'echo quit; exit 6' QUIT; echo ready; while :; do sleep 0.05; done"
    process = engine.start("--rm", name, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (6, b"quit\n")


def test_three_interrupts_kill_what_does_not_listen(engine: Engine) -> None:
    process = engine.start("--rm", BUSYBOX, "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (path,) = engine.containers()
    program = Path(f"/proc/{json.loads((path / 'state.json').read_bytes())['pid']}")

    def interrupt() -> bool:
        if program.exists():
            process.send_signal(signal.SIGINT)
        return not program.exists()

    until(interrupt, "the end")
    process.communicate(timeout=60)
    assert process.returncode == 137


def test_a_terminal_is_one(engine: Engine) -> None:
    parent, child = pty.openpty()
    os.set_blocking(parent, True)
    process = subprocess.Popen(
        engine.command(
            "--rm", "-it", BUSYBOX, "sh", "-c", 'busybox tty; busybox stty size; read x; echo "<$x>"; exit 4'
        ),
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    seen = bytearray()

    def read() -> None:
        try:
            while piece := os.read(parent, 1000):
                seen.extend(piece)
        except OSError:  # the other side is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: b"/dev/pts/0" in seen or b"/dev/console" in seen, "the terminal's name")
        os.write(parent, b"typed\r")
        assert process.wait(timeout=60) == 4
        until(lambda: b"<typed>" in seen, "the answer")
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(parent)


def test_two_run_at_once(engine: Engine) -> None:
    script = "echo ready; read x; hostname"
    pair = [
        subprocess.Popen(
            engine.command("--rm", "-i", BUSYBOX, "sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    assert len(engine.containers()) == 2
    names = {process.communicate(b"go\n", timeout=60)[0] for process in pair}
    assert len(names) == 2
    assert [process.returncode for process in pair] == [0, 0]


def test_names_are_unique_while_their_container_is_there(engine: Engine) -> None:
    process = engine.start(
        "--rm", "--name", "one", BUSYBOX, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    second = engine.run("--name", "one", BUSYBOX, "true")
    assert second.code == 125
    assert "the name 'one' is in use by the container" in second.err
    process.terminate()
    process.communicate(timeout=60)
    assert engine.run("--name", "one", BUSYBOX, "true").code == 0


def test_without_rm_it_stays_with_its_log_and_exit_code(engine: Engine) -> None:
    result = engine.run("--name", "stays", BUSYBOX, "sh", "-c", "echo said; exit 3", keep=True)
    assert (result.code, result.out) == (3, "said\n")
    (path,) = engine.containers()
    state = json.loads((path / "state.json").read_bytes())
    assert (state["name"], state["status"], state["exit_code"]) == ("stays", "stopped", 3)
    assert "stdout F said" in (path / "log").read_text()
    assert cgroups_of(path.name) == []
    assert engine.leftovers() == []
    _forget(engine, path)


def test_a_killed_command_leaves_a_container_that_goes_on_and_is_cleaned_up_when_it_ends(engine: Engine) -> None:
    process = engine.start("--rm", BUSYBOX, "sh", "-c", "echo ready; while ! test -e /tmp/end; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (path,) = engine.containers()
    process.kill()
    process.communicate()
    assert engine.run(BUSYBOX, "true").code == 0
    assert engine.containers() == [path]  # it is not ours to end
    (path / "merged/tmp/end").touch()
    until(lambda: (path / "exits" / path.name).exists() and not _monitor(path), "the end of the container")
    assert engine.run(BUSYBOX, "true").code == 0
    assert engine.containers() == []
    assert engine.leftovers() == []
    assert cgroups_of(path.name) == []


def test_a_container_whose_monitor_was_killed_too_is_cleaned_up(engine: Engine) -> None:
    process = engine.start("--rm", BUSYBOX, "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (path,) = engine.containers()
    state = json.loads((path / "state.json").read_bytes())
    process.kill()
    process.communicate()
    os.kill(state["monitor_pid"], signal.SIGKILL)
    until(lambda: not _monitor(path), "the monitor's end")
    assert engine.run(BUSYBOX, "true").code == 0
    assert engine.containers() == []
    assert engine.leftovers() == []
    assert cgroups_of(path.name) == []


def test_what_is_half_made_is_cleaned_up(engine: Engine) -> None:
    rubbish = engine.root / "engine/containers" / ("a" * 64)
    (rubbish / "merged").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", rubbish / "merged"], check=True)
    layer = engine.root / "engine/layers" / (".new-" + "b" * 64)
    (layer / "diff").mkdir(parents=True)
    (engine.root / "engine/containers/names/old").symlink_to("c" * 64)
    assert engine.run("--name", "old", BUSYBOX, "true").code == 0
    assert engine.containers() == []
    assert not layer.exists()
    assert engine.leftovers() == []


def test_what_it_keeps_is_for_root_alone(engine: Engine) -> None:
    for name in ("layers", "containers"):
        assert stat.S_IMODE((engine.root / "engine" / name).stat().st_mode) == 0o700


def _monitor(path: Path) -> bool:
    """Whether the container's conmon lives."""
    pid = json.loads((path / "state.json").read_bytes())["monitor_pid"]
    try:
        return path.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _forget(engine: Engine, path: Path) -> None:
    """Remove a container that stays."""
    name = json.loads((path / "state.json").read_bytes())["name"]
    (engine.root / "engine/containers/names" / name).unlink()
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)
