//! The KubeVirt object's configuration takes effect or is refused with its path, and metrics under KubeVirt's names are
//! shown to whoever may read them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Story;
use super::domain::has;
use super::fields::least;
use crate::host;
use crate::scenario::Checks;

/// Settings that are refused, below `spec.configuration`, and the path that the refusal names.
const REFUSED: &[(&str, &str)] = &[
    (r#"{"developerConfiguration":{"featureGates":["NoSuchGate"]}}"#, "developerConfiguration.featureGates[0]"),
    (r#"{"migrations":{"allowPostCopy":true}}"#, "spec.configuration.migrations"),
    (
        r#"{"permittedHostDevices":{"pciHostDevices":[{"pciVendorSelector":"1:2","resourceName":"a/b"}]}}"#,
        "spec.configuration.permittedHostDevices",
    ),
    (r#"{"machineType":"pc-i440fx-9.2"}"#, "spec.configuration.machineType"),
];

/// Ports on which the agent and control show metrics.
const AGENT: u16 = 8446;
const CONTROL: u16 = 8447;

/// Metrics of a guest that runs, by KubeVirt's names, and who shows them; each has the guest's name. The time of the whole
/// process is not among them: libvirt reads it from the guest's cgroup, which a box does not have for every guest.
const METRICS: &[(u16, &str)] = &[
    (AGENT, "kubevirt_vmi_memory_domain_bytes"),
    (AGENT, "kubevirt_vmi_vcpu_seconds_total"),
    (CONTROL, "kubevirt_vmi_info"),
];

pub(super) fn run(story: &Story<'_>, checks: &mut Checks) {
    for (configuration, path) in REFUSED {
        story.check(checks, &format!("settings: {configuration} is refused for {path}"), || {
            let told = configure(story, configuration)?;
            ensure!(told.contains(path), "it says {told}");
            Ok(())
        });
    }
    story
        .check(checks, "settings: a CPU model and a machine type of the cluster are a new guest's", || defaults(story));
    story.check(checks, "settings: metrics of a guest by KubeVirt's names, for whoever may read them", || {
        metrics(story)
    });
}

/// Patches the configuration; what a refusal says, nothing when it is taken.
fn configure(story: &Story<'_>, configuration: &str) -> Result<String> {
    let patch = format!(r#"{{"spec":{{"configuration":{configuration}}}}}"#);
    let argv = ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", &patch];
    let out = story.cluster.kubectl_raw(&argv, "")?;
    Ok(if out.code == 0 { String::new() } else { out.stderr })
}

fn defaults(story: &Story<'_>) -> Result<()> {
    let set = configure(story, r#"{"machineType":"pc-q35-9.2","cpuRequest":"30m"}"#)?;
    ensure!(set.is_empty(), "refused: {set}");
    let made = host::until("a guest with the machine type", Duration::from_secs(60), || {
        let name = "settings-default";
        story.cluster.apply(&least(name).to_string())?;
        story.running(name)?;
        let document = story.domain(name)?;
        let told = has("type", &["machine='pc-q35-9.2'"]).check(&document);
        let cpu = "jsonpath={.items[*].spec.containers[*].resources.requests.cpu}";
        let cpu = story.cluster.kubectl(&["get", "pod", "-l", &story.pod_label(name)?, "-o", cpu])?;
        story.cluster.kubectl(&["delete", "vmi", name, "--timeout=60s"])?;
        told?;
        ensure!(cpu.trim() == "30m", "its pod requests {cpu} of CPU");
        Ok(())
    });
    let reset = configure(story, r#"{"machineType":null,"cpuRequest":null}"#)?;
    ensure!(reset.is_empty(), "refused: {reset}");
    made
}

fn metrics(story: &Story<'_>) -> Result<()> {
    let name = "settings-metered";
    story.cluster.apply(&least(name).to_string())?;
    story.running(name)?;
    let user = "furrow-metrics-reader";
    story.cluster.kubectl(&["create", "serviceaccount", user])?;
    let shown = || -> Result<()> {
        let token = story.cluster.kubectl(&["create", "token", user, "--duration=10m"])?;
        let (said, code) = scrape(story, AGENT, &token)?;
        ensure!(code == 403, "without a role it is answered {code}: {said}");
        let subject = format!("--serviceaccount=default:{user}");
        story.cluster.kubectl(&["create", "clusterrolebinding", user, "--clusterrole=furrow:metrics", &subject])?;
        // A refusal is remembered for a minute.
        host::until("the metrics of guests", Duration::from_secs(100), || {
            METRICS.iter().try_for_each(|(port, metric)| {
                let (text, code) = scrape(story, *port, &token)?;
                let label = format!("name=\"{name}\"");
                let found = text.lines().any(|line| line.starts_with(metric) && line.contains(&label));
                ensure!(found, "{code}: there is no {metric} of {name} in {} bytes of text", text.len());
                Ok(())
            })
        })
    };
    let result = shown();
    story.cluster.kubectl(&["delete", "clusterrolebinding", user, "--ignore-not-found"])?;
    story.cluster.kubectl(&["delete", "serviceaccount", user])?;
    story.cluster.kubectl(&["delete", "vmi", name, "--timeout=60s"])?;
    result
}

/// One scrape of the node: the body, and the code in a line of its own. The token is not on the command line.
fn scrape(story: &Story<'_>, port: u16, token: &str) -> Result<(String, u16)> {
    let net = format!("--net=/run/netns/{}", story.bed.lan().netns());
    let url = format!("https://{}:{port}/metrics", story.bed.node().address());
    let curl = ["curl", "--silent", "--show-error", "--insecure", "--http1.1", "--max-time", "20"];
    let said = ["--header", "@-", "--write-out", "\n%{http_code}", &url];
    let argv = [["nsenter", &net].as_slice(), &curl, &said].concat();
    let header = format!("Authorization: Bearer {}\n", token.trim());
    let out = host::run_with(&argv, &header, Duration::from_secs(30))?;
    let (body, code) = out.stdout.rsplit_once('\n').with_context(|| format!("curl said {:?}", out.stderr))?;
    Ok((body.to_owned(), code.trim().parse().with_context(|| format!("curl's code {code:?}: {}", out.stderr))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_setting_is_json() {
        for (configuration, _) in REFUSED {
            let parsed: serde_json::Value = serde_json::from_str(configuration).unwrap();
            assert!(parsed.is_object(), "{configuration}");
        }
    }
}
