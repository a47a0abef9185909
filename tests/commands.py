"""The project's commands as a user runs them, and the words of the smallest trainings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointillist.configs.options import ROOT

TINY = ["views.size=16", "batch_size=8", "evaluate_every=100", "log_every=1", "optimization.warmup=2", "precision=fp32"]
TOKENIZER = ["task=tokenizer", "tokenizer.widths=[16,16]", "tokenizer.levels=[4,4,3]", "tokenizer.blocks=1", *TINY]
GENERATOR = ["task=generator", "model.size=nano", *TINY]


def command(script: str, *words: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        _line(script, words), capture_output=True, text=True, env=_environment(), timeout=300, **options
    )


def stopped(how: signal.Signals, once: Callable[[], bool], script: str, *words: object) -> tuple[int, str]:
    """Exit code and stderr of a command that got the signal `how` when `once()` first held."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(_line(script, words), env=_environment(), preexec_fn=_heed_interrupts, **quiet)
    while process.poll() is None and not once():
        time.sleep(0.01)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def _heed_interrupts() -> None:
    """Tests in a shell's background hand down that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _line(script: str, words: tuple[object, ...]) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, words)]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "POINTILLIST_TRACEBACK": ""}


def succeeds(script: str, *words: object, **options) -> str:
    done = command(script, *words, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def fails(message: str, script: str, *words: object, **options) -> None:
    """Exit code 2 and one line on stderr that says `message`; progress bars aside."""
    done = command(script, *words, **options)
    lines = [x for x in done.stderr.replace("\r", "\n").splitlines() if "error:" in x or "Traceback" in x]
    assert done.returncode == 2 and len(lines) == 1, done.stderr[-2000:]
    assert message in lines[0], lines[0]


def train_tokenizer(run: Path) -> Path:
    succeeds("train.py", *TOKENIZER, f"out={run}", "steps=6")
    return run


def train_generator(run: Path, tokenizer: Path) -> Path:
    """With checkpoints of steps 3 and 6."""
    succeeds("train.py", *GENERATOR, f"out={run}", f"tokenizer={tokenizer}", "steps=6", "keep_steps=[3]")
    return run


def sampled(run: Path, out: Path, *words: object) -> dict:
    """What sample.json says of samples of a run; three unless `words` say otherwise."""
    succeeds("sample.py", run, "num_images=3", *words, f"out={out}")
    return json.loads((out / "sample.json").read_text())


def begun(out: Path) -> bool:
    """Whether a sampling run has made its first images and not yet put them together."""
    done = out / "parts" / "done.npy"
    return done.is_file() and bool(np.load(done).any())
