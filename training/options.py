"""Options that every training task shares; a task's own file adds its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pointillist.configs.options import option
from pointillist.data.crops import Views
from pointillist.training.optimization import Optimization

HELDOUT = 5000  # held-out images scored, at most


@dataclass
class TrainOptions:
    task: Literal["tokenizer", "generator", "eagle"] = option("generator", "what to train")
    out: str = option("runs/run", "the run's folder; the same command again resumes it")
    seed: int = option(0, "every random choice of step s is a function of (seed, s)")
    steps: int = option(1000, "optimiser steps")
    batch_size: int = option(64, "images a step, over all accumulated parts")
    optimization: Optimization = option(Optimization(), "AdamW, schedule, clipping, EMA")
    precision: Literal["fp32", "bf16"] = option("fp32", "bf16 = autocast; weights and optimiser stay fp32")
    compile: bool = option(False, "torch.compile a transformer's block, other models' loss")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    log_every: int = option(20, "steps between lines of log.jsonl")
    evaluate_every: int = option(500, "steps between held-out scores and pictures")
    save_every: int = option(500, "steps between checkpoints")
    keep_last: int = option(1, "newest checkpoints kept")
    keep_steps: list[int] = option([], "steps whose checkpoints are made and never deleted")
    tracker: Literal["none", "tensorboard", "wandb"] = option("none", "a second log beside log.jsonl")
    dry_run: bool = option(False, "print options, parameters and FLOPs, train nothing")
    data: Any = option("emoji", "images and labels", part="data")
    views: Views = option(Views(), "crops and flips of an image")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.optimization.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of optimization.accumulate "
                f"{self.optimization.accumulate}"
            )


# A resumed run may change these: they do not touch what is learned.
FREE = {"out", "codes", "device", "dry_run", "tracker"}
FREE |= {"tokenizer", "tokenizer.path"}  # where a generator's tokenizer lies: its sha256 is compared instead
FREE |= {"target", "target.path"}  # and a draft head's target
FREE |= {"checkpointing"}  # the gradients are the same
FREE |= {"log_every", "evaluate_every", "save_every", "keep_last", "keep_steps"}
