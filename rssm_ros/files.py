"""Files that are there whole or not at all: whoever reads one while it is written gets the one before."""

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file, its folders where they are missing, and returns its path. Text is UTF-8.

    First under another name beside it, then renamed: a full disk or a kill leaves what was there before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # what could not be finished; renamed, it is gone
    return path
