//! The decision as a table of situations, and what must hold in all of them.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_000_000;

fn wanted(intent: Intent, phase: Phase) -> Wanted {
    Wanted {
        uid: Some("new".into()),
        phase,
        intent,
        taps: vec!["fw1".into()],
        volumes: 1,
        images: vec!["volumes/a".into()],
        vcpus: Some(2),
        memory: None,
        disks: None,
    }
}

fn observed(domain: Option<(&str, DomainState)>) -> Observed {
    let has = domain.is_some();
    Observed {
        domain: domain.map(|(uid, state)| ObservedDomain { uid: Some(uid.into()), state }),
        ports: if has { vec![("fw1".into(), "new".into())] } else { Vec::new() },
        files: if has { vec!["new".into()] } else { Vec::new() },
        ports_ensured: true,
        ..Observed::default()
    }
}

fn end_of(plan: &Plan) -> Option<End> {
    plan.steps.iter().find_map(|step| if let Step::PublishEnd(end) = step { Some(*end) } else { None })
}

#[test]
fn a_bound_guest_is_prepared_and_started_at_once() {
    let plan = plan(&wanted(Intent::Run, Phase::Unclaimed), &observed(None), NOW).expect("a plan");
    assert_eq!(plan, Plan { steps: vec![Step::Prepare, Step::Start], next: Next::Now });
}

#[test]
fn a_running_guest_is_adopted_untouched() {
    let mut seen = observed(Some(("new", DomainState::Active)));
    seen.ports_ensured = false;
    let plan = plan(&wanted(Intent::Run, Phase::Running), &seen, NOW).expect("a plan");
    assert_eq!(plan.steps, [Step::EnsurePorts, Step::PublishRunning]);
}

#[test]
fn the_end_of_a_guest_follows_why_it_stopped() {
    let ends = |reason| {
        let seen = observed(Some(("new", DomainState::Off(reason))));
        end_of(&plan(&wanted(Intent::Run, Phase::Running), &seen, NOW).expect("a plan")).expect("an end")
    };
    assert!(ends(OffReason::Shutdown).succeeded);
    assert_eq!(ends(OffReason::Crashed).reason, "Crashed");
    assert_eq!(ends(OffReason::Destroyed).reason, "Destroyed");
    assert_eq!(ends(OffReason::Unknown).reason, "NodeRestarted");
    for reason in [OffReason::Crashed, OffReason::Destroyed, OffReason::Unknown] {
        assert!(!ends(reason).succeeded);
    }
}

#[test]
fn a_guest_without_a_domain_had_a_node_that_restarted() {
    let end = end_of(&plan(&wanted(Intent::Run, Phase::Running), &observed(None), NOW).expect("a plan"));
    assert_eq!(end.map(|end| end.reason), Some("NodeRestarted"));
}

#[test]
fn a_definition_that_never_started_is_begun_again() {
    let seen = observed(Some(("new", DomainState::Off(OffReason::Unknown))));
    let plan = plan(&wanted(Intent::Run, Phase::Scheduled), &seen, NOW).expect("a plan");
    assert_eq!(plan, Plan { steps: vec![Step::Undefine], next: Next::Now });
}

#[test]
fn a_stop_asks_again_and_kills_at_the_deadline() {
    let want = wanted(Intent::Stop { deadline_ms: NOW + 30_000 }, Phase::Running);
    let mut seen = observed(Some(("new", DomainState::Active)));
    let first = plan(&want, &seen, NOW).expect("a plan");
    assert_eq!(first, Plan { steps: vec![Step::AskShutdown], next: Next::At(NOW + 5_000) });
    seen.asked_ms = Some(NOW);
    assert_eq!(plan(&want, &seen, NOW + 1_000).expect("a plan").steps, []);
    assert_eq!(plan(&want, &seen, NOW + 5_000).expect("a plan").steps, [Step::AskShutdown]);
    assert_eq!(plan(&want, &seen, NOW + 30_000).expect("a plan").steps, [Step::Destroy]);
}

#[test]
fn a_stop_without_grace_kills_at_once() {
    let want = wanted(Intent::Stop { deadline_ms: NOW }, Phase::Running);
    let plan = plan(&want, &observed(Some(("new", DomainState::Active))), NOW).expect("a plan");
    assert_eq!(plan, Plan { steps: vec![Step::Destroy], next: Next::Now });
}

#[test]
fn a_stopped_guest_is_published_before_its_definition_goes() {
    let want = wanted(Intent::Stop { deadline_ms: NOW }, Phase::Running);
    let seen = observed(Some(("new", DomainState::Off(OffReason::Destroyed))));
    let steps = plan(&want, &seen, NOW).expect("a plan").steps;
    let place = |wanted: &Step| steps.iter().position(|step| step == wanted).expect("the step is there");
    let published =
        steps.iter().position(|step| matches!(step, Step::PublishEnd(end) if end.succeeded)).expect("an end");
    assert!(place(&Step::RemovePort { tap: "fw1".into() }) < published);
    assert!(published < place(&Step::Undefine));
}

#[test]
fn what_a_tpm_keeps_is_written_before_the_volumes_are_released_and_the_end_is_told() {
    let keep = |uid: &str| Step::KeepState { uid: uid.into() };
    let mut seen = observed(Some(("new", DomainState::Off(OffReason::Shutdown))));
    seen.states = vec!["new".into()];
    let steps = plan(&wanted(Intent::Run, Phase::Running), &seen, NOW).expect("a plan").steps;
    assert_eq!(steps[..3], [Step::RemovePort { tap: "fw1".into() }, keep("new"), Step::ReleaseVolumes]);
    assert!(matches!(steps[3], Step::PublishEnd(_)), "{steps:?}");
    let mut gone = wanted(Intent::Clear, Phase::Final);
    gone.uid = None;
    seen.domain = Some(ObservedDomain { uid: Some("new".into()), state: DomainState::Active });
    let steps = plan(&gone, &seen, NOW).expect("a plan").steps;
    assert_eq!(steps[..2], [Step::Destroy, Step::RemovePort { tap: "fw1".into() }]);
    assert_eq!(steps[2..4], [keep("new"), Step::ReleaseVolumes]);
}

#[test]
fn no_guest_starts_while_a_state_of_its_machine_is_only_on_this_node() {
    let keep = |uid: &str| Step::KeepState { uid: uid.into() };
    let check = |state: &str, phase, domain: Option<DomainState>, expected: &[Step]| {
        let mut seen = observed(None);
        seen.states = vec![state.into()];
        seen.domain = domain.map(|state| ObservedDomain { uid: Some("new".into()), state });
        let plan = plan(&wanted(Intent::Run, phase), &seen, NOW).expect("a plan");
        assert_eq!(plan, Plan { steps: expected.to_vec(), next: Next::Now });
    };
    check("old", Phase::Unclaimed, None, &[keep("old")]);
    check("new", Phase::Scheduled, None, &[keep("new")]);
    let unknown = Some(DomainState::Off(OffReason::Unknown));
    check("new", Phase::Scheduled, unknown, &[keep("new"), Step::Undefine]);
}

#[test]
fn a_guest_that_fails_its_liveness_probe_is_asked_killed_and_has_failed() {
    let want = wanted(Intent::Restart { deadline_ms: NOW + 30_000 }, Phase::Running);
    let mut seen = observed(Some(("new", DomainState::Active)));
    assert_eq!(plan(&want, &seen, NOW).expect("a plan").steps, [Step::AskShutdown]);
    seen.asked_ms = Some(NOW);
    assert_eq!(plan(&want, &seen, NOW + 30_000).expect("a plan").steps, [Step::Destroy]);
    for reason in [OffReason::Shutdown, OffReason::Destroyed] {
        let seen = observed(Some(("new", DomainState::Off(reason))));
        let end = end_of(&plan(&want, &seen, NOW).expect("a plan")).expect("an end");
        assert_eq!((end.succeeded, end.reason), (false, "LivenessProbeFailed"), "{reason:?}");
    }
}

#[test]
fn an_unclaimed_guest_that_is_deleted_leaves_no_word() {
    let want = wanted(Intent::Stop { deadline_ms: NOW }, Phase::Unclaimed);
    assert_eq!(plan(&want, &observed(None), NOW).expect("a plan"), Plan { steps: vec![], next: Next::OnChange });
}

#[test]
fn starts_nothing_before_the_old_guest_of_that_name_is_gone() {
    let seen = observed(Some(("old", DomainState::Active)));
    let plan = plan(&wanted(Intent::Run, Phase::Unclaimed), &seen, NOW).expect("a plan");
    assert_eq!(plan.steps.first(), Some(&Step::Destroy));
    assert!(!plan.steps.contains(&Step::Start));
    assert_eq!(plan.next, Next::Now);
}

#[test]
fn a_foreign_domain_is_never_touched() {
    let mut seen = observed(None);
    seen.domain = Some(ObservedDomain { uid: None, state: DomainState::Active });
    assert_eq!(plan(&wanted(Intent::Run, Phase::Unclaimed), &seen, NOW), Err(PlanError::ForeignDomain));
    let mut gone = wanted(Intent::Clear, Phase::Final);
    gone.uid = None;
    assert_eq!(plan(&gone, &seen, NOW).expect("a plan").steps, []);
}

#[test]
fn two_domains_never_share_a_writable_image() {
    let mut seen = observed(None);
    seen.foreign_images = vec![("volumes/a".into(), "other_vm".into())];
    let error = plan(&wanted(Intent::Run, Phase::Unclaimed), &seen, NOW).expect_err("it is refused");
    assert_eq!(error, PlanError::ImageInUse { image: "volumes/a".into(), domain: "other_vm".into() });
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let reason = prop_oneof![
        Just(OffReason::Shutdown),
        Just(OffReason::Destroyed),
        Just(OffReason::Crashed),
        Just(OffReason::Unknown),
        Just(OffReason::StartFailed),
    ];
    let state = prop_oneof![Just(DomainState::Active), Just(DomainState::Panicked), reason.prop_map(DomainState::Off)];
    let uid = prop_oneof![Just(Some("new".to_owned())), Just(Some("old".to_owned())), Just(None)];
    let domain = prop::option::of((uid, state).prop_map(|(uid, state)| ObservedDomain { uid, state }));
    let named = prop_oneof![Just("new".to_owned()), Just("old".to_owned())];
    let ports = prop::collection::vec(named.clone().prop_map(|uid| (format!("fw-{uid}"), uid)), 0..3);
    let foreign = prop::collection::vec(Just(("volumes/a".to_owned(), "other".to_owned())), 0..2);
    let uids = || prop::collection::vec(named.clone(), 0..2);
    (domain, ports, uids(), uids(), foreign, any::<bool>()).prop_map(
        |(domain, ports, files, states, foreign_images, ports_ensured)| Observed {
            domain,
            ports,
            files,
            states,
            foreign_images,
            ports_ensured,
            asked_ms: None,
            vcpus: None,
            memory: None,
            disks: Vec::new(),
        },
    )
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let phase = prop_oneof![Just(Phase::Unclaimed), Just(Phase::Scheduled), Just(Phase::Running), Just(Phase::Final)];
    let intent = prop_oneof![
        Just(Intent::Run),
        Just(Intent::Clear),
        (-1_i64..2).prop_map(|offset| Intent::Stop { deadline_ms: NOW + offset }),
        (-1_i64..2).prop_map(|offset| Intent::Restart { deadline_ms: NOW + offset }),
    ];
    (phase, intent).prop_map(|(phase, intent)| wanted(intent, phase))
}

proptest! {
    #[test]
    fn a_start_never_shares_a_pass_with_a_removal(want in any_wanted(), seen in any_observed()) {
        let Ok(plan) = plan(&want, &seen, NOW) else { return Ok(()) };
        let removes = plan.steps.iter().any(|step| matches!(
            step,
            Step::Destroy
                | Step::RemovePort { .. }
                | Step::KeepState { .. }
                | Step::RemoveFiles { .. }
                | Step::Undefine
        ));
        prop_assert!(!(removes && plan.steps.contains(&Step::Start)), "{:?}", plan);
    }

    #[test]
    fn nothing_starts_over_a_domain_or_a_used_image(want in any_wanted(), seen in any_observed()) {
        let Ok(plan) = plan(&want, &seen, NOW) else { return Ok(()) };
        if plan.steps.contains(&Step::Start) {
            prop_assert!(seen.domain.is_none());
            prop_assert!(seen.foreign_images.iter().all(|(image, _)| !want.images.contains(image)));
            prop_assert_eq!(want.intent, Intent::Run);
        }
    }

    /// A TPM that still runs would write to a state that was taken away.
    #[test]
    fn a_state_is_kept_when_its_guest_has_ended_and_before_all_else_of_it_goes(
        want in any_wanted(),
        seen in any_observed(),
    ) {
        let Ok(plan) = plan(&want, &seen, NOW) else { return Ok(()) };
        let place = |wanted: &Step| plan.steps.iter().position(|step| step == wanted);
        for uid in &seen.states {
            let Some(kept) = place(&Step::KeepState { uid: uid.clone() }) else { continue };
            let domain = seen.domain.as_ref().filter(|domain| domain.uid.as_ref() == Some(uid));
            if domain.is_some_and(|domain| !matches!(domain.state, DomainState::Off(_))) {
                prop_assert!(place(&Step::Destroy).is_some_and(|killed| killed < kept), "{:?}", plan);
            }
        }
        let later = |step: &Step| matches!(
            step,
            Step::ReleaseVolumes | Step::PublishEnd(_) | Step::Undefine | Step::RemoveFiles { .. } | Step::Start
        );
        let first = plan.steps.iter().position(later).unwrap_or(plan.steps.len());
        prop_assert!(!plan.steps[first..].iter().any(|step| matches!(step, Step::KeepState { .. })), "{:?}", plan);
        let gone = plan.steps.contains(&Step::Undefine) || plan.steps.contains(&Step::Start);
        prop_assert!(!gone || plan.steps.iter().filter(|step| matches!(step, Step::KeepState { .. })).count() >= seen.states.len(), "{:?}", plan);
    }

    #[test]
    fn a_foreign_domain_is_neither_killed_nor_undefined(want in any_wanted(), seen in any_observed()) {
        let Ok(plan) = plan(&want, &seen, NOW) else { return Ok(()) };
        if seen.domain.as_ref().is_some_and(|domain| domain.uid.is_none()) {
            prop_assert!(!plan.steps.contains(&Step::Destroy), "{:?}", plan);
            prop_assert!(!plan.steps.contains(&Step::Undefine), "{:?}", plan);
        }
    }
}

fn there(name: &str, image: Option<&str>) -> ObservedDisk {
    ObservedDisk { name: name.to_owned(), image: image.map(str::to_owned) }
}

#[test]
fn processors_are_plugged_in_before_the_guest_is_published_and_never_out() {
    let check = |vcpus, expected: &[Step], next| {
        let seen = Observed { vcpus, ..observed(Some(("new", DomainState::Active))) };
        let plan = plan(&wanted(Intent::Run, Phase::Running), &seen, NOW).expect("a plan");
        assert_eq!((plan.steps.as_slice(), plan.next), (expected, next), "{vcpus:?}");
    };
    check(Some((1, 4)), &[Step::PlugVcpus { count: 2 }], Next::Now);
    for settled in [Some((2, 4)), Some((3, 4)), Some((1, 1)), None] {
        check(settled, &[Step::PublishRunning], Next::OnChange);
    }
    let seen = Observed { vcpus: Some((1, 4)), ..observed(Some(("new", DomainState::Active))) };
    let stop = Intent::Stop { deadline_ms: NOW + 1 };
    let plan = plan(&wanted(stop, Phase::Running), &seen, NOW).expect("a plan");
    assert!(!plan.steps.contains(&Step::PlugVcpus { count: 2 }), "a guest on its way out gets nothing");
}

#[test]
fn memory_is_plugged_in_with_processors_before_the_guest_is_published() {
    let memory = ObservedMemory { boot_kib: 1 << 20, size_kib: 1 << 20, requested_kib: 0, block_kib: 2048 };
    let want = |granted, intent| {
        let memory = Some(WantedMemory { kib: 3 << 19, granted });
        Wanted { memory, ..wanted(intent, Phase::Running) }
    };
    let check = |granted, vcpus, expected: &[Step]| {
        let seen = Observed { vcpus, memory: Some(memory), ..observed(Some(("new", DomainState::Active))) };
        let made = plan(&want(granted, Intent::Run), &seen, NOW).expect("a plan");
        assert_eq!(made.steps, expected);
    };
    let grow = Step::PlugMemory { requested_kib: 1 << 19 };
    check(true, None, std::slice::from_ref(&grow));
    check(true, Some((1, 4)), &[Step::PlugVcpus { count: 2 }, grow.clone()]);
    check(false, None, &[Step::PublishRunning]);
    let seen = Observed { memory: Some(memory), ..observed(Some(("new", DomainState::Active))) };
    let stopped = plan(&want(true, Intent::Stop { deadline_ms: NOW + 1 }), &seen, NOW).expect("a plan");
    assert!(!stopped.steps.contains(&grow), "a guest on its way out gets nothing");
}

#[test]
fn disks_are_plugged_into_a_running_guest_and_out_of_it() {
    let disk =
        |name: &str, pluggable| WantedDisk { name: name.into(), pluggable, image: Some(format!("volumes/{name}")) };
    let check = |wanted_disks: &[WantedDisk], has: &[&str], expected: &[Step], next: Next| {
        let want = Wanted { disks: Some(wanted_disks.to_vec()), ..wanted(Intent::Run, Phase::Running) };
        let mut seen = observed(Some(("new", DomainState::Active)));
        seen.disks = has.iter().map(|name| there(name, Some(&format!("volumes/{name}")))).collect();
        let made = plan(&want, &seen, NOW).expect("a plan");
        assert_eq!(made.steps[0], Step::PublishRunning);
        assert_eq!((&made.steps[1..], made.next), (expected, next));
    };
    let (into, out) =
        (|disk: &str| Step::PlugIn { disk: disk.into() }, |disk: &str| Step::PlugOut { disk: disk.into() });
    check(&[disk("root", false)], &["root"], &[], Next::OnChange);
    check(&[disk("root", false), disk("data", true)], &["root"], &[into("data")], Next::Now);
    // What the spec got by another way waits for the next start.
    check(&[disk("root", false), disk("more", false)], &["root"], &[], Next::OnChange);
    check(&[disk("root", false)], &["root", "data"], &[out("data")], Next::At(NOW + 5_000));
    let both = [out("old"), into("new")];
    check(&[disk("root", false), disk("new", true)], &["root", "old"], &both, Next::Now);
    check(&[disk("one", true), disk("two", true)], &[], &[into("one")], Next::Now);
    let mut seen = observed(Some(("new", DomainState::Active)));
    seen.disks = vec![there("root", None)];
    let unknown = plan(&wanted(Intent::Run, Phase::Running), &seen, NOW).expect("a plan");
    assert_eq!(unknown.steps, [Step::PublishRunning], "what is wanted is not known: nothing is unplugged");
}

#[test]
fn a_disk_that_shows_another_image_leaves_before_the_new_one_comes() {
    let disks = vec![WantedDisk { name: "data".into(), pluggable: true, image: Some("volumes/b".into()) }];
    let want = Wanted { disks: Some(disks), ..wanted(Intent::Run, Phase::Running) };
    let check = |has: Option<&str>, expected: &[Step]| {
        let mut seen = observed(Some(("new", DomainState::Active)));
        seen.disks = vec![there("data", has)];
        assert_eq!(&plan(&want, &seen, NOW).expect("a plan").steps[1..], expected, "{has:?}");
    };
    check(Some("volumes/a"), &[Step::PlugOut { disk: "data".into() }]);
    check(Some("volumes/b"), &[]);
    // One that the guest may only read.
    check(None, &[]);
}

#[test]
fn a_running_guest_is_published_though_a_disk_is_in_use_elsewhere() {
    let disks = vec![WantedDisk { name: "data".into(), pluggable: true, image: None }];
    let want = Wanted { disks: Some(disks), ..wanted(Intent::Run, Phase::Running) };
    let mut seen = observed(Some(("new", DomainState::Active)));
    seen.foreign_images = vec![("volumes/a".into(), "other".into())];
    let steps = plan(&want, &seen, NOW).expect("a plan").steps;
    assert_eq!(
        steps,
        [Step::PublishRunning, Step::PlugIn { disk: "data".into() }],
        "the step takes the image, or fails"
    );
    // A guest that ends loses its disks with its domain.
    let want = Wanted { intent: Intent::Stop { deadline_ms: NOW }, ..want };
    assert_eq!(plan(&want, &seen, NOW).expect("a plan").steps, [Step::Destroy]);
}
