#!/usr/bin/env bash
# The moving dot's bundle, from nothing, in an hour on two CPU cores: scripts/train_dot.sh FOLDER
#
# Everything lands in FOLDER (data, runs, bundles); started again, it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?usage: scripts/train_dot.sh FOLDER}")
rssm=${RSSM:-.venv/bin/rssm}
threads=${THREADS:-2}
robot=dot
preset=dot_grounded
# shellcheck source=scripts/steps.sh
source scripts/steps.sh

collect validation 900000 20000
collect train 100000 "${TICKS:-2400000}"
# shellcheck disable=SC2046 # one word per folder is meant
train dot "${MINUTES:-47}" --data $(data train)
bundle dot
step evaluate-dot "$folder/bundles/dot" --exact "$folder/exact.npz" --out "$folder/scores.json" || true # its checks are told
# Regions, with as many particles as the score has, on seeds that nothing was trained on.
collect calibration-fit 700000 16000
collect calibration-check 710000 20000
step calibrate "$folder/bundles/dot" --data "$folder/data/calibration-fit" --check "$folder/data/calibration-check" --particles 32
echo "== $(date +%H:%M:%S) done: $folder/bundles/dot"
