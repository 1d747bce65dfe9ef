"""The registry of kinds: everything a CustomResourceDefinition says besides the schema."""

from dataclasses import dataclass
from typing import Literal

from modelfleet.api.acceleratorclass import AcceleratorClassSpec, AcceleratorClassStatus
from modelfleet.api.inferenceruntime import PLACEHOLDERS, InferenceRuntimeSpec
from modelfleet.api.meta import Model
from modelfleet.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from modelfleet.api.tenant import TenantSpec, TenantStatus
from modelfleet.api.tenantview import TenantViewSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A printer column; `wide` ones show with `kubectl get -o wide` only."""

    name: str
    json_path: str
    type: Literal["string", "integer", "date"] = "string"
    description: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A CEL rule on the object's root, on `spec` or below it (`path` from the root, dots between fields)."""

    path: str
    rule: str
    message: str
    field_path: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePaths:
    """The three paths of the scale subresource."""

    spec_replicas: str
    status_replicas: str
    label_selector: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind as the API server is told about it."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    description: str
    spec: type[Model]
    status: type[Model] | None
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    scale: ScalePaths | None = None
    max_name_length: int = 63


_KNOWN = sorted(f"{{{name}}}" for name in PLACEHOLDERS)


def _placeholders_are_known(path: str, text: str, *, field_path: str = "") -> Rule:
    return Rule(
        path=path,
        rule=f"{text}.findAll('[{{][A-Za-z]+[}}]').all(placeholder, placeholder in {_KNOWN})",
        message=f"a word in braces must be a placeholder; known are {', '.join(_KNOWN)}",
        field_path=field_path,
    )


MODEL_DEPLOYMENT = Kind(
    kind="ModelDeployment",
    plural="modeldeployments",
    short_names=("mdep",),
    scope="Namespaced",
    description="One model served by inference replicas that Modelfleet starts, scales and explains.",
    spec=ModelDeploymentSpec,
    status=ModelDeploymentStatus,
    columns=(
        Column(name="Ready", json_path=".status.ready", description="Pods that serve / pods that exist."),
        Column(
            name="Desired",
            json_path=".status.desiredReplicas",
            type="integer",
            description="Replicas asked for.",
        ),
        Column(
            name="Wanted",
            json_path=".status.wantedReplicas",
            type="integer",
            description="Replicas the load alone calls for.",
        ),
        Column(name="Load", json_path=".status.load", description="Queue / tolerated queue, generated tokens/s."),
        Column(name="Limited-By", json_path=".status.limitedBy", description="What keeps desired from wanted."),
        Column(name="Reason", json_path=".status.reason", description="One word for the state."),
        Column(name="Mode", json_path=".status.mode", description="Mode in force, and until when."),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
        Column(name="Model", json_path=".spec.model.name", wide=True),
        Column(name="Runtime", json_path=".spec.runtime", wide=True),
        Column(name="Accelerator", json_path=".spec.accelerator", wide=True),
        Column(name="Bounds", json_path=".status.bounds", description="Bounds in force, and whose.", wide=True),
    ),
    rules=(
        Rule(
            path="",
            rule="self.metadata.name.matches('^[a-z]')",
            message="name must start with a letter: the Service takes it, and Kubernetes before 1.35 asks so",
            field_path=".metadata.name",
        ),
        Rule(
            path="",
            rule="!has(oldSelf.status) || !has(oldSelf.status.replicas) || oldSelf.status.replicas == 0 "
            "|| self.spec.accelerator == oldSelf.spec.accelerator",
            message="accelerator cannot change while replicas exist; create a second ModelDeployment instead",
            field_path=".spec.accelerator",
        ),
        # On spec, not on spec.scaling: a rule there is tried on its default {} before the fields' own defaults.
        Rule(
            path="spec",
            rule="self.scaling.minReplicas <= self.scaling.maxReplicas",
            message="minReplicas must not be greater than maxReplicas; raise maxReplicas or lower minReplicas",
            field_path=".scaling.minReplicas",
        ),
        Rule(
            path="spec",
            rule="!has(self.scaling.schedules) || self.scaling.schedules.all(each, !has(each.minReplicas) "
            "|| each.minReplicas <= (has(each.maxReplicas) ? each.maxReplicas : self.scaling.maxReplicas))",
            message="minReplicas of a schedule must not be greater than its maxReplicas, nor than scaling.maxReplicas "
            "where it has none; give the schedule a maxReplicas",
            field_path=".scaling.schedules",
        ),
        Rule(
            path="spec.scaling.schedules.items",
            rule="has(self.minReplicas) || has(self.maxReplicas)",
            message="minReplicas or maxReplicas must be given",
            field_path=".minReplicas",
        ),
        Rule(
            path="spec.scaling.schedules.items",
            rule="self.start != self.end",
            message="start and end must differ",
            field_path=".end",
        ),
    ),
    scale=ScalePaths(
        spec_replicas=".spec.scaling.minReplicas",
        status_replicas=".status.replicas",
        label_selector=".status.selector",
    ),
    # The Service takes the name, and a Service's name is a DNS label.
    max_name_length=63,
)

ACCELERATOR_CLASS = Kind(
    kind="AcceleratorClass",
    plural="acceleratorclasses",
    short_names=("accel",),
    scope="Cluster",
    description="One kind of GPU: the extended resource, the nodes that have it, and its price.",
    spec=AcceleratorClassSpec,
    status=AcceleratorClassStatus,
    columns=(
        Column(name="Resource", json_path=".spec.resourceName"),
        Column(name="Nodes", json_path=".status.nodes", type="integer"),
        Column(name="Capacity", json_path=".status.capacityGpus", type="integer", description="Allocatable GPUs."),
        Column(name="Free", json_path=".status.freeGpus", type="integer", description="GPUs that no pod holds."),
        Column(name="USD-per-GPU-hour", json_path=".spec.usdPerGpuHour"),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ),
    rules=(
        Rule(
            path="spec",
            rule="!self.resourceName.startsWith('requests.')",
            message="resourceName must not start with requests. as in a ResourceQuota; drop that prefix",
            field_path=".resourceName",
        ),
        Rule(
            path="spec.tolerations.items",
            rule="self.operator == 'Equal' || size(self.value) == 0",
            message="value must be empty when operator is Exists; use operator Equal or drop the value",
            field_path=".value",
        ),
        Rule(
            path="spec.tolerations.items",
            rule="self.operator == 'Exists' || size(self.key) > 0",
            message="key must not be empty when operator is Equal; name the taint or use operator Exists",
            field_path=".key",
        ),
    ),
)

INFERENCE_RUNTIME = Kind(
    kind="InferenceRuntime",
    plural="inferenceruntimes",
    short_names=("irt",),
    scope="Cluster",
    description="How one inference engine is run: image, arguments, port and probes, curated by administrators.",
    spec=InferenceRuntimeSpec,
    status=None,
    columns=(
        Column(name="Engine", json_path=".spec.engine"),
        Column(name="Image", json_path=".spec.image"),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ),
    rules=(
        Rule(
            path="spec",
            rule="!self.image.endsWith(':latest')",
            message="image must not use the tag latest; pin a digest or a release tag",
            field_path=".image",
        ),
        Rule(
            path="spec",
            rule="self.cacheMountPath != '/dev/shm'",
            message="cacheMountPath must not be /dev/shm, which holds the shared memory; use another directory",
            field_path=".cacheMountPath",
        ),
        _placeholders_are_known("spec.command.items", "self"),
        _placeholders_are_known("spec.args.items", "self"),
        _placeholders_are_known("spec.env.items", "self.value", field_path=".value"),
    ),
)

TENANT = Kind(
    kind="Tenant",
    plural="tenants",
    short_names=("tn",),
    scope="Cluster",
    description="A team's namespaces, and what administrators let it have of the cluster's GPUs and tokens.",
    spec=TenantSpec,
    status=TenantStatus,
    columns=(
        Column(
            name="Guaranteed",
            json_path=".status.guaranteed",
            type="integer",
            description="GPUs that are its own and asked for.",
        ),
        Column(name="Used", json_path=".status.used", type="integer", description="GPUs that its pods hold."),
        Column(name="Borrowed", json_path=".status.borrowed", type="integer", description="GPUs beyond its nominal."),
        Column(name="Lent", json_path=".status.lent", type="integer", description="GPUs of its own that others use."),
        Column(
            name="Waiting", json_path=".status.waiting", type="integer", description="GPUs asked for and not there."
        ),
        Column(name="Reason", json_path=".status.reason", description="One word for the state."),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
        Column(name="Cohort", json_path=".spec.cohort", wide=True),
    ),
    rules=(
        Rule(
            path="spec",
            rule="self.namespaces.all(name, self.namespaces.exists_one(other, other == name))",
            message="namespaces must not name one twice; drop the second",
            field_path=".namespaces",
        ),
        Rule(
            path="spec.quotas.items",
            rule="!has(self.lendingLimit) || self.lendingLimit <= self.nominalQuota",
            message="lendingLimit must not be greater than nominalQuota; lower it, or raise nominalQuota",
            field_path=".lendingLimit",
        ),
        Rule(
            path="spec.tokensPerMinute.models.items",
            rule="has(self.input) || has(self.output) || has(self.total)",
            message="give one of input, output and total",
        ),
    ),
)

TENANT_VIEW = Kind(
    kind="TenantView",
    plural="tenantviews",
    short_names=("tview",),
    scope="Namespaced",
    description="What the Tenant of this namespace has. The operator writes it; whatever else is written is put back.",
    spec=TenantViewSpec,
    status=None,
    columns=(
        Column(name="Tenant", json_path=".spec.tenant"),
        Column(name="Used/Nominal", json_path=".spec.used", description="GPUs by class, all its namespaces together."),
        Column(name="Waiting", json_path=".spec.waiting", type="integer", description="GPUs asked for and not there."),
        Column(name="Reason", json_path=".spec.reason", description="One word for the state."),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
        Column(name="Message", json_path=".spec.message", wide=True),
    ),
)

KINDS = (MODEL_DEPLOYMENT, ACCELERATOR_CLASS, INFERENCE_RUNTIME, TENANT, TENANT_VIEW)
