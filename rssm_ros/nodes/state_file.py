"""A belief on disk, behind the services that save and load it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Any  # std_srvs/srv/Trigger's response


def save(response: Answer, path: str, state: Callable[[], bytes]) -> Answer:
    """Writes the state; the file is either whole or as it was, also when the power goes. A refusal is told in
    the response."""

    def action(file: Path) -> None:
        partial = file.with_name(f".{file.name}.part")
        data = state()
        try:
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())  # or the new name may be on the disk before the bytes are
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    return _answer(response, path, action)


def load(response: Answer, path: str, use: Callable[[bytes], None]) -> Answer:
    """Reads the state and uses it; what cannot be used changes nothing and is told in the response."""
    return _answer(response, path, lambda file: use(file.read_bytes()))


def _answer(response: Answer, path: str, action: Callable[[Path], None]) -> Answer:
    file = Path(path).absolute()
    try:
        action(file)
        response.success, response.message = True, str(file)
    except (OSError, ValueError) as error:
        response.success, response.message = False, str(error)
    return response
