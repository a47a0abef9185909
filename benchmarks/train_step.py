"""A generator's training step, beside LlamaGen's own and under each attention backend.

    python benchmarks/train_step.py peer=LLAMAGEN [size=B] [batch=4,16] [rounds=5] [contenders=peer,ours]
    python benchmarks/train_step.py [size=micro] [places=64] [batch=64] [rounds=5]

peer is a checkout of FoundationVision/LlamaGen. Contenders start from the same random weights, each in a process of its
own, whose peak resident set counts, and take turns step by step; of their times the median counts. A step is what both
training scripts do: loss in bf16 autocast with dropout 0.1, backward, gradient norm clipped to 1, fused AdamW; ours
keeps freed memory as train.py does (peer-kept: theirs, too). Without peer, attention backends take turns in one
process. Run it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from statistics import median

import torch
from measure import gemm, interleaved, limits, medians, peak_memory, table, timed
from peers import checkout
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.configs.options import load, option, parse, run
from pointillist.models.generator import Generator, Options
from pointillist.models.units import token
from pointillist.training.compiling import compiled
from pointillist.training.memory import keep_freed_memory
from pointillist.training.optimization import Optimization, make_optimizer
from pointillist.training.speed import image_flops
from pointillist.zoo import llamagen

CODES, VOCAB, CLASSES = 256, 16384, 1000
CONTENDERS = {"peer", "peer-kept", "peer-compiled", "ours", "ours-compiled", "ours-checkpointed"}


@dataclass
class Benchmark:
    peer: str = option("", "folder of a LlamaGen checkout")
    size: str = option("", "of the network; default: B beside a peer, micro without")
    batch: str = option("", "images a step; default: 4,16 beside a peer, 64 without")
    rounds: int = option(5, "turns of each contender")
    contenders: str = option("peer,ours", "of " + ", ".join(sorted(CONTENDERS)))
    places: int = option(64, "codes of an image, without a peer")
    start: str = option("", "one contender's process, as this script starts it: CONTENDER")
    weights: str = option("", "file of its weights")


# ---------------------------------------------------------------------------------------------------------- contenders


def their_network(o: Benchmark) -> nn.Module:
    """Raises ValueError for another folder."""
    checkout(o.peer, "LlamaGen", "autoregressive/models/gpt.py")
    from autoregressive.models.gpt import GPT_models

    return GPT_models[f"GPT-{o.size}"](
        vocab_size=VOCAB, block_size=CODES, num_classes=CLASSES, cls_token_num=1, class_dropout_prob=0.1
    )


def our_network(o: Benchmark) -> Generator:
    spec = CodeSpec(grids=((16, 16),), vocab=(VOCAB,), channels=8)
    return Generator(Options(size=o.size), spec, token.plan(spec, token.Options()), CLASSES)


def loss_function(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of codes [B, 256] and classes [B], as each one's training script asks for it."""
    if isinstance(network, Generator):
        return lambda codes, cond: network.loss(codes, cond)["loss"]

    def loss(codes: Tensor, cond: Tensor) -> Tensor:
        places = None if network.training else torch.arange(CODES)  # which theirs must be told in evaluation
        return network(cond_idx=cond, idx=codes[:, :-1], targets=codes, input_pos=places)[1]

    return loss


def stepper(network: nn.Module, codes: Tensor, cond: Tensor) -> Callable[[], None]:
    """One training step, on the same batch again and again."""
    optimizer, loss_of = make_optimizer(network, Optimization(lr=1e-4)), loss_function(network)  # as train_c2i.py

    def step() -> None:
        with torch.autocast(codes.device.type, torch.bfloat16):
            loss = loss_of(codes, cond)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def work(o: Benchmark) -> None:
    """A contender's process: it tells its loss without dropout, then makes a step for every line that it reads."""
    kind, _, how = o.start.partition("-")
    if kind == "ours" or how == "kept":
        keep_freed_memory()
    network, state = our_network(o) if kind == "ours" else their_network(o), torch.load(o.weights, weights_only=True)
    network.load_state_dict(llamagen.generator(state, {}) if kind == "ours" else state)
    del state
    torch.manual_seed(1)
    codes, cond = torch.randint(VOCAB, (int(o.batch), CODES)), torch.randint(CLASSES, (int(o.batch),))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = float(loss_function(network.eval())(codes[:2], cond[:2]))
    flops = image_flops(network, {"codes": codes[:1], "cond": cond[:1]}) if o.start == "ours" else None
    network.train()
    if how == "checkpointed":
        network.transformer.checkpointing = 1
    if how == "compiled":
        compiled(network) if kind == "ours" else network.compile()
    print(json.dumps({"loss": loss, "flops": flops}), flush=True)
    step = stepper(network, codes, cond)
    for _ in sys.stdin:
        print(json.dumps({"seconds": timed(step), "peak": peak_memory()}), flush=True)


# ---------------------------------------------------------------------------------------------------- beside LlamaGen


def beside_peer(o: Benchmark, batch: int, weights: str) -> None:
    """The table of one batch size."""
    names, processes = o.contenders.split(","), {}
    words = [f"peer={o.peer}", f"size={o.size}", f"batch={batch}", f"weights={weights}"]
    for name in names:
        command = [sys.executable, __file__, f"start={name}", *words]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        started = {name: answer(name, process) for name, process in processes.items()}
        steps = {name: [] for name in names}
        for _ in range(o.rounds + 2):  # the first step compiles, the second one's optimiser has its state
            for name, process in processes.items():
                process.stdin.write("step\n")
                process.stdin.flush()
                steps[name].append(answer(name, process))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    report(batch, started, steps)


def answer(name: str, process: subprocess.Popen) -> dict[str, float]:
    line = process.stdout.readline()
    if not line:
        raise ValueError(f"the process of {name} ended; what it said is above")
    return json.loads(line)


def report(batch: int, started: dict[str, dict], steps: dict[str, list[dict]]) -> None:
    middle = {name: median(step["seconds"] for step in found[2:]) for name, found in steps.items()}
    peak = {name: found[-1]["peak"] for name, found in steps.items()}
    flops = next((found["flops"] for found in started.values() if found["flops"]), None)
    limit, rows = gemm(torch.bfloat16), []
    for name, seconds in middle.items():
        speed = batch * flops / seconds / 1e9 if flops else float("nan")
        cells = [f"{seconds:.2f}", f"{batch * CODES / seconds:.0f}", f"{speed:.0f}", f"{speed / limit:.0%}"]
        cells += [f"{peak[name]:.2f}", f"{steps[name][0]['seconds']:.1f}", f"{started[name]['loss']:.5f}"]
        if "peer" in middle:
            cells += [f"{middle['peer'] / seconds:.2f}", f"{1 - peak[name] / peak['peer']:.0%}"]
        rows.append([name, *cells])
    head = ["s a step", "codes/s", "GFLOP/s", "of a product's", "peak GB", "first step s", "loss"]
    head += ["x peer", "less memory"] if "peer" in middle else []
    print(f"\nbatch {batch}, bf16 autocast; a product of 2048 rows: {limit:.0f} GFLOP/s")
    print(table(["", *head], rows), flush=True)


# -------------------------------------------------------------------------------------------------- attention backends


def backends(o: Benchmark) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, batch = isqrt(o.places), int(o.batch)
    spec = CodeSpec(grids=((side, o.places // side),), vocab=(1000,), channels=4)
    codes = torch.randint(1000, (batch, spec.length), device=device)
    cond = torch.randint(9, (batch,), device=device)
    if device.type == "cpu":
        keep_freed_memory()  # as train.py does
    steps, attention = {}, {}
    for backend in ["sdpa", "matmul"] + (["flex", "xformers"] if device.type == "cuda" else []):
        model = Generator(Options(size=o.size, attention=backend), spec, token.plan(spec, token.Options()), 9)
        steps[backend] = stepper(model.to(device), codes, cond)
        attention[backend] = attender(model, batch, device)
    print(f"{o.size}, {spec.length} places, batch {batch}, bf16 on {device}")
    for what, calls in (("step", steps), ("attention, forward and backward", attention)):
        middle = medians(interleaved(calls, o.rounds))
        for name, value in middle.items():
            print(f"{what:<32} {name:<9} {value * 1e3:8.1f} ms   {middle['sdpa'] / value:5.2f} x sdpa")


def attender(model: Generator, batch: int, device: torch.device) -> Callable[[], None]:
    shape = model.transformer.shape
    size = (batch, model.plan.length, shape.num_heads, shape.head_dim)
    q, k, v = (torch.randn(size, device=device).bfloat16().transpose(1, 2).requires_grad_() for _ in range(3))
    attend = model.layout.attend(device)
    return lambda: attend(q, k, v).float().sum().backward()


# ----------------------------------------------------------------------------------------------------------------- run


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    unknown = set(o.contenders.split(",")) - CONTENDERS
    if unknown:
        raise ValueError(f"unknown contenders {', '.join(unknown)}; choose of {', '.join(sorted(CONTENDERS))}")
    o.size, o.batch = o.size or ("B" if o.peer else "micro"), o.batch or ("4,16" if o.peer else "64")
    if o.start:
        work(o)
    elif o.peer:
        torch.manual_seed(0)
        network = their_network(o)
        nn.init.normal_(network.output.weight, std=0.02)  # zero as published; a loss other than log V is wanted
        print(limits())
        with tempfile.TemporaryDirectory() as folder:
            torch.save(network.state_dict(), weights := f"{folder}/weights.pt")
            del network
            for batch in map(int, o.batch.split(",")):
                beside_peer(o, batch, weights)
    else:
        backends(o)


if __name__ == "__main__":
    run(main)
