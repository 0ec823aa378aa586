#!/usr/bin/env bash
# All that is to be measured on one GPU, without a network: bash benchmarks/gpu.sh cifar10.npz runs/gpu [speed|speedrun|reference]
# The .npz file holds images, labels, test_images, test_labels. Each part ends well within ten minutes but the last two, which take what they take.
set -euo pipefail
data=$1 out=$2 part=${3:-all}
mkdir -p "$out"
if [ "$part" = all ] || [ "$part" = speed ]; then
  python3 -m benchmarks.speed --networks resnet18 --out "$out/speed"
fi
if [ "$part" = all ] || [ "$part" = speedrun ]; then
  python3 -m rmdnet_jax.main --config "cifar10_speedrun:data=$data" --workdir "$out/speedrun"
fi
if [ "$part" = all ] || [ "$part" = reference ]; then
  python3 -m benchmarks.torch_reference.train --data "$data" --rate 0.5 | tee "$out/reference.log"
fi
