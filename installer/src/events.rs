//! What an installation tells a webhook: started, each step, failed, finished, as JSON by POST. Sent from a thread of its
//! own, because writing a disk keeps the installer's busy. Nothing here fails or holds up an installation: a collector that
//! does not answer loses events, and at the end is waited for [`CLOSE_TIMEOUT`] at most.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use furrow_model::proxy::Proxies;
use serde_json::{Value, json};

use crate::config::{API_VERSION, Webhook};
use crate::download;

/// Events between the installation and the collector; one has about ten.
const QUEUE: usize = 64;
/// How long the end of an installation waits for events that are not yet delivered.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A collector on the network answers in milliseconds.
const POST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one event is sent at most.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// The plan is valid and begins to be executed.
    Started,
    /// A step begins.
    Step(&'a str),
    /// Nothing more follows; the step and the reason.
    Failed(&'a str, &'a str),
    /// All is written.
    Finished,
}

/// The way to the collector, or none.
pub(crate) struct Events {
    to: Option<(SyncSender<Value>, Receiver<()>)>,
    /// hostname, serial, uuid.
    machine: Value,
}

impl Events {
    /// Opens it. Without a webhook nothing is ever sent; a webhook that cannot be used is told through `say`.
    pub(crate) fn open(webhook: Option<&Webhook>, hostname: &str, say: &dyn Fn(&str)) -> Events {
        let dmi = |name: &str| {
            let text = std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let machine = json!({"hostname": hostname, "serial": dmi("product_serial"), "uuid": dmi("product_uuid")});
        let to = webhook.and_then(|webhook| match start(webhook) {
            Ok(to) => Some(to),
            Err(error) => {
                say(&format!("events are not sent: {error}"));
                None
            }
        });
        Events { to, machine }
    }

    /// Queues an event.
    pub(crate) fn send(&self, event: Event<'_>) {
        let Some((sender, _)) = &self.to else { return };
        match sender.try_send(body(&self.machine, event, &jiff::Timestamp::now().to_string())) {
            // A collector that is that far behind has lost its place.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Waits, for a limited time, until what was queued is delivered or given up.
    pub(crate) fn close(self, say: &dyn Fn(&str)) {
        let Some((sender, done)) = self.to else { return };
        drop(sender);
        if done.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            say("the webhook does not answer: not all events were delivered");
        }
    }
}

/// The document that is sent.
fn body(machine: &Value, event: Event<'_>, time: &str) -> Value {
    let (name, step, message) = match event {
        Event::Started => ("started", None, None),
        Event::Step(step) => ("step", Some(step), None),
        Event::Failed(step, reason) => ("failed", Some(step), Some(reason)),
        Event::Finished => ("finished", None, None),
    };
    json!({
        "apiVersion": API_VERSION, "kind": "InstallEvent", "event": name, "step": step, "message": message, "time": time,
        "hostname": machine["hostname"], "serial": machine["serial"], "uuid": machine["uuid"],
    })
}

fn start(webhook: &Webhook) -> Result<(SyncSender<Value>, Receiver<()>), String> {
    let url = reqwest::Url::parse(&webhook.url).map_err(|e| e.to_string())?;
    let ca = webhook.ca.as_deref().map(str::as_bytes);
    // A collector is part of the place where machines are installed.
    let client = download::client(ca, POST_TIMEOUT, Some(&Proxies::default())).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let (sender, events) = sync_channel::<Value>(QUEUE);
    let (finished, done) = sync_channel(1);
    let deliver = move || {
        // Once the collector was silent it is asked once for each event: the last ones are worth most.
        let mut attempts = ATTEMPTS;
        for event in events {
            let delivered = runtime.block_on(post(&client, &url, &event, attempts));
            attempts = if delivered { ATTEMPTS } else { 1 };
        }
        let _ = finished.send(());
    };
    std::thread::Builder::new().name("events".into()).spawn(deliver).map_err(|e| e.to_string())?;
    Ok((sender, done))
}

async fn post(client: &reqwest::Client, url: &reqwest::Url, event: &Value, attempts: u32) -> bool {
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let request = client.post(url.clone()).header("content-type", "application/json").body(event.to_string());
        match request.timeout(POST_TIMEOUT).send().await {
            Ok(response) if response.status().is_success() => return true,
            // It will not take the same words a second time.
            Ok(response) if response.status().is_client_error() => return true,
            Ok(_) | Err(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn webhook(listener: &TcpListener) -> Webhook {
        let port = listener.local_addr().expect("bound").port();
        Webhook { url: format!("http://127.0.0.1:{port}/events"), ca: None }
    }

    fn open(webhook: &Webhook) -> Events {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Events::open(Some(webhook), "n1", &|line| panic!("{line}"))
    }

    #[test]
    fn events_arrive_in_their_order_and_are_sent_again_after_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let events = open(&webhook(&listener));
        events.send(Event::Started);
        events.send(Event::Failed("system", "the disk is gone"));
        let collector = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for status in ["500 Busy", "200 OK", "204 No Content"] {
                let (mut client, _) = listener.accept().expect("a request");
                let mut text = String::new();
                let mut buffer = [0; 4096];
                while !text.contains("\"uuid\"") {
                    let n = client.read(&mut buffer).expect("read");
                    text += &String::from_utf8_lossy(&buffer[..n]);
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                client.write_all(answer.as_bytes()).expect("written");
                let (_, body) = text.split_once("\r\n\r\n").expect("a body");
                bodies.push(serde_json::from_str::<Value>(body).expect("JSON"));
            }
            bodies
        });
        events.close(&|line| panic!("{line}"));
        let bodies = collector.join().expect("no panic");
        let told: Vec<_> = bodies.iter().map(|b| (b["event"].as_str(), b["step"].as_str())).collect();
        assert_eq!(told, [(Some("started"), None), (Some("started"), None), (Some("failed"), Some("system"))]);
        assert_eq!(
            (bodies[2]["message"].as_str(), bodies[2]["hostname"].as_str()),
            (Some("the disk is gone"), Some("n1"))
        );
    }

    #[test]
    fn a_silent_collector_holds_nothing_up() {
        // It takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let events = open(&webhook(&listener));
        let begun = Instant::now();
        for _ in 0..2 * QUEUE {
            events.send(Event::Step("system"));
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        let told = std::cell::Cell::new(false);
        events.close(&|_| told.set(true));
        assert!(told.get() && begun.elapsed() < CLOSE_TIMEOUT + Duration::from_secs(1));
    }
}
