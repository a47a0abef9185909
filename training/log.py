"""log.jsonl: one line a record, always; tensorboard or wandb beside it when asked."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pointillist.configs.files import cannot_write, write_whole


class Log:
    """Append-only, except that resuming at `step` drops what was written after that step's checkpoint."""

    def __init__(self, run: Path, step: int, tracker: str, options: dict) -> None:
        self.path = run / "log.jsonl"
        kept = [r for r in read_log(self.path) if r["step"] < step]
        write_whole(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self.track = TRACKERS[tracker](run, step, options) if tracker != "none" else None

    def write(self, step: int, **values: Any) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as e:
            raise cannot_write(self.path, e) from None
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


def _tensorboard(run: Path, step: int, options: dict) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tracker=tensorboard needs a package: pip install tensorboard") from None
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=step)
    return lambda step, values: [writer.add_scalar(k, v, step) for k, v in values.items()]


def _wandb(run: Path, step: int, options: dict) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError("tracker=wandb needs a package: pip install wandb") from None
    name = f"{run.name}-{sha256(str(run.resolve()).encode()).hexdigest()[:8]}"  # runs of one name are not one run
    session = wandb.init(project="pointillist", name=run.name, id=name, resume="allow", config=options)
    return lambda step, values: session.log(values, step=step)


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
