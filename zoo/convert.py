"""Convert a published checkpoint, generator or tokenizer, and say where it is: a run folder like those of train.py.

python -m pointillist.zoo.convert llamagen-vq-8-256 weights=FOLDER
python evaluate.py tokenizer runs/zoo/llamagen-vq-8-256 images=/data/imagenet/val
python train.py configs/emoji/token.yaml tokenizer=runs/zoo/llamagen-vq-16-256 data=folder data.root=...
"""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.configs.options import load, option, parse, run


@dataclass
class Conversion:
    name: str = option("", "of the zoo: llamagen-l-384, var-vqvae-256, ...; docs/zoo.md")
    weights: str = option("", "folder or file that holds it, or a Hugging Face repository; its own one if left out")
    into: str = option("runs/zoo", "where conversions lie")


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Conversion)
    words = ([f"name={command.target}"] if command.target else []) + command.words
    options = load(Conversion, None, words)

    from pointillist.zoo.zoo import convert

    print(convert(options.name, options.weights, options.into).parent)


if __name__ == "__main__":
    run(main)
