# Sourced by train.sh, test.sh and others: finds the virtual environment up to date, or has environment.py make it.
#
# DKM_VENV=FOLDER          the environment, instead of .venv; one of your own that exists is used as it is
# PYTHON=/path/to/python   makes it; without it the first of python3, python, python3.13, ... that can
# DKM_TORCH=auto           takes the torch of that Python if it has one (so activate your conda or virtual environment),
#                          else the CPU build if there is no NVIDIA GPU and the package index has it, else the default
# DKM_TORCH=cpu, default   installs the CPU build, or the default build of the package index
# DKM_INSTALLER=auto       installs with uv if it is there and pip has no package index of its own, else with pip
# DKM_INSTALLER=uv, pip    installs with this one

# ensure_environment EXTRA ("", "test" or "docs"): sets $python. The stamp tells what the environment was made from.
ensure_environment() {
    local extra="$1" root venv wanted stamp base
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="${DKM_VENV:-$root/.venv}"
    [[ "$venv" == /* ]] || venv="$PWD/$venv"
    python="$venv/bin/python"
    stamp="$venv/.dkm-installed${extra:+-$extra}"
    wanted="$root $(cat "$root/pyproject.toml" "$root/${DKM_CONSTRAINTS:-constraints.txt}" | cksum)"
    if is_up_to_date; then
        return
    fi
    # One set-up at a time. The lock ends with the processes that hold it, however they end; macOS has no flock.
    if command -v flock >/dev/null; then
        exec 9<"${BASH_SOURCE[0]}"
        flock --nonblock 9 || { echo "waiting for another set-up of $root" >&2; flock 9 || true; }
    fi
    if ! is_up_to_date; then
        base="$python" # which may go on where no other Python is left
        [[ -x "$python" && ! -e "$venv/.dkm-making" && ( ! -L "$venv/.dkm-torch" || -e "$venv/.dkm-torch" ) ]] || find_python
        "$base" "$root/scripts/environment.py" "$root" "$venv" "$extra" "$base" || exit $?
        echo "$wanted" | tee "$venv/.dkm-installed" > "$stamp"
    fi
    exec 9<&-
}

is_up_to_date() {
    [[ -x "$python" && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]] || return
    # A link to the torch of another environment, where that is used.
    [[ ! -L "$venv/.dkm-torch" || -e "$venv/.dkm-torch" ]]
}

# Sets $base to the first Python that can make an environment; every Python understands the check.
find_python() {
    local name code first="" check
    check='import sys
if not (3, 11) <= sys.version_info[:2] < (3, 14): sys.exit(3)
try: import ensurepip, venv
except ImportError: sys.exit(4)'
    for name in ${PYTHON:+"$PYTHON"} $([[ -n "${PYTHON:-}" ]] || echo python3 python python3.13 python3.12 python3.11); do
        code=0
        "$name" -c "$check" 2>/dev/null || code=$?
        if [[ "$code" == 0 ]]; then
            base="$name"
            return
        fi
        [[ -n "$first" && "$code" != 4 ]] || first="$code $name"
    done
    if [[ "${first%% *}" == 4 ]]; then
        echo "error: ${first#* }: expected its modules venv and ensurepip; install them (Debian, Ubuntu:" \
            "sudo apt install python3-venv) or set PYTHON=/path/to/another/python" >&2
    else
        echo "error: ${first#* }: expected Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python3.11" >&2
    fi
    exit 2
}
