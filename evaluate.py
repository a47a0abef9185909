"""Scores and what is done with them; see `python evaluate.py --help` and `python evaluate.py compare --help`.

The first word may name a command, a file of evaluation/commands; without one, images or a run are scored.
"""

from __future__ import annotations

from pointillist.configs.options import choices, find, load, parse, run
from pointillist.configs.recipes import read_recipe


def main(argv: list[str]) -> None:
    first = argv[0].replace("-", "_") if argv else ""
    named = first in choices("evaluation/commands")
    command = find("evaluation/commands", first if named else "score")
    words = {} if named else {"recipe": lambda path: read_recipe(path).words()}
    asked = parse(argv[1:] if named else argv, command.__doc__, command.Options, many=True, **words)
    command.main(asked.targets, load(command.Options, None, asked.words))


if __name__ == "__main__":
    run(main)
