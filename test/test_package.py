"""What is installed, where, and that the description of it is the same everywhere."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import rssm_ros
from rssm_ros.cli import main

NODES = (
    *("sim_node", "filter_node", "planner_node", "gate_node", "monitor_node"),
    *("player_node", "recorder_node"),
)
DATA_FOLDERS = ("config", "launch", "models", "sim")
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "README.md", "resource", "rssm_ros")


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The package as pip installs it, from a copy (a build leaves folders behind) and without the network."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("prefix")
    for name in (*SOURCES, *DATA_FOLDERS):
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, copy / name)
    # Without --ignore-installed pip would uninstall the checkout's own installation from the environment.
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    options += ["--prefix", str(target)]
    result = run([sys.executable, "-m", "pip", "install", *options, "."], cwd=copy)
    assert result.returncode == 0, result.stderr
    return target


def _files(folder: Path) -> set[str]:
    kept = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in kept if not path.name.startswith(".")}


def test_pip_installs_every_data_file_and_the_resource_marker(prefix: Path, checkout: Path) -> None:
    share = prefix / "share" / "rssm_ros"
    for folder in DATA_FOLDERS:
        assert _files(share / folder) == _files(checkout / folder)
    assert (share / "package.xml").is_file()
    assert (prefix / "share/ament_index/resource_index/packages/rssm_ros").is_file()


def test_pip_installs_every_module_and_the_typing_marker(prefix: Path, checkout: Path) -> None:
    installed = next(prefix.glob("lib/python*/site-packages/rssm_ros"))
    assert _files(installed) == _files(checkout / "rssm_ros")


def test_ros2_run_finds_the_nodes_after_pip(prefix: Path) -> None:
    """`ros2 run` and launch look in lib/PACKAGE, where pip puts no console scripts by itself."""
    found = prefix / "lib" / "rssm_ros"
    assert {path.name for path in found.iterdir()} == set(NODES)
    for path in found.iterdir():
        assert os.access(path, os.X_OK)
        assert (prefix / "bin" / path.name).is_file()


def test_the_installed_command_finds_the_installed_files(prefix: Path, tmp_path: Path) -> None:
    """From another folder, with nothing but the ament index to go by."""
    site = next(prefix.glob("lib/python*/site-packages"))
    environment = {**os.environ, "PYTHONPATH": str(site), "AMENT_PREFIX_PATH": str(prefix)}
    del environment["RSSM_ROS_SHARE"]
    code = "from rssm_ros import contract, paths; contract.find_contract('manipulator'); "
    code += "print(paths.share_path())"
    result = run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(prefix / "share" / "rssm_ros")
    shown = run([str(prefix / "bin" / "rssm"), "--help"], cwd=tmp_path, env=environment)
    assert "evaluate-policy" in shown.stdout


def test_versions_and_names_agree(checkout: Path) -> None:
    manifest = ElementTree.parse(checkout / "package.xml").getroot()
    setup = (checkout / "setup.py").read_text()
    assert manifest.findtext("name") == "rssm_ros"
    assert manifest.findtext("version") == rssm_ros.__version__
    assert f'version="{rssm_ros.__version__}"' in setup
    assert f"{rssm_ros.__version__} (" in (checkout / "CHANGELOG.rst").read_text()
    told = [node for node in ast.parse(setup).body if isinstance(node, ast.Assign)]
    (nodes,) = (node.value for node in told if ast.unparse(node.targets[0]) == "NODES")
    assert ast.literal_eval(nodes) == NODES


def test_every_requirement_is_pinned(checkout: Path) -> None:
    """What is not in constraints.txt changes under the tests without anybody having changed it."""
    lines = (checkout / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line and not line.startswith("#")}
    tree = ast.parse((checkout / "setup.py").read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    wanted = {k.arg: k.value for k in call.keywords if k.arg in ("install_requires", "extras_require")}
    texts = {n.value for value in wanted.values() for n in ast.walk(value) if isinstance(n, ast.Constant)}
    extras = {"ros", "sim", "train", "gpu", "viz", "dev"}
    names = {re.split(r"[\[<>=]", text)[0].lower() for text in texts} - extras - {"onnxruntime-gpu"}
    assert names <= pinned, names - pinned


@pytest.mark.parametrize("node", NODES)
def test_every_executable_has_a_module(node: str) -> None:
    assert find_spec(f"rssm_ros.nodes.{node}") is not None


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"rssm_ros.cli.{command.replace('-', '_')}")
    assert module.__doc__
    with pytest.raises(SystemExit) as stopped:
        main.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"rssm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (("online.filter", "online.planner", "online.gate", "messages"), ("torch", "rclpy", "mujoco", "cv2")),
        (
            ("nodes.filter_node", "nodes.planner_node", "nodes.gate_node"),
            ("torch", "mujoco", "gymnasium", "cv2"),
        ),
        (("envs.manipulator", "evaluation.runs.learned", "cli.up"), ("torch", "rclpy")),
        (("world_model.model", "training.learner"), ("rclpy", "mujoco")),
    ],
    ids=lambda value: value[0],
)
def test_layers_load_nothing_they_must_not_need(modules: tuple[str, ...], unwanted: tuple[str, ...]) -> None:
    """What import-linter cannot see: what is in memory. A robot has no torch and no simulator."""
    imports = "; ".join(f"import rssm_ros.{module}" for module in modules)
    code = f"import sys; {imports}; print([name for name in {unwanted!r} if name in sys.modules])"
    result = run([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_nothing_names_a_machine(checkout: Path) -> None:
    """Committed text must not hold paths of the machine it was written on."""
    listed = run(["git", "ls-files", "-z"], cwd=checkout)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    text = {".py", ".md", ".rst", ".toml", ".cfg", ".txt", ".yaml", ".xml", ".json", ".sh", ""}
    forbidden = re.compile(r"/(?:work|root|home/\w+)/")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = checkout / name
        if path.suffix in text and path.is_file() and path != Path(__file__):
            content = path.read_text(errors="replace")
            found += [f"{name}: {match.group()}" for match in forbidden.finditer(content)]
    assert not found
