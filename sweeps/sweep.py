"""A sweep: every point of a grid is sampled like a single run into OUT/points/NAME, scored, and compared on one page.

The points' own files are all that is known of them: sweep.csv, sweep.md and report.html are made from them, whole,
after every point, so whatever a kill left of these three does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointillist.configs.files import write_json, write_whole
from pointillist.configs.options import to_dict
from pointillist.sweeps.report import page
from pointillist.sweeps.results import ANCESTRAL, Result, read_results, to_csv, to_markdown
from pointillist.sweeps.scoring import open_scorer
from pointillist.training.samples import check_request

Points = list[tuple[str, Any]]  # (folder name, options)
Prepare = Callable[[Any], Any]  # options -> a checked job: .options, .request, .config and .folder of the checkpoint
Rehearse = Callable[[Any], None]  # draws an image of a job and forgets it
Draw = Callable[[Any, Path], dict]  # samples what is missing of a job into a folder


def sweep(axes: tuple[str, ...], points: Points, prepare: Prepare, rehearse: Rehearse, draw: Draw) -> None:
    """Sample, score and compare the points; finished ones are skipped.

    Raises ValueError or OSError, before the first image, where a point cannot be sampled or OUT holds another sweep.
    """
    out, shared, job = check(axes, points, prepare, rehearse)
    folders = {name: out / "points" / name for name, _ in points}
    write_scores, unscored = scorer(job, list(folders.values()))
    write_json(out / "request.json", shared)
    for number, (name, options) in enumerate(in_order(points), 1):
        folder = folders[name]
        if not is_finished(folder, scored=write_scores is not None):
            print(f"point {number} of {len(points)}: {name}", flush=True)
            draw(prepare(options), folder)
            if write_scores:
                write_scores(folder)
            write_results(out, axes, list(folders.values()), unscored, write_scores is not None)
    results = write_results(out, axes, list(folders.values()), unscored, write_scores is not None)
    print("\n".join(to_markdown(results, axes, notes(results, unscored))))
    print(f"{len(points)} points in {out}: sweep.csv, sweep.md; look at {out / 'report.html'}")


def check(axes: tuple[str, ...], points: Points, prepare: Prepare, rehearse: Rehearse) -> tuple[Path, dict, Any]:
    """(OUT, the request that all points share, the last point's job); ValueError where a point cannot be had."""
    roots = {axis.partition(".")[0] for axis in axes}
    if "zoo" in roots:
        roots |= {"checkpoint", "step"}
        if not points[0][1].out:
            raise ValueError("a sweep over several checkpoints belongs to none of them; name a folder with out=FOLDER")
    for name, options in in_order(points):
        job = prepare(options)  # not kept: points may need other models
        out = Path(options.out or job.folder.parent / "sweep")
        shared = {k: v for k, v in job.request.items() if k.removesuffix("_sha256") not in roots}
        shared = {"swept": " ".join(sorted(axes)), "network_steps": options.network_steps, **shared}
        check_request(out, shared)
        check_request(out / "points" / name, job.request)
        if not is_finished(out / "points" / name, scored=False):
            rehearse(job)
    return out, shared, job


def in_order(points: Points) -> Points:
    """As they are sampled: those of the same models together, ancestral first, so that the others are compared."""

    def rank(point: tuple[str, Any]) -> tuple[str, bool]:
        options = to_dict(point[1])
        opened = ("zoo", "precision", "decoder_precision", "unit", "model")
        models = json.dumps([options.get(key) for key in opened], sort_keys=True)
        return models, options["sampler"]["name"] != ANCESTRAL

    return sorted(points, key=rank)


def is_finished(folder: Path, scored: bool) -> bool:
    return (folder / "sample.json").is_file() and ((folder / "scores.json").is_file() or not scored)


# ------------------------------------------------------------------------------------------------------------- results


def scorer(job: Any, folders: list[Path]) -> tuple[Callable[[Path], None] | None, str]:
    """What writes a point's scores.json, or None and the reason, in a line, why there will be none."""
    options = job.options
    if not options.score:
        return None, "not scored: score=false"
    if all(is_finished(folder, scored=True) for folder in folders):
        return None, ""
    try:
        if options.num_images < 2:
            raise ValueError("a distance between distributions needs 2 images")
        beside = job.folder.parent.parent / "evaluation"
        return open_scorer(job.config, options.cache or beside, options.network_steps), ""
    except (ValueError, OSError, ImportError) as e:
        reason = f"not scored: {' '.join(str(e).split())}"
        print(reason, flush=True)
        return None, reason


def write_results(out: Path, axes: tuple[str, ...], grid: list[Path], unscored: str, scored: bool) -> list[Result]:
    """sweep.csv, sweep.md and report.html of all finished points in OUT, those of an earlier, larger grid too."""
    others = sorted(set((out / "points").glob("*")) - set(grid))
    results = read_results([folder for folder in [*grid, *others] if is_finished(folder, scored)], axes)
    waiting, said = sum(not is_finished(folder, scored) for folder in grid), notes(results, unscored)
    write_whole(out / "sweep.csv", to_csv(results, axes))
    write_whole(out / "sweep.md", "\n".join(to_markdown(results, axes, said)) + "\n")
    write_whole(out / "report.html", page(results, axes, said, waiting))
    return results


def notes(results: list[Result], unscored: str) -> list[str]:
    """What has to be known to read the scores."""
    lines = [unscored] if unscored else []
    held_out = {name: score for result in results for name, score in result.scores.items()}
    for name, score in held_out.items():
        lines.append(f"{name}: {score['unit']}; the held-out images themselves get {score['heldout']:.3g}")
    if held_out:
        lines.append(next(r.scored["note"] for r in results if r.scored))
    warnings: dict[str, list[str]] = {}
    for result in results:
        for name, line in result.scored.get("warnings", {}).items():
            warnings.setdefault(name, []).append(line)
    return lines + [f"warning ({len(said)} of {len(results)} points): {said[0]}" for said in warnings.values()]
