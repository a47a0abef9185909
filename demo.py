"""The whole job on the embedded emoji: tokenizer, codes, generator, samples, score. `make demo` runs it.

python demo.py           about ten minutes on two CPU cores; a stopped demo continues with the same command
python demo.py quick     the same path in about two minutes: it shows that everything runs, not what it can do
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from pointillist.configs.files import read_json
from pointillist.configs.options import ROOT, run
from pointillist.training import checkpoint
from pointillist.training.log import read_log

QUICK = {"tokenizer": 80, "generator": 120, "images": 120}


def main(argv: list[str]) -> None:
    if argv not in ([], ["quick"]):
        raise ValueError(f"demo.py takes nothing or the word quick, got {' '.join(argv)}")
    quick = bool(argv)
    runs = Path("runs/demo-quick" if quick else "runs/demo")
    tokenizer, generator, samples = runs / "tokenizer", runs / "generator", runs / "samples"
    early = runs / "samples-early"
    images = QUICK["images"] if quick else 1000
    begin = time.time()

    train("configs/demo/tokenizer.yaml", tokenizer, *(short("tokenizer") if quick else []))
    train("configs/demo/generator.yaml", generator, f"tokenizer={tokenizer}", *(short("generator") if quick else []))
    steps = checkpoint.steps(generator)
    assert len(steps) == 2, (
        f"{generator} was to keep the checkpoint of a tenth of its training and the last, has {steps}"
    )
    first, last = (generator / f"step_{s:08d}" for s in steps)
    request = [f"num_images={images}", "classes=proportional", "guidance=2", "temperature=0.9", "batch_size=125"]
    step("sample.py", str(last), f"out={samples}", *request)
    step("sample.py", str(first), f"out={early}", *request)
    network = ["network_steps=40"] if quick else []
    for folder in (early, samples):
        step("evaluate.py", str(folder), "scores=offline", "reference=emoji", f"cache={runs / 'evaluation'}", *network)

    print("\n".join(table(tokenizer, generator, samples, early)))
    print(f"\nthe demo took {time.time() - begin:.0f} s. Look at:")
    for picture in (newest(tokenizer / "pictures"), newest(generator / "pictures"), samples / "grid.png"):
        print(f"  {picture}")


def short(task: str) -> list[str]:
    steps = QUICK[task]
    return [f"steps={steps}", f"evaluate_every={steps}", f"save_every={steps // 2}", f"keep_steps=[{steps // 10}]"]


def train(config: str, out: Path, *words: str) -> None:
    """Train to the end; a training that was told to stop has saved, and stops the demo."""
    step("train.py", config, f"out={out}", *words)
    reached, asked = checkpoint.steps(out)[-1], read_json(out / "options.json")["steps"]
    if reached < asked:
        print(f"\ndemo stopped at step {reached} of {asked}; the same command continues")
        raise SystemExit(130)


def step(script: str, *words: str) -> None:
    """Run one of the project's commands as a user would, and stop the demo if it fails or is stopped."""
    print(f"\n$ python {script} {' '.join(words)}", flush=True)
    process = subprocess.Popen([sys.executable, str(ROOT / script), *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the Ctrl-C too, and saves
        raise
    if code:
        raise SystemExit(code)


def newest(folder: Path) -> Path:
    return sorted(folder.glob("*.png"))[-1]


def table(tokenizer: Path, generator: Path, samples: Path, early: Path) -> list[str]:
    """What was measured, in rows that a person reads."""
    logs = {run: read_log(run / "log.jsonl") for run in (tokenizer, generator)}
    codes, nll = (next(r for r in reversed(log) if "usage" in r or "heldout_nll" in r) for log in logs.values())
    final, first = (json.loads((f / "scores.json").read_text())["scores"] for f in (samples, early))
    score = next(k for k in final if k.startswith("toy_frechet"))
    trace = json.loads((samples / "sample.json").read_text())["trace"]
    rows = [
        ("tokenizer", f"PSNR {codes['heldout_psnr']:.2f} dB held-out (k-means of patches: {codes['floor_psnr']:.2f})"),
        ("", f"{codes['usage']:.0%} of codes used, perplexity {codes['perplexity']:.0f}"),
        ("generator", f"NLL {nll['heldout_nll']:.3f} nats a code held-out, {nll['train_nll']:.3f} train"),
        (
            "samples",
            f"{trace['nfe_per_image']:g} NFE, {trace['seconds_per_image'] * 1e3:.0f} ms an image in batches of 125",
        ),
        (score, f"{final[score]['value']:.1f} (held-out images {final[score]['heldout']:.1f})"),
        ("... at a tenth of training", f"{first[score]['value']:.1f}"),
    ]
    for key in ("class_agreement", "memorisation_ratio", "copy_rate"):
        rows.append((key, f"{final[key]['value']:.3f} (held-out images {final[key]['heldout']:.3f})"))
    seconds = [f"{run.name} {log[-1].get('seconds') or log[-2]['seconds']:.0f} s" for run, log in logs.items()]
    width = max(len(name) for name, _ in rows)
    rows.append(("training time", ", ".join(seconds)))
    return ["", *(f"{name:<{width}}  {value}" for name, value in rows)]


if __name__ == "__main__":
    run(main)
