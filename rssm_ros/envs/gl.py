"""MuJoCo, its OpenGL backend chosen before the import: EGL (headless) unless MUJOCO_GL says otherwise."""

import os

from rssm_ros.envs.errors import SimError

os.environ.setdefault("MUJOCO_GL", "egl")

ADVICE = (
    "Install Mesa's headless driver: apt-get install -y libegl1 libgl1-mesa-dri libgles2, and leave "
    "MUJOCO_GL unset or set it to egl (osmesa with libosmesa6 also works)."
)


def gl_error(cause: BaseException) -> SimError:
    """The one error for a missing or broken OpenGL backend."""
    return SimError(f"no usable OpenGL backend (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): {cause}. {ADVICE}")


try:
    import mujoco
except (RuntimeError, ImportError, AttributeError, OSError) as error:
    if isinstance(error, ModuleNotFoundError):
        raise
    raise gl_error(error) from error

__all__ = ["gl_error", "mujoco"]
