# Sourced by the training scripts, which set folder, rssm, threads and robot (and preset, where it is another): the steps of a recipe, each of which goes on where it
# was stopped, and the list of commands for the model card.
# shellcheck shell=bash disable=SC2154
mkdir -p "$folder"
commands=$folder/commands.txt
: >"$commands"

told() { printf '%s\n' "rssm $*" | sed "s#$folder/##g" >>"$commands"; } # for the model card
step() {
    echo "== $(date +%H:%M:%S) rssm $*"
    "$rssm" "$@"
}
collect() { # NAME SEED TICKS OPTIONS...
    local name=$1 seed=$2 count=$3
    shift 3
    told collect "$robot" --out "$folder/data/$name" --seed "$seed" --ticks "$count" "$@"
    step collect "$robot" --out "$folder/data/$name" --seed "$seed" --ticks "$count" "$@"
}
train() { # NAME MINUTES OPTIONS...
    local name=$1 minutes=$2 resume=()
    shift 2
    set -- --contract "$robot" --preset "${preset:-$robot}" --out "$folder/runs/$name" --val "$folder/data/validation" --minutes "$minutes" --threads "$threads" "$@"
    told train "$@"
    [ -e "$folder/runs/$name/done" ] && return
    compgen -G "$folder/runs/$name/checkpoints/step-*" >/dev/null && resume=(--resume)
    step train "$@" "${resume[@]}"
    touch "$folder/runs/$name/done"
}
track() { # NAME MINUTES OF OPTIONS...
    local name=$1 minutes=$2 of=$3 start=()
    shift 3
    set -- --contract "$robot" --out "$folder/runs/$name" --minutes "$minutes" --threads "$threads" "$@"
    told train-tracker --start-from "$folder/runs/$of" "$@"
    [ -e "$folder/runs/$name/done" ] && return
    start=(--start-from "$folder/runs/$of")
    compgen -G "$folder/runs/$name/checkpoints/step-*" >/dev/null && start=(--resume)
    step train-tracker "$@" "${start[@]}"
    touch "$folder/runs/$name/done"
}
bundle() { # NAME
    told export "$folder/runs/$1" --out "$folder/bundles/$1"
    [ -e "$folder/bundles/$1/bundle.json" ] && return
    step export "$folder/runs/$1" --out "$folder/bundles/$1" --commands "$commands"
}
data() { for name in "$@"; do printf '%s ' "$folder/data/$name"; done; }
