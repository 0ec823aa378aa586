"""A config's grid: prints one command a grid point, or runs the points here one after the other.

    python launch/sweep.py configs/digits_study.py --workdir runs/study                     # the commands, for a scheduler
    python launch/sweep.py configs/digits_study.py --workdir runs/study --run [--match RE]  # here; finished points are passed over

The config defines `sweep(root) -> {directory below root: config argument}`. Teachers come before the students that they serve: where
points run at the same time, those of `--match '(^|/)teacher/'` are to end first.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import runpy
import shlex
import signal
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--workdir", required=True, help="the root of all points' workdirs")
    parser.add_argument("--run", action="store_true", help="run the points in this process")
    parser.add_argument(
        "--match", default="", help="only points whose directory matches this regular expression"
    )
    args = parser.parse_args()
    try:
        module, wanted = runpy.run_path(args.config), re.compile(args.match)
    except OSError as error:
        parser.error(f"{args.config!r} cannot be read: {error.strerror}")
    except re.error as error:
        parser.error(f"--match {args.match!r} is no regular expression: {error}")
    if "sweep" not in module:
        parser.error(f"{args.config} is one experiment, not a study: it has no sweep(root)")
    points = {
        name: arg for name, arg in module["sweep"](args.workdir).items() if wanted.search(name)
    }
    if args.run:
        return run_here(points, module["get_config"], args.workdir)
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(
            signal.SIGPIPE, signal.SIG_DFL
        )  # as other commands end whose reader, such as head, has enough
    for name, arg in points.items():
        words = (
            "python",
            "-m",
            "rmdnet_jax.main",
            "--config",
            f"{args.config}:{arg}",
            "--workdir",
            f"{args.workdir}/{name}",
        )
        print(shlex.join(words))
    return 0


def run_here(points: dict, get_config, root: str) -> int:
    """Runs the points that are not finished; returns 0, or as `rmdnet_jax.main` does after one line on the point that stopped."""
    from tqdm import tqdm

    from rmdnet_jax import types
    from rmdnet_jax.app import experiment, workdir
    from rmdnet_jax.app import setup as run
    from rmdnet_jax.training import fit as training

    run.keep_programs()
    bar = tqdm(points.items(), unit="run")
    for name, arg in bar:
        place = pathlib.Path(root, name)
        try:
            config = get_config(arg)
            if (place / "summary.json").exists():
                workdir.check(
                    place, json.loads(config.to_json())
                )  # the study may have changed since
            else:
                with (
                    open(os.devnull, "w") as quiet,
                    contextlib.redirect_stdout(quiet),
                    contextlib.redirect_stderr(quiet),
                ):
                    experiment.run(config, place)
        except (types.UserError, training.Stopped) as error:
            bar.close()
            print(f"{name}: {error}", file=sys.stderr)
            return 143 if isinstance(error, training.Stopped) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
