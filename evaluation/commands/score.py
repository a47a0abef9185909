"""Score images: FID, sFID, inception score, precision and recall as the ADM suite has them, and others.

    python evaluate.py SAMPLES reference=VIRTUAL_imagenet256_labeled.npz
    python evaluate.py samples/ scores=fid,kid reference=/data/val reference_pixels.resize=adm reference_pixels.size=256
    python evaluate.py RUN num_images=50000 guidance=1.75 reference=REF.npz seeds=3     # nothing is written but scores
    python evaluate.py configs/imagenet/llamagen-l-384.yaml weights=FOLDER reference=VIRTUAL_imagenet256_labeled.npz
    torchrun --nproc_per_node=8 evaluate.py RUN num_images=50000 reference=REF.npz
    python evaluate.py RUN/sweep/points/* reference=REF.npz      # one after another; evaluate.py table RUN/sweep
    python evaluate.py SAMPLES scores=offline reference=emoji    # no network file needed; not comparable with any paper

SAMPLES is an .npz (arr_0: uint8 [N, H, W, 3], arr_1: labels, if any), an .npy, a folder, zip or tar of image files, or
a folder that holds such an images.npz. The same command again continues one that was stopped.

Others: evaluate.py compare | table | make-reference | conformance | tokenizer, each with --help.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pointillist.configs.files import read_json, write_json
from pointillist.configs.options import choices, did_you_mean, find, load, option, pick_device, to_dict
from pointillist.data.pixels import Pixels
from pointillist.evaluation.networks.options import Weights
from pointillist.training.request import Request

OFFLINE = "offline"


@dataclass
class Common(Weights, Request):
    run: str = option("", "the images, or a generator's run")
    num_images: int = option(50_000, "how many there should be; a run makes so many")
    batch_size: int = option(64, "images that go through the networks together")
    reference: str = option("", "an .npz of statistics or images, a folder, zip or tar of images, or a data set: emoji")
    reference_split: Literal["train", "heldout"] = option("train", "of a data set")
    data: dict[str, Any] = option({}, "options of a data set as reference: reference=folder data.root=FOLDER")
    scores: str = option("fid,sfid,inception_score,precision_recall", "which: " + ", ".join(
        [*choices("evaluation/scores"), OFFLINE]))  # fmt: skip
    reference_pixels: Pixels = option(Pixels(), "how the reference's images are")
    bank: Literal["fp16", "fp32"] = option("fp16", "of features kept on disk, for scores that need them all")
    bootstrap: int = option(0, "resamples for the width of Frechet distances; 0 = none, 20 will do")
    save_every: float = option(30, "seconds of work that a kill may cost")
    seeds: int = option(1, "runs: how many seeds, from seed on; gives mean, least and standard deviation")
    cache: str = option("runs/evaluation", "folder of measured references and of the offline score's networks")
    network_steps: int = option(400, "offline: training steps of the feature network; another number is another one")
    out: str = option("", "score file; empty = scores.json beside the images or in the run")


Each = make_dataclass(
    "Each", [(name, Any, option(find("evaluation/scores", name).Options())) for name in choices("evaluation/scores")]
)


@dataclass
class Options(Each, Common):
    """Those above, and under each score's name its own."""


def main(targets: list[str], options: Any) -> None:
    from pointillist.training.processes import processes

    if (options.run or options.zoo) and targets:
        said = f"run={options.run}" if options.run else f"zoo={options.zoo}"
        raise ValueError(f"{said} and {targets[0]} are two ways to say the same; give one of them")
    if options.out and len(targets) > 1:
        raise ValueError(f"out={options.out} is one file for {len(targets)} sets of images; leave it out")
    check(options)
    with processes() as group:
        for target in targets or [options.run]:
            if not (target or options.zoo):
                raise ValueError("which images? python evaluate.py IMAGES|RUN [option=value ...]; --help explains")
            options.run = target
            subject = open_subject(options)
            (score_offline if options.scores == OFFLINE else score)(subject, options, group)


def check(o: Any) -> None:
    """What can be said without opening anything."""
    from pointillist.evaluation import card
    from pointillist.evaluation.published import SHIPPED, read_published

    card.check_out(o.out)
    if o.published and o.published not in (rows := read_published()):
        raise ValueError(f"published={o.published} is no row of configs/imagenet or {SHIPPED.name}"
                         f"{did_you_mean(o.published, list(rows))}")  # fmt: skip
    if o.bootstrap and o.seeds > 1:
        raise ValueError("several seeds bring a width of their own; take bootstrap= or seeds=")
    if o.seeds < 1 or o.bootstrap < 0 or o.batch_size < 1 or o.bootstrap == 1:
        raise ValueError(f"seeds and batch_size must be at least 1 and bootstrap 0 or at least 2, got seeds={o.seeds} "
                         f"batch_size={o.batch_size} bootstrap={o.bootstrap}")  # fmt: skip
    if OFFLINE in o.scores.split(",") and o.scores != OFFLINE:
        raise ValueError(f"scores={o.scores}: the offline score stands alone, it is not comparable with the others")
    o.pixels.check()
    o.reference_pixels.check()


# ------------------------------------------------------------------------------------------------------------- subject


@dataclass(frozen=True)
class Subject:
    """What is scored: opened samples a seed, what is known of their making, and where the scores go."""

    samples: dict[int | None, Any]  # seed -> Samples; None: images that were there before
    run: dict | None
    out: Path
    published: str  # the row that it is held against


def open_subject(o: Any) -> Subject:
    from pointillist.evaluation.card import origin
    from pointillist.evaluation.sampled import about_run, kind_of_run, sampled
    from pointillist.evaluation.samples import open_samples
    from pointillist.training.jobs import prepare_one

    kind = "generator" if o.zoo else kind_of_run(o.run)
    if kind == "generator":
        jobs = {o.seed + i: prepare_one(replace(o, seed=o.seed + i)) for i in range(o.seeds)}
        job = jobs[o.seed]
        out = Path(o.out) if o.out else job.folder.parent / "scores.json"
        return Subject({seed: sampled(j) for seed, j in jobs.items()}, about_run(job), out, job.published)
    if kind:
        raise ValueError(f"{o.run} is a {kind}; images are scored, a generator's run, or `evaluate.py tokenizer RUN`")
    if changed := asked_of_sampler(o):
        raise ValueError(f"{o.run} are images; {', '.join(changed)} can only be asked of a generator's run")
    samples = open_samples(o.run, o.pixels)
    out = Path(o.out) if o.out else samples.folder / "scores.json"
    run = origin(Path(o.run))
    return Subject({None: samples}, run, out, o.published or (run or {}).get("published", ""))


def asked_of_sampler(o: Any) -> list[str]:
    """Options of the sampler that are not at their defaults."""
    from dataclasses import fields

    shared = {"run", "num_images", "batch_size", "device", "pixels", "published"}
    names = [f.name for f in fields(Request) if f.name not in shared] + ["seeds"]
    given, usual = to_dict(o), to_dict(load(Options))
    return [name for name in names if given[name] != usual[name]]


# --------------------------------------------------------------------------------------------------------------- score


def score(subject: Subject, o: Any, group: Any) -> None:
    """Measure, compute, write; where it was written already, print it."""
    from pointillist.evaluation import card, suite
    from pointillist.evaluation.reference import open_reference
    from pointillist.evaluation.report import combined, lines

    device, dtype = pick_device(o.device), {"fp16": "float16", "fp32": "float32"}[o.bank]
    scores, first = suite.choose(o.scores, o), next(iter(subject.samples.values()))
    reference = compared = None
    if o.reference or any(s.module.REFERENCE for s in scores):
        reference = open_reference(o.reference, o.data, o.reference_split, o.reference_pixels, first.size)
    for s in scores:
        s.check(first.count, reference.images.count if reference and reference.images else None)
    networks = suite.open_networks({s.network for s in scores}, o, device)
    if reference:
        reference.check(networks)
    needs = suite.wanted(scores, "SAMPLES", first.count, o.bootstrap, dtype)
    how = card.of_samples(first, subject.run) | suite.protocol(scores, networks)
    request = card.request(asked_for(subject, reference, how, o))
    if card.is_written(subject.out, request):
        if group.is_first:
            tell_again(subject.out, subject.published)
        return
    if reference:
        theirs = suite.wanted(scores, "REFERENCE", 0, dtype=dtype)
        compared = reference.measure(networks, theirs, Path(o.cache), o.batch_size, group)
    found, warnings, contents = of_every_seed(subject, scores, networks, compared, needs, o, group)
    if group.is_first:
        how |= {"suite": card.SUITE, "reference": card.of_reference(reference, compared) if reference else None}
        about = {"sha256_of_pixels": contents, "reference": reference.source if reference else None}
        result = {"scores": combined(found), "warnings": warnings, "note": card.NOTE, "protocol": how}
        result["samples"] = about_samples(subject, o) | about | {"request": request}
        result["environment"] = card.environment(device, group.count, networks) | {"bank": o.bank}
        write_json(subject.out, result)
        shutil.rmtree(card.parts_of(subject.out), ignore_errors=True)
        print("\n".join([*lines(result), f"written: {subject.out}"]))
    group.wait()


def about_samples(subject: Subject, o: Any) -> dict:
    """What was scored: this may differ between numbers that are compared."""
    seeds = [seed for seed in subject.samples if seed is not None]
    made = {"format": next(iter(subject.samples.values())).card["format"], "run": subject.run}
    return {"source": o.run or o.zoo, "seeds": seeds or None, "published": subject.published or None, **made}


def of_every_seed(
    subject: Subject, scores: list, networks: dict, compared: Any, needs: Any, o: Any, group: Any
) -> tuple[list, dict, list]:
    """(numbers a seed, warnings of all, hashes of the pixels); in the first process, empty in the others."""
    from pointillist.evaluation import card, suite
    from pointillist.evaluation.measure import Pass
    from pointillist.evaluation.report import warnings_of
    from pointillist.training.processes import all_cores

    found, warnings, contents = [], {}, []
    for seed, samples in subject.samples.items():
        folder = card.parts_of(subject.out) / ("images" if seed is None else f"seed-{seed}")
        measured = Pass(folder, samples, networks, needs, group).run(o.batch_size, "samples", o.save_every)
        if group.is_first:
            with all_cores():
                found.append(suite.numbers(scores, networks, measured, compared, o.bootstrap))
            warnings |= warnings_of(samples, measured, compared, o.num_images, found[-1], networks)
            contents.append(measured.census.content)
    return found, warnings, contents


def tell_again(out: Path, published: str) -> None:
    """Print finished scores; the row that they are held against may still be named."""
    from pointillist.evaluation.report import lines

    result = read_json(out)
    if published and result["samples"]["published"] != published:
        result["samples"]["published"] = published
        write_json(out, result)
    print("\n".join([*lines(result), f"was written before: {out}"]))


def asked_for(subject: Subject, reference: Any, how: dict, o: Any) -> list:
    """All that the numbers depend on."""
    images = {str(seed): [samples.identity, samples.card] for seed, samples in subject.samples.items()}
    theirs = [reference.sha256, reference.images.card if reference.images else None] if reference else None
    return [images, how, theirs, o.bootstrap, o.bank]


def score_offline(subject: Subject, o: Any, group: Any) -> None:
    """The score of the embedded data: a feature network of our own, trained on the reference."""
    from pointillist.configs.options import build
    from pointillist.evaluation.offline.classifier import open_network
    from pointillist.evaluation.offline.reference import open_reference
    from pointillist.evaluation.offline.score import SUITE
    from pointillist.evaluation.offline.score import check as check_offline
    from pointillist.evaluation.offline.score import score as score_samples
    from pointillist.evaluation.offline.text import lines

    if group.count > 1 or len(subject.samples) > 1:
        raise ValueError("the offline score takes one process and one seed; it is done in seconds")
    samples = next(iter(subject.samples.values()))
    if not o.reference:
        raise ValueError(
            f"compared with what? scores=offline needs reference= a data set: {', '.join(choices('data'))}"
        )
    data = build(find("data", o.reference).Options, {**o.data, "name": o.reference})
    reference = open_reference(data, samples.size)
    check_offline(samples, reference)  # before minutes of training
    if subject.out.is_file() and not read_json(subject.out).get("protocol", {}).get("suite", "").startswith(SUITE):
        raise ValueError(f"{subject.out} holds scores of another kind; choose out=FILE, or delete it")
    result = score_samples(samples, reference, open_network(reference, o.cache, o.network_steps))
    result["samples"] |= about_samples(subject, o)
    write_json(subject.out, result)
    print("\n".join([*lines(result), f"written: {subject.out}"]))
