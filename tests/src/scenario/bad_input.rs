//! What must be refused, or end as a clear error on the object, and leave nothing behind.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Checks;
use super::field_report::Story;
use super::{guests, leftovers};
use crate::cluster::{Cluster, text_of};
use crate::host;

pub(crate) fn run(story: &Story<'_>, checks: &mut Checks) {
    let before = leftovers::Footprint::of(story.bed, &story.cluster);
    checks.check("bad input: an unknown field is refused by name", || {
        let vm =
            guests::tiny("bad", &story.tiny_source, "Always").replace("autoattachGraphicsDevice", "autoattachGrafics");
        refused_with(&story.cluster, &vm, &["autoattachGrafics"])
    });
    checks.check("bad input: a field that is not realised yet is refused with its path", || {
        let vm = guests::tiny("bad", &story.tiny_source, "Always")
            .replace("        devices:\n", "        devices:\n          gpus: [{name: g, deviceName: nvidia.com/x}]\n");
        refused_with(&story.cluster, &vm, &["spec.template.spec.domain.devices.gpus"])
    });
    checks.check("bad input: an unknown storage class is a clear error", || {
        let vm = guests::tiny("bad", &story.tiny_source, "Always").replace("csi-rbd-sc", "no-such-class");
        refused_with(&story.cluster, &vm, &["no-such-class"])
    });
    checks.check("bad input: a VLAN id of 5000 is refused", || {
        let vlan =
            "apiVersion: kubeovn.io/v1\nkind: Vlan\nmetadata: {name: bad}\nspec: {id: 5000, provider: provider}\n";
        refused_with(&story.cluster, vlan, &["spec.id"])
    });
    checks.check("bad input: http 404 ends the DataVolume with the status in its condition", || {
        let url = story.tiny_source.replace("tiny.qcow2", "missing.qcow2");
        import_fails(story, &url, "64Mi", &["404"])
    });
    checks.check("bad input: a qcow2 with a backing file is refused", || {
        let url = publish_backed(story)?;
        import_fails(story, &guests::http_source(&url), "64Mi", &["backing file"])
    });
    checks.check("bad input: an empty file is refused, not imported as a blank disk", || {
        let empty = story.bed.layout().part("made")?.join("empty.img");
        std::fs::write(&empty, "")?;
        let url = story.bed.publish(&empty, "empty.img")?;
        import_fails(story, &guests::http_source(&url), "64Mi", &["empty"])
    });
    checks.check("bad input: an image larger than its claim is refused with both sizes", || {
        import_fails(story, &story.tiny_source, "1Mi", &["larger", "1048576"])
    });
    checks.check("bad input: a MAC that another VM has is refused", || same_mac(story));
    checks.check("bad input left nothing behind", || leftovers::settle_to(story.bed, &story.cluster, &before?));
}

fn refused_with(cluster: &Cluster, yaml: &str, texts: &[&str]) -> Result<()> {
    let said = cluster.refused(yaml)?;
    for text in texts {
        ensure!(said.contains(text), "the refusal does not name `{text}`: {}", said.trim());
    }
    Ok(())
}

fn import_fails(story: &Story<'_>, source: &str, size: &str, texts: &[&str]) -> Result<()> {
    story.cluster.apply(&guests::data_volume("bad-input", "bad", source, size))?;
    let failed = story.cluster.wait(("dv", "bad"), "/status/phase", &["Failed"], 60);
    let dv = story.cluster.get("dv", "bad")?;
    let conditions = text_of(&dv["status"]["conditions"]);
    let events = story.cluster.events("bad")?.join("; ");
    story.cluster.kubectl(&["delete", "dv", "bad", "--wait=true", "--timeout=60s"])?;
    failed.with_context(|| format!("conditions: {conditions}; events: {events}"))?;
    for text in texts {
        ensure!(conditions.contains(text), "no condition names `{text}`: {conditions}");
    }
    Ok(())
}

fn publish_backed(story: &Story<'_>) -> Result<String> {
    let dir: PathBuf = story.bed.layout().part("made")?;
    let (base, top) = (dir.join("base.qcow2").display().to_string(), dir.join("backed.qcow2"));
    host::run(&["qemu-img", "create", "-q", "-f", "qcow2", &base, "16M"])?;
    host::run(&["qemu-img", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top.display().to_string()])?;
    story.bed.publish(&top, "backed.qcow2")
}

fn same_mac(story: &Story<'_>) -> Result<()> {
    let vmi = story.cluster.get("vmi", "first")?;
    let mac = vmi.pointer("/status/interfaces/0/mac").map(text_of).unwrap_or_default();
    ensure!(!mac.is_empty(), "vmi first shows no mac");
    let line = format!("            - name: vlan100\n              macAddress: \"{mac}\"\n");
    let vm = guests::tiny("bad", &story.tiny_source, "Always").replace("            - name: vlan100\n", &line);
    let out = story.cluster.kubectl_raw(&["apply", "-f", "-"], &vm)?;
    let clear = if out.code == 0 {
        // Accepted: then the VMI must say it and nothing may run.
        let said = host::until("the VMI to say that the MAC is taken", Duration::from_secs(40), || {
            let events = story.cluster.events("bad")?.join("; ");
            ensure!(events.contains(&mac), "events: {events}");
            Ok(events)
        });
        story.cluster.kubectl(&["delete", "vm", "bad", "--wait=true", "--timeout=60s"])?;
        said?
    } else {
        out.stderr
    };
    ensure!(clear.contains(&mac), "nobody names the MAC: {clear}");
    Ok(())
}
