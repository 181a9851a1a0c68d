"""cluster.yaml: accepted by Ray's own launcher schema, and right where Ray does not look. No cloud is called."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray._raylet
import yaml
from ray._private.label_utils import validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config

from raydistill import config as configuration
from raydistill.models import published

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()

# What we may say about an EC2 instance, nested as in EC2's RunInstances. Ray hands node_config on unread, so a misspelt
# key would show only when the first machine is asked for.
NODE_CONFIG: dict[str, Any] = {
    "InstanceType": str,
    "ImageId": str,
    "KeyName": str,
    "SubnetIds": list,
    "SecurityGroupIds": list,
    "InstanceMarketOptions": {"MarketType": str, "SpotOptions": {"MaxPrice": str}},
    "IamInstanceProfile": {"Name": str, "Arn": str},
    "BlockDeviceMappings": [{"DeviceName": str, "Ebs": {"VolumeSize": int, "VolumeType": str, "Iops": int}}],
}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def check(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does before it talks to a cloud. Returns the configuration with Ray's defaults."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def strangers(value: Any, allowed: Any, path: str = "node_config") -> list[str]:
    """Paths in `value` that `allowed` does not know or that hold another type."""
    if isinstance(allowed, dict) and isinstance(value, dict):
        unknown = [f"{path}.{key}" for key in value if key not in allowed]
        return unknown + [s for k, v in value.items() if k in allowed for s in strangers(v, allowed[k], f"{path}.{k}")]
    if isinstance(allowed, list) and isinstance(value, list):
        return [s for i, item in enumerate(value) for s in strangers(item, allowed[0], f"{path}[{i}]")]
    return [] if isinstance(allowed, type) and isinstance(value, allowed) else [path]


def start_commands(config: dict[str, Any]) -> dict[str, str]:
    """The one `ray start` command of the head and of the workers."""
    commands_of = {}
    for role in ("head", "worker"):
        commands = [c for c in config[f"{role}_start_ray_commands"] if "ray start" in c]
        assert len(commands) == 1, f"{role}: {commands}"
        commands_of[role] = commands[0]
    return commands_of


def exports(command: str) -> dict[str, str]:
    """The settings that a start command exports before it calls `ray start`."""
    before, _, _ = command.partition("ray start")
    return dict(re.findall(r"\b(RAY_\w+)=(\S+?)(?=[\s;])", before)) if before.startswith("export ") else {}


def test_ray_accepts_it(cluster):
    prepared = check(cluster)
    assert set(prepared["available_node_types"]) == {"head", "gpu_spot", "gpu_on_demand", "cpu"}


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ([], "max_worker", 8),
        (["available_node_types", "gpu_spot"], "min_worker", 0),
        (["docker"], "images", "x"),
        (["auth"], "ssh_usr", "ubuntu"),
        (["available_node_types", "gpu_spot"], "max_workers", "six"),
    ],
)
def test_ray_refuses_a_slip(cluster, where, key, value):
    """Otherwise the test above would say nothing."""
    section = cluster
    for step in where:
        section = section[step]
    section[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check(cluster)


def test_ray_refuses_an_unknown_head(cluster):
    cluster["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="head_node_type"):
        check(cluster)


def test_node_config_holds_only_known_keys(cluster):
    for name, kind in cluster["available_node_types"].items():
        assert strangers(kind["node_config"], NODE_CONFIG) == [], name
        assert {"InstanceType", "ImageId"} <= set(kind["node_config"]), name


def test_a_slip_in_node_config_is_seen(cluster):
    node = cluster["available_node_types"]["gpu_spot"]["node_config"]
    node["InstanceMarketOptions"]["MarketTyp"] = "spot"
    node["InstancType"] = "g5.xlarge"
    node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] = "200"
    assert check(cluster)  # Ray sees none of the three
    assert strangers(node, NODE_CONFIG) == [
        "node_config.InstancType",
        "node_config.InstanceMarketOptions.MarketTyp",
        "node_config.BlockDeviceMappings[0].Ebs.VolumeSize",
    ]


def test_every_start_command_turns_token_authentication_on(cluster):
    for role, command in start_commands(check(cluster)).items():
        assert exports(command).get("RAY_AUTH_MODE") == "token", role
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in TEXT, "the token itself must stay out of the file"


def test_head_and_workers_agree_on_settings_that_ray_knows(cluster):
    """Ray ignores a setting that it does not know, so each name is looked up in its library."""
    head, worker = (exports(c) for c in start_commands(cluster).values())
    assert head == worker
    assert {"RAY_grpc_client_keepalive_time_ms", "RAY_grpc_keepalive_time_ms"} <= set(head)
    library = Path(ray._raylet.__file__).read_bytes()
    assert [name for name in head if name.encode() not in library] == []


def test_the_head_runs_drivers_only_and_workers_are_spot(cluster):
    kinds = cluster["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert kinds["gpu_spot"]["resources"]["GPU"] >= 1
    for name in ("gpu_spot", "cpu"):
        assert kinds[name]["min_workers"] == 0 < kinds[name]["max_workers"] <= cluster["max_workers"]
        assert kinds[name]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert kinds[name]["labels"]["market-type"] == "spot"
        validate_node_labels(kinds[name]["labels"])


def test_where_no_spot_machine_is_to_be_had_the_same_machine_is_paid_in_full(cluster):
    spot, full = (cluster["available_node_types"][name] for name in ("gpu_spot", "gpu_on_demand"))
    assert "InstanceMarketOptions" not in full["node_config"] and full["labels"]["market-type"] == "on-demand"
    assert full["resources"] == spot["resources"] and full["docker"] == spot["docker"]
    assert full["node_config"]["InstanceType"] == spot["node_config"]["InstanceType"]
    assert full["min_workers"] == 0 < full["max_workers"] < spot["max_workers"]


def test_nodes_run_the_pinned_ray_and_install_the_project_with_the_constraints(cluster):
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    images = re.findall(r"rayproject/ray:([\w.-]+)", TEXT)
    assert images and {image.rpartition("-")[0] for image in images} == {f"{pinned}-py311"}
    assert f"ray[default]=={pinned}" in TEXT
    setup, fetch = cluster["setup_commands"]
    folder = setup.split()[1]
    assert cluster["file_mounts"][folder] == "."
    assert "pip install" in setup and "-c constraints.txt -e ." in setup
    preset = configuration.load("imagenette", [])
    ids = [f"{path}@{published.REVISIONS.get(path, 'main')}" for path in (preset.vae.path, preset.generator.path)]
    fetched = "do hf download ${id%@*} --revision ${id#*@} --include"
    assert f"for id in {' '.join(ids)}; {fetched}" in fetch, "what the driver takes"
    for name in ("Dockerfile", "docs/clusters/rayjob.yaml"):
        assert f'WEIGHTS="{" ".join(ids)}"' in (ROOT / name).read_text(), name
    assert "--config imagenette" in TEXT and fetch.endswith("|| exit 1; done")


def test_the_commands_ask_for_the_gpus_that_the_cluster_has():
    for name in ("cluster.yaml", "docs/clusters/gcp.yaml"):
        head = (ROOT / name).read_text().partition("cluster_name")[0]
        assert "encode.num_gpus=1 sample.num_gpus=1 evaluate.num_gpus=1" in head, name
