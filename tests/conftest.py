"""What many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import train_generator, train_tokenizer
from tests.random_inception import write


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    """A file of the Inception network's weights with random values."""
    return write(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A run of the smallest tokenizer, hardly trained."""
    return train_tokenizer(tmp_path_factory.mktemp("runs") / "tokenizer")


@pytest.fixture(scope="module")
def generator(tokenizer) -> Path:
    """Beside it, a generator's."""
    return train_generator(tokenizer.parent / "generator", tokenizer)


def pytest_terminal_summary(terminalreporter) -> None:
    """The largest difference from recorded numbers, for each published system (tests/test_golden.py)."""
    found = [value for report in terminalreporter.getreports("passed") for name, value in report.user_properties]
    worst: dict[str, tuple[float, str]] = {}
    for system, case, difference in found:
        if difference is not None:
            worst[system] = max(worst.get(system, (0.0, "")), (difference, case))
    if worst:
        terminalreporter.write_sep("-", "largest absolute difference from the published implementation")
        for system, (difference, case) in sorted(worst.items()):
            terminalreporter.write_line(f"{system:<22} {difference:.2e}  {case}")
