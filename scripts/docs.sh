#!/usr/bin/env bash
# Serves the documentation: ./scripts/docs.sh [ADDRESS], by default localhost:8000. ./scripts/docs.sh build makes site/ and
# fails if a link is broken. Makes .venv (or $DKM_VENV) on first use.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment docs
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ "${1:-}" == build ]]; then
    exec "$python" -m zensical build --clean --strict
fi
exec "$python" -m zensical serve --dev-addr "${1:-localhost:8000}"
