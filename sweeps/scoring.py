"""The offline score of a sweep's points: against the data that the generator was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pointillist.configs.files import write_json
from pointillist.configs.options import build, find
from pointillist.evaluation.offline.classifier import open_network
from pointillist.evaluation.offline.reference import open_reference
from pointillist.evaluation.offline.score import score
from pointillist.evaluation.samples import open_samples


def open_scorer(config: dict, cache: str | Path, network_steps: int) -> Callable[[Path], None]:
    """A function that writes FOLDER/scores.json of FOLDER/images.npz; `config` is the generator's config.json.

    Trains the feature network where `cache` does not hold it. Raises ValueError or OSError where the data cannot be
    read here, are not those of the training any more, or cannot be a reference.
    """
    if "data" not in config:
        raise ValueError("its training data are unknown here; evaluate.py OUT/points/* reference=REF.npz scores it")
    data = {key: value for key, value in config["data"].items() if key != "fingerprint"}
    options = build(find("data", data["name"]).Options, data)
    reference = open_reference(options, config["image_size"])
    trained_on = config["data"]["fingerprint"]
    if reference.fingerprint != trained_on:
        raise ValueError(
            f"the {data['name']} data are not those of the training any more (fingerprint {reference.fingerprint[:8]}, "
            f"was {trained_on[:8]})"
        )
    network = open_network(reference, cache, network_steps)
    asked = {"reference": data, "cache": str(cache), "network_steps": network_steps}

    def write_scores(folder: Path) -> None:
        result = score(open_samples(folder), reference, network)
        result["samples"]["options"] = asked
        write_json(folder / "scores.json", result)

    return write_scores
