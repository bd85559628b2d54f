//! Attempts against a guest in memory: what it is sent, and what its answers mean.

use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// A guest that keeps what it was sent, and answers a port with what is written here. A port without an answer is silent
/// when it is 1, and closed otherwise.
#[derive(Default)]
struct Guest {
    answers: Vec<(u16, &'static str)>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Dial for Guest {
    fn dial<'a>(&'a self, uid: &'a str, to: &'a Forward, _: Duration) -> BoxFuture<'a, Result<DuplexStream, String>> {
        assert_eq!((uid, to.nic.as_str(), to.address), ("u-1", "default", IpAddr::from([192, 168, 10, 7])));
        let answer = self.answers.iter().find(|(port, _)| *port == to.port).map(|(_, answer)| *answer);
        let said = Arc::clone(&self.said);
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let result = match answer {
            None if to.port != 1 => Err("connection refused".to_owned()),
            None => {
                tokio::spawn(async move { far.read(&mut []).then(|_| std::future::pending::<()>()).await });
                Ok(near)
            }
            Some(answer) => {
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") && far.read_buf(&mut request).await.is_ok_and(|read| read > 0)
                    {
                    }
                    said.lock().expect("no panic holds it").push(String::from_utf8_lossy(&request).into_owned());
                    // The asker may have gone by then.
                    let _ = far.write_all(answer.as_bytes()).await;
                });
                Ok(near)
            }
        };
        std::future::ready(result).boxed()
    }
}

fn vmi() -> VirtualMachineInstance {
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a"},
        "spec": {"domain": {"devices": {"interfaces": [
            {"name": "default", "bridge": {}, "ports": [{"name": "web", "port": 8080}]}]}}},
        "status": {"interfaces": [{"name": "default", "ipAddress": "192.168.10.7"}]},
    });
    serde_json::from_value(vmi).expect("a vmi")
}

fn ask(probe: Value) -> Result<Ask, String> {
    let probe: Probe = serde_json::from_value(probe).expect("a probe");
    Ask::of(&vmi(), &probe).expect("it asks a port")
}

async fn outcome(guest: Guest, probe: Value) -> Result<(), String> {
    let dial: Arc<dyn Dial> = Arc::new(guest);
    let place = Place::of(&vmi()).expect("it has an address");
    let limit = Duration::from_millis(500);
    let way = Way { dial: &dial, uid: "u-1", place: &place, limit };
    let ask = ask(probe)?;
    tokio::time::timeout(limit, attempt(&way, &ask)).await.unwrap_or_else(|_| Err("too late".to_owned()))
}

#[test]
fn a_probe_asks_a_port_by_number_or_by_an_interfaces_name() {
    assert_eq!(ask(json!({"tcpSocket": {"port": 22}})), Ok(Ask::Tcp(22)));
    assert_eq!(ask(json!({"tcpSocket": {"port": "web"}})), Ok(Ask::Tcp(8080)));
    let missing = "port: no interface has a port named \"ssh\"".to_owned();
    assert_eq!(ask(json!({"tcpSocket": {"port": "ssh"}})), Err(missing));
    let Ok(Ask::Http(get)) = ask(json!({"httpGet": {"port": "web", "scheme": "HTTPS", "path": "/x"}})) else {
        panic!("it asks by HTTP")
    };
    assert_eq!((get.secure, get.port, get.target.as_str()), (true, 8080, "/x"));
    assert!(Ask::of(&vmi(), &serde_json::from_value(json!({"guestAgentPing": {}})).expect("a probe")).is_none());
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp() {
    let guest = || Guest { answers: vec![(22, "")], ..Guest::default() };
    assert_eq!(outcome(guest(), json!({"tcpSocket": {"port": 22}})).await, Ok(()));
    assert_eq!(outcome(guest(), json!({"tcpSocket": {"port": 23}})).await, Err("connection refused".to_owned()));
}

#[tokio::test]
async fn a_status_is_what_counts_for_http() {
    let check = async |answer: &'static str, expected: Result<(), &str>| {
        let guest = Guest { answers: vec![(80, answer)], ..Guest::default() };
        let found = outcome(guest, json!({"httpGet": {"port": 80}})).await;
        match expected {
            Ok(()) => assert_eq!(found, Ok(()), "{answer}"),
            Err(why) => assert!(found.clone().is_err_and(|error| error.contains(why)), "{answer}: {found:?}"),
        }
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(())).await;
    check("HTTP/1.0 204 No Content\r\n\r\n", Ok(())).await;
    check("HTTP/1.1 301 Moved\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n", Ok(())).await;
    check("HTTP/1.1 302 Found\r\nLocation: http://192.168.10.7:81/\r\nContent-Length: 0\r\n\r\n", Err("refused")).await;
    check("HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\n\r\n", Err("statuscode: 503")).await;
    check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Err("end of file")).await;
    check("SSH-2.0-OpenSSH\r\n", Err("")).await;
    check("", Err("")).await;
    assert_eq!(outcome(Guest::default(), json!({"httpGet": {"port": 1}})).await, Err("too late".to_owned()));
}

#[tokio::test]
async fn headers_of_the_probe_are_sent_and_the_usual_ones_where_it_has_none() {
    let guest = Guest { answers: vec![(8080, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], ..Guest::default() };
    let said = Arc::clone(&guest.said);
    let headers = json!([{"name": "Host", "value": "shop.example"}, {"name": "X-Probe", "value": "1"},
        {"name": "Accept", "value": ""}]);
    let get = json!({"httpGet": {"port": "web", "path": "/healthz?full=1", "httpHeaders": headers}});
    assert_eq!(outcome(guest, get).await, Ok(()));
    let said = said.lock().expect("no panic holds it").concat().to_lowercase();
    assert!(said.starts_with("get /healthz?full=1 http/1.1\r\n"), "{said}");
    for line in ["host: shop.example\r\n", "x-probe: 1\r\n", "user-agent: kube-probe/", "connection: close\r\n"] {
        assert_eq!(said.matches(line).count(), 1, "{line}: {said}");
    }
    assert!(!said.contains("accept"), "{said}");
}
