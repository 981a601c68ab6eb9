from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.backends.cgroup import cpu_quota, memory_left
from chipmark.backends.host import physical_cores

MIB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1_IN_A_CONTAINER = {
    # No cgroup namespace: the path is the host's, and the mount shows the container's own group.
    "proc/self/cgroup": "5:cpuacct,cpu:/docker/77aa\n3:memory:/docker/77aa\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": str(400 * MIB),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(300 * MIB),
    "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {50 * MIB}\n",
}


def test_quota_of_a_version_1_container_is_the_mounts_own(tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, V1_IN_A_CONTAINER)) == 3.0
    assert memory_left(tmp_path) == 150 * MIB


def test_mount_that_shows_the_own_group_is_found_by_mountinfo(tmp_path: Path) -> None:
    info = "30 20 0:27 /docker/77aa /cg/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"
    files = {
        "proc/self/mountinfo": info,
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/77aa/inner\n",
        "cg/cpu/cpu.cfs_quota_us": "-1",
        "cg/cpu/inner/cpu.cfs_quota_us": "50000",
        "cg/cpu/inner/cpu.cfs_period_us": "100000",
    }
    assert cpu_quota(tree(tmp_path, files)) == 0.5


def test_smallest_quota_of_all_parents_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job.slice/step/task\n",
        "sys/fs/cgroup/cpu.max": "max 100000",
        "sys/fs/cgroup/job.slice/cpu.max": "400000 100000",
        "sys/fs/cgroup/job.slice/step/cpu.max": "200000 100000",
        "sys/fs/cgroup/job.slice/step/task/cpu.max": "max 100000",
        "sys/fs/cgroup/other/cpu.max": "10000 100000",
        "sys/fs/cgroup/job.slice/memory.max": str(90 * MIB),
        "sys/fs/cgroup/job.slice/memory.current": str(80 * MIB),
        "sys/fs/cgroup/job.slice/step/task/memory.max": "max",
        "sys/fs/cgroup/job.slice/step/task/memory.current": str(10 * MIB),
    }
    assert cpu_quota(tree(tmp_path, files)) == 2.0
    assert memory_left(tmp_path) == 10 * MIB


def test_parents_of_version_1_count_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/a\n1:cpu:/a/b\n0::/\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1",
    }
    assert cpu_quota(tree(tmp_path, files)) == 1.0


@pytest.mark.parametrize("text", ["max 100000", "max", "", "junk", "0 100000"])
def test_no_limit_is_no_number(tmp_path: Path, text: str) -> None:
    assert cpu_quota(tree(tmp_path, {"sys/fs/cgroup/cpu.max": text})) is None
    assert memory_left(tmp_path) is None


@pytest.mark.parametrize(("limit", "threads"), [("50000", 1), ("150000", 1), ("max", 2)])
def test_threads_are_what_the_quota_pays_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    root = tree(tmp_path, {"sys/fs/cgroup/cpu.max": f"{limit} 100000"})
    assert physical_cores(root) == threads


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    pairs = {topology.format(cpu): "0,2\n" if cpu != 1 else "1,3\n" for cpu in (0, 1, 2)}
    assert physical_cores(tree(tmp_path, pairs)) == 2
