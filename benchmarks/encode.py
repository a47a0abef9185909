"""Images a second of code extraction, as the cache of codes is built: VQ-16 beside LlamaGen's own encoder of the same
weights, VAR's tokenizer and the small convolutional one, all with random weights, taking turns.

    python benchmarks/encode.py [peer=LLAMAGEN] [tokenizers=vqgan,vqvae,conv] [batch=8] [rounds=3]

peer is a checkout of FoundationVision/LlamaGen; without one its row is left out. Images are random pixels, 256 a side
(conv: 32, the emoji). In bf16 the encoder's weights are rounded, which changes codes: the table says what share of them
is that of the same tokenizer in fp32. Caches are built in fp32. Beside it the share of what this machine's products of
2048 rows reach. Run it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import gemm, interleaved, limits, medians, table
from peers import llamagen_tokenizer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pointillist.configs.options import build, find, load, option, parse, run
from pointillist.data.encode import encode_batch
from pointillist.data.images import to_float
from pointillist.training.precision import full_float32
from pointillist.zoo.members import member

PUBLISHED = {"vqgan": "llamagen-vq-16-256", "vqvae": "var-vqvae-256"}
SMALL = 32  # pixels of the images of a tokenizer that is not published
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Encode = Callable[[Tensor], Tensor]  # uint8 images [B, 3, S, S] -> codes [B, N]


@dataclass
class Benchmark:
    peer: str = option("", "folder of a LlamaGen checkout")
    tokenizers: str = option("vqgan,vqvae,conv", "of tokenizers/, with discrete codes")
    batch: int = option(8, "images encoded together")
    rounds: int = option(3, "turns of each contender; the median counts")


def contenders(name: str, peer: str) -> tuple[dict[str, Encode], int]:
    """What encodes, by contender, and the pixels a side of its images."""
    published = PUBLISHED.get(name)
    options = build(find("tokenizers", name).Options, member(published).options if published else {})
    size = member(published).image_size if published else SMALL

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return find("tokenizers", name).Tokenizer(options, size).eval().requires_grad_(False)

    found = {}
    if peer and name == "vqgan":
        theirs, fresh = llamagen_tokenizer(peer)
        for kind, dtype in DTYPES.items():
            found[f"LlamaGen {kind}"] = by_peer(type(theirs)(theirs.config).eval(), theirs.state_dict(), dtype)
    for kind, dtype in DTYPES.items():
        tokenizer = fresh()
        tokenizer.encoder.to(dtype)
        found[f"ours {kind}"] = by_us(tokenizer)
    return found, size


def by_peer(network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> Encode:
    network.load_state_dict(state)
    network.to(dtype)

    def encode(pixels: Tensor) -> Tensor:
        _, _, (_, _, codes) = network.encode(to_float(pixels).to(dtype))
        return codes.view(len(pixels), -1)

    return encode


def by_us(tokenizer: nn.Module) -> Encode:
    """As data/encode.py does it, checks and the cache's type included."""
    return lambda pixels: torch.from_numpy(encode_batch(tokenizer, tokenizer.spec, pixels, "cpu").astype("int64"))


def compare(name: str, calls: dict[str, Encode], pixels: Tensor, rounds: int, peak: dict[str, float]) -> str:
    """The table of one tokenizer."""
    middle = medians(interleaved({who: (lambda f=f: f(pixels)) for who, f in calls.items()}, rounds))
    with FlopCounterMode(display=False) as counter:
        calls["ours fp32"](pixels[:1])
    flops, first, rows = counter.get_total_flops(), next(iter(middle)), []
    exact = calls[first](pixels)
    for who, seconds in middle.items():
        speed = len(pixels) * flops / seconds / 1e9
        same = float((calls[who](pixels) == exact).double().mean())
        cells = [f"{len(pixels) / seconds:.2f}", f"{middle[first] / seconds:.2f}", f"{speed:.0f}"]
        rows.append([who, *cells, f"{speed / peak[who.split()[1]]:.0%}", f"{same:.2%}"])
    size = f"{name}, {pixels.shape[-1]} pixels, batch {len(pixels)}, {flops / 1e9:.3g} GFLOP an image"
    return table([size, "images/s", f"x {first}", "GFLOP/s", "of a product's", f"codes of {first}"], rows)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    print(limits())
    peak = {name: gemm(dtype) for name, dtype in DTYPES.items()}
    with full_float32():
        for name in o.tokenizers.split(","):
            calls, size = contenders(name, o.peer)
            pixels = torch.randint(256, (o.batch, 3, size, size), dtype=torch.uint8)
            print("\n" + compare(name, calls, pixels, o.rounds, peak), flush=True)


if __name__ == "__main__":
    run(main)
