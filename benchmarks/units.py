"""Every unit of configs/emoji at equal wall time on the embedded emoji: a table and a figure. `make units` runs it.

    python benchmarks/units.py [minutes=3] [images=1000] [only=token,par] [out=runs/emoji]

A unit's speed is measured on a short run, which sets the steps that fill its minutes; then it is trained, sampled,
scored and timed, all by the commands a user would type. OUT/units.md and OUT/units.png are rewritten after every unit;
a stopped comparison continues with the same command. Run it alone: other processes falsify the equal time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointillist.benchmarks.units_table import TIMINGS, Unit, is_measured, newest, report, timings
from pointillist.configs.files import read_json, write_json
from pointillist.configs.options import ROOT, did_you_mean, find, load, option, parse, run, to_dict
from pointillist.training import checkpoint
from pointillist.training.log import read_log
from pointillist.training.options import FREE

CONFIGS = ROOT / "configs" / "emoji"
CALIBRATION, WARM = 40, 8  # steps of the short run, and those of them that do not count
REQUEST = ["classes=proportional", "guidance=2", "temperature=1", "seed=0"]


@dataclass
class Options:
    minutes: float = option(3.0, "training time of each unit")
    images: int = option(1000, "samples of each unit")
    only: str = option("", "units to work on, e.g. token,par; empty = all")
    out: str = option("runs/emoji", "folder of the runs, the table and the figure")

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.images < 2:
            raise ValueError(f"minutes must be positive and images at least 2, got {self.minutes}, {self.images}")


def main(argv: list[str]) -> None:
    o = load(Options, None, parse(argv, __doc__, Options, target=False).words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the command that runs is stopped with us
    out, begin = Path(o.out), time.time()
    protocol = f"{o.minutes:g} minutes of training a unit, {o.images} images, {', '.join(REQUEST)}"
    units = find_units(CONFIGS, out)
    chosen = choose(units, o.only)
    remember(out, {"minutes": o.minutes, "images": o.images})
    for tokenizer in sorted({unit.tokenizer for unit in chosen}):
        train("tokenizer", CONFIGS / "tokenizers" / f"{tokenizer.name}.yaml", tokenizer)
    for number, unit in enumerate(chosen, 1):
        print(f"\n=== unit {number} of {len(chosen)}: {unit.name}, {(time.time() - begin) / 60:.0f} min so far")
        measure(unit, o)
        report([u for u in units if is_measured(u)], out, protocol)
    print((out / "units.md").read_text(encoding="utf-8"))
    print(f"{time.time() - begin:.0f} s; look at {out / 'units.md'} and {out / 'units.png'}")


# --------------------------------------------------------------------------------------------------------------- units


def find_units(folder: Path, out: Path) -> list[Unit]:
    """The units of a folder of YAML files. One whose `out` is not named like it is a base that others share."""
    found = []
    for config in sorted(folder.glob("*.yaml")):
        options = load(find("training/tasks", "generator").Options, config)
        if Path(options.out).name == config.stem:
            found.append(Unit(config, out, out / "tokenizers" / Path(options.tokenizer).name))
    if not found:
        raise ValueError(f"{folder} holds no unit; a unit is a YAML X.yaml with `out: runs/emoji/X`")
    return found


def choose(units: list[Unit], only: str) -> list[Unit]:
    """Those named in `only`, in its order; all if it is empty. ValueError lists the names there are."""
    named = {unit.name: unit for unit in units}
    words = [word.strip() for word in only.split(",") if word.strip()]
    for word in words:
        if word not in named:
            raise ValueError(f"only={only}: no unit {word}; there are {', '.join(named)}{did_you_mean(word, [*named])}")
    return [named[word] for word in dict.fromkeys(words)] or units


def remember(out: Path, asked: dict) -> None:
    """A folder holds one comparison: rows of other minutes or image numbers would not be on equal terms."""
    path = out / "comparison.json"
    before = read_json(path) if path.is_file() else asked
    changed = [f"{k} was {before.get(k)}, is {v}" for k, v in asked.items() if before.get(k) != v]
    if changed:
        raise ValueError(f"{out} holds another comparison: {'; '.join(changed)}; choose another out=FOLDER")
    write_json(path, asked)


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(unit: Unit, o: Options) -> None:
    """All that a row needs; what is there already is not made again."""
    plan = calibrate(unit, o.minutes)
    n, samples = plan["steps"], unit.run / "samples"
    often = [f"evaluate_every={(n + 1) // 2}", f"save_every={(n + 7) // 8}"]
    train("generator", unit.config, unit.run, f"tokenizer={unit.tokenizer}", f"steps={n}", *often)
    if not (samples / "sample.json").is_file():
        step("sample.py", unit.run, f"out={samples}", f"num_images={o.images}", "batch_size=125", *REQUEST)
    if not (samples / "scores.json").is_file():
        step("evaluate.py", samples, "scores=offline", "reference=emoji", f"cache={unit.out / 'evaluation'}")
    time_sampling(unit)


def calibrate(unit: Unit, minutes: float) -> dict:
    """The plan: made once before a run starts, and kept as long as the run is there."""
    if unit.plan.is_file() and (unit.run / "options.json").is_file():
        return read_json(unit.plan)
    short = unit.out / "calibration" / unit.name
    shutil.rmtree(short, ignore_errors=True)
    words = [f"{k}={CALIBRATION}" for k in ("steps", "evaluate_every", "save_every")]
    train("generator", unit.config, short, f"tokenizer={unit.tokenizer}", "log_every=1", *words)
    plan = steps_for(read_log(short / "log.jsonl"), minutes)
    write_json(unit.plan, plan)
    shutil.rmtree(short.parent)
    return plan


def steps_for(records: list[dict], minutes: float) -> dict:
    """How many steps fill the minutes, from a log with a line a step; its first steps do not count. The halves of the
    training count the same: a curriculum's are not equally fast."""
    seconds = [r["seconds"] for r in records if "seconds" in r]  # cumulative
    half = len(seconds) // 2
    assert half > WARM, f"a log of {len(seconds)} steps, more than {2 * WARM} are needed"
    first = (seconds[half - 1] - seconds[WARM - 1]) / (half - WARM)
    second = (seconds[-1] - seconds[half - 1]) / (len(seconds) - half)
    each = (first + second) / 2
    assert each > 0, "the log's clock stands still"
    return {"seconds_per_step": each, "steps": max(round(minutes * 60 / each), 1), "minutes": minutes}


def train(task: str, config: Path, out: Path, *words: str) -> None:
    """Train to the end; a training that was told to stop has saved, and stops the comparison."""
    options = load(find("training/tasks", task).Options, config, [f"out={out}", *words])
    if is_trained(options, out):
        print(f"{out} is finished: {options.steps} steps")
        return
    step("train.py", os.path.relpath(config), f"out={out}", *words)
    reached = checkpoint.steps(out)[-1]
    if reached < options.steps:
        print(f"\ncomparison stopped at step {reached} of {options.steps} of {out}; the same command continues")
        raise SystemExit(130)


def is_trained(options: Any, out: Path) -> bool:
    """Whether `out` holds the last step of just this training. If not, train.py goes on, or says what differs."""
    if not (out / "options.json").is_file() or not checkpoint.steps(out):
        return False
    now, before = (
        {k: v for k, v in values.items() if k not in FREE or isinstance(v, dict)}  # tokenizer: a path, or its options
        for values in (to_dict(options), read_json(out / "options.json"))
    )
    return now == before and checkpoint.steps(out)[-1] >= options.steps


def time_sampling(unit: Unit) -> None:
    """Seconds an image by batch size, of the final checkpoint."""
    known = timings(unit) or {"checkpoint": newest(unit)["sha256"]}
    for batch, images in TIMINGS.items():
        if str(batch) not in known:
            folder = unit.out / "timing" / f"{unit.name}-{batch}"
            shutil.rmtree(folder, ignore_errors=True)  # a stopped one would count its start-up twice
            step("sample.py", unit.run, f"out={folder}", f"num_images={images}", f"batch_size={batch}", *REQUEST)
            known[str(batch)] = read_json(folder / "sample.json")["trace"]["seconds_per_image"]
            write_json(unit.timing, known)
            shutil.rmtree(folder.parent)


def step(script: str, *words: str | Path) -> None:
    """Run one of the project's commands as a user would, and stop if it fails or is stopped."""
    print(f"\n$ python {script} {' '.join(map(str, words))}", flush=True)
    line = [sys.executable, str(ROOT / script), *map(str, words)]
    process = subprocess.Popen(line, process_group=0)  # a Ctrl-C reaches this process alone, which passes it on, once
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
