"""Decoding codes into pixels beside LlamaGen's own tokenizer: VQ-16 at 256 pixels, the same weights, taking turns.

    python benchmarks/pixels.py peer=LLAMAGEN [batch=1,4,8] [rounds=3]

peer is a checkout of FoundationVision/LlamaGen. Theirs runs in fp32, as published, and in bf16, each with channels last
too; ours is what sample.py calls, with decoder_precision=fp32 and bf16. All contenders are called with the whole batch.
Beside seconds an image: the share of what this machine's products of 2048 rows reach in that type, and the largest
difference of a pixel in [-1, 1] from theirs in fp32. Run it alone: one competing process slows torch on two cores 5 to
30 times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import gemm, interleaved, limits, medians, table
from peers import llamagen_tokenizer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pointillist.configs.options import load, option, parse, run
from pointillist.training.precision import cast_decoder, full_float32

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE, VOCAB, CHANNELS = 16, 16384, 8  # of VQ-16's codes
LAST = {"memory_format": torch.channels_last}


@dataclass
class Benchmark:
    peer: str = option("", "folder of a LlamaGen checkout")
    batch: str = option("1,4,8", "images decoded together")
    rounds: int = option(3, "turns of each contender; the median counts")


def contenders(peer: nn.Module, ours: Callable[[], nn.Module]) -> dict[str, Callable[[Tensor], Tensor]]:
    """What decodes codes [B, 256], by name; the name begins with whose and in which type."""

    def theirs(network: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda codes: network.decode_code(codes, (len(codes), CHANNELS, SIDE, SIDE)).float().clamp(-1, 1)

    found = {}
    for name, dtype in DTYPES.items():
        for how, moved in {"": {}, " channels last": LAST}.items():
            network = copied(peer).to(dtype=dtype, **moved)
            found[f"LlamaGen {name}{how}"] = theirs(network)
    for name in DTYPES:
        network = ours()
        cast_decoder(network, name)
        found[f"ours {name}"] = network.decode
    return found


def copied(network: nn.Module) -> nn.Module:
    other = type(network)(network.config)
    other.load_state_dict(network.state_dict())
    return other.eval().requires_grad_(False)


def compare(calls: dict[str, Callable[[Tensor], Tensor]], codes: Tensor, rounds: int, peak: dict, flops: float) -> str:
    """The table of one batch of codes [B, 256]; flops an image."""
    middle = medians(interleaved({name: (lambda f=f: f(codes)) for name, f in calls.items()}, rounds))
    exact, rows = calls["LlamaGen fp32"](codes), []
    for name, seconds in middle.items():
        speed = len(codes) * flops / seconds / 1e9
        ratios = [f"{middle[f'LlamaGen {dtype}'] / seconds:.2f}" for dtype in DTYPES]
        far = float((calls[name](codes) - exact).abs().max())
        share = speed / peak[name.split()[1]]
        rows.append([name, f"{seconds / len(codes):.3f}", *ratios, f"{speed:.0f}", f"{share:.0%}", f"{far:.1g}"])
    head = [f"batch {len(codes)}", "s an image", "x LlamaGen fp32", "x LlamaGen bf16", "GFLOP/s", "of a product's",
            "pixels differ by"]  # fmt: skip
    return table(head, rows)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    calls = contenders(*llamagen_tokenizer(o.peer))
    batches = [torch.randint(VOCAB, (int(size), SIDE**2)) for size in o.batch.split(",")]
    print(limits())
    peak = {name: gemm(dtype) for name, dtype in DTYPES.items()}
    with full_float32():
        with FlopCounterMode(display=False) as counter:
            calls["LlamaGen fp32"](batches[0][:1])
        flops = counter.get_total_flops()
        print(f"{flops / 1e9:.0f} GFLOP an image")
        for codes in batches:
            print("\n" + compare(calls, codes, o.rounds, peak, flops), flush=True)


if __name__ == "__main__":
    run(main)
