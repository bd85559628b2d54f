//! `furrow-agent plan --vm namespace/name`: what the agent would do for a guest now, printed and not done. Owns the
//! text; uses the same observation and the same plan as the owner. Refuses to print seeds and secrets.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use furrow_model::domain::{RbdSource, render};
use furrow_model::guest::plan;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::bound::BoundPod;
use super::convert::GuestRequest;
use super::dispatch::Snapshot;
use super::observe::{Place, Subject, observed};
use super::owner::Known;
use super::ports::{Domains, Ports};
use super::publish::{API_TIMEOUT, answered};
use super::settings::Settings;
use super::{Key, NodeFacts, now_ms, seed, settings, status};

/// Describes the plan of one guest.
///
/// # Errors
/// When Kubernetes or libvirt do not answer.
pub(crate) async fn show(
    client: Client,
    (domains, ports): (&dyn Domains, &dyn Ports),
    facts: &NodeFacts,
    vm: &str,
) -> anyhow::Result<String> {
    let key = Key::parse(vm).ok_or_else(|| anyhow::anyhow!("the vm is named namespace/name"))?;
    let stop = CancellationToken::new();
    let mut settings = settings::follow(client.clone(), stop.clone());
    let settings = tokio::time::timeout(API_TIMEOUT, settings.wait_for(Option::is_some)).await??.clone();
    stop.cancel();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let params = ListParams::default().fields(&format!("spec.nodeName={}", facts.node));
    let pods = answered(pods.list(&params)).await?;
    let pods = pods.items.iter().filter_map(BoundPod::read).filter(|pod| pod.key == key).map(Arc::new).collect();
    let snapshot = Snapshot { pods, vmi: None, ..Snapshot::default() };
    let subject = Subject::observe(&Place { client: &client, node: &facts.node }, &key, &snapshot, None).await?;
    let domain = domains.observe(&key.domain_name()).await?;
    let request = subject.request();
    let mut known = Known::default();
    let found = ports.list().await?.into_iter().filter(|port| port.vmi == vm);
    known.artefacts.ports.extend(found.map(|port| (port.tap.as_str().to_owned(), port.vmi_uid)));
    known.artefacts.files.extend(subject.uid().filter(|uid| facts.has_files(uid)));
    known.artefacts.states.extend(subject.uid().filter(|uid| facts.tpm_dir.join(uid).exists()));
    let wanted = subject.wanted(&facts.node, subject.deletion_ms().unwrap_or_else(now_ms));
    let mut text = String::new();
    writeln!(text, "wanted:   {:?} of {:?}, phase {:?}", wanted.intent, wanted.uid, wanted.phase)?;
    writeln!(text, "domain:   {domain:?}")?;
    if let Some(vmi) = &subject.vmi {
        writeln!(text, "claims:   {}", status::claims(vmi).join(", "))?;
        writeln!(text, "seeds:    {:?}", seed::describe(&vmi.spec.volumes))?;
    }
    match plan(&wanted, &observed(domain.as_ref(), &known), now_ms()) {
        Ok(plan) => {
            plan.steps.iter().try_for_each(|step| writeln!(text, "step:     {step:?}"))?;
            writeln!(text, "next:     {:?}", plan.next)?;
        }
        Err(error) => writeln!(text, "refused:  {error}")?,
    }
    match request {
        None => {}
        Some(Err(error)) => writeln!(text, "refused:  {error}")?,
        Some(Ok(request)) => describe_domain(&request, facts, &settings.unwrap_or_default(), &mut text)?,
    }
    Ok(text)
}

/// The ports and the domain that a start would make. Monitors are left out: finding them would open the image.
fn describe_domain(
    request: &GuestRequest,
    facts: &NodeFacts,
    settings: &Settings,
    text: &mut String,
) -> anyhow::Result<()> {
    for port in &request.ports {
        writeln!(text, "port:     {} {port:?}", port.tap())?;
    }
    let uid = request.reservation.vmi.uid.as_str();
    let host = facts.host_facts(uid, settings);
    let monitors = vec![("monitor".to_owned(), 3300)];
    let sources: HashMap<_, _> = request
        .volumes()
        .map(|volume| {
            let (pool, image) = (volume.pool.clone(), volume.image.clone());
            let (user, secret) = (String::new(), uuid::Uuid::nil());
            (volume.name.clone(), RbdSource { pool, image, monitors: monitors.clone(), user, secret })
        })
        .collect();
    match request.domain(&sources, &host.guest_dir, &settings.defaults) {
        Ok(spec) => writeln!(text, "domain of {}:\n{}", request.label(), render(&spec, &host)?)?,
        Err(error) => writeln!(text, "refused:  {error}")?,
    }
    Ok(())
}
