"""Worker processes that do not outlive whoever started them."""

import multiprocessing
import os
import threading

ORPHANED = 1  # exit status of a worker whose parent is gone


def end_with_parent() -> None:
    """Call in a new worker: it ends when its parent does, however that happens (kill -9 too).

    A pool's worker waits for its next task on a pipe that it holds both ends of, so without this it
    would wait for ever, with its memory and its GL context.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
