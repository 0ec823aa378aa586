"""A config's grid: prints one command a grid point, or runs the points here one after the other.

    python launch/sweep.py configs/digits_study.py --workdir runs/study                     # the commands, for xargs or a scheduler
    python launch/sweep.py configs/digits_study.py --workdir runs/study --run [--match RE]  # here; finished points are passed over

The config defines `sweep(root) -> {directory below root: config argument}`.
"""

import argparse
import contextlib
import os
import pathlib
import re
import runpy
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--workdir", required=True, help="the root of all points' workdirs")
    parser.add_argument("--run", action="store_true", help="run the points in this process")
    parser.add_argument("--match", default="", help="only points whose directory matches this regular expression")
    args = parser.parse_args()
    module = runpy.run_path(args.config)
    points = {name: arg for name, arg in module["sweep"](args.workdir).items() if re.search(args.match, name)}
    if not args.run:
        for name, arg in points.items():
            print(f"python -m rmdnet_jax.main --config {args.config}:{arg} --workdir {args.workdir}/{name}")
        return
    from tqdm import tqdm

    from rmdnet_jax import experiment, run

    run.keep_programs()
    for name, arg in tqdm(points.items(), unit="run"):
        workdir = pathlib.Path(args.workdir, name)
        if not (workdir / "summary.json").exists():
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                experiment.run(module["get_config"](arg), workdir)


if __name__ == "__main__":
    sys.exit(main())
