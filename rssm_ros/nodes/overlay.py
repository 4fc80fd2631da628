"""The camera's picture with the belief drawn in, for the eye; made only while somebody looks.

Where a target falls into the picture is known for the worlds that ship (see projection_of in
evaluation.film.projection); of other robots the plain picture is shown.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.online.belief import Belief

Picture = npt.NDArray[np.uint8]  # [H, W, 3]
SIDE = 320  # pixels of the longer side: an ellipse of 64 pixels across would be a few squares
COLOURS = ((96, 165, 255), (240, 205, 90), (120, 220, 140))  # of the targets, in the contract's order


class Overlay:
    """Draws beliefs. Needs OpenCV, and for the sorting robot MuJoCo, from the first picture on."""

    def __init__(self, contract: Contract, side: int = SIDE) -> None:
        """side: pixels to which the longer side is enlarged, by a whole factor; never made smaller."""
        self._contract, self._side = contract, side
        self._projections: dict[tuple[str, int, int], Any] = {}

    def draw(self, picture: Picture, belief: Belief) -> Picture:
        """The picture (uint8 [H, W, 1 or 3]) enlarged, with each target's mean and two standard deviations.

        Raises ModuleNotFoundError where OpenCV is not installed.
        """
        import cv2

        from rssm_ros.evaluation.film.projection import ellipse
        from rssm_ros.evaluation.film.video import disc, polyline

        height, width = picture.shape[:2]
        factor = max(1, self._side // max(height, width))
        size = (width * factor, height * factor)
        drawn = np.ascontiguousarray(np.repeat(picture, 3 // picture.shape[2], axis=2))
        drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_NEAREST)
        for index, target in enumerate(self._contract.targets):
            project, decoded = self._projection(target.name, *size), belief.targets[target.name]
            if project is None or target.dim != 2:
                continue
            colour = COLOURS[index % len(COLOURS)]
            spread = decoded.covariance()
            if np.isfinite(spread).all():
                polyline(drawn, project(ellipse(decoded.point(), spread)), colour, 1)
            disc(drawn, project(decoded.point()[None])[0], 3, colour)
        return np.asarray(drawn, np.uint8)

    def _projection(self, target: str, width: int, height: int) -> Any:
        """None while it is being found out: loading a scene takes longer than a tick."""
        key = (target, width, height)
        if key not in self._projections:
            self._projections[key] = None
            threading.Thread(target=self._find, args=key, daemon=True).start()
        return self._projections[key]

    def _find(self, target: str, width: int, height: int) -> None:
        from rssm_ros.evaluation.film.projection import projection_of

        self._projections[target, width, height] = projection_of(self._contract, target, width, height)
