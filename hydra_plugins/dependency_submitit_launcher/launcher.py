"""Submit the jobs of a sweep, or a single one, to SLURM, and run a script that submits their follow-up jobs."""

from __future__ import annotations

import copy
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

logger = logging.getLogger(__name__)

# submitit's names for every kind of cluster; the others are SLURM's, and begin with slurm_ in submitit
_OF_ANY_CLUSTER = (
    "name",
    "timeout_min",
    "nodes",
    "gpus_per_node",
    "tasks_per_node",
    "cpus_per_task",
    "mem_gb",
    "stderr_to_stdout",
)


class DependencySubmititLauncher(Launcher):
    """Submit jobs and do not wait for them.

    submitit pickles this object with a job's overrides, and calls it in the job.

    `+next_script=PROGRAM` in the overrides runs PROGRAM once per job, after all jobs are submitted. Its arguments are
    the job's id (123, or 123_0 in a sweep), its index in SLURM's array (0 for a single job), the sweep's folder and the
    job's folder. It should submit what follows, with a dependency on that id.
    """

    def __init__(self, **params: Any) -> None:
        """Take the fields of DependencySubmititConf."""
        self.params: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in params.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        try:
            import submitit  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "submitit":
                raise
            from fairseq.installed import advice  # here: hydra imports this file in all its programs

            _stop(f"submitit is not installed: {advice('slurm')}")

    # -- on the machine that submits -----------------------------------------------------------------------------------

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Submit one job for each list of overrides.

        Returns:
            One entry per job, with its id as the job's return value.
        Raises:
            SystemExit: the user can fix this; the message says if jobs were submitted.
        """
        from fairseq_cli.hydra_train import users_environment

        with users_environment():  # sbatch passes it to the jobs
            return self._launch(job_overrides, initial_job_idx)

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        import submitit

        script, overrides = _without_next_script(job_overrides)
        numbers = range(initial_job_idx, initial_job_idx + len(overrides))
        for number, words in zip(numbers, overrides, strict=True):
            self._check(words, number)
        try:
            executor = submitit.AutoExecutor(
                self.params["submitit_folder"], cluster="slurm", slurm_max_num_timeout=self.params["max_num_timeout"]
            )
            executor.update_parameters(**self._sbatch_parameters())
            jobs = executor.map_array(self, overrides, numbers, [Singleton.get_state()] * len(overrides))
        except (RuntimeError, ValueError) as error:  # no SLURM here, or sbatch refused
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _stop(str(error))
        submitted = list(zip(numbers, overrides, jobs, strict=True))
        for number, words, job in submitted:
            logger.info(
                "#%d is job %s, log %s : %s", number, job.job_id, job.paths.stdout, " ".join(filter_overrides(words))
            )
        if script is not None:
            self._start_next(script, [(number, words, job.job_id) for number, words, job in submitted])
        return [
            JobReturn(overrides=words, status=JobStatus.COMPLETED, _return_value=job.job_id)
            for _, words, job in submitted
        ]

    def _check(self, overrides: list[str], number: int) -> None:
        """Report config errors now, not after the job has waited in the queue.

        Errors that depend on the nodes' devices or data are reported in the job.
        """
        from fairseq_cli.hydra_train import whole_config

        config = self._job_config(overrides, number)
        before = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(config)
            _, problems = whole_config(copy.deepcopy(config))
        finally:
            HydraConfig.instance().cfg = before
        if problems:
            _stop(f"nothing was submitted; job #{number}:\n" + "\n".join(f"  - {problem}" for problem in problems))

    def _sbatch_parameters(self) -> dict[str, Any]:
        """Options of `hydra.launcher`, by submitit's names."""
        of_the_executor = ("submitit_folder", "max_num_timeout")
        values = {key: value for key, value in self.params.items() if value is not None and key not in of_the_executor}
        gpus = values.get("gpus_per_node") or 1
        tasks = values.setdefault("tasks_per_node", gpus)
        if values["nodes"] > 1 and tasks < gpus:
            _stop(
                f"hydra.launcher.tasks_per_node={tasks} is less than gpus_per_node={gpus}. With several nodes, each "
                "device needs its own task. Leave tasks_per_node out."
            )
        user_dir = OmegaConf.select(self.config, "common.user_dir")
        if user_dir is not None:  # the pickle refers to its classes by their module's name
            folder = shlex.quote(str(Path(user_dir).expanduser().resolve().parent))
            values["setup"] = [*values.get("setup", []), f"export PYTHONPATH={folder}${{PYTHONPATH:+:$PYTHONPATH}}"]
        return {key if key in _OF_ANY_CLUSTER else f"slurm_{key}": value for key, value in values.items()}

    def _start_next(self, script: str, jobs: list[tuple[int, list[str], str]]) -> None:
        failed = []
        for number, overrides, job_id in jobs:
            settings = self._job_config(overrides, number, job_id).hydra
            sweep_dir = os.path.abspath(str(settings.sweep.dir))
            task_id = job_id.partition("_")[2] or "0"
            code = subprocess.call(
                [script, job_id, task_id, sweep_dir, os.path.join(sweep_dir, str(settings.sweep.subdir))]
            )
            failed += [f"exit code {code} for job {job_id}"] if code != 0 else []
        if failed:
            _stop(f"the jobs were submitted, but next_script={script} failed: {', '.join(failed)}")

    def _job_config(self, overrides: list[str], number: int, job_id: str = "???") -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, job_id
        return config

    # -- in the job ----------------------------------------------------------------------------------------------------

    def __call__(self, overrides: list[str], number: int, singletons: dict[Any, Any]) -> Any:
        """Run the task in each process of the job.

        An error of the task is raised, so that SLURM's afterok holds back dependent jobs.
        """
        import submitit

        from fairseq_cli.hydra_train import set_up_hydra

        Singleton.set_state(singletons)
        setup_globals()
        set_up_hydra()
        with _saved_before_requeue():
            done = run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=self._job_config(overrides, number, submitit.JobEnvironment().job_id),
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            return done.return_value

    def checkpoint(self, *args: Any) -> Any:
        """Return what submitit requeues: the same call, as the run finds its checkpoint by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *args)


@contextmanager
def _saved_before_requeue() -> Iterator[None]:
    """Save before submitit requeues the job.

    Within the context, SLURM's signal that the time limit is near makes the run save and end, as SIGUSR1 does. Then
    submitit's own handler requeues the job (`max_num_timeout`), or raises, so that an interrupted run does not count as
    finished.
    """
    import submitit

    number = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
    of_submitit = signal.getsignal(number)
    assert callable(of_submitit)
    came = False

    def ask_to_save(number: int, frame: Any) -> None:
        nonlocal came
        if callable(signal.getsignal(signal.SIGUSR1)):
            came = True
            os.kill(os.getpid(), signal.SIGUSR1)
        else:  # before the first update, or after the last: nothing to save
            of_submitit(number, frame)

    signal.signal(number, ask_to_save)
    try:
        yield
    except SystemExit:  # a run stopped by a signal has its own exit status
        if not came:
            raise
    finally:
        signal.signal(number, of_submitit)
    if came:
        of_submitit(number, None)


def _without_next_script(job_overrides: Sequence[Sequence[str]]) -> tuple[str | None, list[list[str]]]:
    """Return the program of `+next_script=...`, which is not a config key, and the overrides without it."""
    script, rest = None, []
    for words in job_overrides:
        rest.append([word for word in words if word.lstrip("+").partition("=")[0] != "next_script"])
        script = next((word.partition("=")[2].strip("'\"") for word in words if word not in rest[-1]), script)
    if script is not None and shutil.which(script) is None:
        _stop(f"nothing was submitted: next_script={script} is not an executable program (chmod +x?)")
    return script, rest


def _stop(message: str) -> NoReturn:
    sys.exit(f"hydra/launcher=dependency_submitit_slurm: {message}")
