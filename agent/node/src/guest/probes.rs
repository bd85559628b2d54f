//! Probes of one running guest: a task a probe, which makes the attempts (through the guest's own agent, or its network) and
//! says in one watch channel what they mean; when and how many is `furrow_model::guest::ProbeState`. The guest's owner reads the channel
//! and decides. Refuses to count what it could not ask: a paused or frozen guest answers nobody.
//!
//! Attempts by agents share a few of libvirt's threads, each until the agent has answered or libvirt gave up, so that guests
//! whose agents say nothing hold up their own probes and no start.

use std::sync::Arc;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::{Probe, VmiPhase};
use furrow_model::guest::{ProbeNumbers, ProbeSchedule, ProbeState, Verdict};
use furrow_model::reasons::chain;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reach::{self, Ask, Place, Way};
use super::{Context, Key, now_ms, status};

/// Attempts at the same time on this node.
pub(super) const CONCURRENT_ATTEMPTS: usize = 4;
/// Attempts at the same time through guests' networks; each keeps up to 128 KiB.
pub(super) const CONCURRENT_CONNECTIONS: usize = 32;
/// Between looks at a command that runs in the guest: the first, and the longest.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// What the probes of a guest say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// It is to be sent something.
    pub(super) ready: bool,
    /// It does not hang.
    pub(super) alive: bool,
}

/// The probes of a running guest. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Probes {
    /// What they say.
    pub(super) health: watch::Receiver<Health>,
    /// Whether the guest can answer: it runs, and its file systems are not frozen.
    pub(super) answering: watch::Sender<bool>,
    /// Where it is reached, once that is known.
    pub(super) place: watch::Sender<Option<Place>>,
    _end: DropGuard,
}

/// Starts the probes of a guest; `None` when it has none.
pub(super) fn start(context: &Arc<Context>, key: &Key, vmi: &Arc<VirtualMachineInstance>) -> Option<Probes> {
    let (readiness, liveness) = (&vmi.spec.readiness_probe, &vmi.spec.liveness_probe);
    if readiness.is_none() && liveness.is_none() {
        return None;
    }
    // Of a guest that an agent before this one looked after it is known whether it was ready.
    let ready = readiness.is_none() || status::says(vmi, "Ready");
    let (health, reader) = watch::channel(Health { ready, alive: true });
    let (answering, can_answer) = watch::channel(true);
    let (place, seen_at) = watch::channel(Place::of(vmi));
    let stop = context.stop.child_token();
    let health = Arc::new(health);
    for (probe, kind) in [(readiness, Kind::Readiness), (liveness, Kind::Liveness)] {
        let Some(probe) = probe else { continue };
        let runner = Runner {
            context: Arc::clone(context),
            domain: key.domain_name(),
            key: key.clone(),
            vmi: Arc::clone(vmi),
            kind,
            action: Action::of(vmi, probe),
            health: Arc::clone(&health),
            answering: can_answer.clone(),
            place: seen_at.clone(),
        };
        let begin = if kind == Kind::Liveness || ready { Verdict::Passing } else { Verdict::Failing };
        tokio::spawn(runner.run(schedule(probe), begin, started_ms(vmi), stop.clone()));
    }
    Some(Probes { health: reader, answering, place, _end: stop.drop_guard() })
}

fn schedule(probe: &Probe) -> ProbeSchedule {
    ProbeSchedule::of(ProbeNumbers {
        initial_delay_seconds: probe.initial_delay_seconds,
        period_seconds: probe.period_seconds,
        timeout_seconds: probe.timeout_seconds,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
    })
}

/// When the guest was started, in milliseconds since 1970; now, if that is not known.
fn started_ms(vmi: &VirtualMachineInstance) -> i64 {
    let mut entries = vmi.status.iter().flat_map(|status| &status.phase_transition_timestamps);
    let entry = entries.rfind(|entry| entry.phase == VmiPhase::Running);
    let time = entry.and_then(|entry| entry.phase_transition_timestamp.as_ref());
    time.map_or_else(now_ms, |time| time.0.as_millisecond())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Readiness,
    Liveness,
}

/// What an attempt does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Ping,
    Exec(Vec<String>),
    Reach(Ask),
    /// It cannot be made, for this reason. Admission refuses such probes.
    Never(String),
}

impl Action {
    fn of(vmi: &VirtualMachineInstance, probe: &Probe) -> Self {
        match (&probe.exec, Ask::of(vmi, probe)) {
            (Some(exec), _) => Self::Exec(exec.command.clone().unwrap_or_default()),
            (None, Some(Ok(ask))) => Self::Reach(ask),
            (None, Some(Err(why))) => Self::Never(why),
            (None, None) => Self::Ping,
        }
    }
}

struct Runner {
    context: Arc<Context>,
    domain: String,
    key: Key,
    vmi: Arc<VirtualMachineInstance>,
    kind: Kind,
    action: Action,
    health: Arc<watch::Sender<Health>>,
    answering: watch::Receiver<bool>,
    place: watch::Receiver<Option<Place>>,
}

impl Runner {
    async fn run(self, schedule: ProbeSchedule, begin: Verdict, started_ms: i64, stop: CancellationToken) {
        let mut state = ProbeState::new(&schedule, begin, started_ms);
        loop {
            let wait = Duration::from_millis(u64::try_from(state.next_ms - now_ms()).unwrap_or(0));
            // Safe to cancel: waiting changes nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if !*self.answering.borrow() {
                state = state.skipped(&schedule, now_ms());
                continue;
            }
            // Not cancelled when the guest ends: the call under way ends by its own limit, and nobody waits for it.
            let permits = match &self.action {
                Action::Reach(_) => &self.context.reaching,
                Action::Ping | Action::Exec(_) | Action::Never(_) => &self.context.probes,
            };
            let Ok(permit) = permits.acquire().await else { return };
            let began_ms = now_ms();
            let outcome = self.attempt(Duration::from_millis(u64::try_from(schedule.timeout_ms).unwrap_or(0))).await;
            drop(permit);
            if stop.is_cancelled() {
                return;
            }
            let old = state.verdict;
            state = state.after(&schedule, outcome.is_ok(), began_ms, now_ms());
            if old != state.verdict {
                self.tell(state.verdict, &outcome);
            }
        }
    }

    /// One attempt; the error is why it failed.
    async fn attempt(&self, limit: Duration) -> Result<(), String> {
        match &self.action {
            Action::Ping => {
                let call = self.ask(json!({"execute": "guest-ping"}));
                let mut call = std::pin::pin!(call);
                match tokio::time::timeout(limit, &mut call).await {
                    Ok(answer) => answer.map(drop),
                    Err(_) => {
                        // The thread that asks is waited for: otherwise a silent guest would take one a period.
                        drop(call.await);
                        Err(format!("no answer within {} s", limit.as_secs()))
                    }
                }
            }
            Action::Exec(command) => self.exec(command, limit).await,
            Action::Reach(ask) => self.reach(ask, limit).await,
            Action::Never(why) => Err(why.clone()),
        }
    }

    async fn reach(&self, ask: &Ask, limit: Duration) -> Result<(), String> {
        let place = self.place.borrow().clone().ok_or("the guest has no address of IPv4 yet")?;
        let uid = self.vmi.uid().unwrap_or_default();
        let way = Way { dial: &self.context.dial, uid: &uid, place: &place, limit };
        let attempt = tokio::time::timeout(limit, reach::attempt(&way, ask)).await;
        attempt.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
    }

    async fn exec(&self, command: &[String], limit: Duration) -> Result<(), String> {
        let (path, arguments) = command.split_first().ok_or("the probe's command is empty")?;
        let began = tokio::time::Instant::now();
        let request = json!({"execute": "guest-exec", "arguments": {"path": path, "arg": arguments}});
        let started = self.ask(request).await?;
        let pid = started["pid"].as_i64().ok_or("the guest agent did not say which process it started")?;
        let mut look = FIRST_LOOK;
        while began.elapsed() < limit {
            tokio::time::sleep(look.min(limit.saturating_sub(began.elapsed()))).await;
            look = (look * 2).min(LONGEST_LOOK);
            let status = self.ask(json!({"execute": "guest-exec-status", "arguments": {"pid": pid}})).await?;
            if status["exited"] == true {
                return match status["exitcode"].as_i64() {
                    Some(0) => Ok(()),
                    Some(code) => Err(format!("the command ended with {code}")),
                    None => Err("the command was ended by a signal".to_owned()),
                };
            }
        }
        Err(format!("the command took longer than {} s", limit.as_secs()))
    }

    async fn ask(&self, request: Value) -> Result<Value, String> {
        let answer = self.context.domains.agent(&self.domain, request.to_string()).await;
        let answer = answer.map_err(|error| chain(&error))?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        Ok(answer["return"].take())
    }

    fn tell(&self, verdict: Verdict, outcome: &Result<(), String>) {
        let passing = verdict == Verdict::Passing;
        let kind = if self.kind == Kind::Readiness { "Readiness" } else { "Liveness" };
        tracing::info!(vm = %self.key, probe = kind, passing, "a probe of the guest changed its mind");
        if let Err(why) = outcome {
            self.context.events.warning(&self.vmi, "Unhealthy", &format!("{kind} probe failed: {why}"));
        }
        self.health.send_if_modified(|health| {
            let old = *health;
            match self.kind {
                Kind::Readiness => health.ready = passing,
                // A guest that hung is started anew, whatever it says afterwards.
                Kind::Liveness => health.alive &= passing,
            }
            *health != old
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(probe: Value) -> Probe {
        serde_json::from_value(probe).expect("a probe")
    }

    #[test]
    fn a_probe_is_a_ping_a_command_or_a_port() {
        let of = |probe: &Probe| Action::of(&running_since_7(), probe);
        assert_eq!(of(&probe(json!({"guestAgentPing": {}}))), Action::Ping);
        assert_eq!(of(&probe(json!({"tcpSocket": {"port": 22}}))), Action::Reach(Ask::Tcp(22)));
        assert!(matches!(of(&probe(json!({"tcpSocket": {"port": "ssh"}}))), Action::Never(_)));
        let exec = probe(json!({"exec": {"command": ["cat", "/x"]}, "periodSeconds": 3}));
        assert_eq!(of(&exec), Action::Exec(vec!["cat".into(), "/x".into()]));
        assert_eq!(schedule(&exec).period_ms, 3_000);
    }

    fn running_since_7() -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a"},
            "spec": {"domain": {"devices": {}}},
            "status": {"phaseTransitionTimestamps":
                [{"phase": "Running", "phaseTransitionTimestamp": "1970-01-01T00:00:07Z"}]},
        }))
        .expect("a vmi")
    }

    #[test]
    fn a_guest_started_when_it_came_to_run() {
        assert_eq!(started_ms(&running_since_7()), 7_000);
    }
}
