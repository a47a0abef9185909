"""What many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.random_inception import write


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    """A file of the Inception network's weights with random values."""
    return write(tmp_path_factory.mktemp("weights") / "inception.pth")
