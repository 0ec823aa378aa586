#!/bin/bash
# Runs every part of the recipe on a CPU with tiny settings, so that none fails where time is dear.
#
#     benchmarks/gpu/rehearse.sh PYTHON
#
# PYTHON has what the other machine has, see README.md, and nothing of ours. Step 1 of the recipe has
# filled .gpu. All runs in a copy of the tree without what git ignores.
set -euo pipefail
python=$(realpath -s "$1")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
cp -r .gpu "$tree"
cd "$tree"

mkdir runs
"$python" -m pip install -q --no-index --no-deps --target runs/site .gpu/*.whl
export PYTHONPATH=$PWD/runs/site PYTHONUNBUFFERED=1 RMDNET_CACHE=$PWD/runs/cache JAX_PLATFORMS=cpu
part() { echo "== $*"; "$python" -m "benchmarks.gpu.$1" "${@:2}"; }

part unpack .gpu/cifar10_jpeg.npz runs/whole.npz
"$python" - <<'END'
import numpy as np
size = {"test_images": 200, "test_labels": 200, "names": 10}
for source, target in (("runs/whole.npz", "runs/data.npz"), (".gpu/cifar10n.npz", "runs/human.npz")):
    with np.load(source) as file:
        np.savez(target, **{name: file[name][: size.get(name, 1000)] for name in file})
END
small="--network cnn --batch 64"
part gate runs/out/gate.json
part steps runs/data.npz runs/out/steps.json --network cnn --times 2 --many 2 --evaluated ce:64 \
    --cases ce:64 ce+many:64 simsiam:64 simclr+raw:64 online:64 stored:64
part flags runs/data.npz runs/out/flags.json $small --epochs 2 --together 1 \
    --variants "as shipped" "deterministic=true"
part rivals runs/data.npz runs/out/rivals.json $small --turns 2 --cases ce
part relations runs/out/relations.json --cases 256:0 256:64 --dim 32 --examples 1000
part teacher runs/data.npz runs/out --steps runs/out/steps.json --encoder cnn --batch 64 --seconds 32
part students runs/data.npz runs/out/weights.npz runs/out/students.json --human runs/human.npz \
    --noises worse asymmetric --set encoder=cnn epochs=1 relation_guided.batch_size=64 \
    relation_guided.optimizer.warmup_epochs=0
part merge runs/gpu.json runs/out/*.json
part merge runs/gpu.json runs/out/*.json  # again: rows are replaced, not doubled
"$python" - <<'END'
import json
parts = {part["part"]: part["rows"] for part in json.load(open("runs/gpu.json"))}
known = {"gate", "steps", "flags", "rivals", "relations", "teacher", "students"}
assert parts.keys() == known, parts.keys()
rows = [row for rows in parts.values() for row in rows]
assert not [row for row in rows if "error" in row or row.get("passed") is False], rows
assert all(row[name] for row in parts["flags"] for name in ("again", "resume") if name in row)
assert [row["case"] for row in parts["teacher"]][-2:] == ["epoch", "done"], parts["teacher"]
assert len(parts["students"]) == 2 * 5, parts["students"]
print(f"rehearsed: {len(parts)} parts, {len(rows)} rows")
END
