#!/usr/bin/env bash
# Trains on the first half of a recording and measures prediction in black-outs of the second half:
# scripts/real_recording.sh BAG FOLDER
#
# Everything lands in FOLDER: data, run, bundle, blackouts.json, blackouts.png. STEPS (850) sets how long it trains; of an
# old run delete FOLDER/run. CONTRACT (rc_car) is a name or a file.
set -euo pipefail
cd "$(dirname "$0")/.."
bag=$(realpath "${1:?usage: scripts/real_recording.sh BAG FOLDER}")
folder=$(realpath -m "${2:?usage: scripts/real_recording.sh BAG FOLDER}")
rssm=${RSSM:-.venv/bin/rssm} python=${PYTHON:-.venv/bin/python} contract=${CONTRACT:-rc_car}
mkdir -p "$folder"

"$rssm" dataset "$bag" --contract "$contract" --part 0:0.5 --out "$folder/first"
"$rssm" dataset "$bag" --contract "$contract" --part 0.5:1 --out "$folder/second"
resume=()
compgen -G "$folder/run/checkpoints/step-*" >/dev/null && resume=(--resume)
"$rssm" train --data "$folder/first" --val "$folder/second" --out "$folder/run" --contract "$contract" \
    --preset manipulator --batch 8 --length 48 --steps "${STEPS:-850}" --threads "${THREADS:-1}" \
    --imagination-fraction 0 --scale image=1 --validate-minutes 100 "${resume[@]}"
"$rssm" export "$folder/run" --out "$folder/bundle"
"$python" scripts/blackouts.py "$folder/bundle" "$bag" --part 0.5:1 --impose drop:4-8@0.15 --out "$folder"
