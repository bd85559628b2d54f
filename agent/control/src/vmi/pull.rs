//! Questions about images to the agents, and their limits: a few at a time, so that slow registries do not keep other guests
//! from starting, and none while an image that failed backs off. Which node is asked does not matter; it is another each
//! time, so that a node without a way to the registry is not asked for ever. Guests that start together share an answer. Kept
//! in memory: a new leader asks once more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::time::Instant;

use furrow_api::channel::{ImageAnswer, ImageQuestion};
use furrow_api::import::PullSecret;
use furrow_model::oci::pull_delay;
use furrow_model::reasons::chain;

use crate::cluster::Cluster;
use crate::subresources::{AgentError, Agents, Place, endpoints};

/// Questions at a time; there are four times as many passes over guests.
const QUESTIONS: usize = 4;
/// So long an answer is that of whoever asks the same: a crowd of guests is not a crowd of questions.
const SHARED: Duration = Duration::from_secs(5);
/// Images that back off and are remembered; beyond it the one that failed first is tried anew.
const MAX_REMEMBERED: usize = 1024;

/// What fails together: an image, as one login sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    pub(super) image: String,
    pub(super) path: Option<String>,
    pub(super) secret: Option<PullSecret>,
}

#[derive(Debug, Clone)]
struct Failed {
    failures: u32,
    until: Instant,
    why: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The same is being asked, or too much.
    Busy,
    /// It failed.
    Failed(String),
}

/// What is asked: image and login, and whether its disk is to be measured.
type Question = (Pull, bool);

/// What was answered when.
type Answers = HashMap<Question, (Instant, ImageAnswer)>;

/// What is being asked.
type Turns = Mutex<HashSet<Question>>;

/// One question under way; its drop is its end.
struct Turn<'a> {
    turns: &'a Turns,
    question: &'a Question,
}

impl<'a> Turn<'a> {
    /// `None` while the same is asked, or too much.
    fn take(turns: &'a Turns, question: &'a Question) -> Option<Self> {
        let mut asking = turns.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = asking.len() < QUESTIONS && asking.insert(question.clone());
        // Not made unless it is taken: its drop ends the question.
        taken.then(|| Self { turns, question })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(self.question);
    }
}

/// What failed, and how long it is left alone.
#[derive(Default)]
struct Failures(Mutex<HashMap<Pull, Failed>>);

impl Failures {
    fn backing_off(&self, pull: &Pull, now: Instant) -> Option<(Duration, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = all.get(pull)?;
        let wait = failed.until.checked_duration_since(now).filter(|wait| !wait.is_zero())?;
        Some((wait, failed.why.clone()))
    }

    fn add(&self, pull: Pull, why: &str, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = match all.get(&pull) {
            // A crowd that fails together has failed once.
            Some(failed) if failed.until > now => return failed.until - now,
            known => known.map_or(0, |failed| failed.failures).saturating_add(1),
        };
        if all.len() >= MAX_REMEMBERED
            && !all.contains_key(&pull)
            && let Some(first) = all.iter().min_by_key(|(_, failed)| failed.until).map(|(pull, _)| pull.clone())
        {
            all.remove(&first);
        }
        let wait = pull_delay(failures);
        all.insert(pull, Failed { failures, until: now + wait, why: why.to_owned() });
        wait
    }

    fn forget(&self, pull: &Pull) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(pull);
    }
}

/// Who looks at images.
pub(crate) trait Lookout: Send + Sync {
    /// Has the agent of a node look at an image of a registry.
    fn look<'a>(
        &'a self,
        place: &'a Place,
        question: &'a ImageQuestion,
    ) -> BoxFuture<'a, Result<ImageAnswer, AgentError>>;
}

impl Lookout for Agents {
    fn look<'a>(
        &'a self,
        place: &'a Place,
        question: &'a ImageQuestion,
    ) -> BoxFuture<'a, Result<ImageAnswer, AgentError>> {
        Box::pin(Agents::look(self, place, question))
    }
}

/// Asks, and remembers what failed.
pub(crate) struct Pulls {
    agents: Arc<dyn Lookout>,
    turns: Turns,
    answered: Mutex<Answers>,
    failures: Failures,
}

impl Pulls {
    /// Nothing has failed yet.
    pub(crate) fn new(agents: Arc<dyn Lookout>) -> Self {
        Self { agents, turns: Turns::default(), answered: Mutex::default(), failures: Failures::default() }
    }

    /// How long an image is not to be asked for, and why.
    pub(super) fn backing_off(&self, pull: &Pull) -> Option<(Duration, String)> {
        self.failures.backing_off(pull, Instant::now())
    }

    /// It failed; gives the wait until it is asked for again.
    pub(super) fn failed(&self, pull: Pull, why: &str) -> Duration {
        self.failures.add(pull, why, Instant::now())
    }

    /// It is there.
    pub(super) fn succeeded(&self, pull: &Pull) {
        self.failures.forget(pull);
    }

    /// Asks some node.
    pub(super) async fn ask(&self, cluster: &Cluster, question: &ImageQuestion) -> Result<ImageAnswer, Unanswered> {
        let key =
            (Pull::new(&question.image, question.path.as_deref(), question.pull_secret.as_ref()), question.measure);
        if let Some(answer) = self.shared(&key) {
            return Ok(answer);
        }
        let Some(_turn) = Turn::take(&self.turns, &key) else { return Err(Unanswered::Busy) };
        let nodes = cluster.nodes.state();
        let places: Vec<_> = nodes.iter().filter_map(|node| place(node)).collect();
        if places.is_empty() {
            return Err(Unanswered::Failed("no node is ready to ask the registry".to_owned()));
        }
        let place = &places[rand::random_range(0..places.len())];
        let answer = self.agents.look(place, question).await.map_err(|error| Unanswered::Failed(chain(&error)))?;
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by what can be asked in that time.
        answered.retain(|_, (at, _)| at.elapsed() < SHARED);
        answered.insert(key.clone(), (Instant::now(), answer.clone()));
        Ok(answer)
    }

    fn shared(&self, key: &Question) -> Option<ImageAnswer> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.get(key).filter(|(at, _)| at.elapsed() < SHARED).map(|(_, answer)| answer.clone())
    }
}

fn place(node: &Node) -> Option<Place> {
    let address = endpoints::address(node).filter(|_| endpoints::is_ready(node))?;
    Some(Place { node: node.name_any(), address })
}

impl Pull {
    pub(super) fn new(image: &str, path: Option<&str>, secret: Option<&PullSecret>) -> Self {
        Self { image: image.to_owned(), path: path.map(str::to_owned), secret: secret.cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(image: &str) -> Pull {
        Pull::new(image, None, None)
    }

    #[test]
    fn a_crowd_that_fails_together_waits_as_long_as_one() {
        let failures = Failures::default();
        let begun = Instant::now();
        for _ in 0..100 {
            assert_eq!(failures.add(pull("x"), "no", begun), Duration::from_secs(10));
        }
        let later = begun + Duration::from_secs(4);
        assert_eq!(failures.backing_off(&pull("x"), later), Some((Duration::from_secs(6), "no".to_owned())));
        assert_eq!(failures.backing_off(&pull("y"), later), None);
        let over = begun + Duration::from_secs(10);
        assert_eq!(failures.backing_off(&pull("x"), over), None);
        assert_eq!(failures.add(pull("x"), "still no", over), Duration::from_secs(20));
        failures.forget(&pull("x"));
        assert_eq!(failures.add(pull("x"), "again", over), Duration::from_secs(10));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let failures = Failures::default();
        let begun = Instant::now();
        for n in 0..MAX_REMEMBERED + 5 {
            failures.add(pull(&n.to_string()), "no", begun + Duration::from_millis(n as u64));
        }
        assert_eq!(failures.0.lock().unwrap().len(), MAX_REMEMBERED);
        assert_eq!(failures.backing_off(&pull("0"), begun), None);
    }

    #[test]
    fn the_same_is_asked_once_at_a_time_and_not_too_much_at_once() {
        let turns = Turns::default();
        let questions: Vec<_> = (0..=QUESTIONS).map(|n| (pull(&n.to_string()), false)).collect();
        let first = Turn::take(&turns, &questions[0]);
        assert!(first.is_some() && Turn::take(&turns, &questions[0]).is_none());
        assert!(Turn::take(&turns, &questions[0]).is_none(), "who was sent away ends nobody's turn");
        let others: Vec<_> = questions[1..QUESTIONS].iter().map(|question| Turn::take(&turns, question)).collect();
        assert!(others.iter().all(Option::is_some) && Turn::take(&turns, &questions[QUESTIONS]).is_none());
        drop(first);
        assert!(Turn::take(&turns, &questions[QUESTIONS]).is_some());
    }
}
