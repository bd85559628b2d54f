//! Raw frames on one link (packet(7)): a socket that sees only what its filter lets through, before any switch takes
//! it, and sends past the switch. Refuses to look into frames.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ethernet header, IPv4 header with options, UDP header and the largest DHCP message that fits an MTU of 1500.
pub const FRAME_LIMIT: usize = 1514;

// Classes, sizes and modes of linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20; // ld [k]
const LOAD_HALF: u16 = 0x28; // ldh [k]
const LOAD_BYTE: u16 = 0x30; // ldb [k]
const LOAD_HALF_AT_X: u16 = 0x48; // ldh [x + k]
const HEADER_LENGTH_TO_X: u16 = 0xb1; // ldx 4*([k]&0xf)
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const IPV4: u32 = 0x0800;
const UDP: u32 = 17;

/// Ethernet header and the largest IPv4 packet: what a guest leaves to its NIC to cut.
pub const LARGE_FRAME_LIMIT: usize = 14 + 65_535;

const ARP: u32 = 0x0806;
const TCP: u32 = 6;

/// A classic BPF program that decides which frames a socket sees.
#[derive(Debug, Clone)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Unfragmented UDP over IPv4 to a port.
    #[must_use]
    pub fn udp_to(port: u16) -> Self {
        let head =
            [op(LOAD_HALF, 0, 0, 12), op(JUMP_EQUAL, 0, 8, IPV4), op(LOAD_BYTE, 0, 0, 23), op(JUMP_EQUAL, 0, 6, UDP)];
        Self([head.as_slice(), &unfragmented_to(port, FRAME_LIMIT)].concat())
    }

    /// What a host on the link says to this address over IPv4, to a port of TCP (or of UDP), unfragmented; and its
    /// questions by ARP whose the address is.
    #[must_use]
    pub fn said_to(address: Ipv4Addr, udp: bool, port: u16) -> Self {
        let address = address.to_bits();
        let protocol = if udp { UDP } else { TCP };
        // Jumps count from the next line.
        let head = [
            op(LOAD_HALF, 0, 0, 12),
            op(JUMP_EQUAL, 0, 2, ARP),
            op(LOAD_WORD, 0, 0, 38),
            op(JUMP_EQUAL, 10, 11, address),
            op(JUMP_EQUAL, 0, 10, IPV4),
            op(LOAD_BYTE, 0, 0, 23),
            op(JUMP_EQUAL, 0, 8, protocol),
            op(LOAD_WORD, 0, 0, 30),
            op(JUMP_EQUAL, 0, 6, address),
        ];
        Self([head.as_slice(), &unfragmented_to(port, LARGE_FRAME_LIMIT)].concat())
    }
}

/// How both filters end: what is unfragmented and to this port is seen, up to `limit` bytes of it. The jumps of what comes
/// before count on its seven lines, of which the last two are the answers.
fn unfragmented_to(port: u16, limit: usize) -> [libc::sock_filter; 7] {
    [
        op(LOAD_HALF, 0, 0, 20),
        op(JUMP_ANY_BIT, 4, 0, 0x1fff),
        op(HEADER_LENGTH_TO_X, 0, 0, 14),
        op(LOAD_HALF_AT_X, 0, 0, 16),
        op(JUMP_EQUAL, 0, 1, u32::from(port)),
        op(RETURN, 0, 0, limit as u32),
        op(RETURN, 0, 0, 0),
    ]
}

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// A socket on one link. Dropping it ends it; removing the link makes `receive` fail.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
}

impl PacketSocket {
    /// Opens a socket on the link with this index, which sees incoming frames that pass the filter.
    ///
    /// # Errors
    /// The kernel's: no such link, no CAP_NET_RAW.
    pub fn open(link: u32, filter: &Filter) -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 sees nothing until `bind` names one: no frame slips in before the filter is there.
        // SAFETY: plain numbers; the descriptor is checked before it is owned.
        let raw = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just returned by the kernel, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let length = u16::try_from(filter.0.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let program = libc::sock_fprog { len: length, filter: filter.0.as_ptr().cast_mut() };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        bind(&socket, link)?;
        // SAFETY: the descriptor is owned by the AsyncFd from here on, so it stays open and the same while registered.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self { socket: socket.map_err(io::Error::from)? })
    }

    /// Waits for a frame and returns its length in `buffer`; a longer frame is cut. Safe to drop: a frame is only
    /// taken from the socket when it is returned.
    ///
    /// # Errors
    /// `ENETDOWN` when the link went down, `ENODEV` and the like when it is gone.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                // SAFETY: the buffer is live and as long as said.
                let length = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                usize::try_from(length).map_err(|_| io::Error::last_os_error())
            });
            if let Ok(result) = received {
                return result;
            }
        }
    }

    /// Sends one frame out of the link, without waiting: a frame that finds no room is lost, as on any wire.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is live and as long as said.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn bind(socket: &OwnedFd, link: u32) -> io::Result<()> {
    // Every protocol, because a socket for one is served after OVS has taken the frame, a socket for all before.
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(link).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is live and as long as said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is live and as long as said; a filter program it points to is copied by the kernel.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer, for the few instructions that are used.
    fn run(filter: &Filter, frame: &[u8]) -> u32 {
        let byte = |at: usize| frame.get(at).map(|byte| u32::from(*byte));
        let half = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
        let (mut a, mut x, mut at) = (0, 0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = filter.0[at];
            let offset = k as usize;
            let loaded = match code {
                LOAD_WORD => half(offset).zip(half(offset + 2)).map(|(high, low)| high << 16 | low),
                LOAD_HALF => half(offset),
                LOAD_BYTE => byte(offset),
                LOAD_HALF_AT_X => half(x + offset),
                _ => Some(a),
            };
            // A load beyond the frame ends the program with 0.
            let Some(value) = loaded else { return 0 };
            a = value;
            at += 1 + match code {
                JUMP_EQUAL => usize::from(if a == k { jt } else { jf }),
                JUMP_ANY_BIT => usize::from(if a & k != 0 { jt } else { jf }),
                _ => 0,
            };
            match code {
                HEADER_LENGTH_TO_X => x = frame.get(offset).map_or(0, |byte| usize::from(byte & 0xf) * 4),
                RETURN => return k,
                _ => {}
            }
        }
    }

    fn ip(protocol: u8, to: [u8; 4], port: u16, fragment: u16) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let header = [0x45, 0, 0, 40, 0, 0, high, low, 64, protocol, 0, 0, 192, 168, 10, 7];
        let ports = [&22_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 16]].concat();
        [&[0; 12][..], &[8, 0], &header, &to, &ports].concat()
    }

    #[test]
    fn a_conversation_sees_its_own_frames_alone() {
        let node = [169, 254, 169, 252];
        let filter = Filter::said_to(node.into(), false, 50_000);
        let check = |frame: &[u8], seen: bool| assert_eq!(run(&filter, frame) > 0, seen, "{frame:?}");
        check(&ip(6, node, 50_000, 0), true);
        check(&ip(6, node, 50_000, 0x4000), true);
        check(&ip(6, node, 50_001, 0), false);
        check(&ip(17, node, 50_000, 0), false);
        check(&ip(6, [192, 168, 10, 1], 50_000, 0), false);
        check(&ip(6, node, 50_000, 1), false);
        check(&ip(6, node, 50_000, 0)[..20], false);
        let arp = |asked: [u8; 4]| [&[0; 12][..], &[8, 6], &[0; 24], &asked].concat();
        check(&arp(node), true);
        check(&arp([192, 168, 10, 1]), false);
        assert!(run(&Filter::said_to(node.into(), true, 50_000), &ip(17, node, 50_000, 0)) > 0);
        assert!(run(&Filter::udp_to(67), &ip(17, [255; 4], 67, 0)) > 0);
        assert_eq!(run(&Filter::udp_to(67), &ip(17, [255; 4], 68, 0)), 0);
    }
}
