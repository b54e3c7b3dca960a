"""How many processors a container leaves to this process."""

from pathlib import Path

import pytest

from lipsmith import machine
from lipsmith.machine import core_quota, usable_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_permitted_cores", lambda: 16)


def quota(folder: Path, belongs_to: str, files: dict[str, str]) -> int | None:
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    (folder / "membership").write_text(belongs_to)
    return core_quota(folder / "cgroup", folder / "membership")


V1_GROUP = "cpu,cpuacct/docker/f00"
V1 = "5:memory:/docker/f00\n4:cpu,cpuacct:/docker/f00\n1:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("belongs_to", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "1600000 100000"}, None),  # limits nothing
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("", {"cpu.max": "200000 100000"}, None),
        # The narrowest of all groups that it is in.
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "100000 50000"}, 2),
        ("0::/../../other\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {f"{V1_GROUP}/cpu.cfs_quota_us": "150000", f"{V1_GROUP}/cpu.cfs_period_us": "100000"}, 2),
        # A container sees its own group as the root, whatever it is called outside.
        (V1, {"cpu/cpu.cfs_quota_us": "800000", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"memory/cpu.cfs_quota_us": "100000", "memory/cpu.cfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(
    tmp_path: Path, belongs_to: str, files: dict[str, str], expected: int | None
) -> None:
    assert quota(tmp_path, belongs_to, files) == expected


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert core_quota(tmp_path / "none", tmp_path / "nothing") is None


def test_cores_are_those_of_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "core_quota", lambda: 3)
    assert usable_cores() == 3
    monkeypatch.setattr(machine, "core_quota", lambda: None)
    assert usable_cores() == 16
