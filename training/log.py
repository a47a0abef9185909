"""log.jsonl: one line a record, always; tensorboard or wandb beside it when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Log:
    """Append-only, except that resuming at `step` drops what was written after that step's checkpoint."""

    def __init__(self, run: Path, step: int, tracker: str, options: dict) -> None:
        self.path = run / "log.jsonl"
        kept = [r for r in read_log(self.path) if r["step"] < step]
        partial = self.path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        partial.replace(self.path)
        self.track = TRACKERS[tracker](run, options) if tracker != "none" else None

    def write(self, step: int, **values: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, **values}) + "\n")
        if self.track:
            self.track(step, {k: v for k, v in values.items() if isinstance(v, (int, float))})


def read_log(path: Path) -> list[dict]:
    """Records of a log; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _tensorboard(run: Path, options: dict) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"))
    return lambda step, values: [writer.add_scalar(k, v, step) for k, v in values.items()]


def _wandb(run: Path, options: dict) -> Any:
    import wandb

    session = wandb.init(project="pointillist", name=run.name, id=run.name, resume="allow", config=options)
    return lambda step, values: session.log(values, step=step)


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
