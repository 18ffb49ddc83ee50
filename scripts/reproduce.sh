#!/usr/bin/env bash
# Re-creates docs/results.md: ./scripts/reproduce.sh [NAMES] [SEEDS], each a list with commas, for instance
#     ./scripts/reproduce.sh dkm_usps,dkm_mnist 0,1,2
# Without names all experiments of the table, without seeds as many as the table wants of each. Runs that are there are
# kept, one that was interrupted goes on. Real data are looked for in $DKM_DATA_ROOT, else ./data; runs go to runs/reproduce.
# Makes .venv (or $DKM_VENV) on first use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment ""
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "$python" scripts/reproduce.py "$@"
