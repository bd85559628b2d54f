//! `furrow-install console`: what stands on a node's screen for as long as it runs. Owns the terminal, the clock and what the
//! keys make happen; what is shown is [`pages`]'s, how it looks [`view`]'s.
//!
//! It runs on tty1 instead of a login, on every node and for ever: probes run beside it, each with its own time limit, so
//! that a dead Ceph or API server makes a line of text and no frozen screen. A login takes this process's place, and systemd
//! starts the console again after it. Serial lines keep their login, which tests and headless servers need; above it stands
//! the short state that [`issue`] writes.

mod erasure;
mod issue;
mod logs;
mod pages;
mod view;

use std::time::{Duration, Instant};

use anyhow::Result;
use furrow_host::cmd::Cmd;
use furrow_model::reasons::chain;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::{mpsc, watch};

use self::issue::Issue;
use self::pages::{Action, Page, Pages, Power};
use crate::network::{self, trial};
use crate::observe::{Part, Probe, node_yaml};
use crate::reset;
use crate::settings::root_has_password;
use crate::steps::{Node, systemctl};
use crate::tui::{self, Screen, wizard::Key};

/// Keys that wait while something is at work; more are not pressed in that time.
const MAX_KEYS: usize = 32;
/// Answers of probes that wait to be shown: as many as there are probes, and some.
const MAX_ANSWERS: usize = 16;
/// How often the clock of a trial and the journal move on.
const TICK: Duration = Duration::from_secs(1);
/// The kernel and the boot write on the same screen: it is painted whole now and then.
const REPAINT: Duration = Duration::from_secs(60);
/// After so long without a key the password is asked for again.
const LOCK_AFTER: Duration = Duration::from_secs(300);
/// After so long without a key nobody looks, and all is asked this many times as rarely.
const UNWATCHED_AFTER: Duration = LOCK_AFTER;
const UNWATCHED: u32 = 4;
/// A wrong password costs this.
const WRONG_PASSWORD: Duration = Duration::from_secs(2);

/// The service waits so long before it ends with an error.
const FAILED: Duration = Duration::from_secs(15);

/// Why the console ended.
pub(crate) enum End {
    /// A login takes its place.
    Login,
    Left,
}

/// Shows the node until someone logs in or leaves. `service`: as the unit of tty1, which also tells the serial lines.
///
/// # Errors
/// When there is no terminal.
pub(crate) async fn run(service: bool) -> Result<End> {
    let mut screen = tui::open()?;
    let end = Console::new(service).run(&mut screen).await;
    tui::close(&mut screen);
    if service && end.is_err() {
        // systemd starts it again: not so often that a node is busy with it.
        tokio::time::sleep(FAILED).await;
    }
    end
}

/// The running console.
struct Console {
    pages: Pages,
    host: String,
    issue: Option<Issue>,
    /// When the last key was pressed; who waits for a change is told when all is to be asked at once.
    last_key: watch::Sender<Instant>,
    /// Whether root's password was given, and someone was here since.
    unlocked: bool,
    /// The plan of the reset that was shown last.
    reset: Option<reset::Plan>,
}

impl Console {
    fn new(service: bool) -> Console {
        Console {
            pages: Pages::new(has_password()),
            host: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            issue: service.then(Issue::default),
            last_key: watch::Sender::new(Instant::now()),
            unlocked: false,
            reset: None,
        }
    }

    async fn run(&mut self, screen: &mut Screen) -> Result<End> {
        let mut keys = keys();
        let (answers, mut answered) = mpsc::channel(MAX_ANSWERS);
        for probe in Probe::ALL {
            tokio::spawn(ask(probe, answers.clone(), self.last_key.subscribe()));
        }
        let (mut tick, mut repaint) = (tokio::time::interval(TICK), tokio::time::interval(REPAINT));
        loop {
            screen.draw(|frame| view::draw(frame, &self.pages, &self.host))?;
            tokio::select! {
                // Receiving loses nothing when another arm is taken first; ticks come again.
                key = keys.recv() => match key {
                    // The terminal is gone.
                    None => return Ok(End::Left),
                    Some(None) => tui::repaint(screen)?,
                    Some(Some(key)) => {
                        self.last_key.send_if_modified(|last| {
                            std::mem::replace(last, Instant::now()).elapsed() > UNWATCHED_AFTER
                        });
                        let action = self.pages.key(key);
                        if let Some(end) = self.act(action).await {
                            return Ok(end);
                        }
                    }
                },
                Some((probe, parts)) = answered.recv() => {
                    self.pages.observed(probe, parts);
                    // A part that is not known yet is not a part that is well.
                    if let Some(issue) = self.issue.as_mut().filter(|_| self.pages.parts.len() == Probe::ALL.len()) {
                        issue.tell(&self.host, &self.pages.all_parts()).await;
                    }
                }
                _ = tick.tick() => self.tick().await,
                _ = repaint.tick() => tui::repaint(screen)?,
            }
        }
    }

    fn ask_all(&self) {
        self.last_key.send_replace(Instant::now());
    }

    async fn tick(&mut self) {
        self.pages.trial_is(trial::seconds_left());
        self.unlocked &= self.last_key.borrow().elapsed() < LOCK_AFTER;
        if !self.unlocked {
            // It may have got one since.
            self.pages.lock(has_password());
        }
        if self.pages.page == Page::Logs {
            self.read_logs().await;
        }
    }

    async fn read_logs(&mut self) {
        let question = self.pages.logs.question();
        let which = question.0;
        self.pages.logs.take(which, logs::read(question).await);
    }

    /// Makes happen what a key asks for; Some ends the console.
    async fn act(&mut self, mut action: Action) -> Option<End> {
        loop {
            match action {
                Action::Stay => return None,
                Action::Leave => return Some(End::Left),
                Action::Refresh => {
                    self.ask_all();
                    return None;
                }
                // What follows the password is done at once.
                Action::CheckPassword(password) => {
                    let good = is_roots_password(&password).await;
                    if good != Ok(true) {
                        tokio::time::sleep(WRONG_PASSWORD).await;
                    }
                    self.unlocked = good == Ok(true);
                    action = self.pages.password_checked(good);
                    continue;
                }
                Action::OpenNetwork => self.pages.open_network(node_yaml().map(|config| config.management)),
                Action::Try(management) => {
                    let tried = try_network(&management).await;
                    self.pages.tried(tried);
                    self.ask_all();
                }
                Action::Keep => {
                    let kept = trial::confirm().await.map_err(|e| chain(&e));
                    self.told(kept.map(|()| "the new network stays".to_owned()));
                }
                Action::TakeBack => {
                    let back = trial::rollback().await.map_err(|e| chain(&e));
                    self.told(back.map(|_| "the old network is back".to_owned()));
                    self.ask_all();
                }
                Action::Login if has_password() => return Some(End::Login),
                Action::Login => self.told(Err(
                    "root has no password (admin.passwordHash of node.yaml): log in over SSH with a key".into(),
                )),
                Action::ReadLogs => self.read_logs().await,
                Action::Stop(power) => self.stop(power).await,
                Action::OpenReset => self.open_reset().await,
                Action::Reset => self.begin_reset().await,
            }
            self.pages.trial_is(trial::seconds_left());
            return None;
        }
    }

    fn told(&mut self, result: Result<String, String>) {
        let failed = result.is_err();
        self.pages.notice = Some((result.unwrap_or_else(|reason| reason), failed));
    }

    /// This node as its node.yaml says; why not is told.
    fn node(&mut self) -> Option<Node> {
        node_yaml().map(Node::new).map_err(|reason| self.told(Err(reason))).ok()
    }

    /// Plans a reset and shows it; as `furrow reset` does.
    async fn open_reset(&mut self) {
        if reset::has_begun() {
            return self.told(Err("this node is being reset already: it goes on by itself".into()));
        }
        let Some(node) = self.node() else { return };
        match Box::pin(reset::plan(&node, false)).await {
            Ok(Ok(plan)) => {
                self.pages.open_reset(&plan.lines(), Some(plan.node().to_owned()));
                self.reset = Some(plan);
            }
            Ok(Err(refusals)) => {
                let head = std::iter::once(format!("{} is not reset:", node.config.hostname));
                let lines: Vec<String> = head.chain(refusals.iter().map(|refusal| format!("- {refusal}"))).collect();
                self.pages.open_reset(&lines, None);
            }
            Err(error) => self.told(Err(chain(&error))),
        }
    }

    async fn begin_reset(&mut self) {
        // The one that was shown and confirmed, not another.
        let Some(plan) = self.reset.take() else { return };
        let Some(node) = self.node() else { return };
        let said = match Box::pin(reset::begin(&node, &plan, false)).await {
            Ok(true) => Ok("the machine is being erased and restarts by itself".to_owned()),
            Ok(false) => Err("the node is not as it was shown any more: nothing was done".to_owned()),
            Err(error) => Err(chain(&error)),
        };
        self.told(said);
        self.ask_all();
    }

    async fn stop(&mut self, power: Power) {
        let (_, verb) = power.words();
        let done = systemctl(&["--no-block", verb]).await;
        self.told(done.map(|_| format!("{verb} follows")).map_err(|e| chain(&e)));
    }
}

/// The keys, from a thread of their own: reading a terminal blocks. None: the screen has another size.
fn keys() -> mpsc::Receiver<Option<Key>> {
    let (send, keys) = mpsc::channel(MAX_KEYS);
    std::thread::spawn(move || {
        // It ends with the terminal, or with the process.
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) => match tui::key_of(key) {
                    Some(key) => Some(key),
                    None => continue,
                },
                Event::Resize(_, _) => None,
                _ => continue,
            };
            if send.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

/// Asks one probe for ever, as often as it is worth, or when told to.
async fn ask(probe: Probe, answers: mpsc::Sender<(Probe, Vec<Part>)>, mut last_key: watch::Receiver<Instant>) {
    while answers.send((probe, probe.observe().await)).await.is_ok() {
        let watched = last_key.borrow_and_update().elapsed() < UNWATCHED_AFTER;
        let every = probe.every() * if watched { 1 } else { UNWATCHED };
        // Both only wait; neither loses anything.
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            changed = last_key.changed() => if changed.is_err() { return },
        }
    }
}

fn has_password() -> bool {
    root_has_password(&std::fs::read_to_string("/etc/shadow").unwrap_or_default())
}

/// Asks PAM's own checker, which knows every kind of hash; the password goes through its standard input.
async fn is_roots_password(password: &str) -> Result<bool, String> {
    let check = Cmd::new("/usr/sbin/unix_chkpwd").args(["root", "nonull"]).stdin(format!("{password}\0"));
    let out = check.run_unchecked().await.map_err(|e| chain(&e))?;
    Ok(out.code == Some(0))
}

/// Tries a network for this node; seconds until it is taken back.
async fn try_network(management: &crate::config::Management) -> Result<u64, String> {
    let text = std::fs::read_to_string("/etc/furrow/node.yaml").map_err(|e| format!("/etc/furrow/node.yaml: {e}"))?;
    let text = network::replace_management(&text, management).map_err(|e| e.to_string())?;
    trial::begin(&text).await.map_err(|e| chain(&e))?;
    Ok(trial::seconds_left().unwrap_or_default())
}
