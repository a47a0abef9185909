"""Check this evaluator against ADM's: score ADM's own sample files and compare with the published numbers.

    python evaluate.py conformance FOLDER                      # of every row whose two files lie in the folder
    python evaluate.py conformance FOLDER row=imagenet256 inception_weights=FILE

Each score is held against OpenAI's TensorFlow evaluator and against its PyTorch port (they differ in the third digit);
the exit code is 1 if one is further off than the two are from each other, as evaluation/conformance.yaml says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pointillist.configs.options import option, pick_device
from pointillist.evaluation.networks.options import Weights


@dataclass
class Options(Weights):
    row: str = option("", "one row of the file; empty = all whose files are there")
    rows: str = option("", "another file in the format of evaluation/conformance.yaml")
    batch_size: int = option(64, "images that go through the network together")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    cache: str = option("runs/evaluation", "folder of measured references, and of unfinished work")


def main(targets: list[str], o: Options) -> None:
    from pointillist.evaluation.conformance import SHIPPED, SUITES, Row, judge, read_rows, table
    from pointillist.evaluation.suite import open_networks
    from pointillist.evaluation.tables import to_markdown

    if len(targets) != 1:
        raise ValueError("give the folder of ADM's files: python evaluate.py conformance FOLDER")
    folder, rows = Path(targets[0]), read_rows(o.rows or SHIPPED)
    if o.row and o.row not in rows:
        raise ValueError(f"row={o.row} is not known; choose one of {', '.join(rows)}")
    asked = [rows[o.row]] if o.row else list(rows.values())

    def lacking(row: Row) -> list[str]:
        return [address for name, address in row.addresses.items() if not (folder / name).is_file()]

    present = [row for row in asked if not lacking(row)]
    if not present:
        needed = " and ".join(lacking(asked[0]))
        raise FileNotFoundError(f"{folder} has the files of no row; {asked[0].name} lacks {needed}")
    networks = open_networks({"inception"}, o, pick_device(o.device))
    failed = 0
    for row in present:
        for precision, numbers in measure(row, folder, networks, o).items():
            verdicts = judge(row.expected[SUITES[precision]], numbers)
            head = f"\n{row.name} against {SUITES[precision]}, precision_recall.precision={precision}\n"
            print(head, to_markdown(table(verdicts)), sep="\n")
            failed += sum(not v.passed for v in verdicts)
    if failed:
        print(f"{failed} scores are not the published ones")
        raise SystemExit(1)


def measure(row: object, folder: Path, networks: dict, o: Options) -> dict[str, dict]:
    """ "fp32" | "adm_fp16" -> scores of a row under their published names; the images are seen once."""
    from pointillist.data.pixels import Pixels
    from pointillist.evaluation import suite
    from pointillist.evaluation.commands.score import Options as ScoreOptions
    from pointillist.evaluation.conformance import SUITES
    from pointillist.evaluation.measure import Pass
    from pointillist.evaluation.reference import open_reference
    from pointillist.evaluation.samples import open_samples
    from pointillist.training.processes import Processes

    samples = open_samples(folder / row.samples)
    reference = open_reference(str(folder / row.reference), {}, "train", Pixels(), samples.size)
    reference.check(networks)
    scores = suite.choose("fid,sfid,inception_score,precision_recall", ScoreOptions())
    needs = [suite.wanted(scores, side, samples.count, dtype="float32") for side in ("REFERENCE", "SAMPLES")]
    compared = reference.measure(networks, needs[0], Path(o.cache), o.batch_size, Processes())
    parts = Pass(Path(o.cache) / f"conformance-{row.name}", samples, networks, needs[1], Processes())
    measured, out = parts.run(o.batch_size, row.name), {}
    for precision in SUITES:
        with_it = [replace(s, options=replace(s.options, precision=precision)) if s.name == "precision_recall" else s
                   for s in scores]  # fmt: skip
        out[precision] = suite.numbers(with_it, networks, measured, compared)
    parts.remove()
    return out
