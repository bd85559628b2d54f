//! Forwarded ports as control asks for them, with a guest in memory: smoltcp behind channels, which repeats what it is told
//! on ports 22 (TCP) and 53 (UDP).

use std::io;
use std::time::Duration;

use furrow_api::channel::{Forward, ForwardProtocol, forward_path};
use furrow_api::datagrams::{self, Datagrams};
use furrow_model::reach::Transport;
use futures::future::BoxFuture;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::links::{Frames, GuestLink, GuestLinks};
use super::tests::{Bench, guest, listening, open_stream};
use crate::guest::ports::{Dial as _, HostError};

const ADDRESS: [u8; 4] = [192, 168, 10, 7];
const FRAMES: usize = 64;

/// Both ends of the tap.
struct Tap {
    to_guest: mpsc::Sender<Vec<u8>>,
    from_guest: Mutex<mpsc::Receiver<Vec<u8>>>,
}

impl Frames for Tap {
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(async move {
            let frame = self.from_guest.lock().await.recv().await;
            let frame = frame.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETDOWN))?;
            buffer[..frame.len()].copy_from_slice(&frame);
            Ok(frame.len())
        })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.to_guest.try_send(frame.to_vec()).map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}

/// One guest, whose NIC is `lan`. Each conversation has a wire of its own.
#[derive(Default)]
pub(super) struct FakeLinks {
    /// Takes the guest away.
    gone: CancellationToken,
}

impl GuestLinks for FakeLinks {
    fn open<'a>(
        &'a self,
        vmi_uid: &'a str,
        nic: &'a str,
        _: (Transport, u16),
    ) -> BoxFuture<'a, Result<Option<GuestLink>, HostError>> {
        if (vmi_uid, nic) != ("u-1", "lan") {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let (to_guest, frames) = mpsc::channel(FRAMES);
        let (answers, from_guest) = mpsc::channel(FRAMES);
        tokio::spawn(self.gone.clone().run_until_cancelled_owned(run_guest(frames, answers)));
        let link = GuestLink {
            mac: "02:00:5e:10:00:01".parse().expect("a MAC"),
            address: Some(ADDRESS.into()),
            mtu: 1500,
            frames: Box::new(Tap { to_guest, from_guest: Mutex::new(from_guest) }),
        };
        Box::pin(std::future::ready(Ok(Some(link))))
    }
}

#[derive(Default)]
struct Nic(Vec<Vec<u8>>, Vec<Vec<u8>>);

struct Received(Vec<u8>);

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.0.pop()?), Sending(&mut self.1)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.1))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

async fn run_guest(mut frames: mpsc::Receiver<Vec<u8>>, answers: mpsc::Sender<Vec<u8>>) {
    let mut nic = Nic::default();
    let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut nic, Instant::ZERO);
    interface.update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::Ipv4(ADDRESS.into()), 24)).expect("room"));
    let buffer = || tcp::SocketBuffer::new(vec![0; 32 << 10]);
    let mut listening = tcp::Socket::new(buffer(), buffer());
    listening.listen(22).expect("it listens");
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8 << 10]);
    let mut bound = udp::Socket::new(buffer(), buffer());
    bound.bind(53).expect("it listens");
    let mut sockets = SocketSet::new(Vec::new());
    let (tcp, udp) = (sockets.add(listening), sockets.add(bound));
    let begun = std::time::Instant::now();
    loop {
        let now = Instant::from_micros(i64::try_from(begun.elapsed().as_micros()).expect("it is small"));
        interface.poll(now, &mut nic, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket<'_>>(tcp);
        let mut said = [0; 4096];
        if let Ok(length) = socket.recv_slice(&mut said) {
            socket.send_slice(&said[..length]).expect("there is room");
            if said[..length].ends_with(b"bye") {
                socket.close();
            }
        } else if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        let socket = sockets.get_mut::<udp::Socket<'_>>(udp);
        if let Ok((said, from)) = socket.recv().map(|(said, from)| (said.to_vec(), from)) {
            socket.send_slice(&said, from.endpoint).expect("there is room");
        }
        interface.poll(now, &mut nic, &mut sockets);
        for packet in nic.1.drain(..) {
            let header = [2, 0, 0, 0, 0, 1, 2, 0, 0x5e, 0x10, 0, 1, 8, 0];
            if answers.send([&header[..], &packet].concat()).await.is_err() {
                return;
            }
        }
        match tokio::time::timeout(Duration::from_millis(5), frames.recv()).await {
            Ok(Some(frame)) => nic.0.push(frame[14..].to_vec()),
            Ok(None) => return,
            Err(_) => {}
        }
    }
}

fn to(protocol: ForwardProtocol, port: u16, nic: &str) -> String {
    let address = std::net::Ipv4Addr::from(ADDRESS).into();
    forward_path(&guest(), &Forward { protocol, port, nic: nic.to_owned(), address })
}

#[tokio::test]
async fn bytes_reach_the_guests_port_and_come_back() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    let path = to(ForwardProtocol::Tcp, 22, "lan");
    let (code, stream) = open_stream(address, &path).await;
    let mut first = stream.unwrap_or_else(|| panic!("answered {code}"));
    let (_, second) = open_stream(address, &path).await;
    let mut second = second.expect("any number of them at once");
    let mut buffer = [0; 5];
    for stream in [&mut first, &mut second] {
        stream.write_all(b"hello").await.expect("written");
        stream.read_exact(&mut buffer).await.expect("read");
        assert_eq!(&buffer, b"hello");
    }
    first.write_all(b"goodbye").await.expect("written");
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.expect("the guest has closed, and all was carried before the stream ended");
    assert_eq!(rest, b"goodbye");

    // The guest is gone: its tap says so, and the stream ends.
    bench.links.gone.cancel();
    assert_eq!(second.read(&mut buffer).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_probe_dials_past_the_bounds_of_people() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(open_stream(address, &to(ForwardProtocol::Udp, 53, "lan")).await.1.expect("a stream"));
    }
    let address = std::net::Ipv4Addr::from(ADDRESS).into();
    let at = |port| Forward { protocol: ForwardProtocol::Tcp, port, nic: "lan".to_owned(), address };
    let limit = Duration::from_secs(4);
    let mut stream = bench.forwards.dial("u-1", &at(22), limit).await.expect("somebody listens");
    stream.write_all(b"hello").await.expect("written");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"hello");
    let told = bench.forwards.dial("u-1", &at(23), limit).await.expect_err("nobody listens");
    assert!(told.contains("could not reach 192.168.10.7:23"), "{told}");
}

#[tokio::test]
async fn datagrams_keep_their_bounds() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    let (code, stream) = open_stream(address, &to(ForwardProtocol::Udp, 53, "lan")).await;
    let mut stream = stream.unwrap_or_else(|| panic!("answered {code}"));
    let mut sent = Vec::new();
    datagrams::put(b"question", &mut sent);
    datagrams::put(b"another", &mut sent);
    // In two parts, neither of them whole.
    stream.write_all(&sent[..5]).await.expect("written");
    stream.flush().await.expect("written");
    stream.write_all(&sent[5..]).await.expect("written");
    let (mut datagrams, mut found) = (Datagrams::default(), Vec::new());
    while found.len() < 2 {
        let mut buffer = [0; 64];
        let read = stream.read(&mut buffer).await.expect("read");
        datagrams.push(&buffer[..read]);
        while let Some(datagram) = datagrams.take() {
            found.push(datagram.to_vec());
        }
    }
    assert_eq!(found, [b"question".to_vec(), b"another".to_vec()]);
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_and_costs_nothing() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    assert_eq!(open_stream(address, &to(ForwardProtocol::Tcp, 23, "lan")).await.0, 502, "nobody listens");
    assert_eq!(open_stream(address, &to(ForwardProtocol::Tcp, 22, "wan")).await.0, 400, "there is no such NIC");
    let other = to(ForwardProtocol::Tcp, 22, "lan").replace("u-1", "u-0");
    assert_eq!(open_stream(address, &other).await.0, 404, "another guest of the name");
    let (code, _) = bench.ask("GET", &to(ForwardProtocol::Tcp, 22, "lan"), "").await;
    assert_eq!(code, 400, "a stream is an upgrade");
    // 64 of one guest at once; those that failed are not counted.
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(open_stream(address, &to(ForwardProtocol::Udp, 53, "lan")).await.1.expect("a stream"));
    }
    assert_eq!(open_stream(address, &to(ForwardProtocol::Udp, 53, "lan")).await.0, 503);
    drop(open);
    for _ in 0..500 {
        if open_stream(address, &to(ForwardProtocol::Udp, 53, "lan")).await.0 == 101 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("streams that ended are still counted after 5 s");
}
