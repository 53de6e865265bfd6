#!/usr/bin/env bash
# What only a GPU can show, in one command and a few minutes: the tests marked gpu, the main job, two networks at
# 224 pixels with the layer objective, and blocks of ResNet-18 at W4A4. Weights are random and images noise: it is cost
# that is measured. Prints a table and writes results/gpu.csv.
#
#   make gpu-check PYTHON=python3      with any Python that has the project's dependencies; no network, no wandb
#   make gpu-check DEVICE=cpu IMAGES=64 STEPS=5      the same way through, to try the script where there is no GPU
#
# Blocks learn from half of the images: twice as many do not fit into the default of reconstruction.cache_mib, and the
# first blocks then read from a file. Rows are written as they come, so that a time limit loses only the run it cuts.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-gpu} IMAGES=${IMAGES:-1024} STEPS=${STEPS:-60}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
out=outputs/gpu
rm -rf $out && mkdir -p $out
failed=0

stage() { # name, command...: say how long it took; a failure fails the whole, and the others are tried all the same
  local name=$1 begun=$SECONDS
  shift
  if "$@" >"$out/$name.log" 2>&1; then
    echo "$name: $((SECONDS - begun)) s"
  else
    failed=1
    echo "$name: FAILED after $((SECONDS - begun)) s, the end of $out/$name.log:"
    tail -n 25 "$out/$name.log"
  fi
}
train() { # name, overrides...
  local name=$1
  shift
  stage "$name" "$PYTHON" src/train.py trainer="$DEVICE" logger=csv hydra.run.dir="$out/$name" "$@"
  "$PYTHON" -m attnround.study.gather $out results/gpu.csv
}
noise() { # name, model, overrides...
  local name=$1 model=$2
  shift 2
  train "$name" model=timm model.name="$model" model.random_init=true bits=uniform data=image_folder \
    data.root=$out/noise data.calibration=$out/noise/calibration data.num_calibration="$IMAGES" "$@"
}

mapfile -t marked < <(grep -rl 'mark\.gpu' tests) # the others may import what is not there, such as wandb
stage tests "$PYTHON" -m pytest -q -m gpu "${marked[@]}"
stage images "$PYTHON" benchmarks/noise_images.py $out/noise "$IMAGES"
train main
noise lite0 tf_efficientnet_lite0
noise resnet18 resnet18
noise blocks resnet18 bits.bit_width=4 activation=lsq activation.bit_width=4 reconstruction=block \
  reconstruction.num_steps="$STEPS" data.num_calibration=$((IMAGES / 2))
grep -h "passed\|failed" $out/tests.log | tail -n 1
"$PYTHON" - $out/blocks "$STEPS" <<'PY'
import csv
import json
import sys
from pathlib import Path

for line in csv.DictReader(open("results/gpu.csv")):
    told = {"top-1": line["quantized/top1"], "dB": line["quantized/sqnr_db"], "MiB": line["memory/peak_mib"]}
    told |= {key.removeprefix("time/"): line[key] for key in line if key.startswith("time/")}
    print(f"{line['model']:22} {line['reconstruction']:6}", *(f"{key} {value}" for key, value in told.items()), sep="  ")
    device = f"{line['device']}, torch {line['torch']}"
print(device)
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
if (folder / "record.json").exists():
    seconds = json.loads((folder / "record.json").read_text())["metrics"]["time/reconstruction_s"]
    units = len({row["unit"] for row in csv.DictReader(open(folder / "layers.csv"))})
    print(f"blocks: {units} units of {steps} steps in {seconds:.1f} s, {units * steps / seconds:.1f} steps a second; ",
          f"20,000 a block would take {units * 20000 * seconds / (units * steps) / 60:.1f} minutes (estimate)", sep="")
PY
exit $((failed || $?))
