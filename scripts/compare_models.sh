#!/usr/bin/env bash
# Which kind of world model is better, on the same data with the same updates and seeds: scripts/compare_models.sh ROBOT FOLDER
#
# ROBOT is dot or manipulator. FOLDER holds data/train or several of data/train-* (for the manipulator also data/held-out) and
# data/validation, from scripts/train_ROBOT.sh or `rssm collect`; runs, bundles and scores land beside them, and started again
# it goes on where it was stopped. KINDS="concat product" SEEDS="0 1 2" UPDATES=2500 THREADS=2 say what is compared.
# SEEING=RUN gives every one of them that run's encoders, frozen: then only memories are compared, and far sooner.
# A kind and seed of the dot took 7 minutes of one thread beside other work, 1,000 updates of the manipulator's 15 minutes, and are
# too few there unless seeing is given. The manipulator's learn nothing in imagination, so that the policy tells what the belief is worth.
set -euo pipefail
cd "$(dirname "$0")/.."
robot=${1:?usage: scripts/compare_models.sh dot|manipulator FOLDER}
folder=$(realpath -m "${2:?usage: scripts/compare_models.sh dot|manipulator FOLDER}")
rssm=${RSSM:-.venv/bin/rssm}
threads=${THREADS:-2}
# shellcheck source=scripts/steps.sh
source scripts/steps.sh

what_is() { # KIND: the options that make it
    case $1 in
        concat | product) echo "--posterior $1" ;;
        concat0 | product0) echo "--posterior ${1%0} --free-nats 0" ;;
        barlow | infonce) echo "--posterior concat --representation $1" ;;
        # ... without the perception loss, which teaches the encoder beside them
        concat-alone) echo "--posterior concat --scale perception=0" ;;
        barlow-alone | infonce-alone) echo "--posterior concat --representation ${1%-alone} --scale perception=0" ;;
        *) echo "unknown kind $1: concat, product, either with 0 (no free nats), barlow, infonce, or *-alone (no perception)" >&2 && exit 2 ;;
    esac
}
score() { # NAME: its checks are told, and stop nothing
    local made=$folder/bundles/$1 out=$folder/scores/$1
    mkdir -p "$out"
    if [ "$robot" = dot ]; then
        [ -e "$out/dot.json" ] || step evaluate-dot "$made" --exact "$folder/exact.npz" --out "$out/dot.json" || true
        return
    fi
    [ -e "$out/scorecard.json" ] || step evaluate "$folder/data/held-out" --bundle "$made" --out "$out" --no-report --no-memoryless || true
    [ -e "$out/policy.json" ] || step evaluate-policy "$made" --out "$out/policy.json" || true
}

common=()
[ "$robot" = dot ] || common+=(--imagination-fraction 0)
[ -z "${SEEING:-}" ] || common+=(--start-from "$SEEING" --encoders-only --freeze-encoders --scale perception=0)
for seed in ${SEEDS:-0 1 2}; do
    for kind in ${KINDS:-concat product}; do
        # shellcheck disable=SC2046 # the options are words
        train "$kind-$seed" 600 --steps "${UPDATES:-2500}" --seed "$seed" --data "$folder"/data/train* "${common[@]}" $(what_is "$kind")
        bundle "$kind-$seed"
        score "$kind-$seed"
    done
done
.venv/bin/python scripts/compare_models.py "$folder/scores"
