"""Train a tokenizer on images or a generator on its codes.

    python train.py configs/demo/tokenizer.yaml out=runs/tokenizer
    python train.py configs/demo/generator.yaml out=runs/generator tokenizer=runs/tokenizer model.size=mini

The same command again resumes after Ctrl-C, SIGTERM or a crash. --help lists the options, key=? the choices of one.
"""

from __future__ import annotations

import json
import signal
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointillist.configs.files import read_json, write_json
from pointillist.configs.options import build, describe, find, load, parse, pick_device, read_yaml, run, to_dict

if TYPE_CHECKING:  # torch is not imported before help is printed
    from pointillist.training.options import TrainOptions


def main(argv: list[str]) -> None:
    # ------------------------------------------------------------------------------------------------------- options
    tasks = find("training/tasks", task_of(argv))
    command = parse(argv, __doc__, tasks.Options)
    options = load(tasks.Options, command.target, command.words)

    import torch
    from timm.utils import ModelEmaV3
    from torch.nn.utils import clip_grad_norm_
    from tqdm import tqdm

    from pointillist.training import checkpoint
    from pointillist.training.compiling import compiled
    from pointillist.training.load import versions
    from pointillist.training.log import Log
    from pointillist.training.memory import keep_freed_memory
    from pointillist.training.optimization import learning_rate, make_optimizer
    from pointillist.training.speed import Speed

    out, device = Path(options.out), pick_device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()

    # -------------------------------------------------------------------------------------- data, model, optimiser, EMA
    torch.manual_seed(options.seed)
    task = tasks.Task(options, device)
    model, o = task.model, options.optimization
    if options.dry_run:
        print_plan(options, task)
        return
    found = [out / f"step_{step:08d}" for step in checkpoint.steps(out)]
    remember_options(out, options, found[-1] if found else None, task.config())
    optimizer = make_optimizer(model, o)

    # ----------------------------------------------------------------- resume: own latest checkpoint, else from scratch
    if found:
        state = checkpoint.read_state(found[-1])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        state = {"step": 0, "seconds": 0.0}
        task.prepare()
    ema = ModelEmaV3(model, decay=o.ema, use_warmup=True, exclude_buffers=True)
    if found:
        checkpoint.load_weights(ema.module, found[-1])
    start, seconds = state["step"], state["seconds"]
    if start >= options.steps:
        print(f"{out} is finished: step {start} of {options.steps}")
        return
    log = Log(out, start, options.tracker, to_dict(options))
    stop = catch_signals()

    def save(step: int) -> None:
        state = {"step": step, "seconds": seconds, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(out, step, ema.module.state_dict(), {**task.config(), "versions": versions()}, state)
        checkpoint.prune(out, options.keep_last, options.keep_steps)

    # ----------------------------------------------------------------------------------------------------------- train
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{out}: {parameters / 1e6:.2f} M parameters, steps {start}..{options.steps}, {options.precision} on {device}"
    )
    task.batch(start)  # whatever is built on first use has its own progress bar
    speed = Speed(model, task.example(), options.batch_size, options.precision, start, seconds)
    loss_of = compiled(model) if options.compile else model.loss
    bar = tqdm(range(start, options.steps), initial=start, total=options.steps, unit="step", dynamic_ncols=True)
    for step in bar:
        begin = time.perf_counter()
        torch.manual_seed(seed_of(options.seed, step))
        rate = learning_rate(step, options.steps, o)
        for group in optimizer.param_groups:
            group["lr"] = rate

        model.train()
        values: dict[str, Any] = {}
        for part in parts(task.batch(step), o.accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                losses = loss_of(**part)
            (losses["loss"] / o.accumulate).backward()
            values = {k: values.get(k, 0.0) + v.detach() / o.accumulate for k, v in losses.items()}
        norm = clip_grad_norm_(model.parameters(), o.clip)
        if not (torch.isfinite(values["loss"]) and torch.isfinite(norm)):
            bar.close()
            last = checkpoint.steps(out)[-1:]
            kept = f"the checkpoint of step {last[0]} is kept" if last else "no checkpoint was written"
            raise ValueError(
                f"loss {float(values['loss'])}, gradient norm {float(norm)} at step {step}: stopped before the step; "
                f"{kept}; look for bad images or codes, or lower optimization.lr"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, step=step)
        seconds += time.perf_counter() - begin
        done = step + 1

        # once in a while: a line in the log
        if step % options.log_every == 0 or done == options.steps:
            scalars = {k: float(v) for k, v in values.items()}
            rates = speed.until(done, seconds)
            log.write(step, **scalars, lr=rate, grad_norm=float(norm), seconds=round(seconds, 2), **rates)
            bar.set_postfix({k: f"{v:.3f}" for k, v in scalars.items()} | speed.words(rates), refresh=False)

        # once in a while: held-out scores and a picture, of the averaged weights
        if done % options.evaluate_every == 0 or done == options.steps:
            scores = task.evaluate(ema.module)
            log.write(step, **{f"heldout_{k}" if k == task.score else k: v for k, v in scores.items()})
            bar.write(f"step {done}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))
            task.picture(ema.module, out / "pictures" / f"step_{done:08d}.png")

        # once in a while, and when asked to stop: a checkpoint
        if stop or done % options.save_every == 0 or done in options.keep_steps or done == options.steps:
            save(done)
        if stop and done < options.steps:
            bar.close()
            print(f"{out}: stopped after step {done}; the same command continues")
            return
    print(f"{out}: finished in {seconds:.0f} s of training; pictures in {out / 'pictures'}")


def task_of(argv: list[str]) -> str:
    """The task's name: from the command line, else from the YAML file, else generator."""
    named = [w.removeprefix("task=") for w in argv if w.startswith("task=") and w != "task=?"]
    yaml = next((w for w in argv if "=" not in w and not w.startswith("-")), None)
    return named[-1] if named else str(read_yaml(yaml).get("task", "generator")) if yaml else "generator"


def seed_of(seed: int, step: int) -> int:
    """The seed of everything random in one step: no generator state needs saving."""
    return int.from_bytes(sha256(f"{seed}/{step}".encode()).digest()[:7])


def parts(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The batch in `count` equal parts; what is no tensor goes to each."""
    chunks = {k: v.chunk(count) if hasattr(v, "chunk") else [v] * count for k, v in batch.items()}
    return [{k: v[i] for k, v in chunks.items()} for i in range(count)]


def catch_signals() -> list[int]:
    """A list that becomes true at the first Ctrl-C or SIGTERM; a second one stops at once."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, signal.SIG_DFL)

    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, note)
    return received


def remember_options(out: Path, options: TrainOptions, last: Path | None, config: dict) -> None:
    """Write options.json; refuse to resume from `last` with options, data or a tokenizer that change what it learns."""
    path, now = out / "options.json", to_dict(options)
    if last is not None:
        from pointillist.training.checkpoint import read_config
        from pointillist.training.options import FREE

        before = to_dict(build(type(options), read_json(path))) if path.is_file() else now
        saved = read_config(last)
        if "model" in saved:  # as the options are said now
            saved["model"] = to_dict(build(type(options.model), saved["model"]))
        new, old = flat(now) | flat(json.loads(json.dumps(config))), flat(before) | flat(saved)
        changed = [f"{k} was {old.get(k)}, is {v}" for k, v in new.items() if k not in FREE and old.get(k) != v]
        if changed:
            raise ValueError(f"{out} was started otherwise: {'; '.join(changed)}; choose another out=FOLDER")
    write_json(path, now)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"dotted.key": value}."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


def print_plan(options: TrainOptions, task: Any) -> None:
    """dry_run: resolved options, parameters, FLOPs."""
    from pointillist.training.speed import image_flops

    flops = image_flops(task.model, task.example())
    print("\n".join(describe(type(options), options)))
    print(f"\n{sum(p.numel() for p in task.model.parameters()) / 1e6:.2f} M parameters")
    print(f"{flops / 1e9:.3f} GFLOP an image forward and backward, {flops * options.batch_size / 1e9:.1f} GFLOP a step")


if __name__ == "__main__":
    run(main)
