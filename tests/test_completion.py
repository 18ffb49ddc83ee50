"""Tab completion of `dkm-train`, as docs/reference/options.md installs it, and of `dkm`, in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pages
import pytest

from dkm import completion
from dkm.errors import UserError

BIN = Path(sys.executable).parent
ASK = """
{install}
complete -p dkm-train > /dev/null || exit 1
for line in "dkm-train clustering=" "dkm-train joint.lr=0.1 joint.av" "dkm-train experiment=flag"; do
    COMP_LINE=$line COMP_POINT=${{#line}} COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
done
"""


@pytest.mark.skipif(
    shutil.which("bash") is None or not (BIN / "dkm-train").exists(), reason="no bash, or not installed"
)
@pytest.mark.thorough
def test_groups_keys_and_experiments_are_completed() -> None:
    (install,) = re.findall(r"`(eval \"\$\(dkm-train -sc install=bash\)\")`", pages.read("docs/reference/options.md"))
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", ASK.format(install=install)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    groups, keys, experiments = done.stdout.splitlines()
    options = ("custom", "dcn", "dec", "dkm", "idec", "kmeans", "none")
    assert groups.split() == [f"clustering={option}" for option in options]
    assert keys.split() == ["joint.average_epochs="]
    assert experiments.split() == [f"experiment=flagship_{name}" for name in ("digits", "mnist", "usps")]


# --- dkm ----------------------------------------------------------------------------------------------------------

ASK_DKM = """
eval "$(dkm completion bash)"
for line in "dkm tr" "dkm train -m joint.lr=0.1 clustering=d" "dkm train joint.av" "dkm train data.path=my"; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    COMP_WORDS=(${line//=/ = }) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _python_argcomplete dkm
    echo "${COMPREPLY[@]}"
done
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment variables with the command ``dkm`` of this package on PATH."""
    pytest.importorskip("argcomplete")
    script = tmp_path / "bin" / "dkm"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom dkm.__main__ import main\nmain()\n")
    script.chmod(0o755)
    (tmp_path / "my table.csv").touch()
    path = os.pathsep.join([str(Path(completion.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": path, "TERM": "dumb"}


def test_bash_completes_verbs_keys_options_and_files(tmp_path: Path, environment: dict[str, str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    done = subprocess.run(
        ["bash", "-c", ASK_DKM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == [
        *("train", "dkm dcn dec", "joint.average_epochs=", r"my\ table.csv"),
    ]


ASK_FISH = """
dkm completion fish | source
for line in "dkm tr" "dkm train clustering=d" "dkm train joint.av" "dkm train data.path=my"
    echo (complete -C "$line")
end
"""


def test_fish_completes_verbs_keys_options_and_files(tmp_path: Path, environment: dict[str, str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish")
    command = ["fish", "--no-config", "-c", ASK_FISH]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = ["train", *(f"clustering={name}" for name in ("dcn", "dec", "dkm")), "joint.average_epochs="]
    assert done.stdout.split(maxsplit=len(answers)) == [*answers, "data.path=my table.csv\n"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("dkm tr\t", "dkm train "),
        ("dkm train joint.av\t", "joint.average_epochs="),
        ("dkm predict my\t", r"my\ table.csv"),
    ],
)
def test_zsh_completes_verbs_keys_and_files(
    typed: str, expected: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh")
    terminal, of_shell = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        cwd=tmp_path,
        env=environment,
        stdin=of_shell,
        stdout=of_shell,
        stderr=of_shell,
        start_new_session=True,
    )
    os.close(of_shell)
    try:
        os.write(
            terminal, b'autoload -Uz compinit; compinit -u -D; eval "$(dkm completion zsh)"; echo its code is $?\n'
        )
        read_until(terminal, "its code is 0")
        os.write(terminal, typed.encode())
        read_until(terminal, expected)
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def read_until(terminal: int, text: str) -> None:
    """Read what a terminal shows until it has shown the text, for at most 30 seconds."""
    shown, last_s = b"", time.monotonic() + 30
    while text.encode() not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, last_s - time.monotonic()))
        assert ready, f"expected {text!r} in {shown!r}"
        shown += os.read(terminal, 65536)


@pytest.mark.parametrize(
    ("words", "prefix", "expected"),
    [
        ([], "t", ["train", "tune"]),
        (["train"], "pret", ["pretrain.epochs=", "pretrain.steps=", "pretrain.lr=", "pretrain.schedule="]),
        (["train"], "dig", ["digits"]),
        (["train"], "n_", ["n_clusters="]),
        (["train"], "joint.schedule=o", ["joint.schedule=one_cycle"]),
        (["train"], "log.figures=", ["log.figures=true", "log.figures=false"]),
        (["train"], "scaling=r", ["scaling=rms", "scaling=row_rms"]),
        (["train"], "experiment=flag", [f"experiment=flagship_{name}" for name in ("digits", "mnist", "usps")]),
        (["train"], "+experiment=flag", [f"+experiment=flagship_{name}" for name in ("digits", "mnist", "usps")]),
        (["train"], "++experiment=flagship_d", ["++experiment=flagship_digits"]),
        (["train"], "+exp", ["+experiment="]),
        (["train"], "recipe=c", ["recipe=classic"]),
        (["train"], "n_clusters=", ["n_clusters=auto"]),
        (["train", "customers.csv"], "data.path=fol", ["data.path=folder/"]),
        (["train"], "fol", ["folder/"]),
        (["train"], "--mu", ["--multirun"]),
        (["predict"], "mem", ["memberships="]),
        (["predict"], "ru", ["run="]),
        (["predict"], "id", ["id="]),
        (["export", "RUN"], "format=", ["format=torch", "format=onnx", "format=numpy"]),
        (["select"], "n_", ["n_clusters="]),
        (["tune"], "prune=", ["prune=true", "prune=false"]),
        (["help"], "joint.l", ["joint.lr"]),
        (["completion"], "f", ["fish"]),
    ],
)
def test_what_a_word_can_be(
    words: list[str], prefix: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    found = completion.candidates(words, prefix)
    assert found[: len(expected)] == expected
    assert all(word.startswith(prefix) for word in found)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_gets_its_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete")
    completion.work([shell])
    assert "dkm" in capsys.readouterr().out


def test_another_shell_is_refused() -> None:
    with pytest.raises(UserError, match=r"^tcsh: expected one of bash, zsh, fish; for example dkm completion bash$"):
        completion.work(["tcsh"])


def test_without_argcomplete_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    with pytest.raises(UserError, match="expected the package argcomplete; install it: pip install argcomplete"):
        completion.work(["zsh"])
