#!/usr/bin/env python3
"""The field report's calls by the Kubernetes client for Python, through `kubectl proxy`.

usage: field_report.py http://ADDRESS < VM.json

The KubeVirt SDK that the report uses is generated: its methods are ApiClient.call_api with paths
`/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}`. The same is done here, so that nothing but the
package python3-kubernetes is needed. The VM is one that is stopped. Prints a line a case: `ok NAME`, `FAIL NAME: why`,
or `later NAME: what` for an operation that is answered with 501; then `end`.
"""

import json
import sys
import time

from kubernetes import client
from kubernetes.client.rest import ApiException

NAMESPACE = "default"
OBJECTS = "/apis/kubevirt.io/{version}/namespaces/{namespace}/{plural}/{name}"
ALL = "/apis/kubevirt.io/{version}/{plural}"
LIST = "/apis/kubevirt.io/{version}/namespaces/{namespace}/{plural}"
SUBRESOURCES = "/apis/subresources.kubevirt.io/{version}/namespaces/{namespace}/{plural}/{name}/{operation}"
MERGE = "application/merge-patch+json"
VMS, VMIS = "virtualmachines", "virtualmachineinstances"


class Later(Exception):
    """An operation that is not carried out yet."""


def wanted(condition, why):
    if not condition:
        raise AssertionError(why)


class Sdk:
    """The generated client's way to call."""

    def __init__(self, host):
        configuration = client.Configuration()
        configuration.host = host
        self.api = client.ApiClient(configuration)

    def call(self, method, template, body=None, query=(), content_type="application/json", **names):
        names.setdefault("namespace", NAMESPACE)
        placeholders = {key: value for key, value in names.items() if "{" + key + "}" in template}
        headers = {
            "Accept": self.api.select_header_accept(["application/json"]),
            "Content-Type": content_type,
        }
        data, code, _ = self.api.call_api(
            template, method, placeholders, list(query), headers, body=body, post_params=[], files={},
            response_type="object", auth_settings=[], _return_http_data_only=False, _request_timeout=90)
        return data, code

    def operate(self, operation, body=None, version="v1alpha3", plural=VMS, name="by-python", method="PUT"):
        return self.call(method, SUBRESOURCES, body=body, version=version, plural=plural, name=name,
                         operation=operation)

    def read(self, plural, name="by-python", version="v1"):
        return self.call("GET", OBJECTS, version=version, plural=plural, name=name)[0]


def refused(call, code, text=""):
    """The exception of a call that must be refused so."""
    try:
        call()
    except ApiException as error:
        if error.status == 501 and code != 501:
            raise Later(error.reason) from error
        body = error.body if isinstance(error.body, str) else (error.body or b"").decode()
        wanted(error.status == code, f"it was refused with {error.status} instead of {code}: {body[:300]}")
        wanted(text in body, f"the refusal does not say `{text}`: {body[:300]}")
        status = json.loads(body)
        wanted(status["kind"] == "Status" and status["code"] == code, f"it is no Status: {body[:300]}")
        return status
    raise AssertionError("it was accepted, but it should have been refused")


def until(what, probe, seconds=180):
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            value = probe()
            if value:
                return value
        except ApiException as error:
            last = error.status
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds} s for {what}; last answer: {last}")


def running(sdk, name="by-python"):
    def probe():
        vmi = sdk.read(VMIS, name)
        return vmi if vmi.get("status", {}).get("phase") == "Running" else None
    return until(f"{name} to run", probe)


def gone(sdk, plural, name="by-python"):
    def probe():
        try:
            sdk.read(plural, name)
        except ApiException as error:
            return error.status == 404
        return False
    until(f"{plural} {name} to be gone", probe, 120)


def create(sdk, vm):
    made, code = sdk.call("POST", LIST, body=vm, version="v1", plural=VMS)
    wanted(code == 201, f"it answered {code}")
    wanted(made["metadata"]["uid"] and made["kind"] == "VirtualMachine", f"it made {made}")
    refused(lambda: sdk.call("POST", LIST, body=vm, version="v1", plural=VMS), 409, "already exists")


def create_by_old_version(sdk, vm):
    old = json.loads(json.dumps(vm))
    old["apiVersion"] = "kubevirt.io/v1alpha3"
    old["metadata"]["name"] = "by-python-old"
    old["spec"]["dataVolumeTemplates"] = []
    old["spec"]["template"]["spec"]["volumes"] = []
    old["spec"]["template"]["spec"]["domain"]["devices"]["disks"] = []
    made, code = sdk.call("POST", LIST, body=old, version="v1alpha3", plural=VMS)
    wanted(code == 201 and made["apiVersion"] == "kubevirt.io/v1alpha3", f"it answered {code}: {made}")
    read = sdk.read(VMS, "by-python-old", "v1")
    wanted(read["apiVersion"] == "kubevirt.io/v1", f"as v1 it is {read['apiVersion']}")
    _, code = sdk.call("DELETE", OBJECTS, version="v1alpha3", plural=VMS, name="by-python-old",
                       body=client.V1DeleteOptions())
    wanted(code == 200, f"its deletion answered {code}")
    gone(sdk, VMS, "by-python-old")


def lists(sdk, _):
    for version in ("v1", "v1alpha3"):
        for template in (LIST, ALL):
            found, _ = sdk.call("GET", template, version=version, plural=VMS)
            wanted(found["kind"] == "VirtualMachineList", f"it is a {found['kind']}")
            names = [item["metadata"]["name"] for item in found["items"]]
            wanted("by-python" in names, f"{version} {template} lists {names}")


def lists_by_page_and_label(sdk, _):
    page, _ = sdk.call("GET", ALL, version="v1", plural=VMS, query=[("limit", 1)])
    wanted(len(page["items"]) == 1, f"a page of one has {len(page['items'])}")
    found, _ = sdk.call("GET", LIST, version="v1", plural=VMS, query=[("fieldSelector", "metadata.name=by-python")])
    wanted(len(found["items"]) == 1, f"the selector finds {len(found['items'])}")


def restart_before(sdk, _):
    refused(lambda: sdk.operate("restart", {}), 409, "RunStategy Halted does not support manual restart requests")
    refused(lambda: sdk.operate("stop", {}), 409, "VM is not running")


def start(sdk, _):
    _, code = sdk.operate("start")
    wanted(code == 202, f"it answered {code}")
    vmi = running(sdk)
    status = vmi["status"]
    wanted(status.get("nodeName"), f"the VMI names no node: {status}")
    until("its address", lambda: (sdk.read(VMIS)["status"].get("interfaces") or [{}])[0].get("ipAddress"))
    refused(lambda: sdk.operate("start"), 409, "VM is already running")


def read_both(sdk, _):
    for version in ("v1", "v1alpha3"):
        for plural, kind in ((VMS, "VirtualMachine"), (VMIS, "VirtualMachineInstance")):
            read = sdk.read(plural, version=version)
            wanted(read["kind"] == kind and read["apiVersion"] == f"kubevirt.io/{version}", f"it is {read['kind']}")
    vm = sdk.read(VMS)
    wanted(vm["status"]["ready"] is True and vm["status"]["created"] is True, f"its status is {vm['status']}")


def replace(sdk, _):
    vmi = sdk.read(VMIS)
    vmi["metadata"].setdefault("labels", {})["portal"] = "written-back"
    without = json.loads(json.dumps(vmi))
    del without["metadata"]["resourceVersion"]

    def put(body):
        return sdk.call("PUT", OBJECTS, body=body, version="v1", plural=VMIS, name="by-python")

    refused(lambda: put(without), 422, "must be specified for an update")
    written = None
    for _ in range(5):
        # Status is written by others meanwhile; whoever is refused reads again, as the report does.
        try:
            written, code = put(vmi)
            wanted(code == 200, f"it answered {code}")
            break
        except ApiException as error:
            wanted(error.status == 409, f"it answered {error.status}: {error.body}")
            vmi["metadata"]["resourceVersion"] = sdk.read(VMIS)["metadata"]["resourceVersion"]
    wanted(written, "five fresh resourceVersions were refused")
    wanted(written["metadata"]["labels"]["portal"] == "written-back", "the label was not written")
    vmi["metadata"]["labels"]["portal"] = "stale"
    vmi["metadata"]["resourceVersion"] = "1"
    refused(lambda: put(vmi), 409)


def patch(sdk, _):
    changed, _ = sdk.call("PATCH", OBJECTS, version="v1", plural=VMS, name="by-python", content_type=MERGE,
                          body={"metadata": {"annotations": {"portal": "patched"}}})
    wanted(changed["metadata"]["annotations"]["portal"] == "patched", "the annotation was not written")


def spec_of_running_guest(sdk, _):
    body = {"spec": {"terminationGracePeriodSeconds": 99, "hostname": "other"}}
    refused(lambda: sdk.call("PATCH", OBJECTS, version="v1", plural=VMIS, name="by-python", content_type=MERGE,
                             body=body), 422, "update of VMI object is restricted")


def pause(sdk, _):
    for operation in ("pause", "unpause"):
        _, code = sdk.operate(operation, {}, plural=VMIS)
        wanted(code == 200, f"{operation} answered {code}")
        word = "Paused" if operation == "pause" else "Running"
        until(f"the word {word}", lambda: sdk.read(VMS)["status"]["printableStatus"] == word, 30)


def restart(sdk, _):
    before = sdk.read(VMIS)["metadata"]["uid"]
    _, code = sdk.operate("restart", {})
    wanted(code == 202, f"it answered {code}")
    until("another guest", lambda: sdk.read(VMIS)["metadata"]["uid"] != before)
    running(sdk)


def rename_running(sdk, _):
    try:
        sdk.operate("rename", {"newName": "by-python-renamed"})
    except ApiException as error:
        wanted(error.status in (400, 409), f"it answered {error.status}: {error.body}")
        return
    raise AssertionError("a VM that runs was renamed")


def stop(sdk, _):
    _, code = sdk.operate("stop", {"gracePeriod": 5})
    wanted(code == 202, f"it answered {code}")
    gone(sdk, VMIS)
    until("the word Stopped", lambda: sdk.read(VMS)["status"]["printableStatus"] == "Stopped", 30)


def rename(sdk, _):
    _, code = sdk.operate("rename", {"newName": "by-python-renamed"})
    wanted(code == 202, f"it answered {code}")
    gone(sdk, VMS)
    until("the renamed VM", lambda: sdk.read(VMS, "by-python-renamed"))
    # Until the successor is released, the answer is 409.
    until("the way back", lambda: sdk.operate("rename", {"newName": "by-python"}, name="by-python-renamed")[1] == 202, 60)
    until("the VM under its old name", lambda: sdk.read(VMS))


def delete(sdk, _):
    _, code = sdk.call("DELETE", OBJECTS, version="v1", plural=VMS, name="by-python", body=client.V1DeleteOptions())
    wanted(code == 200, f"it answered {code}")
    gone(sdk, VMS)
    refused(lambda: sdk.read(VMS), 404, "not found")
    refused(lambda: sdk.operate("start"), 404, "not found")


CASES = [
    ("creates a VM, and a second one of its name is refused", create),
    ("creates, reads and deletes a VM as v1alpha3", create_by_old_version),
    ("lists the VMs of a namespace and of all, in both versions", lists),
    ("lists by page and by field", lists_by_page_and_label),
    ("restart and stop of a stopped VM are refused", restart_before),
    ("start runs it, and a second start is refused", start),
    ("reads VM and VMI in both versions", read_both),
    ("replaces the VMI with its resourceVersion, and neither without nor with a stale one", replace),
    ("patches the VM", patch),
    ("a guest's spec cannot be changed while it runs", spec_of_running_guest),
    ("pauses and resumes the guest", pause),
    ("restart puts another guest in its place", restart),
    ("rename refuses a VM that runs", rename_running),
    ("stop ends the guest", stop),
    ("renames the stopped VM, there and back", rename),
    ("deletes the VM, and what is gone is not found", delete),
]


def main():
    sdk, vm = Sdk(sys.argv[1]), json.load(sys.stdin)
    for name, case in CASES:
        try:
            case(sdk, vm)
            print(f"ok {name}", flush=True)
        except Later as later:
            print(f"later {name}: {later}", flush=True)
        except (AssertionError, ApiException, KeyError, TypeError, ValueError, OSError) as error:
            why = " ".join(f"{type(error).__name__} {error}".split())
            print(f"FAIL {name}: {why[:600]}", flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main()
