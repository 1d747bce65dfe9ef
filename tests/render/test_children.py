"""What a replica may and may not do, as the manifests say it."""

import json
import re
from typing import Any

import pytest

from modelfleet.api.acceleratorclass import AcceleratorClassSpec, Toleration
from modelfleet.api.engine import Engine
from modelfleet.api.inferenceruntime import EnvVar, InferenceRuntimeSpec, RuntimeResources
from modelfleet.api.meta import APPLIED_HASH_ANNOTATION, Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec, ServedModel, longest_grace_seconds
from modelfleet.engines.dialects import DIALECTS
from modelfleet.render.children import Manifest, applied_hash, children, replicas_patch
from tests.builders import LLAMA

KEY = Key("team-a", "llama")
UID = "7d3c"
VLLM = InferenceRuntimeSpec(
    engine=Engine.VLLM,
    image="registry.example/vllm@sha256:" + "0" * 64,
    args=("--model={model}", "--revision={revision}", "--tensor-parallel-size={gpus}", "--port={port}"),
)
H100 = AcceleratorClassSpec(node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"})


def _children(
    spec: ModelDeploymentSpec = LLAMA,
    runtime: InferenceRuntimeSpec = VLLM,
    accelerator: AcceleratorClassSpec = H100,
    *,
    surge: bool = True,
) -> dict[str, Manifest]:
    rendered = children(KEY, UID, spec, runtime, accelerator, surge=surge)
    return {manifest["kind"]: manifest for manifest in rendered}


def _pod(spec: ModelDeploymentSpec = LLAMA, runtime: InferenceRuntimeSpec = VLLM, **rest: Any) -> Manifest:
    template: Manifest = _children(spec, runtime, **rest)["Deployment"]["spec"]["template"]
    return template["spec"]  # type: ignore[no-any-return]


def _container(spec: ModelDeploymentSpec = LLAMA, runtime: InferenceRuntimeSpec = VLLM, **rest: Any) -> Manifest:
    (container,) = _pod(spec, runtime, **rest)["containers"]
    return container  # type: ignore[no-any-return]


def _spec(**fields: Any) -> ModelDeploymentSpec:
    return LLAMA.model_copy(update=fields)


def _runtime(**fields: Any) -> InferenceRuntimeSpec:
    return InferenceRuntimeSpec.model_validate({**VLLM.model_dump(), **fields})


# --- security -----------------------------------------------------------------------------------

RESTRICTED = {
    "no privilege escalation": (("securityContext", "allowPrivilegeEscalation"), False),
    "every capability dropped": (("securityContext", "capabilities"), {"drop": ["ALL"]}),
}


@pytest.mark.parametrize("engine", Engine)
def test_every_engine_runs_under_the_restricted_standard(engine: Engine) -> None:
    """Pod Security `restricted`: no root, no escalation, no capability, the runtime's own seccomp profile."""
    pod = _pod(runtime=_runtime(engine=engine, args=()))
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for (section, name), expected in RESTRICTED.values():
        assert container[section][name] == expected
    for forbidden in ("hostNetwork", "hostPID", "hostIPC", "hostAliases", "initContainers"):
        assert forbidden not in pod
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {"emptyDir", "persistentVolumeClaim"}
    assert all("hostPort" not in port for port in container["ports"])


def test_no_token_is_mounted() -> None:
    """A model that is talked into running code finds no credentials of the cluster, and no list of its services."""
    pod = _pod()

    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "serviceAccountName" not in pod


def test_owner_is_the_model_deployment() -> None:
    """Children go with their owner by garbage collection, and none blocks its deletion."""
    expected = [
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "name": "llama",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    for manifest in _children().values():
        actual = manifest["metadata"]["ownerReferences"]

        assert expected == actual


# --- resources ----------------------------------------------------------------------------------


def test_resources() -> None:
    """GPUs and memory are limited to what is requested; CPU may burst."""
    expected = {
        "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
    }
    actual = _container(_spec(gpus_per_replica=2))["resources"]

    assert expected == actual


def test_another_resource_name() -> None:
    """A class may mean a slice of a GPU."""
    accelerator = AcceleratorClassSpec(resource_name="nvidia.com/mig-1g.10gb", node_selector={"gpu": "h100"})
    actual = _container(accelerator=accelerator)["resources"]["limits"]

    assert actual["nvidia.com/mig-1g.10gb"] == "1"
    assert "nvidia.com/gpu" not in actual


QUANTITIES = {
    "16Gi": "16Gi",
    "16384Mi": "16Gi",
    "1536Mi": "1536Mi",
    "1048576Ki": "1Gi",
    "1024Ti": "1Pi",
    "4000m": "4",
    "1500m": "1500m",
    "4": "4",
    "4000": "4k",
    "2000M": "2G",
    "1500M": "1500M",
}


@pytest.mark.parametrize("written", QUANTITIES)
def test_quantities_are_written_as_the_api_server_gives_them_back(written: str) -> None:
    """A quantity that the server spells otherwise would look edited for ever."""
    expected = QUANTITIES[written]
    runtime = _runtime(resources=RuntimeResources(cpu=written, memory=written, shared_memory=written))
    pod = _pod(runtime=runtime)
    requests = pod["containers"][0]["resources"]["requests"]
    actual = {requests["cpu"], requests["memory"], pod["volumes"][0]["emptyDir"]["sizeLimit"]}

    assert {expected} == actual


def test_shared_memory_is_memory() -> None:
    """Tensor-parallel workers talk through /dev/shm; Docker's 64 MiB would stop them."""
    pod = _pod()
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}

    assert volumes["shm"] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    assert mounts == {"/dev/shm": "shm", "/tmp": "tmp", "/models": "models"}  # noqa: S108


def test_cache_claim() -> None:
    """A claim holds the weights between replicas; without one each downloads its own."""
    model = LLAMA.model.model_copy(update={"cache_claim_name": "weights"})
    with_claim = {volume["name"]: volume for volume in _pod(_spec(model=model))["volumes"]}
    without = {volume["name"]: volume for volume in _pod()["volumes"]}

    assert with_claim["models"] == {"name": "models", "persistentVolumeClaim": {"claimName": "weights"}}
    assert without["models"] == {"name": "models", "emptyDir": {}}


def test_nodes_of_the_class_only() -> None:
    """Selector and tolerations are the class's, and empty fields of a toleration are not written."""
    accelerator = AcceleratorClassSpec(
        node_selector={"gpu": "h100"},
        tolerations=(
            Toleration(key="nvidia.com/gpu", effect="NoSchedule"),
            Toleration(key="pool", operator="Equal", value="inference"),
            Toleration(),
        ),
    )
    pod = _pod(accelerator=accelerator)

    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "operator": "Equal", "value": "inference"},
        {"operator": "Exists"},
    ]


# --- start and stop -----------------------------------------------------------------------------

BUDGETS = {30: 6, 31: 7, 1800: 360, 14_400: 2880}


@pytest.mark.parametrize("seconds", BUDGETS)
def test_startup_budget(seconds: int) -> None:
    """The startup probe grants startTimeoutSeconds and not less; the roll-out gives up a minute later."""
    spec = _spec(start_timeout_seconds=seconds)
    probe = _container(spec)["startupProbe"]
    budget = probe["periodSeconds"] * probe["failureThreshold"]
    deadline = _children(spec)["Deployment"]["spec"]["progressDeadlineSeconds"]

    assert probe["failureThreshold"] == BUDGETS[seconds]
    assert seconds <= budget < seconds + probe["periodSeconds"]
    assert deadline == seconds + 60
    assert deadline > budget


def test_probes_ask_the_engine_s_health() -> None:
    """Every probe asks the health path at the named port; only a minute of silence kills."""
    container = _container()
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/health", "port": "http"}
    liveness = container["livenessProbe"]

    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60


DRAINS: dict[tuple[Engine, int], tuple[int, int]] = {
    # The server finishes its streams after SIGTERM: 5 s for proxies, the drain, 10 s to exit.
    (Engine.VLLM, 120): (5, 135),
    (Engine.VLLM, 0): (5, 15),
    (Engine.TGI, 3600): (5, 3615),
    # This one does not: SIGTERM waits for the drain, and the grace period has room for both.
    (Engine.LLAMACPP, 120): (120, 250),
    (Engine.LLAMACPP, 0): (1, 11),
}


@pytest.mark.parametrize("case", DRAINS)
def test_drain_fits_into_the_grace_period(case: tuple[Engine, int]) -> None:
    """preStop + drain + margin: no stream is cut by SIGKILL."""
    engine, drain = case
    pod = _pod(_spec(drain_seconds=drain), _runtime(engine=engine, args=()))
    sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod["terminationGracePeriodSeconds"]

    assert DRAINS[case] == (sleep, grace)
    assert grace > sleep + (drain if DIALECTS[engine].drains_on_sigterm else 0)


@pytest.mark.parametrize("drain", [0, 1, 4, 5, 6, 120])
def test_the_bound_of_a_drain_is_no_less_than_any_pods_grace(drain: int) -> None:
    """What a waiting team reads covers the engine that takes longest, and no more."""
    pods = [_pod(_spec(drain_seconds=drain), _runtime(engine=engine, args=())) for engine in Engine]

    assert longest_grace_seconds(drain) == max(pod["terminationGracePeriodSeconds"] for pod in pods)


def test_surge_or_not() -> None:
    """One more before one less where there is room, one less before one more where there is none."""
    strategies = [_children(surge=surge)["Deployment"]["spec"]["strategy"]["rollingUpdate"] for surge in (True, False)]

    assert strategies == [{"maxSurge": 1, "maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 1}]


# --- the engine's own ---------------------------------------------------------------------------


def test_placeholders() -> None:
    """Arguments, command and variables are filled; nothing else in them is touched."""
    runtime = _runtime(
        command=("/serve", "{model}"),
        args=("{gpus}", "--json={{'a': 1}}", "{drainSeconds}s", "{port}{port}"),
        env=(EnvVar(name="REVISION", value="at {revision}"),),
        port=9000,
    )
    container = _container(_spec(gpus_per_replica=4, drain_seconds=30), runtime)

    assert container["command"] == ["/serve", "meta-llama/Llama-3.1-8B-Instruct"]
    assert container["args"] == ["4", "--json={{'a': 1}}", "30s", "90009000"]
    assert container["env"][-1] == {"name": "REVISION", "value": "at main"}
    assert container["ports"] == [{"name": "http", "containerPort": 9000, "protocol": "TCP"}]


def test_a_model_name_is_no_placeholder() -> None:
    """What is filled in is not filled again: a name cannot reach for another value."""
    model = ServedModel.model_construct(name="{revision}", revision="main")
    actual = _container(_spec(model=model))["args"][0]

    assert actual == "--model={revision}"


def test_image_s_own_entry_point() -> None:
    """Without a command the image's is used."""
    assert "command" not in _container()


@pytest.mark.parametrize(("engine", "name"), [(Engine.VLLM, "HF_TOKEN"), (Engine.NIM, "NGC_API_KEY")])
def test_token_comes_from_the_team_s_secret(engine: Engine, name: str) -> None:
    """It is a reference: the operator never reads the secret, and no token is in a manifest."""
    model = LLAMA.model.model_copy(update={"token_secret_name": "hub"})
    runtime = _runtime(engine=engine)
    variables = {variable["name"]: variable for variable in _container(_spec(model=model), runtime)["env"]}

    assert variables[name] == {"name": name, "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert len(variables) == 3
    assert name not in {variable["name"] for variable in _container(runtime=runtime)["env"]}


def test_caches_go_to_volumes() -> None:
    """A user without a home: every cache is written where a volume is."""
    runtime = _runtime(cache_mount_path="/cache")
    variables = {variable["name"]: variable["value"] for variable in _container(runtime=runtime)["env"]}

    assert variables == {"HOME": "/tmp", "HF_HOME": "/cache"}  # noqa: S108


def test_a_runtime_s_variable_wins_over_the_operator_s() -> None:
    """A name stands once: two of one name would be the last one's by accident."""
    runtime = _runtime(env=(EnvVar(name="HF_HOME", value="/weights"), EnvVar(name="HF_TOKEN", value="")))
    model = LLAMA.model.model_copy(update={"token_secret_name": "hf"})
    names = [variable["name"] for variable in _container(_spec(model=model), runtime)["env"]]

    assert names == ["HOME", "HF_HOME", "HF_TOKEN"]


# --- what the children say together -------------------------------------------------------------


def test_selectors_meet_the_pods() -> None:
    """Service and budget select what the Deployment makes, by one label that never changes."""
    made = _children()
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        made["Deployment"]["spec"]["selector"]["matchLabels"],
        made["Service"]["spec"]["selector"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]

    for selector in selectors:
        assert selector == {"modelfleet.dev/deployment": "llama"}
        assert selector.items() <= labels.items()
    assert made["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_the_budget_lets_a_broken_node_be_drained() -> None:
    """A pod that never became ready must not hold a node."""
    actual = _children()["PodDisruptionBudget"]["spec"]["unhealthyPodEvictionPolicy"]

    assert actual == "AlwaysAllow"


def test_nobody_but_the_scaler_owns_replicas() -> None:
    """The rendered Deployment has no count; the patch that has one has nothing else, and names its object by UID."""
    expected = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama", "namespace": "team-a", "uid": "child"},
        "spec": {"replicas": 3},
    }
    actual = replicas_patch(KEY, "child", 3)

    assert expected == actual
    assert "replicas" not in _children()["Deployment"]["spec"]


def test_hash_changes_with_the_content_and_only_then() -> None:
    """The hash is how a change is seen without comparing objects."""
    first, again = _children(), _children()
    other = _children(_spec(drain_seconds=7))

    assert first == again
    assert re.fullmatch(r"[0-9a-f]{16}", applied_hash(first["Deployment"]))
    assert applied_hash(first["Deployment"]) != applied_hash(other["Deployment"])
    assert applied_hash(first["Service"]) == applied_hash(other["Service"])
    assert applied_hash({"metadata": {"annotations": {APPLIED_HASH_ANNOTATION: "abc"}}}) == "abc"
    assert applied_hash({"metadata": {}}) == ""


def test_scaling_is_no_change_of_the_children() -> None:
    """Bounds, targets and modes never start a roll-out."""
    scaling = LLAMA.scaling.model_copy(update={"max_replicas": 50})
    actual = _children(_spec(scaling=scaling, priority=9))

    assert _children() == actual


def test_manifests_are_plain_json() -> None:
    """No tuple, enum or model is left in a manifest."""
    made = _children()
    actual = json.loads(json.dumps(made))

    assert made == actual
