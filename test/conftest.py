"""What every test runs in: this checkout's files, a ROS domain of its own, software rendering, one thread."""

import os
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def _domain() -> str:
    """A ROS domain for this process: concurrent runs must not hear one another (0..101 are safe on Linux)."""
    return str(1 + os.getpid() % 100)


# Before anything imports rclpy, mujoco, onnxruntime or torch: these are read once.
os.environ["RSSM_ROS_SHARE"] = str(CHECKOUT)
os.environ["ROS_DOMAIN_ID"] = _domain()
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="rssm-test-ros-log-")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RMW_IMPLEMENTATION", None)

import pytest  # noqa: E402

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples each time, and no deadline: two cores are shared with whatever else runs.
    settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
    settings.load_profile("project")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The source checkout."""
    return CHECKOUT


def pytest_configure(config: pytest.Config) -> None:
    """Also known where xdist is not installed, as in a ROS 2 workspace."""
    config.addinivalue_line("markers", "xdist_group(name): tests that share a worker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist (--dist loadgroup) tests that start ROS nodes share a worker: one graph at a time."""
    for item in items:
        if item.get_closest_marker("ros"):
            item.add_marker(pytest.mark.xdist_group("ros"))


def pytest_unconfigure() -> None:
    """ROS logs of passing runs are of no use to anybody."""
    import shutil

    shutil.rmtree(os.environ["ROS_LOG_DIR"], ignore_errors=True)
