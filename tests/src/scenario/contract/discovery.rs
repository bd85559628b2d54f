//! What the API says of itself: that it is there, its group, its resources in both versions, its documents, its version.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{GROUP, Of, Story, VERSIONS};
use crate::cluster::condition;
use crate::host;
use crate::scenario::Checks;

/// An operation of the contract: what it is about, its name, whether it only reads.
pub(super) const OPERATIONS: &[(Of, &str, bool)] = &[
    (Of::Vm, "start", false),
    (Of::Vm, "stop", false),
    (Of::Vm, "restart", false),
    (Of::Vm, "expand-spec", true),
    (Of::Vm, "migrate", false),
    (Of::Vm, "rename", false),
    (Of::Vm, "addvolume", false),
    (Of::Vm, "removevolume", false),
    (Of::Vm, "memorydump", false),
    (Of::Vm, "removememorydump", false),
    (Of::Vm, "evacuate/cancel", false),
    (Of::Vm, "objectgraph", true),
    (Of::Vm, "portforward", true),
    (Of::Vmi, "pause", false),
    (Of::Vmi, "unpause", false),
    (Of::Vmi, "softreboot", false),
    (Of::Vmi, "reset", false),
    (Of::Vmi, "freeze", false),
    (Of::Vmi, "unfreeze", false),
    (Of::Vmi, "guestosinfo", true),
    (Of::Vmi, "userlist", true),
    (Of::Vmi, "filesystemlist", true),
    (Of::Vmi, "addvolume", false),
    (Of::Vmi, "removevolume", false),
    (Of::Vmi, "backup", false),
    (Of::Vmi, "redefine-checkpoint", false),
    (Of::Vmi, "evacuate/cancel", false),
    (Of::Vmi, "objectgraph", true),
    (Of::Vmi, "console", true),
    (Of::Vmi, "vnc", true),
    (Of::Vmi, "vnc/screenshot", true),
    (Of::Vmi, "usbredir", true),
    (Of::Vmi, "vsock", true),
    (Of::Vmi, "portforward", true),
    (Of::Vmi, "sev/fetchcertchain", true),
    (Of::Vmi, "sev/querylaunchmeasurement", true),
    (Of::Vmi, "sev/setupsession", false),
    (Of::Vmi, "sev/injectlaunchsecret", false),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    story.check(checks, "discovery: the APIServices of both versions are Available", || {
        VERSIONS.iter().try_for_each(|version| available(story, version))
    });
    story.check(checks, "discovery: the group names both versions, v1 preferred", || {
        let group = raw(story, &format!("/apis/{GROUP}"))?;
        ensure!(group["kind"] == "APIGroup" && group["name"] == GROUP, "the group is {group}");
        let versions: Vec<&Value> = group["versions"].as_array().into_iter().flatten().map(|v| &v["version"]).collect();
        ensure!(versions == VERSIONS, "its versions: {versions:?}");
        ensure!(group["preferredVersion"]["version"] == "v1", "it prefers {}", group["preferredVersion"]);
        Ok(())
    });
    for version in VERSIONS {
        let what = format!("discovery: {version} lists every operation with its verb");
        story.check(checks, &what, || listed(&raw(story, &format!("/apis/{GROUP}/{version}"))?, version));
        let what =
            format!("discovery: {version} tells KubeVirt's version, the image of guestfs, and that it is healthy");
        story.check(checks, &what, || {
            let base = format!("/apis/{GROUP}/{version}");
            let told = raw(story, &format!("{base}/version"))?;
            let said = told["gitVersion"].as_str().unwrap_or_default();
            ensure!(said.starts_with("v1."), "its version is {told}");
            let guestfs = raw(story, &format!("{base}/guestfs"))?;
            ensure!(guestfs["registry"].is_string() && guestfs["tag"].is_string(), "guestfs is {guestfs}");
            let health = raw(story, &format!("{base}/healthz"))?;
            ensure!(health["apiserver"]["connectivity"] == "ok", "healthz says {health}");
            Ok(())
        });
    }
    story.check(checks, "discovery: kubectl api-resources and short names work beside it", || {
        story.cluster.kubectl(&["api-resources", "-o", "wide"])?;
        story.cluster.kubectl(&["get", "vm,vmi,dv"]).map(|_| ())
    });
    story.check(checks, "discovery: OpenAPI v2 and v3 document the operations", || {
        host::until("the aggregated documents", Duration::from_secs(150), || documented(story))
    });
    story.check(checks, "discovery: the KubeVirt object says that the API is there", || {
        let objects = story.cluster.list("kubevirts.kubevirt.io")?;
        let kubevirt = objects.first().context("there is no KubeVirt object")?;
        let available = condition(kubevirt, "Available").context("it has no condition Available")?;
        ensure!(available["status"] == "True", "{available}");
        ensure!(kubevirt["status"]["observedKubeVirtVersion"].is_string(), "its status: {}", kubevirt["status"]);
        Ok(())
    });
}

fn raw(story: &Story<'_>, path: &str) -> Result<Value> {
    let text = story.cluster.kubectl(&["get", "--raw", path])?;
    serde_json::from_str(&text).with_context(|| format!("{path} is no JSON: {text}"))
}

fn available(story: &Story<'_>, version: &str) -> Result<()> {
    let name = format!("{version}.{GROUP}");
    host::until(&format!("APIService {name}"), Duration::from_secs(60), || {
        let service = story.cluster.get("apiservice", &name)?;
        let available = condition(&service, "Available").context("it has no condition Available")?;
        ensure!(available["status"] == "True", "{available}");
        Ok(())
    })
}

fn listed(list: &Value, version: &str) -> Result<()> {
    ensure!(list["kind"] == "APIResourceList", "it is {}", list["kind"]);
    ensure!(list["groupVersion"] == format!("{GROUP}/{version}"), "it is of {}", list["groupVersion"]);
    let verbs = |name: &str| {
        let resources = list["resources"].as_array().into_iter().flatten();
        resources.into_iter().find(|resource| resource["name"] == name).map(|resource| resource["verbs"].clone())
    };
    for (of, name, reads) in OPERATIONS {
        let name = format!("{}/{name}", of.plural());
        let verb = if *reads { "get" } else { "update" };
        ensure!(verbs(&name) == Some(serde_json::json!([verb])), "{name} has the verbs {:?}", verbs(&name));
    }
    ensure!(verbs("expand-vm-spec").is_some(), "expand-vm-spec is not listed");
    Ok(())
}

fn documented(story: &Story<'_>) -> Result<()> {
    let start = format!("/apis/{GROUP}/v1/namespaces/{{namespace}}/virtualmachines/{{name}}/start");
    let second = raw(story, "/openapi/v2")?;
    ensure!(second["paths"][&start]["put"].is_object(), "OpenAPI v2 lacks {start}");
    let third = raw(story, &format!("/openapi/v3/apis/{GROUP}/v1"))?;
    ensure!(third["paths"][&start]["put"].is_object(), "OpenAPI v3 lacks {start}");
    Ok(())
}
