"""Sweeps in several processes, and those on a cluster as far as one machine can show them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from processes import OPTIMIZER, Finished, Point, train
from written import assert_same

import dkm
from dkm.config.compose import compose, parse
from dkm.installation import install_command
from dkm.search import sweep

LAUNCHERS = ["joblib", "submitit_local"]
SMALL = [
    *("data=blobs", "data.n_samples=60", "model.hidden=[16]", "batch_size=16", "device=cpu"),
    *("recipe=classic", "pretrain.epochs=3", "joint.epochs=2", "joint.tolerance=0", "clustering.n_init=2"),
    *("log.figures=false", "log.report=false", "log.tensorboard=false"),
]
SWEEP = ["--multirun", *SMALL, "seed=0,1"]


def command(arguments: Sequence[str], *, has_plugins: bool = True) -> list[str]:
    """Return the command of a user, in whose process ``dkm.train`` is ``__main__`` and pickled in another way."""
    if has_plugins:
        return [sys.executable, "-m", "dkm.train", *arguments]
    code = "import sys; sys.modules['hydra_plugins'] = None; from dkm.train import main; main()"
    return [sys.executable, "-c", code, *arguments]


def environment(**variables: str) -> dict[str, str]:
    # The jobs are processes of their own: they find this dkm, and processes.py, by PYTHONPATH.
    paths = os.pathsep.join([str(Path(dkm.__file__).parents[1]), str(Path(__file__).parent)])
    # One thread each, as the runs that train() starts have.
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | variables


def start(arguments: Sequence[str], *, has_plugins: bool = True, **variables: str) -> Finished:
    """Run the command; ``train`` is faster, but the workers of joblib do not end in a process of multiprocessing."""
    given = environment(**variables)
    done = subprocess.run(
        command(arguments, has_plugins=has_plugins), env=given, capture_output=True, text=True, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep by Hydra's own launcher, one run after the other."""
    path = tmp_path_factory.mktemp("plain")
    finished = train([*SWEEP, f"hydra.sweep.dir={path / 'sweep'}"], path / "log")
    assert finished.code == 0, finished.err
    return path / "sweep"


# --- the runs -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_workers_of_joblib_give_the_bytes_of_a_plain_sweep(plain: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    finished = start([*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={sweep}"])
    assert (finished.code, finished.err) == (0, "")
    for job in ("0", "1"):
        assert_same(sweep / job, plain / job)
        names = {file.relative_to(sweep / job) for file in (sweep / job).rglob("*")}
        assert names == {file.relative_to(plain / job) for file in (plain / job).rglob("*")}
    assert (plain / "0" / "metrics.jsonl").read_bytes() != (plain / "1" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_jobs_of_submitit_give_the_same_bytes_even_when_queued_again(plain: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    preempted = "+hydra.callbacks.preempted._target_=processes.Preempted"  # job 1, once
    # No checkpoint but those that begin the run and that the signal asks for.
    options = ["hydra/launcher=submitit_local", "resume=auto", "checkpoint.every_s=1000", preempted]
    finished = start([*SWEEP, *options, f"hydra.sweep.dir={sweep}"])
    assert (finished.code, finished.err) == (0, "")
    resumed = "resumed in pretrain at epoch 1, batch 3, step 7"
    assert [resumed in (sweep / job / "train.log").read_text() for job in ("0", "1")] == [False, True]
    for job in ("0", "1"):
        assert_same(sweep / job, plain / job)


@pytest.mark.thorough
def test_auto_goes_on_with_each_run_of_an_interrupted_sweep(plain: Path, tmp_path: Path) -> None:
    sweep = [*SWEEP, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train(sweep, tmp_path / "log", Point(*OPTIMIZER, 7, signal.SIGINT)).code == 130
    again = train(sweep, tmp_path / "log")
    assert again.code == 1  # the other run was not there yet
    assert f"output={tmp_path / 'sweep' / '0'}: expected a new or an empty directory" in again.err
    finished = train([*sweep, "resume=auto"], tmp_path / "log")
    assert (finished.code, finished.err) == (0, "")
    for job in ("0", "1"):
        assert_same(tmp_path / "sweep" / job, plain / job)


def test_a_run_of_another_config_is_not_gone_on_with(plain: Path, tmp_path: Path) -> None:
    finished = train([*SWEEP[:-1], "seed=5", "resume=auto", f"hydra.sweep.dir={plain}"], tmp_path / "log")
    assert finished.code == 2
    assert finished.err.startswith(f"error: seed=5: expected 0 as in {plain / '0' / 'config.yaml'}")


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "launcher", ["basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "submitit_local"))]
)
def test_a_mistake_that_a_job_finds_is_one_line(launcher: str, tmp_path: Path) -> None:
    missing = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=2"]
    sweep = ["--multirun", *missing, "seed=0", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    finished = train(sweep, tmp_path / "log") if launcher == "basic" else start(sweep)
    assert finished.code == 2
    assert finished.err.startswith(f"error: data.path={tmp_path / 'x.npy'}: no such file")
    assert finished.err.count("\n") == 1


@pytest.mark.thorough
def test_a_loss_that_is_not_finite_is_one_line_with_its_run(tmp_path: Path) -> None:
    wild = ["optimizer=sgd", "pretrain.lr=1e30,1e-3", "pretrain.schedule=constant"]
    finished = train(["--multirun", *SMALL, *wild, f"hydra.sweep.dir={tmp_path / 'sweep'}"], tmp_path / "log")
    assert finished.code == 1
    first, last = finished.err.splitlines()
    assert first.startswith(f"error: {tmp_path / 'sweep' / '0'}: the reconstruction loss is ")
    assert last == "1 of 2 runs failed; the others have completed"
    assert json.loads((tmp_path / "sweep" / "1" / "manifest.json").read_text())["status"] == "completed"
    with (tmp_path / "sweep" / "sweep.csv").open(newline="", encoding="utf-8") as file:
        failed, completed = csv.DictReader(file)
    assert (failed["pretrain.lr"], failed["n_completed"], failed["modularity_data"]) == ("1e+30", "0", "")
    assert (completed["pretrain.lr"], completed["n_completed"]) == ("0.001", "1")
    assert float(completed["modularity_data"]) > 0


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_runs_go_on_where_others_cannot(launcher: str, tmp_path: Path) -> None:
    """There are 60 rows, and so no 100 clusters."""
    words = ["--multirun", *SMALL, "clustering.n_clusters=100,5,200,4", f"hydra/launcher={launcher}"]
    sweep = tmp_path / "sweep"
    words.append(f"hydra.sweep.dir={sweep}")
    finished = train(words, tmp_path / "log") if launcher == "basic" else start(words)
    assert finished.code == 1
    lines = finished.err.splitlines()
    assert lines[0].startswith(f"error: {sweep / '0'}: clustering.n_clusters=100: expected at most n_samples=60")
    assert lines[1].startswith(f"error: {sweep / '2'}: clustering.n_clusters=200: expected at most n_samples=60")
    assert lines[2] == "2 of 4 runs failed; the others have completed"
    with (sweep / "sweep.csv").open(newline="", encoding="utf-8") as file:
        assert [row["clustering.n_clusters"] for row in csv.DictReader(file)] == ["5", "4"]


@pytest.mark.thorough
def test_a_sweep_that_is_repeated_leaves_completed_runs_alone(tmp_path: Path) -> None:
    words = ["--multirun", *SMALL, "seed=0,1", "resume=auto", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train(words, tmp_path / "log").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("*/*.json")}
    (tmp_path / "sweep" / "1" / "result.json").unlink()
    assert train(words, tmp_path / "log").code == 0
    assert (tmp_path / "sweep" / "0" / "manifest.json").read_bytes() == before[
        tmp_path / "sweep" / "0" / "manifest.json"
    ]
    manifest = json.loads((tmp_path / "sweep" / "1" / "manifest.json").read_text())
    assert manifest["n_resumed"] == 1  # what is damaged is done again
    assert (tmp_path / "sweep" / "1" / "result.json").exists()


@pytest.mark.thorough
def test_a_sweep_of_joblib_goes_on_with_each_of_its_runs(tmp_path: Path) -> None:
    """Hydra forgets the application's configs before each job of joblib."""
    words = ["--multirun", *SMALL, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train(words, tmp_path / "log").code == 0
    for manifest in (tmp_path / "sweep").glob("*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"completed"', '"interrupted"'))
    finished = train([*words, "resume=auto", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], tmp_path / "log")
    assert finished.code == 0, finished.err
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/manifest.json")]
    assert [(its["status"], its["n_resumed"]) for its in manifests] == [("completed", 1)] * 2


@pytest.mark.thorough
def test_a_sweep_that_is_repeated_notices_that_its_data_have_changed(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    data = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=3", *SMALL[2:]]
    words = ["--multirun", *data, "seed=0,1", "resume=auto", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train(words, tmp_path / "log").code == 0
    np.save(tmp_path / "x.npy", X[::-1])
    finished = train(words, tmp_path / "log")
    assert finished.code != 0
    assert "the data changed" in finished.err


def test_what_a_run_that_was_killed_as_it_began_has_left_is_no_run(tmp_path: Path) -> None:
    directory = tmp_path / "sweep" / "0"
    directory.mkdir(parents=True)
    (directory / "train.log").touch()
    words = ["--multirun", *SMALL, "seed=0", "resume=auto", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert train(words, tmp_path / "log").code == 0
    assert json.loads((directory / "manifest.json").read_text())["status"] == "completed"


def test_the_configs_of_jobs_that_have_ended_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Hydra keeps its record of each job to the end: 0.2 MB, in sweeps of thousands of runs."""
    config = OmegaConf.create({"hydra": {"runtime": {"output_dir": "DIR/0"}, "sweep": {"dir": "DIR"}, "other": 1}})
    job = JobReturn(cfg=config, hydra_cfg=config)
    sweep._note_end(job, 0.5)
    assert (job.cfg, job._return_value) == (config, 0.5)  # for the callbacks of the job
    sweep._drop_configs()
    assert job.cfg is None
    assert not isinstance(job.hydra_cfg, DictConfig)
    jobs: dict[str, JobReturn] = {}
    job.status = JobStatus.COMPLETED
    assert sweep._record_job(job, jobs) == 0.5
    assert jobs == {"DIR/0": job}
    assert job.hydra_cfg is not None
    assert job.hydra_cfg.hydra.sweep.dir == "DIR"
    assert sweep._ENDED == []


def endless_sweep(sweep: Path) -> subprocess.Popen[str]:
    """Start two runs, each in a worker of joblib's, that would train for days."""
    words = [*SWEEP, "pretrain.epochs=1000000", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    return subprocess.Popen(
        command([*words, f"hydra.sweep.dir={sweep}"]),
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough
def test_an_interrupted_sweep_leaves_no_process(tmp_path: Path) -> None:
    process = endless_sweep(tmp_path / "sweep")
    assert process.stdout is not None
    lines = (line for line in process.stdout if line.startswith("pretrain epoch 1:"))
    assert [next(lines)[:16] for _ in range(2)] == ["pretrain epoch 1"] * 2  # both runs train
    process.send_signal(signal.SIGINT)
    # Comes to the end of stdout when no process has it open any more.
    _, err = process.communicate(timeout=60)
    resume = f"the same command with resume=auto output={tmp_path / 'sweep'} resumes it"
    assert (process.returncode, err) == (130, f"interrupted: completed runs are kept; {resume}\n")
    assert len((tmp_path / "sweep" / "sweep.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.thorough
def test_a_worker_that_is_killed_is_one_line_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """As by the system where memory runs out: the workers hold no Python that could say so."""
    sweep = tmp_path / "sweep"
    process = endless_sweep(sweep)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("pretrain epoch 1:"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    worker = next(pid for pid in children if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith(f"error: {sweep}: a worker of the sweep was killed")
    assert line.endswith(f"the same command with resume=auto output={sweep} resumes it")
    assert (sweep / "sweep.csv").is_file()


LEAK = """
import sys
from joblib.externals.loky.backend import resource_tracker
from dkm.search import sweep
if sys.argv[1] == "quiet":
    sweep._silence_resource_tracker()
resource_tracker.ensure_running()
resource_tracker.register("/loky-of-a-worker-that-is-gone", "semlock")
"""


@pytest.mark.parametrize("mode", ["quiet", "as it is"])
def test_what_interrupted_workers_leave_is_cleared_away_in_silence(mode: str) -> None:
    given = environment(PYTHONWARNINGS="")  # a sweep in this process has set it
    words = [sys.executable, "-c", LEAK, mode]
    done = subprocess.run(words, env=given, capture_output=True, text=True, timeout=60, check=True)
    # Ends when the tracker, which has inherited stderr, has ended too.
    assert ("leaked semlock" in done.stderr) == (mode != "quiet")
    assert (done.stderr == "") == (mode == "quiet")


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "slurm"])
def test_a_launcher_without_its_plugin_says_what_to_install(launcher: str) -> None:
    finished = start([*SWEEP, f"hydra/launcher={launcher}"], has_plugins=False)
    needed = "submitit_slurm" if launcher == "slurm" else launcher
    line = f"error: hydra/launcher={needed}: expected its plugin; install it: {install_command('sweep')}\n"
    assert (finished.code, finished.out, finished.err) == (2, "", line)


def test_without_the_plugins_everything_else_is_there() -> None:
    finished = start(["--cfg", "hydra"], has_plugins=False)
    assert (finished.code, finished.err) == (0, "")
    assert "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher" in finished.out


# --- Slurm --------------------------------------------------------------------------------------------------------


def test_the_slurm_launcher_asks_for_one_task_and_time_for_a_checkpoint() -> None:
    launcher = compose(parse(["hydra/launcher=slurm", "hydra.launcher.partition=gpu"])).hydra.launcher
    assert launcher._target_ == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    assert (launcher.nodes, launcher.tasks_per_node, launcher.cpus_per_task, launcher.mem_gb) == (1, 1, 4, 16)
    assert launcher.partition == "gpu"
    # submitit takes a signal in the last fifth of the time as that of the time limit.
    assert 60 <= launcher.signal_delay_s <= launcher.timeout_min * 60 / 5
    assert launcher.max_num_timeout > 0


def test_a_machine_without_slurm_is_told_so_before_the_first_run(tmp_path: Path) -> None:
    finished = start([*SWEEP, "hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}"], PATH=str(tmp_path))
    line = "error: hydra/launcher: expected Slurm, found no srun; start it on a machine of the cluster\n"
    assert (finished.code, finished.out, finished.err) == (2, "", line)
    assert not (tmp_path / "sweep").exists()
