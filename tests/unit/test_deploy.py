"""deploy/: files that have not been run must at least agree with the package and with each other."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
from fairseq.dataclass.initialize import resolve_config
from fairseq.installed import EXTRAS
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
CONFIGS = REPOSITORY / "examples/wav2vec/config/pretraining"
IMAGES = ("Dockerfile", "Dockerfile.gaudi")
JOBS = ("pytorchjob", "pytorchjob-gaudi")
CARD = {"pytorchjob": "nvidia.com/gpu", "pytorchjob-gaudi": "habana.ai/gaudi"}


def job(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / f"kubernetes/{name}.yaml").read_text(encoding="utf-8"))


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["spec"]["pytorchReplicaSpecs"]["Worker"]


def assert_trains(words: list[str], nodes: int, cards: int) -> None:
    """The config exists, keys too, and an update has about the config's batches."""
    name = words[words.index("--config-name") + 1]
    cfg = resolve_config(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    overrides = dict(word.split("=", 1) for word in words if re.match(r"[a-z_]+\.[a-z_]+=", word))
    for key in overrides:
        group, field = key.split(".")
        assert field in cfg[group].keys(), key  # noqa: SIM118 - `in` needs a value
    assert {"task.data", "checkpoint.save_dir", "optimization.update_freq"} <= set(overrides)
    stock = cfg.distributed_training.distributed_world_size * cfg.optimization.update_freq[0]
    batches = nodes * cards * int(overrides["optimization.update_freq"].strip("[]"))
    assert 0.9 < batches / stock < 1.1
    if cfg.common.hpu:
        assert overrides["distributed_training.distributed_world_size"] == str(cards)


@pytest.mark.parametrize("name", JOBS)
def test_jobs(name: str) -> None:
    spec = job(name)
    pod = worker(spec)["template"]["spec"]
    (container,) = pod["containers"]
    nodes, cards = worker(spec)["replicas"], int(spec["spec"]["nprocPerNode"])
    resources = container["resources"]
    assert resources["requests"] == resources["limits"] and resources["limits"][CARD[name]] == cards
    assert spec["spec"]["elasticPolicy"]["minReplicas"] == spec["spec"]["elasticPolicy"]["maxReplicas"] == nodes
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"] == ["torchrun", "-m", "fairseq_cli.hydra_train"]
    assert_trains(container["args"], nodes, cards)
    assert pod["terminationGracePeriodSeconds"] > 30  # torchrun kills its processes that long after SIGTERM


def test_the_job_for_gaudi_differs_in_what_gaudi_needs() -> None:
    gpu, gaudi = (job(name) for name in JOBS)
    for spec, name in ((gpu, "pytorchjob"), (gaudi, "pytorchjob-gaudi")):
        (container,) = worker(spec)["template"]["spec"]["containers"]
        for key in ("args", "image", "env"):
            container.pop(key)
        for kind in container["resources"].values():
            kind.pop(CARD[name], None)  # the anchor makes both kinds one
            kind.pop("hugepages-2Mi", None)
        spec["metadata"].pop("name")
    assert gpu == gaudi


@pytest.mark.parametrize("name", JOBS)
def test_pods_against_kubernetes_schemas(name: str) -> None:
    """PyTorchJob is an extension; what Kubernetes itself knows is its pods' template."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **worker(job(name))["template"]}
    kubernetes_validate.validate(pod, "1.33", strict=True)


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert instructions[0].startswith("ARG BASE") and instructions[1] == "FROM ${BASE}"
    assert (instructions[0] == "ARG BASE") == (name == "Dockerfile.gaudi")  # Gaudi's must be named
    assert "It has not been built or run" in text
    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', text)
    assert set(extras.split(",")) <= set(EXTRAS)
    for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
        assert (REPOSITORY / source).exists()


def test_no_file_names_a_registry() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            found = re.findall(r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:io|com|ai|org|dev)/\S+", path.read_text("utf-8"))
            assert set(found) <= {"habana.ai/gaudi:", "nvidia.com/gpu:", "kubeflow.org/v1"}, path


@pytest.mark.process
def test_the_sbatch_file_is_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "train.sbatch")], check=True)


def test_the_sbatch_file_trains() -> None:
    text = (DEPLOY / "train.sbatch").read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, re.MULTILINE))
    cards = int(options["gpus-per-node"])
    assert f"--nproc-per-node={cards} " in text and options["ntasks-per-node"] == "1"
    command = text[text.index("srun ") : text.index(" &\n")].replace("\\\n", " ").replace("'", "").split()
    assert_trains(command, int(options["nodes"]), cards)
