"""A job may name only a service account and a secret that its author may use: the chart's policy on the real API server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config, utils

from localcloud.controlplane import ControlPlane
from spottune_contract.labels import API_VERSION, GROUP, PLURAL
from tests.fixtures.agentcluster import await_until
from tests.fixtures.chart import render
from tests.fixtures.jobs import job_manifest

pytestmark = pytest.mark.cluster

JOBS = {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["create", "update", "get"]}


class Author:
    """A user of one namespace who may write jobs, and what `rules` add."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api, self.namespace = client.CustomObjectsApi(api), namespace

    def submit(self, name: str, *, account: str | None = None, secret: str | None = None) -> dict[str, Any]:
        overrides = None if account is None else {"serviceAccountName": account}
        manifest = job_manifest(name, spec__podOverrides=overrides, spec__checkpoint__credentialsSecret=secret)
        created: dict[str, Any] = self.api.create_namespaced_custom_object(GROUP, API_VERSION, self.namespace, PLURAL, manifest)
        return created

    def refusal(self, name: str, **named: str) -> str:
        with pytest.raises(client.ApiException) as caught:
            self.submit(name, **named)
        assert caught.value.status == 403
        return str(json.loads(caught.value.body)["message"])


@pytest.fixture
def author(
    control_plane: ControlPlane, kube: client.ApiClient, finetunejobs: client.CustomObjectsApi, namespace: str
) -> Iterator[Callable[..., Author]]:
    """Makes authors: `author(rules…)`. The policy holds in this namespace only, so that other tests don't feel it."""
    rbac, numbers, suffix = client.RbacAuthorizationV1Api(kube), itertools.count(), namespace.removeprefix("test")
    for document in render("policy-jobs.yaml"):
        document["metadata"]["name"] += suffix
        if document["kind"].endswith("Binding"):
            document["spec"]["policyName"] += suffix
            document["spec"]["matchResources"] = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        utils.create_from_dict(kube, document)

    def make(*rules: dict[str, Any]) -> Author:
        user = f"author-{next(numbers)}{suffix}"
        rbac.create_namespaced_role(namespace, {"metadata": {"name": user}, "rules": [JOBS, *rules]})
        subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}
        rbac.create_namespaced_role_binding(namespace, {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]})
        return Author(config.new_client_from_config(str(control_plane.client_config(user))), namespace)

    canary, tries = make(), itertools.count()

    def enforced() -> bool:
        try:
            canary.submit(f"canary-{next(tries)}", account="privileged")
        except client.ApiException as error:
            return "you may not use the service account" in str(error.body)
        return False

    await_until(enforced, "the policy is enforced")
    yield make
    admission = client.AdmissionregistrationV1Api(kube)
    admission.delete_validating_admission_policy_binding(f"spottune-jobs{suffix}")
    admission.delete_validating_admission_policy(f"spottune-jobs{suffix}")


def test_an_author_without_further_rights_may_name_neither_account_nor_secret(author: Callable[..., Author]) -> None:
    alice = author()
    alice.submit("plain")
    assert "spec.podOverrides.serviceAccountName: you may not use the service account admin" in alice.refusal("a", account="admin")
    assert "spec.checkpoint.credentialsSecret: you may not read the secret root" in alice.refusal("b", secret="root")


def test_a_right_on_one_account_and_one_secret_is_good_for_just_these(author: Callable[..., Author]) -> None:
    bob = author(
        {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["writer"], "verbs": ["use"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["bucket"], "verbs": ["get"]},
    )
    bob.submit("named", account="writer", secret="bucket")
    bob.refusal("other-account", account="admin", secret="bucket")
    bob.refusal("other-secret", account="writer", secret="root")


def test_who_may_create_pods_in_the_namespace_could_use_them_all_anyway(author: Callable[..., Author]) -> None:
    author({"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}).submit("any", account="admin", secret="root")


def test_a_job_that_names_an_account_already_can_be_changed_otherwise_by_others(
    author: Callable[..., Author], finetunejobs: client.CustomObjectsApi, namespace: str
) -> None:
    alice = author()
    job = finetunejobs.create_namespaced_custom_object(
        GROUP, API_VERSION, namespace, PLURAL, job_manifest("given", spec__podOverrides={"serviceAccountName": "writer"})
    )
    job["spec"]["suspend"] = True
    changed = alice.api.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "given", job)
    changed["spec"]["podOverrides"] = {"serviceAccountName": "admin"}
    with pytest.raises(client.ApiException, match="you may not use the service account admin"):
        alice.api.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "given", changed)


@pytest.mark.parametrize("change", [{"image": "example.org/other:1"}, {"env": [{"name": "HTTPS_PROXY", "value": "http://example.org"}]}])
def test_who_may_only_edit_a_job_cannot_run_other_code_with_the_rights_it_names(
    author: Callable[..., Author], finetunejobs: client.CustomObjectsApi, namespace: str, change: dict[str, object]
) -> None:
    alice = author()
    job = finetunejobs.create_namespaced_custom_object(
        GROUP, API_VERSION, namespace, PLURAL, job_manifest("lent", spec__podOverrides={"serviceAccountName": "writer"})
    )
    job["spec"]["podOverrides"] |= change
    with pytest.raises(client.ApiException, match="you may not use the service account writer"):
        alice.api.replace_namespaced_custom_object(GROUP, API_VERSION, namespace, PLURAL, "lent", job)
