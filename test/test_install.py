"""What `make` says on a machine that lacks something. Nothing is installed here: the tools are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for stand-ins that come before the real tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def stand_in(tools: Path, name: str, script: str) -> None:
    path = tools / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def install(
    checkout: Path, tools: Path, venv: Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [checkout / "scripts" / "install.sh", venv, "demo"],
        env={"PATH": f"{tools}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_is_given_one_apt_line_for_what_the_system_lacks(
    checkout: Path, tools: Path, tmp_path: Path
) -> None:
    stand_in(tools, "ldconfig", "exit 0")
    stand_in(tools, "id", "echo 1000")
    stand_in(tools, "apt-get", "echo called >&2; exit 1")
    result = install(checkout, tools, tmp_path / "venv")
    assert result.returncode == 2
    line = "sudo apt-get install -y --no-install-recommends libegl1 libgl1 libglib2.0-0"
    assert line in result.stderr
    assert "called" not in result.stderr
    assert not (tmp_path / "venv").exists()


def test_root_gets_them_installed_and_hears_when_that_fails(
    checkout: Path, tools: Path, tmp_path: Path
) -> None:
    stand_in(tools, "ldconfig", "exit 0")
    stand_in(tools, "id", "echo 0")
    fails = '[ "$1" = update ] || { echo no mirror >&2; exit 1; }'
    stand_in(tools, "apt-get", f'echo "$@" >> {tmp_path}/calls; {fails}')
    result = install(checkout, tools, tmp_path / "venv")
    assert result.returncode == 2
    assert "no mirror" in result.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("update")
    assert calls[1].startswith("install -y --no-install-recommends libegl1")


def test_an_old_python_is_refused_by_name(checkout: Path, tools: Path, tmp_path: Path) -> None:
    stand_in(tools, "oldpython", '[ "$1" = --version ] && echo Python 3.9.2; exit 1')
    result = install(checkout, tools, tmp_path / "venv", PYTHON="oldpython")
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed" in result.stderr
    assert "3.9.2" in result.stderr


def test_make_lets_no_robot_s_network_settings_through(checkout: Path) -> None:
    """In a shell set up for a robot, `make demo` must not publish commands in the robot's own domain."""
    names = ("ROS_DOMAIN_ID", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER", "CYCLONEDDS_URI")
    names += ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "RMW_IMPLEMENTATION")
    result = subprocess.run(
        ["make", "--no-print-directory", "--eval", "told:; @env", "told"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], **dict.fromkeys(names, "7")},
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    assert told["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert not set(names) & set(told)


def test_a_folder_that_is_no_virtual_environment_is_never_deleted(
    checkout: Path, tools: Path, tmp_path: Path
) -> None:
    stand_in(tools, "ldconfig", "echo libEGL.so.1 libGL.so.1 libgthread-2.0.so.0")
    stand_in(tools, "apt-get", "exit 0")
    stand_in(tools, "id", "echo 0")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "precious.txt").touch()
    result = install(checkout, tools, folder)
    assert result.returncode == 2
    assert "is no virtual environment" in result.stderr
    assert (folder / "precious.txt").exists()

    shutil.copy(checkout / "Makefile", tmp_path)  # `clean` runs too: elsewhere than here
    clean = ["make", "--no-print-directory", f"VENV={folder}", "distclean"]
    assert subprocess.run(clean, cwd=tmp_path, capture_output=True, check=False).returncode == 2
    assert (folder / "precious.txt").exists()
    (folder / "pyvenv.cfg").touch()
    assert subprocess.run(clean, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert not folder.exists()
