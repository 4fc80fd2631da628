"""Where the files installed with the package are: contracts, parameters, scenes, bundles.

Never `__file__`: a colcon install, a pip install and a source checkout keep them in different places.
"""

import os
import sys
from pathlib import Path

PACKAGE = "rssm_ros"


def share_directory() -> Path:
    """The package's share folder (the one that holds config/, sim/, models/, launch/).

    In order: RSSM_ROS_SHARE (the Makefile points it at the checkout), the ament index (colcon, ROS installs),
    `sys.prefix` (pip). Raises FileNotFoundError with what to do when none of them holds the files.
    """
    override = os.environ.get("RSSM_ROS_SHARE")
    candidates = [Path(override)] if override else []
    if os.environ.get("AMENT_PREFIX_PATH"):
        candidates += _ament_candidates()
    candidates.append(Path(sys.prefix) / "share" / PACKAGE)
    for candidate in candidates:
        if (candidate / "config" / "contracts").is_dir():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"rssm_ros's installed files (config/, sim/, models/) were not found; looked in: {tried}. "
        "Install the package (pip install . or colcon build and source install/setup.bash), "
        "or set RSSM_ROS_SHARE to the source checkout."
    )


def share_path(*parts: str) -> Path:
    """A file or folder inside the share folder; existence is the caller's to check."""
    return share_directory().joinpath(*parts)


def _ament_candidates() -> list[Path]:
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        return []
    try:
        return [Path(get_package_share_directory(PACKAGE))]
    except PackageNotFoundError:
        return []
