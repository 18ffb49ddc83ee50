# Sourced by train.sh and test.sh: makes the virtual environment, or finds it up to date.

# ensure_environment EXTRA ("" or "test"): sets $python. The stamp tells what the environment was made from.
ensure_environment() {
    local extra="$1" root venv base wanted stamp
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="${DKM_VENV:-$root/.venv}"
    base="${PYTHON:-python3}"
    python="$venv/bin/python"
    stamp="$venv/.dkm-installed${extra:+-$extra}"
    wanted="$root $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if [[ -x "$python" && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    if [[ ! -x "$python" ]]; then
        if ! "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            echo "error: $base: expected Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python3.11" >&2
            exit 2
        fi
        echo "making the environment $venv" >&2
        "$base" -m venv "$venv"
    fi
    echo "installing dkm${extra:+[$extra]} into $venv (about 6 GB with PyTorch's GPU libraries)" >&2
    # torch and torchvision are pinned as the matching pair; a torch from elsewhere breaks `import torchvision`.
    "$python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/constraints.txt" --editable "$root${extra:+[$extra]}"
    echo "$wanted" | tee "$venv/.dkm-installed" > "$stamp"
}
