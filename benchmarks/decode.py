"""Sampling speed beside LlamaGen's own `generate`: the same weights, taking turns in one process.

    python benchmarks/decode.py peer=LLAMAGEN [batch=1,8] [precision=fp32,mixed] [size=B] [rounds=3]

peer is a checkout of FoundationVision/LlamaGen. Both draw whole images of 256 codes with guidance 4 and top_k 2000 from
random weights of the published size; of several rounds the median counts. Beside it the machine's own limits, measured
in the same run, and how much of them a step reaches. Run it alone: one competing process slows torch on two cores 5 to
30 times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from pointillist.configs.options import load, option, parse, run
from pointillist.sampling import ancestral
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.load import described_generator
from pointillist.training.precision import cast
from pointillist.zoo import llamagen
from pointillist.zoo.describe import config_of
from pointillist.zoo.members import member

GUIDANCE, TOP_K, CODES = 4.0, 2000, 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Benchmark:
    peer: str = option("", "folder of a LlamaGen checkout")
    batch: str = option("1,8", "images drawn together")
    precision: str = option("fp32,mixed", "ours; the peer runs in fp32 and bf16")
    size: str = option("B", "of the published ones: B | L")
    rounds: int = option(3, "turns of each contender; the median counts")


# ---------------------------------------------------------------------------------------------------------- contenders


def peers(path: str, size: str) -> tuple[Callable, dict[str, torch.nn.Module]]:
    """The peer's `generate` and its networks, by precision, of one set of random weights."""
    if not (Path(path) / "autoregressive" / "models" / "gpt.py").is_file():
        raise ValueError(
            f"peer={path or 'FOLDER'} is no checkout of LlamaGen: autoregressive/models/gpt.py is not there"
        )
    sys.path.insert(0, path)
    from autoregressive.models.generate import generate
    from autoregressive.models.gpt import GPT_models

    torch.manual_seed(0)
    network = GPT_models[f"GPT-{size}"](vocab_size=16384, block_size=CODES, num_classes=1000, cls_token_num=1).eval()
    torch.nn.init.normal_(network.output.weight, std=0.02)  # zero as published; a law is wanted
    state, networks = network.state_dict(), {}
    for name, dtype in DTYPES.items():
        networks[name] = GPT_models[f"GPT-{size}"](
            vocab_size=16384, block_size=CODES, num_classes=1000, cls_token_num=1
        )
        networks[name].load_state_dict(state)
        networks[name].eval().to(dtype)
    return generate, networks


def ours(size: str, state: dict[str, Tensor], precision: str, batch: int) -> torch.nn.Module:
    """The house network with the peer's weights, as sample.py brings it to a precision."""
    network = plain(size, state)
    cast(network, precision, torch.device("cpu"), rows=2 * batch)
    return network


def plain(size: str, state: dict[str, Tensor]) -> torch.nn.Module:
    """The same as it is trained: nothing packed."""
    network = described_generator(config_of(member(f"llamagen-{size.lower()}-256")), {}, {})
    network.load_state_dict(llamagen.generator(state, {}))
    return network.eval().requires_grad_(False)


def draw(network: torch.nn.Module, batch: int) -> Tensor:
    law = target(network, GUIDANCE, top_k=TOP_K)
    images = torch.arange(batch)
    return ancestral.sample(law, images % 1000, Noise(0), images, Trace(), ancestral.Options())


@torch.inference_mode()
def farthest(network: torch.nn.Module, exact: torch.nn.Module) -> tuple[float, float]:
    """Largest difference of teacher-forced logits from those of the exact network, and their standard deviation."""
    codes, cond = torch.randint(16384, (2, CODES), generator=torch.Generator().manual_seed(1)), torch.tensor([3, 1000])
    theirs = exact(codes, cond)
    return float((network(codes, cond).float() - theirs).abs().max()), float(theirs.std())


# -------------------------------------------------------------------------------------------------------------- limits


def bandwidth() -> float:
    """GB/s of reading 512 MB."""
    x = torch.ones(128 * 1024 * 1024)
    return x.nbytes / best(lambda: x.sum()) / 1e9


def gemm(dtype: torch.dtype) -> float:
    """GFLOP/s of a square product."""
    x = torch.randn(2048, 2048).to(dtype)
    return 2 * 2048**3 / best(lambda: x @ x) / 1e9


def best(call: Callable, rounds: int = 8) -> float:
    call()
    return min(timed(call) for _ in range(rounds))


def timed(call: Callable) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# ----------------------------------------------------------------------------------------------------------------- run


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    generate, theirs = peers(o.peer, o.size)
    state = theirs["fp32"].state_dict()
    exact = plain(o.size, state)
    print(f"limits: reading {bandwidth():.0f} GB/s, products {gemm(torch.float32):.0f} GFLOP/s in fp32, "
          f"{gemm(torch.bfloat16):.0f} in bf16; {torch.get_num_threads()} threads")  # fmt: skip
    for batch in map(int, o.batch.split(",")):
        mine = {precision: ours(o.size, state, precision, batch) for precision in o.precision.split(",")}
        table(batch, o.rounds, generate, theirs, mine)
        for name, network in mine.items():
            difference, spread = farthest(network, exact)
            print(f"logits of ours {name}: within {difference:.2g} of the plain network's, deviation {spread:.2g}")


def table(batch: int, rounds: int, generate: Callable, theirs: dict, mine: dict) -> None:
    cond = torch.arange(batch) % 1000

    def by_peer(network: torch.nn.Module) -> Callable:
        return lambda: generate(network, cond, CODES, cfg_scale=GUIDANCE, temperature=1.0, top_k=TOP_K, top_p=1.0)

    calls = {f"LlamaGen {name}": by_peer(network) for name, network in theirs.items()}
    calls |= {f"ours {name}": (lambda network=network: draw(network, batch)) for name, network in mine.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            with torch.inference_mode():
                seconds[name].append(timed(call))
    middle = {name: median(found) for name, found in seconds.items()}
    print(f"\nbatch {batch} | s an image | ms a step | codes/s | x LlamaGen fp32 | x LlamaGen bf16")
    print("--- | --- | --- | --- | --- | ---")
    for name, s in middle.items():
        ratios = [f"{middle[f'LlamaGen {kind}'] / s:.2f}" for kind in DTYPES]
        print(
            " | ".join([name, f"{s / batch:.2f}", f"{1000 * s / CODES:.1f}", f"{batch * CODES / s:.0f}", *ratios]),
            flush=True,
        )


if __name__ == "__main__":
    run(main)
