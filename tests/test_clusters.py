"""docs/clusters/ and the Dockerfile: as Ray and KubeRay take them, and at one with cluster.yaml. No cloud is called."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from test_cluster_yaml import exports, start_commands, strangers

from raydistill.config import load

ROOT = Path(__file__).parents[1]
AWS, GCP = (yaml.safe_load((ROOT / name).read_text()) for name in ("cluster.yaml", "docs/clusters/gcp.yaml"))
RAYJOB_TEXT = (ROOT / "docs" / "clusters" / "rayjob.yaml").read_text()
RAYJOB = yaml.safe_load(RAYJOB_TEXT)
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
GPUS = re.findall(r"\S+\.num_gpus=\S+", RAYJOB["spec"]["entrypoint"])  # as the job is documented to be given them
PRESETS = ("quickstart", "nette128", "cifar10", "imagenette", "imagewoof", "imagenet100", "imagenet1k")

# What may be said of a Compute Engine instance, nested as in its API (instances.insert).
INSTANCE: dict[str, Any] = {
    "machineType": str,
    "disks": [
        {
            "boot": bool,
            "autoDelete": bool,
            "type": str,
            "initializeParams": {"diskSizeGb": int, "sourceImage": str, "diskType": str},
        }
    ],
    "serviceAccounts": [{"email": str, "scopes": list}],
    "scheduling": {"provisioningModel": str, "instanceTerminationAction": str, "onHostMaintenance": str},
    "guestAccelerators": [{"acceleratorType": str, "acceleratorCount": int}],
    "metadata": {"items": list},
}


def closed(schema: Any) -> Any:
    """The schema with unknown keys refused wherever it names its keys: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(value) for key, value in schema.items()}
    if "properties" in parts and isinstance(parts["properties"], dict) and "additionalProperties" not in parts:
        parts["additionalProperties"] = False
    return parts


@pytest.fixture(scope="module")
def rayjobs(shared: Path) -> jsonschema.Draft7Validator:
    """KubeRay's schema of a RayJob."""
    definition = yaml.load((shared / "data" / "kuberay" / "rayjobs.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return jsonschema.Draft7Validator(closed(spec))


def groups(job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = job["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only


def asked(preset: str, *overrides: str) -> dict[str, tuple[float, float]]:
    """CPUs and GPUs that one worker of each stage reserves."""
    sections = vars(load(preset, list(overrides)))
    return {
        name: (section.num_cpus, getattr(section, "num_gpus", 0.0))
        for name, section in sections.items()
        if hasattr(section, "num_cpus") and name != "ray"
    }


def offers(cluster: str) -> list[dict[str, float]]:
    """What a worker of each kind has."""
    if cluster == "rayjob":
        requests = [container(group)["resources"]["requests"] for name, group in groups(RAYJOB) if name != "head"]
        return [{"CPU": float(r["cpu"]), "GPU": float(r.get("nvidia.com/gpu", 0))} for r in requests]
    types = {"aws": AWS, "gcp": GCP}[cluster]["available_node_types"]
    return [kind["resources"] for name, kind in types.items() if name != "head"]


def test_ray_accepts_the_one_for_google_cloud() -> None:
    prepared = prepare_config(copy.deepcopy(GCP))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == set(AWS["available_node_types"])


def test_its_nodes_are_said_in_the_words_of_compute_engine() -> None:
    for name, kind in GCP["available_node_types"].items():
        assert strangers(kind["node_config"], INSTANCE) == [], name
        spot = kind["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert spot == (kind.get("labels", {}).get("market-type") == "spot"), name
    assert strangers({"machinetype": "n2"}, INSTANCE) == ["node_config.machinetype"]


def test_both_clouds_have_the_same_cluster() -> None:
    shared_keys = (
        "max_workers",
        "idle_timeout_minutes",
        "file_mounts",
        "setup_commands",
        "rsync_exclude",
        "rsync_filter",
    )
    assert {k: GCP[k] for k in shared_keys} == {k: AWS[k] for k in shared_keys}
    assert start_commands(GCP) == start_commands(AWS)
    for name, kind in AWS["available_node_types"].items():
        other = GCP["available_node_types"][name]
        for key in ("resources", "labels", "min_workers", "max_workers"):
            assert kind.get(key) == other.get(key), (name, key)


@pytest.mark.parametrize("cluster", ["aws", "gcp", "rayjob"])
@pytest.mark.parametrize("preset", PRESETS)
def test_whatever_a_stage_asks_for_some_node_can_give(cluster: str, preset: str) -> None:
    for overrides in ([], GPUS):
        for stage, (cpus, gpus) in asked(preset, *overrides).items():
            assert any(o["CPU"] >= cpus and o.get("GPU", 0) >= gpus for o in offers(cluster)), (stage, cpus, gpus)


def test_the_jobs_command_gives_a_gpu_to_all_that_computes_on_one() -> None:
    stages = asked("imagenet1k", *GPUS)
    assert {name for name, (_, gpus) in stages.items() if gpus} == {"encode", "sample", "embed", "evaluate"}
    assert {"cluster"} < set(stages)


def test_the_jobs_command_names_nothing_of_soft_labels_where_the_preset_asks_for_none() -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    preset, *keys = words[words.index("--config") + 1 :]
    assert load(preset, keys).evaluate.protocol.name == "hard"
    assert not [key for key in keys if key.startswith(("teacher.", "label."))], "the run would be refused"


def test_kuberay_accepts_the_job(rayjobs: jsonschema.Draft7Validator) -> None:
    assert [e.message for e in rayjobs.iter_errors(RAYJOB["spec"])] == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "preRunningDeadlineSecond", 5),
        ((), "suspend", "yes"),
        (("rayClusterSpec",), "authOption", {}),
        (("rayClusterSpec", "workerGroupSpecs", 0), "maxReplica", 3),
        (("deletionStrategy", "deletionRules", 0), "policy", "DeleteEverything"),
    ],
)
def test_kuberay_refuses_a_slip(rayjobs: jsonschema.Draft7Validator, where: Any, key: str, value: Any) -> None:
    spec = part = copy.deepcopy(RAYJOB["spec"])
    for step in where:
        part = part[step]
    part[key] = value
    assert list(rayjobs.iter_errors(spec))


def test_the_job_is_bounded_private_and_waits_for_a_word() -> None:
    spec = RAYJOB["spec"]
    assert spec["suspend"] is True and spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    ended = {rule["condition"]["jobStatus"] for rule in spec["deletionStrategy"]["deletionRules"]}
    assert ended == {"SUCCEEDED", "FAILED"} and "shutdownAfterJobFinishes" not in spec
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(g["minReplicas"] == 0 < g["maxReplicas"] for name, g in groups(RAYJOB) if name != "head")
    assert "serviceType" not in RAYJOB_TEXT  # a ClusterIP, which no stranger reaches


def test_its_nodes_keep_alive_as_those_of_cluster_yaml() -> None:
    settings = exports(start_commands(AWS)["worker"])
    keepalive = {name: value for name, value in settings.items() if name != "RAY_AUTH_MODE"}
    for name, group in groups(RAYJOB):
        assert {v["name"]: v["value"] for v in container(group)["env"]} == (keepalive | {}), name
        assert "requests" in container(group)["resources"], name


def test_every_node_runs_one_image_with_the_pinned_ray() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", CONSTRAINTS, re.MULTILINE)
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert re.findall(r"rayproject/ray:([\d.]+)-", DOCKERFILE) == [pinned, pinned]
    assert (
        re.findall(r"rayproject/ray:([\d.]+)-", (ROOT / "docs" / "clusters" / "gcp.yaml").read_text()) == [pinned] * 3
    )
    assert len({container(group)["image"] for _, group in groups(RAYJOB)}) == 1


def test_a_linter_of_dockerfiles_finds_nothing(tmp_path: Path) -> None:
    """No image can be built where there is no engine: hadolint reads the file, and finds what it is known to find."""
    linter = str(Path(sysconfig.get_path("scripts")) / "hadolint")
    done = subprocess.run([linter, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("RUN pip", "RUN cd /tmp && sudo pip"))
    done = subprocess.run([linter, "--no-color", str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 1 and "DL3004" in done.stdout, "sudo in an image"


def test_the_image_holds_what_the_entry_point_needs_and_nothing_more() -> None:
    copied = {name for line in re.findall(r"^COPY --\S+ (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "raydistill", "jobs"}
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    script = RAYJOB["spec"]["entrypoint"].split()[1]
    assert (ROOT / Path(script).relative_to(folder)).is_file()
    assert "pip install --no-cache-dir -c constraints.txt -e ." in DOCKERFILE
