import json
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from clocks import Clock, wait_for
from stores import ask, campaign, fill, rows

import uqms
from uqms.errors import CampaignError, CampaignLocked, DataWarning, StorageError
from uqms.runs import RunStore, lease

ROOT = Path(uqms.__file__).parents[1]
DAY = 86400.0


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "runs.db"
    fill(path)
    return path


HOLDER = """
import sys, time
from uqms.runs import store
if sys.argv[2]:
    store.network_file_system = lambda folder: sys.argv[2]
with store.RunStore(sys.argv[1]).lease():
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(path, kind=""):
    """Start a process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER, path, kind], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ---------------------------------------------------------------------------------------------------------- local disks
def test_two_writers(path):
    with RunStore(path) as first, RunStore(path) as second:
        with first.lease(), pytest.raises(CampaignLocked, match=f"written by process {os.getpid()} on"), second.lease():
            pass
        with second.lease():
            pass
    assert os.listdir(path.parent) == ["runs.db"]


def test_the_holder_may_ask_again(path):
    with RunStore(path) as store, RunStore(path) as other, store.lease():
        with store.lease():
            pass
        with pytest.raises(CampaignLocked), other.lease():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "nfs4"])
def test_a_second_coordinator_is_told_who_writes_and_a_dead_one_does_not_count(path, kind, monkeypatch):
    monkeypatch.setattr("uqms.runs.store.network_file_system", lambda folder: kind or None)
    lock = path.with_name("runs.db.lock")
    with holder(path, kind) as process:
        if kind:
            with pytest.warns(DataWarning, match="network"):
                store = RunStore(path)
        else:
            store = RunStore(path)
        with store:
            for jump in (0.0, DAY, -DAY):  # of the clock
                os.utime(lock, (time.time() + jump,) * 2)
                with pytest.raises(CampaignLocked, match=f"process {process.pid} on .* since 20"), store.lease():
                    pass
            process.kill()
            process.wait()
            assert lock.exists()  # it is the process that counts, not the file
            with store.lease():
                store.put(campaign(), rows(campaign(), 1, start=8))
    assert os.listdir(path.parent) == ["runs.db"]


FORKING = """
import os, signal, sys, time
from uqms.runs import RunStore
with RunStore(sys.argv[1]) as store:
    with store.lease():
        child = os.fork()
        if not child:
            try:
                if sys.argv[2] == "leaves":
                    sys.exit()
                time.sleep(60)
            finally:
                pass
        print(child, flush=True)
        if sys.argv[2] == "leaves":
            os.waitpid(child, 0)
            print("left", flush=True)
        time.sleep(60)
"""


def test_a_child_of_a_dead_holder_does_not_hold(path):
    """The simulator has forked, for a pool of its own say."""
    command = [sys.executable, "-c", FORKING, path, "stays"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = psutil.Process(int(process.stdout.readline()))
    try:
        with RunStore(path) as store:
            with pytest.raises(CampaignLocked), store.lease():
                pass
            process.kill()
            process.wait()
            assert child.is_running()
            with store.lease():
                store.put(campaign(), rows(campaign(), 1, start=8))
    finally:
        process.kill()
        child.kill()
        process.stdout.close()


@pytest.mark.slow
def test_a_child_that_leaves_the_block_leaves_the_lock(path):
    command = [sys.executable, "-c", FORKING, path, "leaves"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        process.stdout.readline()
        assert process.stdout.readline() == "left\n"
        with RunStore(path) as store, pytest.raises(CampaignLocked), store.lease():
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_that_cannot_be_written(path):
    path.with_name("runs.db.lock").mkdir()
    with RunStore(path) as store, pytest.raises(StorageError, match=r"runs.db.lock cannot be written"), store.lease():
        pass


def test_errors_of_the_block_pass_through(path):
    with RunStore(path) as store, pytest.raises(FileNotFoundError, match="mine"), store.lease():
        raise FileNotFoundError("mine")


# --------------------------------------------------------------------------------------------------- disks of a network
@pytest.fixture
def network(monkeypatch):
    """Say that every folder lies on a network, and let hearts beat fast."""
    monkeypatch.setattr("uqms.runs.store.network_file_system", lambda folder: "nfs4")
    for name, seconds in (("BEAT", 0.05), ("WATCH", 0.4)):
        monkeypatch.setattr(lease, name, seconds)


@contextmanager
def opened(path):
    with pytest.warns(DataWarning, match=r"is on a network disk \(nfs4\), where SQLite cannot use its write-ahead log"):
        store = RunStore(path)
    with store:
        yield store


def test_no_write_ahead_log_on_a_network(path, network):
    assert path.read_bytes()[18:20] == b"\x02\x02"  # it was written on a local disk, with one
    with opened(path) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert path.read_bytes()[18:20] == b"\x01\x01"
        for act in (lambda: store.put(campaign(), rows(campaign(), 1)), lambda: store.register(campaign())):
            with pytest.raises(CampaignError, match="within `with store.lease"):
                act()
        with store.lease():
            store.put(campaign(), rows(campaign(), 1, start=7))
            with RunStore(path, readonly=True) as reader:
                assert len(reader) == 6
    assert os.listdir(path.parent) == ["runs.db"]


def test_a_new_store_on_a_network(tmp_path, network):
    with opened(tmp_path / "new.db") as store, store.lease():
        store.register(campaign())
        store.put(campaign(), rows(campaign(), 3))
        store.integrity_check()
    assert ask(tmp_path / "new.db", "PRAGMA journal_mode") == [("delete",)]


def test_a_file_that_others_have_open_stays_as_it_is(path, network, monkeypatch):
    monkeypatch.setattr("uqms.runs.connection._PATIENCE", 0.05)
    monkeypatch.setattr("uqms.runs.store.network_file_system", lambda folder: None)
    with RunStore(path) as store:
        len(store)
        monkeypatch.setattr("uqms.runs.store.network_file_system", lambda folder: "nfs4")
        with pytest.raises(CampaignLocked, match="in use by another process"):
            RunStore(path)


def test_the_lock_says_who_and_beats(path, network):
    lock = path.with_name("runs.db.lock")
    with opened(path) as store, store.lease():
        said = json.loads(lock.read_text())
        assert said["pid"] == os.getpid()
        assert {"host", "boot", "born", "since", "token"} <= set(said)
        os.utime(lock, (0, 0))
        wait_for(lambda: lock.stat().st_mtime > 0)
    assert not lock.exists()


def plant(path, age=0.0, **changes):
    """Leave a lock of this process, with changes, whose heart beat `age` seconds ago."""
    lock = path.with_name("runs.db.lock")
    lock.write_text(json.dumps({**lease._self(), "token": "other", **changes}))
    when = time.time() - age
    os.utime(lock, (when, when))
    return lock


def taken(path):
    """Return the words of the refusal, or nothing when the lease could be taken."""
    try:
        with lease.hold(path, network=True):
            return ""
    except CampaignLocked as error:
        return str(error)


@pytest.fixture
def clock(monkeypatch):
    """Give the clock by which hearts are watched: 0 afterwards means that nobody watched."""
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"born": "1"}], ids=["dead", "pid given to another process"])
@pytest.mark.parametrize("age", [0.0, -DAY, DAY])
def test_a_dead_holder_on_this_computer_does_not_count(path, network, clock, changes, age):
    plant(path, age, **changes)
    assert taken(path) == ""
    assert clock.now == 0.0


@pytest.mark.parametrize("age", [0.0, -DAY, DAY])
def test_a_living_holder_on_this_computer_counts_whatever_the_clock_says(path, network, age):
    plant(path, age)  # whose heart does not beat: a process that was stopped for a while
    assert f"process {os.getpid()}" in taken(path)


ELSEWHERE = {"host": "other", "boot": "b", "pid": 1}


def test_another_computer_is_believed_while_its_heart_beat_lately(path, network, clock):
    plant(path, 30.0, **ELSEWHERE)
    assert "process 1 on other" in taken(path)
    assert clock.now == 0.0


@pytest.mark.parametrize("changes", [{"boot": "b"}, {"inside": "pid:[1]"}, ELSEWHERE])
def test_the_name_of_a_computer_alone_does_not_make_it_this_one(path, network, changes):
    plant(path, 30.0, **{"pid": 2**22 + 1, **changes})
    assert "is being written" in taken(path)


@pytest.mark.parametrize("age", [90.0, DAY, -DAY])
def test_another_computer_whose_heart_stands_still_does_not_count(path, network, clock, age):
    plant(path, age, **ELSEWHERE)
    assert taken(path) == ""
    assert lease.WATCH <= clock.now < lease.WATCH + lease.BEAT


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_jump_of_the_clock_steals_no_living_lease(path, network, jump, monkeypatch):
    monkeypatch.setattr(lease, "WATCH", 60.0)
    lock = plant(path, jump, **ELSEWHERE)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(lock, (time.time() - jump,) * 2)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        assert "process 1 on other" in taken(path)
    finally:
        stop.set()
        heart.join()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_lock_that_says_nothing(path, network, text):
    lock = path.with_name("runs.db.lock")
    lock.write_text(text)  # its holder is about to write, or died before it could
    assert "another process" in taken(path)
    os.utime(lock, (time.time() - 90.0,) * 2)
    assert taken(path) == ""


def test_a_lock_that_is_given_back_meanwhile(path, network, monkeypatch):
    monkeypatch.setattr(lease, "WATCH", 60.0)
    lock = plant(path, 90.0, **ELSEWHERE)
    timer = threading.Timer(0.1, lock.unlink)
    timer.start()
    assert taken(path) == ""
    timer.join()


def test_of_two_that_see_a_dead_holder_one_succeeds(path, network, monkeypatch):
    plant(path, 90.0, **ELSEWHERE)

    def late(lock):  # another one was faster while we watched
        plant(path, 0.0, host="faster", boot="c")
        monkeypatch.setattr(lease, "_heartbeat", watch)
        return False

    watch = lease._heartbeat
    monkeypatch.setattr(lease, "_heartbeat", late)
    assert "on faster" in taken(path)
    assert json.loads(path.with_name("runs.db.lock").read_text())["host"] == "faster"
    assert sorted(os.listdir(path.parent)) == ["runs.db", "runs.db.lock"]


def test_who_lost_the_lease_writes_no_more(path, network):
    with opened(path) as store:
        with store.lease():
            lock = plant(path, **ELSEWHERE)  # another computer took it, while this one stood still
            wait_for(lambda: store._lease.lost)
            for act in (
                lambda: store.put(campaign(), rows(campaign(), 1, start=9)),
                lambda: store.register(campaign()),
            ):
                with pytest.raises(CampaignLocked, match="was taken by process 1 on other"):
                    act()
        assert json.loads(lock.read_text())["host"] == "other"  # it is not ours to remove
        assert len(store) == 5


# -------------------------------------------------------------------------------------------------- what kind of disk
Mount = namedtuple("Mount", "device mountpoint fstype opts")


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *(
            (kind, True)
            for kind in "nfs nfs4 cifs smb3 lustre gpfs beegfs ceph 9p fuse.sshfs fuse.glusterfs NFS".split()
        ),
        *((kind, False) for kind in "ext4 xfs btrfs zfs tmpfs overlay apfs fuseblk fuse.fuse-overlayfs".split()),
    ],
)
def test_disks_of_a_network_are_known(tmp_path, monkeypatch, kind, shared):
    mounts = [
        Mount("a", "/", "ext4", ""),
        Mount("b", str(tmp_path), kind, ""),
        Mount("c", str(tmp_path / "x"), "xfs", ""),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    (tmp_path / "x").mkdir()
    (tmp_path / "xy").mkdir()
    assert lease.network_file_system(tmp_path) == (kind.lower() if shared else None)
    assert lease.network_file_system(tmp_path / "xy") == (kind.lower() if shared else None)
    assert lease.network_file_system(tmp_path / "x") is None
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert lease.network_file_system(tmp_path / "link") is None


def test_of_two_disks_on_one_place_the_later_is_seen(tmp_path, monkeypatch):
    mounts = [Mount("a", "/", "ext4", ""), Mount("b", "/", "nfs", "")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert lease.network_file_system(tmp_path) == "nfs"
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts[::-1])
    assert lease.network_file_system(tmp_path) is None
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
    assert lease.network_file_system(tmp_path) is None


def test_where_there_is_no_proc(monkeypatch):
    """On systems without it the moment of birth is asked of psutil."""
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: (_ for _ in ()).throw(OSError()) if "proc" in str(self) else real(self))  # fmt: skip  # noqa: E501
    monkeypatch.setattr(Path, "exists", lambda self: "proc" not in str(self))
    assert lease._born(os.getpid()) == str(psutil.Process().create_time())
    assert lease._born(2**22 + 1) is None
