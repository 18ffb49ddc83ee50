#!/usr/bin/env bash
# Trains: ./scripts/train.sh [overrides], for instance ./scripts/train.sh data=blobs seed=1
# Makes .venv (or $DKM_VENV) on first use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment ""
exec "$python" -m dkm.train "$@"
