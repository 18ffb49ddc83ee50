#!/usr/bin/env bash
# Sweeps, and makes the table: ./scripts/sweep.sh [overrides], for instance ./scripts/sweep.sh seed=0,1,2 clustering.weight=0.1,1
# Into the folder of the sweep (output=DIR, else runs/sweeps/TIME) go the runs, and as table.csv, table.md and
# table.png what `python -m dkm.compare` makes of them. Makes .venv (or $DKM_VENV) on first use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment ""

folder="runs/sweeps/$(date +%Y-%m-%d_%H-%M-%S)"
overrides=("hydra.sweep.dir=$folder" "$@")
for word in "$@"; do
    if [[ "$word" == hydra.sweep.dir=* || "$word" == output=* ]]; then
        folder="${word#*=}"
        overrides=("$@")
    fi
done

code=0
"$python" -m dkm.train --multirun "${overrides[@]}" || code=$?
if [[ "$folder" == *'${'* ]]; then
    echo "no table is made: the name of the folder is known to Hydra alone; dkm compare FOLDER makes it" >&2
elif [[ ("$code" == 0 || "$code" == 1) && -d "$folder" ]]; then # 1: some runs failed; the others make a table
    "$python" -m dkm.compare "$folder" "csv=$folder/table.csv" "markdown=$folder/table.md" "figure=$folder/table.png" \
        overwrite=true || code=1
fi
exit "$code"
