"""Sample images from a trained generator.

    python sample.py runs/demo/generator num_images=1000 guidance=2
    python sample.py runs/demo/generator classes=Flags,0,3 num_images=64 seed=7 out=samples/flags
    python sample.py runs/emoji/randar unit.passes=20 order=spiral_out
    python sample.py runs/emoji/masked image=face.png mask=left num_images=16 classes=0

Writes images.npz (arr_0 uint8 NHWC, arr_1 labels), codes.npz, grid.png and sample.json. Image i is the same image for
any batch_size, order or restart; the same command again continues a run that was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pointillist.configs.options import find, load, option, parse, pick_device, run, to_dict


@dataclass
class Options:
    run: str = option("", "the generator's run folder or one of its checkpoints")
    out: str = option("", "where to write; default: samples/ in the run")
    num_images: int = option(100, "images")
    classes: str = option(
        "balanced", "balanced | random | proportional (as in training) | names or numbers, e.g. 207,360"
    )
    seed: int = option(0, "names the noise: same seed, same images")
    batch_size: int = option(64, "images decoded together; does not change them")
    sampler: Any = option("ancestral", "how codes are drawn", part="sampling")
    guidance: float = option(1.0, "unconditional + guidance * (conditional - unconditional); 1 = off")
    guidance_schedule: str = option(
        "constant", "constant | linear, cosine over the codes decoded | steps over the unit's steps"
    )
    temperature: float = option(1.0, "0 = greedy")
    top_k: int = option(0, "0 = off")
    top_p: float = option(1.0, "1 = off")
    unit: dict[str, Any] = option({}, "options of the unit that may change after training: unit.passes=20")
    model: dict[str, Any] = option({}, "options of the model that may: model.flow_steps=50")
    order: str = option("", "for units of any order: a scan order, or an .npy of slots [N] or [num_images, N]")
    image: str = option("", "inpainting: the image whose codes are kept where the mask lets them")
    mask: str = option("", "what to paint: left | right | top | bottom | centre, or an image file, white = paint")
    tokenizer: str = option("", "the tokenizer's run, if it is not where it was")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    precision: Literal["fp32", "bf16", "fp64"] = option("fp32", "of the generator's weights and cache")


# What a stopped run may change when it continues.
FREE = {"run", "out", "batch_size", "device", "tokenizer"}


def main(argv: list[str]) -> None:
    # ------------------------------------------------------------------------------------------------------- options
    command = parse(argv, __doc__, Options)
    options = load(Options, None, ([f"run={command.target}"] if command.target else []) + command.words)
    if not options.run:
        raise ValueError("which run? give the folder that train.py wrote: python sample.py RUN key=value ...")
    if options.num_images < 1 or options.batch_size < 1:
        raise ValueError(
            f"num_images and batch_size must be at least 1, got {options.num_images}, {options.batch_size}"
        )

    import torch
    from tqdm import tqdm

    from pointillist.data.images import to_uint8
    from pointillist.sampling.labels import labels_of
    from pointillist.sampling.laws import Inpaint, Ordered, target
    from pointillist.sampling.noise import Noise
    from pointillist.sampling.trace import Trace
    from pointillist.training import checkpoint
    from pointillist.training.given import given_order, kept_codes
    from pointillist.training.load import check_sampler, load_generator, load_tokenizer, tokenizer_of, versions
    from pointillist.training.samples import SampleFiles, git_commit

    # --------------------------------------------------------------------------------------------- generator, tokenizer
    device, folder = pick_device(options.device), checkpoint.locate(options.run)
    generator, config = load_generator(folder, device, options.unit, options.model)
    tokenizer, _ = load_tokenizer(tokenizer_of(config, folder, options.tokenizer), device)
    generator.cast({"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[options.precision])
    o = options
    check_sampler(o.sampler, generator, scheduled=bool(o.order or o.unit))
    sampler, noise, given = find("sampling", o.sampler.name), Noise(o.seed), {}
    above: list = []  # rows of the grid
    law = target(generator, o.guidance, o.guidance_schedule, o.temperature, o.top_k, o.top_p)
    if o.order:
        order, given["order_sha256"] = given_order(o.order, generator, o.num_images, device)
        law = Ordered(law, order)
    if o.image or o.mask:
        kept = kept_codes(o.image, o.mask, generator, tokenizer, config["image_size"])
        law, given["kept_sha256"] = Inpaint(law, kept.codes, kept.known), kept.sha256
        above = [("given", kept.pictures)]

    # --------------------------------------------------------------------------------------------------- labels, files
    names = config["classes"]
    labels = labels_of(options.classes, options.num_images, names, config["class_counts"], noise)
    request = {k: v for k, v in to_dict(options).items() if k not in FREE}
    request |= {"checkpoint": config["sha256"], "step": config["step"], **given}
    out = Path(options.out or folder.parent / "samples")
    files = SampleFiles(out, request, labels.numpy(), config["image_size"], generator.spec)
    if files.is_finished:
        print(f"{out} is finished: {options.num_images} images; look at {out / 'grid.png'}")
        return

    # ---------------------------------------------------------------------------------------------------------- sample
    missing, counted = files.missing(), files.counted()
    trace = Trace.restore(counted) if counted else Trace()
    bar = tqdm(total=options.num_images, initial=options.num_images - len(missing), unit="image", dynamic_ncols=True)
    for images in torch.as_tensor(missing, device=device).split(options.batch_size) if len(missing) else ():
        cond = labels[images.cpu()].to(device)
        with trace.timed(device):
            codes = sampler.sample(law, cond, noise, images, trace, options.sampler)
        codes = codes if generator.spec.vocab else codes.float()
        decoded = to_uint8(tokenizer.decode(codes)).cpu().numpy()
        files.write(images.cpu().numpy(), decoded, codes.cpu().numpy(), trace.summary())
        bar.update(len(images))
    bar.close()

    # ---------------------------------------------------------------------------------------------------------- report
    report = {
        "options": to_dict(options),
        "checkpoint": {"path": str(folder), "sha256": config["sha256"], "step": config["step"]},
        "tokenizer": config["tokenizer"],
        "classes": names,
        "trace": trace.summary(),
        "device": str(device),
        "versions": versions(),
        "git": git_commit(),
    }
    files.finish(report, names, f"{options.run} step {config['step']}, guidance {options.guidance:g}", above)
    cost = report["trace"]
    print(f"{options.num_images} images in {out}: images.npz, codes.npz, sample.json; look at {out / 'grid.png'}")
    print(f"NFE an image {cost['nfe_per_image']:g}, sampling time {cost['seconds_per_image']:.4f} s an image")


if __name__ == "__main__":
    run(main)
