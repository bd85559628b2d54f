//! Streams of USB devices that clients lend a guest: side by side, one a socket, and none takes over another's.

use std::net::SocketAddr;
use std::time::Duration;

use furrow_api::channel::{GuestStream, stream_path};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::tests::{Bench, ended, guest, listening, socket, stream};

/// The slots of a guest, as KubeVirt has them.
const SLOTS: usize = 4;

type Stream = TokioIo<Upgraded>;

fn sockets(bench: &Bench) -> Vec<UnixListener> {
    (0..SLOTS).map(|slot| socket(bench, &format!("usbredir-{slot}.sock"))).collect()
}

async fn lend(address: SocketAddr) -> Result<Stream, u16> {
    let (code, stream) = stream(address, GuestStream::UsbRedirection, "").await;
    stream.ok_or(code)
}

/// A client and what QEMU has of it; they are of each other.
async fn pair(address: SocketAddr, qemu: &UnixListener) -> (Stream, UnixStream) {
    let mut client = lend(address).await.expect("a stream");
    let accepted = tokio::time::timeout(Duration::from_secs(5), qemu.accept()).await;
    let (mut port, _) = accepted.expect("the client is at this socket").expect("a connection");
    let mut buffer = [0; 5];
    port.write_all(b"hello").await.expect("written");
    client.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"hello");
    client.write_all(b"world").await.expect("written");
    port.read_exact(&mut buffer).await.expect("read");
    assert_eq!(&buffer, b"world");
    (client, port)
}

/// The place of a stream that has ended is free within an instant, not at once.
async fn until_lent(address: SocketAddr) -> Stream {
    for _ in 0..500 {
        if let Ok(stream) = lend(address).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place is free after 5 s");
}

#[tokio::test]
async fn each_device_has_the_first_free_socket_and_one_too_many_is_refused() {
    let bench = Bench::new();
    let qemu = sockets(&bench);
    let address = listening(&bench).await;
    let mut pairs = Vec::new();
    for socket in &qemu {
        pairs.push(pair(address, socket).await);
    }
    assert_eq!(lend(address).await.err(), Some(503));
    let (code, told) = {
        let path = stream_path(&guest(), GuestStream::UsbRedirection);
        bench.ask("GET", &path, "").await
    };
    assert_eq!(code, 400, "a stream is an upgrade: {told}");
    // Nobody has lost a device to the one who was refused.
    for (client, port) in &mut pairs {
        port.write_all(b"x").await.expect("written");
        assert_eq!(client.read_u8().await.expect("read"), b'x');
    }
    // The second client leaves: QEMU sees it, and the next has that socket.
    let (client, mut port) = pairs.remove(1);
    drop(client);
    assert_eq!(port.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let _next = until_lent(address).await;
    let accepted = tokio::time::timeout(Duration::from_secs(5), qemu[1].accept()).await;
    assert!(accepted.is_ok(), "the next has the place that is free");
    assert_eq!(lend(address).await.err(), Some(503), "and there is no other");
}

#[tokio::test]
async fn a_place_is_free_again_after_the_guest_hung_up_or_did_not_answer() {
    let bench = Bench::new();
    let address = listening(&bench).await;
    for _ in 0..=SLOTS {
        assert_eq!(lend(address).await.err(), Some(500), "there is no socket, and no place is lost by it");
    }
    let qemu = sockets(&bench);
    let (mut client, port) = pair(address, &qemu[0]).await;
    drop(port);
    assert!(ended(&mut client).await, "the guest has ended");
    let _next = until_lent(address).await;
    let accepted = tokio::time::timeout(Duration::from_secs(5), qemu[0].accept()).await;
    assert!(accepted.is_ok());
}

#[tokio::test]
async fn they_end_with_the_agent_and_do_not_begin_for_a_guest_that_is_gone() {
    let bench = Bench::new();
    let qemu = sockets(&bench);
    let address = listening(&bench).await;
    let (mut first, mut port) = pair(address, &qemu[0]).await;
    let (mut second, _other) = pair(address, &qemu[1]).await;
    bench.stop.cancel();
    assert!(ended(&mut first).await && ended(&mut second).await);
    assert_eq!(port.read(&mut [0; 1]).await.unwrap_or(0), 0);
    bench.guests.state().running.clear();
    assert_eq!(lend(address).await.err(), Some(404));
}
