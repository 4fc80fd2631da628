"""A backend on a device that may vanish, with the CPU behind it.

The belief is the state that the filter keeps in host memory, so it outlives the device: the call that failed
is made again on the CPU with the same inputs, and the recursion goes on from there.
"""

import logging
from collections import Counter
from collections.abc import Mapping

from rssm_ros.online.backends.backend import Backend
from rssm_ros.online.steps import Array

LOST = "backend_lost"  # counted; 1 from then on


class Fallback:
    """Computes with `first` until it fails where `spare` does not; from then on with `spare`, for good.

    lost: what happened, in a line; empty until then. It is logged once, too.
    """

    def __init__(self, first: Backend, spare: Backend) -> None:
        self.first, self.spare = first, spare
        self.lost = ""
        self.counters: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Of what computes now."""
        return self._current.name

    @property
    def device(self) -> str:
        """Of what computes now."""
        return self._current.device

    @property
    def tolerance(self) -> float:
        """Of what computes now."""
        return self._current.tolerance

    @property
    def _current(self) -> Backend:
        return self.spare if self.lost else self.first

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """On the device, or, where it fails, on the CPU. Raises what the CPU raises: then the inputs are
        wrong."""
        if self.lost:
            return self.spare.run(graph, feeds)
        try:
            return self.first.run(graph, feeds)
        except Exception as error:  # every runtime raises classes of its own when a device is gone
            outputs = self.spare.run(graph, feeds)
            self._lose(graph, error)
            return outputs

    def warm_up(self, graph: str, feeds: Mapping[str, Array]) -> None:
        """Both: the first tick after a loss must not be late either."""
        self.first.warm_up(graph, feeds)
        self.spare.warm_up(graph, feeds)

    def close(self) -> None:
        """Both; a lost device is left alone: what is gone may hang when it is asked to let go."""
        if not self.lost:
            self.first.close()
        self.spare.close()

    def _lose(self, graph: str, error: Exception) -> None:
        """From now on the CPU. The lost backend is kept, not freed, for the same reason as in `close`."""
        why = " ".join(str(error).split())[:300] or type(error).__name__
        self.lost = (
            f"{self.first.device} is lost: {self.first.name} failed in {graph} ({why}); {self.spare.name} "
            "computes from here on, from the same belief; configure again once the device is back"
        )
        self.counters[LOST] += 1
        logging.getLogger(__name__).error(self.lost)
