"""Next-Patch Prediction: LlamaGen trained on patches of falling sides, decoded code by code."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import isqrt

import torch

from pointillist.models.generator import Generator
from pointillist.models.layout import Layout
from pointillist.models.plan import Plan
from pointillist.models.units import patch
from pointillist.training.optimization import Optimization, learning_rate
from tests.golden_files import Golden, close, numbers, relative, same
from tests.replay import Decoded, check_norms, gradients, in_raster, network, spec_of

SYSTEMS = ("npp",)
INPUTS = (r"forward\.(input_codes|labels)", r"gen\.labels", r"group\.embeddings")
TINY = 1e-9  # epochs: what rounding adds to the end of a stage


@cache
def model(golden: Golden) -> Generator:
    sides = sorted((side for side in golden.meta["patch_sides"] if side > 1), reverse=True)
    return network(golden, patch.Options(sides=sides))


def side_of(case: str) -> int:
    return int(numbers(case, r"\.p(\d+)\.")[0])


def stage(golden: Golden, case: str) -> tuple[Layout, float]:
    """The layout of a side, and a share of the training at which its stage is in force."""
    generator, side = model(golden), side_of(case)
    sides, rate = [*generator.unit.sides, 1], generator.unit.rate
    i = sides.index(side)
    return [*generator.stages, generator.layout][i], rate ** (len(sides) - 1 - i) * 0.99 if i < len(sides) - 1 else 1.0


def plan_of(golden: Golden, case: str) -> Plan:
    return patch.patch_plan(spec_of(golden), side_of(case))


def check_mean(golden: Golden, case: str) -> float:
    return close(golden["group.embeddings"][:, plan_of(golden, case).predicts].mean(2), golden[case], 1e-5)


def check_patches(golden: Golden, case: str) -> None:
    same(golden["forward.input_codes"][:, plan_of(golden, case).predicts], golden[case])
    same(stage(golden, case)[0].predicts, plan_of(golden, case).predicts)


def check_rope(golden: Golden, case: str) -> float:
    layout = stage(golden, case)[0]
    return close(layout.rope(torch.arange(-1, len(layout.plan.grid))), golden[case], 1e-5)


@torch.no_grad()
def check_logits(golden: Golden, case: str) -> float:
    generator, layout = model(golden), stage(golden, case)[0]
    hidden = generator.hidden(golden["forward.input_codes"], golden["forward.labels"], layout=layout)
    logits = generator.head(hidden)[:, layout.predicts]  # [B, patches, side^2, V]
    assert torch.equal(logits, logits[:, :, :1].expand_as(logits)), "codes of a patch share their logits"
    return close(logits[:, :, 0], golden[case])


def check_loss(golden: Golden, case: str) -> None:
    progress = stage(golden, case)[1]
    told = model(golden).loss(golden["forward.input_codes"], golden["forward.labels"], progress=progress)
    assert int(told["stage"]) == [*model(golden).unit.sides, 1].index(side_of(case))
    relative(told["loss"].detach(), golden[case])


def check_gradients(golden: Golden, case: str) -> None:
    generator, codes, labels = model(golden), golden["forward.input_codes"], golden["forward.labels"]
    progress = stage(golden, case)[1]
    check_norms(golden, case, gradients(generator, lambda: generator.loss(codes, labels, progress=progress)["loss"]))


@cache
def generated(golden: Golden, name: str) -> Decoded:
    return in_raster(model(golden), name, golden["gen.labels"])


def check_generated_codes(golden: Golden, case: str) -> None:
    same(generated(golden, case.rpartition(".")[0]).codes, golden[case])


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


def check_schedule(golden: Golden, case: str) -> None:
    """The side of every epoch. A stage ends at a share of the training here and after whole epochs there, rounded down:
    where that is no whole epoch, the epoch in which it lies, and no other, is still of the stage before."""
    told = golden.meta["schedules"][int(numbers(case, r"\.(\d+)\.")[0])]
    epochs, rate, sizes = told["epochs"], told["epoch_rate"], told["patch_sizes"]
    options = patch.Options(sides=[isqrt(size) for size in sizes[:-1]], rate=rate)
    ends, ours = [epochs * rate**i for i in range(1, len(sizes))], []
    for epoch in range(epochs):
        early = sum(int(end) == epoch < end - TINY for end in ends)  # stages that are over there and not yet here
        ours.append(sizes[options.stage(epoch / epochs + TINY / epochs) + early])
    same(torch.tensor(ours), golden[case])


def check_rate(golden: Golden, case: str) -> float:
    """Every stage has the house's schedule (wsd) of its own, but that the linear rise begins one step later, at 0.

    The share that falls is of the whole stage there, of what follows the rise here.
    """
    told, ours = golden.meta["lr_arguments"][int(numbers(case, r"\.(\d+)\.")[0])], []
    rise, lr = told["warmup_epochs"] * told["steps_per_epoch"], told["base_lr"]
    for begin, end in pairwise([0, *told["epoch_range"]]):
        steps = (end - begin) * told["steps_per_epoch"]
        options = Optimization(
            lr=lr,
            schedule="wsd",
            warmup=rise,
            decay_share=told["decay_ratio"] * steps / max(steps - rise, 1),
            final_lr=told["end_lr"] / lr,
        )
        late = ([0.0] + [learning_rate(step, steps, options) for step in range(rise - 1)])[: min(rise, steps)]
        ours += late + [learning_rate(step, steps, options) for step in range(rise, steps)]
    return close(torch.tensor(ours), golden[case], 1e-6 * lr)


CHECKS = {
    r"group\.p\d+\.embeddings": check_mean,
    r"group\.p\d+\.codes": check_patches,
    r"rope\.p\d+\.table": check_rope,
    r"forward\.p\d+\.logits": check_logits,
    r"train\.p\d+\.loss": check_loss,
    r"train\.p\d+\.grad_norms": check_gradients,
    r"gen_.*\.tokens": check_generated_codes,
    r"gen_.*\.logits": check_generated_logits,
    r"schedule\.\d+\.patch_size_per_epoch": check_schedule,
    r"lr\.\d+\.per_step": check_rate,
}
