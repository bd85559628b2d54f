//! The decision itself. See `super` for the life of a guest; here stands one function a situation.

use super::{
    DomainState, End, Intent, Next, Observed, ObservedDisk, ObservedDomain, OffReason, Phase, Plan, PlanError, Step,
    Wanted, WantedDisk, memory,
};

/// A guest that ignores the request to shut down is asked again after this long: one that was still booting could not
/// hear the first.
const ASK_AGAIN_MS: i64 = 5_000;

/// Decides the next steps for one guest.
///
/// # Errors
/// When something that Furrow did not make, or another guest, stands in the way.
pub fn plan(wanted: &Wanted, observed: &Observed, now_ms: i64) -> Result<Plan, PlanError> {
    if let Some(plan) = clear_stale(wanted, observed)? {
        return Ok(plan);
    }
    match wanted.intent {
        Intent::Clear => Ok(clear(observed)),
        Intent::Stop { deadline_ms } => Ok(stop(wanted, observed, (deadline_ms, requested_end), now_ms)),
        Intent::Restart { deadline_ms } => Ok(stop(wanted, observed, (deadline_ms, unhealthy_end), now_ms)),
        Intent::Run => run(wanted, observed, now_ms),
    }
}

/// What an earlier object of the same name left behind goes first, in a pass of its own.
fn clear_stale(wanted: &Wanted, observed: &Observed) -> Result<Option<Plan>, PlanError> {
    if let Some(domain) = &observed.domain {
        match &domain.uid {
            // Somebody else's domain is never touched, and only in the way of a start.
            None if wanted.intent == Intent::Run => return Err(PlanError::ForeignDomain),
            None => {}
            Some(uid) if wanted.uid.as_ref() != Some(uid) => return Ok(Some(clear(observed))),
            Some(_) => {}
        }
    }
    let is_stale = |uid: &String| wanted.uid.as_ref() != Some(uid);
    let mut steps: Vec<_> = observed
        .ports
        .iter()
        .filter(|(_, uid)| is_stale(uid))
        .map(|(tap, _)| Step::RemovePort { tap: tap.clone() })
        .collect();
    // One of these may have written to the image that the next guest begins with.
    steps.extend(keep_states(observed).filter(|step| matches!(step, Step::KeepState { uid } if is_stale(uid))));
    steps.extend(observed.files.iter().filter(|uid| is_stale(uid)).map(|uid| Step::RemoveFiles { uid: uid.clone() }));
    Ok((!steps.is_empty()).then_some(Plan { steps, next: Next::Now }))
}

/// Everything of it goes: QEMU first, since it holds the taps and the images.
fn clear(observed: &Observed) -> Plan {
    let ours = ours(observed);
    let mut steps = Vec::new();
    if ours.is_some_and(|domain| !matches!(domain.state, DomainState::Off(_))) {
        steps.push(Step::Destroy);
    }
    steps.extend(remove_ports(observed));
    steps.extend(keep_states(observed));
    if ours.is_some() {
        steps.push(Step::ReleaseVolumes);
        steps.push(Step::Undefine);
    }
    steps.extend(observed.files.iter().map(|uid| Step::RemoveFiles { uid: uid.clone() }));
    let next = if steps.is_empty() { Next::OnChange } else { Next::Now };
    Plan { steps, next }
}

/// The end of a guest by the node: when it is forced, and what is said of it.
fn stop(wanted: &Wanted, observed: &Observed, (deadline_ms, end_of): (i64, fn(OffReason) -> End), now_ms: i64) -> Plan {
    let state = ours(observed).map(|domain| domain.state);
    match state {
        Some(DomainState::Active) if now_ms < deadline_ms => {
            let ask = observed.asked_ms.is_none_or(|asked| now_ms - asked >= ASK_AGAIN_MS);
            let asked_ms = if ask { now_ms } else { observed.asked_ms.unwrap_or(now_ms) };
            let steps = if ask { vec![Step::AskShutdown] } else { Vec::new() };
            Plan { steps, next: Next::At(deadline_ms.min(asked_ms + ASK_AGAIN_MS)) }
        }
        Some(DomainState::Active | DomainState::Panicked) => Plan { steps: vec![Step::Destroy], next: Next::Now },
        Some(DomainState::Off(reason)) => end(observed, end_of(reason)),
        None if wanted.phase == Phase::Unclaimed => clear(observed),
        None => end(observed, end_of(OffReason::Shutdown)),
    }
}

fn run(wanted: &Wanted, observed: &Observed, now_ms: i64) -> Result<Plan, PlanError> {
    let state = observed.domain.as_ref().map(|domain| domain.state);
    Ok(match state {
        Some(DomainState::Active) => {
            let ensure = (!observed.ports_ensured).then_some(Step::EnsurePorts);
            // What the guest has got is observed before it is published.
            let vcpus = vcpus_to_plug(wanted, observed).map(|count| Step::PlugVcpus { count });
            let memory = memory::request(wanted.memory, observed.memory);
            let memory = memory.map(|requested_kib| Step::PlugMemory { requested_kib });
            if vcpus.is_some() || memory.is_some() {
                let steps = ensure.into_iter().chain(vcpus).chain(memory).collect();
                return Ok(Plan { steps, next: Next::Now });
            }
            let (plugs, next) = plugs(wanted, observed, now_ms);
            // What is known is published in any case: a disk that cannot be plugged is no reason to be silent.
            Plan { steps: ensure.into_iter().chain([Step::PublishRunning]).chain(plugs).collect(), next }
        }
        Some(DomainState::Panicked) => Plan { steps: vec![Step::Destroy], next: Next::Now },
        // Defined but not started, by an agent that was stopped in between: begin again.
        Some(DomainState::Off(OffReason::Unknown | OffReason::StartFailed)) if wanted.phase != Phase::Running => {
            Plan { steps: keep_states(observed).chain([Step::Undefine]).collect(), next: Next::Now }
        }
        Some(DomainState::Off(reason)) => end(observed, own_end(reason)),
        // Its definition is gone with the node's last boot, or somebody removed it.
        None if wanted.phase == Phase::Running => end(observed, own_end(OffReason::Unknown)),
        // Left by a start that failed; a start begins with what the image has.
        None if !observed.states.is_empty() => Plan { steps: keep_states(observed).collect(), next: Next::Now },
        None => {
            refuse_shared_writers(wanted, observed)?;
            // What runs is observed before it is published.
            Plan { steps: vec![Step::Prepare, Step::Start], next: Next::Now }
        }
    })
}

/// More vCPUs than the guest has, if its domain has room for them. Fewer are control's to refuse: a guest that uses a
/// processor does not give it back.
fn vcpus_to_plug(wanted: &Wanted, observed: &Observed) -> Option<u32> {
    let (now, most) = observed.vcpus?;
    wanted.vcpus.filter(|count| *count > now && *count <= most)
}

/// Disks out, then disks in: an image must have left one place before it comes to another. A guest lets go of a disk when
/// it pleases, so that it is asked again. That nobody else writes to an image is made sure of where it is taken, as part of
/// the step: a plan that failed for it would keep the guest's status from being told.
fn plugs(wanted: &Wanted, observed: &Observed, now_ms: i64) -> (Vec<Step>, Next) {
    let Some(disks) = &wanted.disks else { return (Vec::new(), Next::OnChange) };
    let leaves = |disk: &&ObservedDisk| !disks.iter().any(|wanted| wanted.name == disk.name && shows(disk, wanted));
    let out = observed.disks.iter().filter(leaves).map(|disk| Step::PlugOut { disk: disk.name.clone() });
    let out: Vec<_> = out.collect();
    // One of its name that shows another image has to leave first.
    let missing = |disk: &&WantedDisk| disk.pluggable && !observed.disks.iter().any(|there| there.name == disk.name);
    // One a pass: the next is given a device name that this one has not.
    let into = disks.iter().find(missing).map(|disk| Step::PlugIn { disk: disk.name.clone() });
    let next = match (out.is_empty(), &into) {
        // What was plugged is observed before it is published.
        (_, Some(_)) => Next::Now,
        (false, None) => Next::At(now_ms + ASK_AGAIN_MS),
        (true, None) => Next::OnChange,
    };
    (out.into_iter().chain(into).collect(), next)
}

/// Whether a disk of the guest is the one that is wanted; where an image is not known, its name counts.
fn shows(disk: &ObservedDisk, wanted: &WantedDisk) -> bool {
    disk.image.as_ref().zip(wanted.image.as_ref()).is_none_or(|(has, wants)| has == wants)
}

fn refuse_shared_writers(wanted: &Wanted, observed: &Observed) -> Result<(), PlanError> {
    for (image, domain) in &observed.foreign_images {
        if wanted.images.contains(image) {
            return Err(PlanError::ImageInUse { image: image.clone(), domain: domain.clone() });
        }
    }
    Ok(())
}

/// The end is published between the removal of the ports, after which the address is silent, and that of the
/// definition, which is the only record of how the guest ended.
fn end(observed: &Observed, end: End) -> Plan {
    let mut steps: Vec<_> = remove_ports(observed).chain(keep_states(observed)).collect();
    steps.push(Step::ReleaseVolumes);
    steps.push(Step::PublishEnd(end));
    if ours(observed).is_some() {
        steps.push(Step::Undefine);
    }
    steps.extend(observed.files.iter().map(|uid| Step::RemoveFiles { uid: uid.clone() }));
    Plan { steps, next: Next::OnChange }
}

/// The domain, if Furrow made it.
fn ours(observed: &Observed) -> Option<&ObservedDomain> {
    observed.domain.as_ref().filter(|domain| domain.uid.is_some())
}

fn remove_ports(observed: &Observed) -> impl Iterator<Item = Step> + '_ {
    observed.ports.iter().map(|(tap, _)| Step::RemovePort { tap: tap.clone() })
}

fn keep_states(observed: &Observed) -> impl Iterator<Item = Step> + '_ {
    observed.states.iter().map(|uid| Step::KeepState { uid: uid.clone() })
}

/// The end of a guest that was asked to end: however it went, that is what was wanted.
fn requested_end(reason: OffReason) -> End {
    match reason {
        OffReason::Crashed | OffReason::StartFailed => own_end(reason),
        OffReason::Destroyed => {
            End { succeeded: true, reason: "Killed", message: "the guest was killed at the end of its grace period" }
        }
        OffReason::Shutdown | OffReason::Unknown | OffReason::Migrated | OffReason::Saved => {
            End { succeeded: true, reason: "Stopped", message: "the guest was stopped" }
        }
    }
}

/// The end of a guest that failed its liveness probe: however it went, it is to be started anew.
fn unhealthy_end(_: OffReason) -> End {
    End { succeeded: false, reason: "LivenessProbeFailed", message: "the guest failed its liveness probe" }
}

/// The end of a guest that nobody asked to end.
fn own_end(reason: OffReason) -> End {
    let failed = |reason, message| End { succeeded: false, reason, message };
    match reason {
        OffReason::Shutdown => End { succeeded: true, reason: "Shutdown", message: "the guest shut itself down" },
        OffReason::Destroyed => failed("Destroyed", "the guest was destroyed outside of kubernetes"),
        OffReason::Crashed | OffReason::StartFailed => failed("Crashed", "qemu ended without a shutdown of the guest"),
        OffReason::Unknown => failed("NodeRestarted", "the node restarted while the guest ran"),
        OffReason::Migrated => failed("Migrated", "the guest was moved away outside of kubernetes"),
        OffReason::Saved => failed("Saved", "the guest was saved outside of kubernetes"),
    }
}
