"""A study's grid: prints one command a point, or runs the points here one after the other.

    rmdnet sweep studies/digits.py --workdir runs/study                     # for a scheduler
    rmdnet sweep studies/digits.py --workdir runs/study --run [--match RE]  # here

Finished points are passed over. The study defines `sweep(root) -> {directory below root: config
argument}`. Teachers come before the students that they serve: where points run at the same time,
those of `--match '(^|/)teacher/'` are to end first.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout

from rmdnet_jax.app.command import Parser, say
from rmdnet_jax.app.load import get_config, module_of
from rmdnet_jax.errors import UserError, first_line


def main(argv: list[str] | None = None) -> int:
    """The command `rmdnet sweep`."""
    parser = Parser(prog="rmdnet sweep", description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--workdir", required=True, help="the root of all points' workdirs")
    parser.add_argument("--run", action="store_true", help="run the points in this process")
    parser.add_argument("--match", default="", help="only points whose directory matches")
    args = parser.parse_args(argv)
    try:
        wanted = re.compile(args.match)
    except re.error as error:
        raise UserError(f"--match {args.match!r} is no regular expression: {error}") from None
    study = module_of(args.study)
    if "sweep" not in study:
        raise UserError(f"{args.study} is one experiment, not a study: it has no sweep(root)")
    try:
        found = study["sweep"](args.workdir).items()
    except Exception as error:  # the user's own code
        told = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{args.study}: sweep(root) failed: {told}") from error
    points = {name: arg for name, arg in found if wanted.search(name)}
    if args.run:
        return run_here(points, args.study, args.workdir)
    for name, arg in points.items():
        words = ("--config", f"{args.study}:{arg}", "--workdir", f"{args.workdir}/{name}")
        print(shlex.join(("rmdnet", "train", *words)))
    return 0


def run_here(points: dict[str, str], study: str, root: str) -> int:
    """Runs the points that are not finished; returns the status, after a line on what is wrong."""
    from tqdm import tqdm

    from rmdnet_jax import cpu, files
    from rmdnet_jax.app import experiment, setup, workdir
    from rmdnet_jax.app.resolve import resolve
    from rmdnet_jax.training.stop import Stopped

    cpu.keep_memory()
    setup.keep_programs()
    top = files.place(root, "--workdir")
    bar = tqdm(points.items(), unit="run")
    for name, arg in bar:
        place = top / name
        try:
            config = get_config(f"{study}:{arg}")
            there = (place / "summary.json").exists()
            if there and not workdir.check(place, resolve(config).to_dict()):
                continue  # the study may have changed since, or asks for more
            given = {"config": f"{study}:{arg}"}
            with open(os.devnull, "w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
                experiment.run(config, place, given=given)
        except (UserError, Stopped) as error:
            bar.close()
            return say(name, error, error.status if isinstance(error, Stopped) else 2)
    return 0
