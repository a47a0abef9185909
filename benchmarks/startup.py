"""What a person waits for: help, a mistake's line, the first image. Every command is a process of its own.

    python benchmarks/startup.py [rounds=5] [run=RUN] [peer=LLAMAGEN,PAR]

Commands take turns; the medians stand beside those of an empty python, which no help can beat, and of `import torch`,
which no image can. Then the packages that were dearest to import, themselves and not what they import in turn. Without
a run, a generator of the demo's size is made first, hardly trained: half a minute. peer: checkouts that have a
sample_c2i.py (LlamaGen, PAR), whose --help is timed too. Files are in the page cache from the second round on.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import interleaved, medians, processor, table

from pointillist.configs.options import ROOT, load, option, parse, run
from pointillist.configs.stand_ins import PLAIN

EMPTY, TORCH, IMAGE = "python -c pass", "import torch", "sample.py RUN num_images=1"
HELP = ("sample.py --help", "train.py --help", "evaluate.py --help", "sample.py sampler=?")
DEMO = ("steps=1", "views.crop=center", "views.zoom=[]", "views.flip=false", "precision=fp32")
DEAREST = 10


@dataclass
class Benchmark:
    run: str = option("", "a generator's run; default: one of the demo's size, made in a temporary folder")
    peer: str = option("", "folders of peers' checkouts, with commas between them")
    rounds: int = option(5, "turns of each command; the median counts")


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        commands = commands_of(o.run or demo_run(folder), folder) | peers(o.peer)
        seconds = interleaved({name: lambda c=c: execute(c()) for name, c in commands.items()}, o.rounds)
        print(f"\n{processor()}, {len(os.sched_getaffinity(0))} cores, {o.rounds} rounds\n")
        print(times(medians(seconds), seconds))
        for name in ("sample.py --help", "train.py --help", IMAGE):
            print(f"\n{name}: of which imports, ms\n\n{shares(commands[name]())}")


# ------------------------------------------------------------------------------------------------------------ commands


def commands_of(generator: str, folder: Path) -> dict[str, Callable[[], list[str]]]:
    """Name -> the command's words, made anew for each call; images go to a new folder each time."""
    number = count()

    def script(*words: str) -> Callable[[], list[str]]:
        return lambda: [str(ROOT / words[0]), *words[1:]]

    return {
        EMPTY: lambda: ["-c", "pass"],
        TORCH: lambda: ["-c", "import torch"],
        **{name: script(*name.split()) for name in HELP},
        f"{HELP[0]}, importing torch": lambda: ["-c", with_real_packages(HELP[0])],
        "sample.py RUN numimages=1": script("sample.py", generator, "numimages=1"),
        "sample.py NOWHERE": script("sample.py", str(folder / "nowhere")),
        IMAGE: lambda: [str(ROOT / "sample.py"), generator, "num_images=1", f"out={folder / f'out{next(number)}'}"],
    }


def with_real_packages(command: str) -> str:
    """Python code of a command of this project whose help imports what sampling would."""
    script, *words = command.split()
    start = f"import os, runpy, sys; os.environ[{PLAIN!r}] = '1'; sys.argv = {[script, *words]!r}"
    return f"{start}; runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"


def demo_run(folder: Path) -> str:
    tokenizer, generator = folder / "tokenizer", folder / "generator"
    print("making a generator of the demo's size", flush=True)
    for task, words in (("tokenizer", [f"out={tokenizer}"]), ("generator", [f"out={generator}"])):
        given = [f"tokenizer={tokenizer}"] if task == "generator" else []
        execute([str(ROOT / "train.py"), str(ROOT / "configs" / "demo" / f"{task}.yaml"), *DEMO, *words, *given])
    return str(generator)


def peers(folders: str) -> dict[str, Callable[[], list[str]]]:
    """--help of the script that draws images of classes. Raises ValueError for a folder that has none."""
    commands = {}
    for folder in map(Path, filter(None, folders.split(","))):
        scripts = [p for p in (folder / "autoregressive" / "sample", folder) if (p / "sample_c2i.py").is_file()]
        if not scripts:
            raise ValueError(f"peer={folder} has no sample_c2i.py; give checkouts of LlamaGen or PAR")
        path = str(scripts[0] / "sample_c2i.py")
        start = f"import runpy, sys; sys.path.insert(0, {str(folder)!r}); sys.argv = [{path!r}, '--help']"
        code = f"{start}; runpy.run_path({path!r}, run_name='__main__')"
        commands[f"{folder.name}: sample_c2i.py --help"] = lambda code=code: ["-c", code]
    return commands


def execute(words: list[str], *flags: str) -> str:
    """Its stderr. Raises ValueError for a command that ends otherwise than well or with a mistake's one line."""
    done = subprocess.run([sys.executable, *flags, *words], capture_output=True, text=True)
    if done.returncode and not re.fullmatch(r"\w+\.py: error: .*\n", done.stderr):
        raise ValueError(f"{' '.join(words)} failed: {done.stderr[-500:]}")
    return done.stderr


# ------------------------------------------------------------------------------------------------------------- reports


def times(middle: dict[str, float], seconds: dict[str, list[float]]) -> str:
    head = ["command", "s", "best", "x empty python", "x import torch", "s beyond import torch"]
    rows = []
    for name, s in middle.items():
        beyond = f"{s - middle[TORCH]:.2f}" if s > middle[TORCH] else ""
        ratios = [f"{s / middle[EMPTY]:.1f}", f"{s / middle[TORCH]:.2f}"]
        rows.append([f"`{name}`", f"{s:.2f}", f"{min(seconds[name]):.2f}", *ratios, beyond])
    return table(head, rows)


def shares(words: list[str]) -> str:
    """The dearest packages of one run under -X importtime, which slows imports itself."""
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", execute(words, "-X", "importtime"))
    spent: Counter[str] = Counter()
    for microseconds, package in found:
        spent[package] += int(microseconds)
    total = sum(spent.values())
    rows = [[name, f"{us / 1000:.0f}", f"{us / total:.0%}"] for name, us in spent.most_common(DEAREST)]
    return table(["package", "ms", "share"], [*rows, ["all", f"{total / 1000:.0f}", "100%"]])


if __name__ == "__main__":
    run(main)
