#!/usr/bin/env bash
# Checks everything: ./scripts/test.sh [pytest arguments], for instance ./scripts/test.sh -k kmeans, or -m thorough, or -m slow
# Makes .venv (or $DKM_VENV) on first use. Tests with real data run if DKM_DATA_ROOT is set.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment test
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Two workers of one thread each: the tests are small, and threads that wait for each other would only slow them down.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest --numprocesses "${DKM_TEST_WORKERS:-2}" --dist worksteal "$@"
