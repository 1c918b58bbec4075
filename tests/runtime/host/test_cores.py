"""The CPU quota of control groups, read from files as the kernel writes them, and the number of cores that follows."""

import os
import subprocess
import sys

import pytest

from tilewright.host import cores as host
from tilewright.host.cores import cpu_quota


def system(root, membership, files):
    """A folder with ``proc/self/cgroup`` and the given files under ``sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "0::/system.slice/job.service\n"
V1 = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n0::/system.slice\n"

CASES = {
    "v2, two cores": (V2, {"system.slice/job.service/cpu.max": "200000 100000\n"}, 2),
    "v2, a part of a core counts as one": (V2, {"system.slice/job.service/cpu.max": "25000 100000\n"}, 1),
    "v2, one and a half are two": (V2, {"system.slice/job.service/cpu.max": "150000 100000\n"}, 2),
    "v2, no limit": (V2, {"system.slice/job.service/cpu.max": "max 100000\n"}, None),
    "v2, the limit is a parent's": (
        V2, {"system.slice/cpu.max": "100000 100000\n", "system.slice/job.service/cpu.max": "max 100000\n"}, 1,
    ),
    "v2, the smallest of all counts": (
        V2, {"system.slice/cpu.max": "300000 100000\n", "system.slice/job.service/cpu.max": "400000 100000\n"}, 3,
    ),
    "v2 in a container, whose group is the mount": ("0::/\n", {"cpu.max": "300000 50000\n"}, 6),
    "v2 seen from inside another container": ("0::/../other\n", {"cpu.max": "100000 100000\n"}, 1),
    "v1": (V1, {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n"}, 3),
    "v1 in a container, whose path is the host's": (
        V1, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1,
    ),
    "v1, no limit": (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    "v1, memory's group does not matter": ("5:memory:/a\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "1\n"}, None),
    "v2 beside v1": ("0::/a\n", {"unified/a/cpu.max": "200000 100000\n"}, 2),
    "nothing mounted": (V2 + V1, {}, None),
    "a file that cannot be understood": (V2, {"system.slice/job.service/cpu.max": "many\n", "system.slice/cpu.max": ""}, None),
}  # fmt: skip


@pytest.mark.parametrize(("membership", "files", "cores"), CASES.values(), ids=CASES)
def test_quota(membership, files, cores, tmp_path):
    assert cpu_quota(system(tmp_path, membership, files)) == cores


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (3, 3), (8, 8), (64, 8)])
def test_cores_are_what_affinity_and_quota_both_allow(quota, cores, monkeypatch):
    monkeypatch.setattr(host, "quota_of_this_process", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert host.cores() == cores


def test_quota_holds_where_there_is_no_affinity(monkeypatch):
    monkeypatch.setattr(host, "quota_of_this_process", lambda: 2)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert host.cores() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert host.cores() == 2


def test_this_process_is_asked_once():
    assert host.quota_of_this_process() == cpu_quota()
    assert host.quota_of_this_process.cache_info().currsize == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_one_cpu_of_the_affinity_mask_is_one_core_and_one_worker():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import numpy, tilewright as tw;"
        "print(tw.tiled_cholesky(numpy.eye(600), tile_size=100, return_run=True)[1].workers)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "1"
