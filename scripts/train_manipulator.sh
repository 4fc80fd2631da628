#!/usr/bin/env bash
# The shipped bundle, from nothing, in four hours on two CPU cores: scripts/train_manipulator.sh FOLDER
#
# Episodes of the scripted expert, then four rounds of DAgger: the newest bundle acts, the expert says at every tick what
# it would have done. The last two rounds have more of what no expert lets happen, a turning base above all, and
# overshooting. Last, a tracker beside what has been learnt, which does not ship yet. Everything lands in FOLDER (data, runs,
# bundles); started again, it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?usage: scripts/train_manipulator.sh FOLDER}")
rssm=${RSSM:-.venv/bin/rssm}
threads=${THREADS:-2}
first=${MINUTES_FIRST:-40} second=${MINUTES_SECOND:-30} third=${MINUTES_THIRD:-38} fourth=${MINUTES_FOURTH:-54} fifth=${MINUTES_FIFTH:-54} tracker=${MINUTES_TRACKER:-28} last=${MINUTES_LAST:-11} # of training
ticks=${TICKS:-120000}
robot=manipulator
# shellcheck source=scripts/steps.sh
source scripts/steps.sh

collect validation 900000 9000 --mix expert=0.6,perturbed=0.25,random=0.15
collect expert 1000 "$ticks" --mix expert=0.55,perturbed=0.3,random=0.15
# shellcheck disable=SC2046 # one word per folder is meant
train first "$first" --data $(data expert) --imagination-fraction 0
bundle first
collect dagger-1 200000 $((ticks * 2 / 5)) --mix policy=1 --policy "$folder/bundles/first"
# shellcheck disable=SC2046
train second "$second" --data $(data expert dagger-1) --start-from "$folder/runs/first" --imagination-fraction 0
bundle second
collect dagger-2 300000 $((ticks * 3 / 5)) --mix policy=1 --policy "$folder/bundles/second"
# shellcheck disable=SC2046
train third "$third" --data $(data expert dagger-1 dagger-2) --start-from "$folder/runs/second" --imagination-fraction 0.1
bundle third
collect dagger-3 400000 $((ticks * 3 / 5)) --mix policy=1 --policy "$folder/bundles/third"
collect random-1 500000 $((ticks * 2 / 5)) --mix random=0.6,perturbed=0.4
# shellcheck disable=SC2046
train fourth "$fourth" --data $(data expert dagger-1 dagger-2 dagger-3 random-1) --start-from "$folder/runs/third" \
    --seed 4 --rate 4e-4 --scale overshoot=2 --imagination-fraction 0.1
bundle fourth
collect random-2 520000 $((ticks / 2)) --mix random=0.75,perturbed=0.25
collect dagger-4 420000 $((ticks * 3 / 5)) --mix policy=0.7,random=0.3 --policy "$folder/bundles/fourth"
# shellcheck disable=SC2046
train fifth "$fifth" --data $(data expert dagger-1 dagger-2 dagger-3 random-1 random-2 dagger-4) --start-from "$folder/runs/fourth" \
    --seed 5 --rate 4e-4 --scale overshoot=2 --imagination-fraction 0.1
bundle fifth
# Surprise thresholds and regions, on seeds that nothing was trained on, and whether a thousand hidden runs of other
# seeds agree.
mix=(--mix "expert=0.4,policy=0.3,perturbed=0.2,random=0.1" --policy "$folder/bundles/fifth")
collect calibration-fit 700000 $((ticks / 2)) "${mix[@]}"
collect calibration-check 710000 $((ticks * 11 / 12)) "${mix[@]}"
calibrate() { step calibrate "$folder/bundles/$1" --data "$folder/data/calibration-fit" --check "$folder/data/calibration-check"; }
calibrate fifth || echo "== bundles/fifth: its regions do not hold what they promise"
# What follows does not ship yet, and has not been run as one: a tracker beside it, whose policy is the same. First on
# all there is.
collect random-3 540000 $((ticks * 2 / 5)) --mix random=0.6,perturbed=0.4
collect dagger-5 440000 $((ticks * 4 / 5)) --mix policy=0.85,random=0.15 --policy "$folder/bundles/fifth"
# shellcheck disable=SC2046
track tracked "$tracker" fifth --data $(data expert dagger-1 dagger-2 dagger-3 random-1 random-2 dagger-4 random-3 dagger-5)
# What a world model has learnt by heart it knows better than it will on a robot: rounds on what it has not seen, the last
# one on what the detector has not seen either. They have brought little so far (docs/explanation/world-model.md).
collect mixed-1 570000 $((ticks * 6 / 5)) --mix expert=0.4,perturbed=0.3,random=0.3
collect dagger-6 460000 $((ticks / 2)) --mix policy=0.85,random=0.15 --policy "$folder/bundles/fifth"
# shellcheck disable=SC2046
track tracked-2 "$last" tracked --data $(data random-3 dagger-5 mixed-1 dagger-6) --rate 1.5e-3
collect honest 580000 $((ticks * 3 / 5)) --mix expert=0.45,perturbed=0.3,random=0.25
track tracked-3 "$((last / 2))" tracked-2 --data "$folder/data/honest" --rate 1.5e-3 --freeze-encoders
bundle tracked-3
calibrate tracked-3
echo "== $(date +%H:%M:%S) done: $folder/bundles/fifth, $folder/bundles/tracked-3"
