"""launch/jobset.yaml against the schemas of JobSet and Kubernetes, and against what it starts."""

import copy
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile import instructions
from repository import ROOT

from genrec_jax.cli import train
from genrec_jax.core.endings import CODES
from genrec_jax.core.errors import Stopped

KUBERNETES = "1.31"  # the oldest that the file names


def keys(required: str, **properties: Any) -> dict[str, Any]:
    """An object that has these keys and no others."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


# What the file uses of the CRD jobsets.jobset.x-k8s.io, version v1alpha2, and what its webhook asks
# of names. `template` is a Job's, for the schema of Kubernetes itself.
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40}
RULE = keys(
    "name action",
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": [
                *("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes"),
                *("MaxFailedIndexesExceeded", "PodFailurePolicy"),
            ]
        },
    },
    targetReplicatedJobs={"type": "array", "items": NAME},
)
JOBSET = keys(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=keys("name", name=NAME),
    spec=keys(
        "replicatedJobs",
        network=keys("", enableDNSHostnames={"type": "boolean"}, subdomain=NAME),
        failurePolicy=keys(
            "",
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={"type": "array", "items": RULE},
        ),
        replicatedJobs={
            "type": "array",
            "items": keys(
                "name template",
                name=NAME,
                replicas={"type": "integer", "minimum": 1},
                template=keys("spec", spec={"type": "object"}),
            ),
        },
    ),
)


@pytest.fixture
def jobset() -> Any:
    return yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())


def check_schemas(jobset: Any) -> None:
    jsonschema.validate(jobset, JOBSET)
    for job in jobset["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def container_of(jobset: Any) -> Any:
    (job,) = jobset["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return container


def test_schemas(jobset: Any) -> None:
    check_schemas(jobset)


def test_the_schemas_find_faults(jobset: Any) -> None:
    def misspell(values: dict[str, Any], key: str) -> None:
        values[f"{key}s"] = values.pop(key)

    def spec(faulty: Any) -> Any:
        return faulty["spec"]["replicatedJobs"][0]["template"]["spec"]

    for place, key in [
        (lambda faulty: faulty["spec"], "failurePolicy"),
        (lambda faulty: faulty["spec"]["failurePolicy"]["rules"][0], "action"),
        (spec, "podFailurePolicy"),
        (lambda faulty: spec(faulty)["podFailurePolicy"]["rules"][0]["onExitCodes"], "values"),
        (lambda faulty: container_of(faulty)["volumeMounts"][0], "mountPath"),
    ]:
        faulty = copy.deepcopy(jobset)
        misspell(place(faulty), key)
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check_schemas(faulty)


def test_its_flags_are_those_of_the_command_and_fit_the_cluster(jobset: Any) -> None:
    (job,) = jobset["spec"]["replicatedJobs"]
    spec, container = job["template"]["spec"], container_of(jobset)
    (variable,) = [one["name"] for one in container["env"] if "valueFrom" in one]
    arguments = [x.replace(f"$({variable})", "1") for x in container["args"]]
    values = train.main.parse(["train", *arguments])

    assert spec["completions"] == spec["parallelism"] == values.processes
    assert spec["completionMode"] == "Indexed"
    assert values.process == 1
    name = jobset["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert values.coordinator == f"{name}-{job['name']}-0-0.{name}:{port}"


def test_an_interrupted_run_starts_again(jobset: Any) -> None:
    """Exit code 75 fails the job by its policy, and the JobSet starts anew for that reason."""
    (job,) = jobset["spec"]["replicatedJobs"]
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    code = rules[0]["onExitCodes"]
    assert code["values"] == [CODES[Stopped]]
    assert code["containerName"] == container_of(jobset)["name"]
    assert {rule["action"] for rule in rules} == {"FailJob"}
    (again,) = jobset["spec"]["failurePolicy"]["rules"]
    assert again["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert again["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["template"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_it_fits_the_image(jobset: Any) -> None:
    container = container_of(jobset)
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    image = dict(instructions())
    assert pod["securityContext"]["runAsUser"] == int(image["USER"])
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert image["WORKDIR"] not in mounts  # it would hide the code
    workdir = next(x for x in container["args"] if x.startswith("--workdir=")).partition("=")[2]
    cache = next(x["value"] for x in container["env"] if x["name"] == "GENREC_CACHE_DIR")
    for path in (workdir, cache):
        assert any(path.startswith(f"{mount}/") for mount in mounts)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
