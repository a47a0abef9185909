"""Sampling speed beside LlamaGen's own `generate`: the same weights, taking turns in one process.

    python benchmarks/decode.py peer=LLAMAGEN [batch=1,8,16] [precision=fp32,mixed] [compile=true] [pixels=true]

peer is a checkout of FoundationVision/LlamaGen. Both draw whole images of 256 codes with guidance 4 and top_k 2000 from
random weights of the published size; of several rounds the median counts. pixels adds the decoding of images by VQ-16,
in float32 by theirs and in the precision that goes with ours. Beside it the machine's own limits, measured in the same
run: `limit` is the share that a step reaches of what reading the weights, or multiplying with them, takes at least.
Run it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measure import bandwidth, gemm, interleaved, limits, medians, peak_memory, table
from peers import checkout, llamagen_tokenizer
from torch import Tensor, nn

from pointillist.configs.options import load, option, parse, run
from pointillist.models.linear import sizes_of
from pointillist.sampling import ancestral
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.sampling.trace import Trace
from pointillist.training.load import described_generator
from pointillist.training.memory import keep_freed_memory
from pointillist.training.precision import cast, cast_decoder, full_float32
from pointillist.zoo import llamagen
from pointillist.zoo.describe import config_of
from pointillist.zoo.members import member

GUIDANCE, TOP_K, CODES, CPU = 4.0, 2000, 256, torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Calls = dict[str, Callable[[], Any]]


@dataclass
class Benchmark:
    peer: str = option("", "folder of a LlamaGen checkout")
    batch: str = option("1,8,16", "images drawn together")
    precision: str = option("fp32,mixed", "ours; the peer runs in fp32 and bf16")
    compile: bool = option(True, "ours compiled as well")
    pixels: bool = option(True, "images too, at the largest batch but one")
    size: str = option("B", "of the published ones: B | L")
    rounds: int = option(3, "turns of each contender; the median counts")


# ---------------------------------------------------------------------------------------------------------- contenders


def peers(path: str, size: str) -> tuple[Callable, dict[str, nn.Module]]:
    """The peer's `generate` and its networks, by precision, of one set of random weights."""
    checkout(path, "LlamaGen", "autoregressive/models/gpt.py")
    from autoregressive.models.generate import generate
    from autoregressive.models.gpt import GPT_models

    torch.manual_seed(0)
    sizes = {"vocab_size": 16384, "block_size": CODES, "num_classes": 1000, "cls_token_num": 1}
    networks = {name: GPT_models[f"GPT-{size}"](**sizes).eval() for name in DTYPES}
    nn.init.normal_(networks["fp32"].output.weight, std=0.02)  # zero as published; a law is wanted
    state = networks["fp32"].state_dict()
    for name, network in networks.items():
        network.load_state_dict(state)
        network.to(DTYPES[name])
    return generate, networks


def plain(size: str, state: dict[str, Tensor]) -> nn.Module:
    """The house network with the peer's weights, as it is trained: nothing packed."""
    network = described_generator(config_of(member(f"llamagen-{size.lower()}-256")), {}, {})
    network.load_state_dict(llamagen.generator(state, {}))
    return network.eval().requires_grad_(False)


def ours(o: Benchmark, state: dict[str, Tensor], batch: int) -> dict[str, nn.Module]:
    """The same as sample.py brings it to a precision, by name."""
    found = {}
    for precision in o.precision.split(","):
        for compiled in (False, True) if o.compile else (False,):
            network = found[f"ours {precision}{' compiled' if compiled else ''}"] = plain(o.size, state)
            cast(network, precision, CPU, 2 * batch, compiled)
    return found


def draw(network: nn.Module, batch: int) -> Tensor:
    law, images = target(network, GUIDANCE, top_k=TOP_K), torch.arange(batch)
    return ancestral.sample(law, images % 1000, Noise(0), images, Trace(), ancestral.Options())


def drawing(generate: Callable, theirs: dict, mine: dict, batch: int) -> Calls:
    """What draws the codes of a batch, by name."""
    cond = torch.arange(batch) % 1000

    def by_peer(network: nn.Module) -> Tensor:
        return generate(network, cond, CODES, cfg_scale=GUIDANCE, temperature=1.0, top_k=TOP_K, top_p=1.0)

    calls = {f"LlamaGen {name}": lambda network=network: by_peer(network) for name, network in theirs.items()}
    return calls | {name: lambda network=network: draw(network, batch) for name, network in mine.items()}


def decoding(peer: str, names: list[str], batch: int) -> Calls:
    """What decodes a batch, by the same names: the peer as it is, in fp32 and bf16, and ours beside each precision."""
    network, make = llamagen_tokenizer(peer)
    codes = torch.randint(16384, (batch, CODES), generator=torch.Generator().manual_seed(2))
    half = llamagen_tokenizer(peer)[0].to(torch.bfloat16)
    decoders = {"fp32": make(), "bf16": make()}
    cast_decoder(decoders["bf16"], "bf16")

    def by_peer(network: nn.Module) -> Tensor:
        return network.decode_code(codes, (batch, 8, 16, 16))

    calls: Calls = {"LlamaGen fp32": lambda: by_peer(network), "LlamaGen bf16": lambda: by_peer(half)}
    for name in names:
        if name not in calls:
            decoder = decoders["fp32" if name.split()[1] == "fp32" else "bf16"]
            calls[name] = lambda decoder=decoder: decoder.decode(codes)
    return {name: calls[name] for name in names}


@torch.inference_mode()
def farthest(network: nn.Module, exact: nn.Module) -> tuple[float, float]:
    """Largest difference of decoded laws' logits from those of the exact network along 24 codes, and their standard
    deviation."""
    codes = torch.randint(16384, (24, 2), generator=torch.Generator().manual_seed(1))
    images, logits = torch.arange(2), []
    for each in (network, exact):
        state = each.start(torch.tensor([3, 1000]), images, Noise(0))
        for slots, given in zip(each.groups(state), codes, strict=False):
            logits.append(each.query(state, slots[:, None]).logits)
            each.commit(state, given.view(2, 1, 1), 1)
    got, wanted = torch.stack(logits).chunk(2)
    return float((got - wanted).abs().max()), float(wanted.std())


# ----------------------------------------------------------------------------------------------------------------- run


def main(argv: list[str]) -> None:
    o = load(Benchmark, None, parse(argv, __doc__, Benchmark, target=False).words)
    keep_freed_memory()  # as sample.py does; the peer has it too
    generate, theirs = peers(o.peer, o.size)
    state, batches = theirs["fp32"].state_dict(), [int(word) for word in o.batch.split(",")]
    exact, limit = plain(o.size, state), Limit(plain(o.size, state))
    print(limits(), flush=True)
    with torch.inference_mode():
        for batch in batches:
            mine = ours(o, state, batch)
            fresh = {name: network for name, network in mine.items() if "compiled" in name}
            compiling = {name: seconds(partial(draw, network, batch)) for name, network in fresh.items()}
            calls = drawing(generate, theirs, mine, batch)
            middle = medians(interleaved(calls, o.rounds))
            print("\n" + report(batch, middle, limit), flush=True)
            for name, first in compiling.items():
                print(f"{name}: {first - middle[name]:.0f} s of compiling in the first batch")
            if o.pixels and batch == sorted(batches)[-2:][0]:
                print("\n" + images(o, batch, middle), flush=True)
    for name, network in ours(o, state, 8).items():
        difference, spread = farthest(network, exact)
        print(f"logits of {name}: within {difference:.2g} of the plain network's, deviation {spread:.2g}")
    print(f"peak memory of all contenders together {peak_memory():.1f} GB")


class Limit:
    """The least time of a step: the weights are read once and multiplied with 2B rows."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = sum(sizes_of(network).values()) - network.code_embedding.weight.numel()
        self.read, self.multiply = bandwidth() * 1e9, {name: gemm(dtype) * 1e9 for name, dtype in DTYPES.items()}

    def seconds(self, precision: str, batch: int) -> float:
        kind = "fp32" if precision == "fp32" else "bf16"
        read = self.weights * DTYPES[kind].itemsize / self.read
        return max(read, 2 * self.weights * 2 * batch / self.multiply[kind])


def seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def report(batch: int, middle: dict[str, float], limit: Limit) -> str:
    """The table of a batch: codes alone."""
    rows = []
    for name, s in middle.items():
        share = CODES * limit.seconds(name.split()[1], batch) / s
        cells = [name, f"{s / batch:.2f}", f"{1000 * s / CODES:.1f}", f"{batch * CODES / s:.0f}", f"{share:.0%}"]
        rows.append([*cells, *ratios(middle, name)])
    head = ["s an image", "ms a step", "codes/s", "limit", "x LlamaGen fp32", "x LlamaGen bf16"]
    return table([f"batch {batch}", *head], rows)


def images(o: Benchmark, batch: int, codes: dict[str, float]) -> str:
    """The table of codes and pixels together."""
    with full_float32():
        pixels = medians(interleaved(decoding(o.peer, list(codes), batch), o.rounds))
    both = {name: codes[name] + pixels[name] for name in codes}
    rows = [
        [name, *(f"{part[name] / batch:.2f}" for part in (codes, pixels, both)), *ratios(both, name)] for name in codes
    ]
    head = ["codes, s", "pixels, s", "s an image", "x LlamaGen fp32", "x LlamaGen bf16"]
    return table([f"images, batch {batch}", *head], rows)


def ratios(middle: dict[str, float], name: str) -> list[str]:
    return [f"{middle[f'LlamaGen {kind}'] / middle[name]:.2f}" for kind in DTYPES]


if __name__ == "__main__":
    run(main)
