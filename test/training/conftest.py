"""Training has denormals flushed: the tests after it must not inherit that (hypothesis refuses)."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Puts the processor's ways back, per test."""
    yield
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)
