#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml admits: ./scripts/lowest.sh [pytest arguments]
# They are installed into .venv-lowest (or $DKM_VENV), with Python 3.11, for which all of them have wheels.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export DKM_VENV="${DKM_VENV:-$root/.venv-lowest}" DKM_TORCH=default DKM_CONSTRAINTS=constraints-lowest.txt
export PYTHON="${PYTHON:-python3.11}"
source "$root/scripts/environment.sh"
ensure_environment test
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Lint and types belong to the current versions, which test.sh has.
exec "$python" -m pytest --numprocesses "${DKM_TEST_WORKERS:-2}" --dist worksteal "$@"
