//! A node's switch in a namespace of its own: a real ovsdb-server and ovs-vswitchd on the userspace datapath, a
//! provider bridge over one end of a veth pair, and a LAN switch with a host on VLAN 100 and one on 200 at the other.
//! Needs root and Debian's openvswitch-switch, iproute2 and nftables; says loudly when it is skipped.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use furrow_host::netlink::Netlink;
use furrow_host::ovsdb::{DEFAULT_SOCKET, Ovsdb, vswitch};
use furrow_host::packet::{Filter, PacketSocket};
use furrow_model::port::{PortMac, PortRequest, PortSpec};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::super::{Ports, rows, start_switching};

const RUN: &str = "/run/openvswitch";
const NEEDED: [&str; 4] = ["/usr/sbin/ovs-vswitchd", "/usr/sbin/ovsdb-server", "/usr/bin/ovs-ofctl", "/dev/net/tun"];

/// QEMU's header before each frame of a tap with virtio headers.
const VNET_HEADER: usize = 10;

pub(super) const MAC: &str = "02:00:5e:10:00:01";
pub(super) const ADDRESS: [u8; 4] = [192, 168, 10, 7];
pub(super) const BRIDGE: &str = "br-lab";

/// The switch and what runs in this process.
pub(super) struct Lab {
    server: Child,
    vswitchd: Child,
    pub(super) agent: Agent,
}

/// The network of the agent, as `start` has it, without Kubernetes.
pub(super) struct Agent {
    stop: CancellationToken,
    pub(super) ovsdb: Ovsdb,
    pub(super) netlink: Netlink,
    pub(super) ports: Ports,
}

/// Runs a test with a switch, on a thread with network and mount namespaces of its own.
pub(super) fn in_lab(work: impl AsyncFnOnce(&mut Lab) + Send + 'static) {
    in_namespace(&NEEDED, async || {
        let mut lab = Lab::start().await;
        work(&mut lab).await;
        lab.agent.stop.cancel();
    });
}

/// Runs a test on a thread with network and mount namespaces of its own, if these files are there.
pub(super) fn in_namespace(needed: &[&str], work: impl AsyncFnOnce() + Send + 'static) {
    use nix::sched::{CloneFlags, unshare};
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED: no {missing} here");
        return;
    }
    let body = move || {
        if unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_err() {
            eprintln!("SKIPPED: no right to make namespaces");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    };
    std::thread::spawn(body).join().unwrap();
}

#[expect(clippy::disallowed_methods, reason = "daemons and set-up of a test, ended with it")]
pub(super) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}");
}

#[expect(clippy::disallowed_methods, reason = "daemons and set-up of a test, ended with it")]
fn spawn(line: &str) -> Child {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).spawn().unwrap()
}

fn spawn_vswitchd() -> Child {
    spawn(&format!(
        "/usr/sbin/ovs-vswitchd unix:{DEFAULT_SOCKET} --no-chdir -vconsole:off --pidfile={RUN}/vswitchd.pid"
    ))
}

impl Lab {
    async fn start() -> Self {
        use nix::mount::{MsFlags, mount};
        // EINVAL: "/" is no mount point, as in a chroot, whose maker has cut it off already.
        let _ = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::create_dir(RUN).unwrap();
        run(&format!("/usr/bin/ovsdb-tool create {RUN}/conf.db /usr/share/openvswitch/vswitch.ovsschema"));
        let remote = format!("--remote=punix:{DEFAULT_SOCKET}");
        let server = spawn(&format!("/usr/sbin/ovsdb-server {remote} --no-chdir -vconsole:off {RUN}/conf.db"));
        until(async || Path::new(DEFAULT_SOCKET).exists()).await;
        // As the testbed sets it: without, frames whose checksums are left to hardware are forwarded broken.
        run("/usr/bin/ovs-vsctl --no-wait init -- set Open_vSwitch . other_config:userspace-tso-enable=true");
        let vswitchd = spawn_vswitchd();
        run("/usr/sbin/ip link set lo up");
        run("/usr/sbin/ip link add nic0 type veth peer name lan0");
        for link in ["nic0", "lan0"] {
            run(&format!("/usr/sbin/ip link set {link} up"));
        }
        run("/usr/bin/ovs-vsctl add-br br-lan -- set bridge br-lan datapath_type=netdev -- add-port br-lan lan0");
        for vlan in [100, 200] {
            let port = format!("host{vlan}");
            run(&format!("/usr/bin/ovs-vsctl add-port br-lan {port} tag={vlan} -- set interface {port} type=internal"));
            run(&format!("/usr/sbin/ip link set {port} up"));
        }
        let agent = Agent::start().await;
        agent.ovsdb.apply(vswitch::add_bridge(BRIDGE, "netdev", rows::BRIDGE)).await.unwrap();
        let bridge = vswitch::bridges(&agent.ovsdb.tables().unwrap()).remove(BRIDGE).unwrap();
        agent.ovsdb.apply(rows::nic_port("nic0", &bridge)).await.unwrap();
        Self { server, vswitchd, agent }
    }

    /// What `systemctl restart` of the agent is to its network.
    pub(super) async fn restart_agent(&mut self) {
        self.agent.stop.cancel();
        tokio::task::yield_now().await;
        self.agent = Agent::start().await;
    }

    pub(super) fn kill_vswitchd(&mut self) {
        self.vswitchd.kill().unwrap();
        self.vswitchd.wait().unwrap();
        self.vswitchd = spawn_vswitchd();
    }

    /// A socket on a LAN host that sees UDP to this port.
    pub(super) async fn listen(&self, host: &str, port: u16) -> PacketSocket {
        let link = self.agent.netlink.link(host).await.unwrap().expect("a LAN host");
        PacketSocket::open(link.index, &Filter::udp_to(port)).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for daemon in [&mut self.vswitchd, &mut self.server] {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Agent {
    async fn start() -> Self {
        let stop = CancellationToken::new();
        let netlink = Netlink::open().unwrap();
        let ovsdb = Ovsdb::start(DEFAULT_SOCKET.into(), vswitch::MONITORED, stop.clone());
        let ports = start_switching(&ovsdb, &netlink, &stop).await;
        Self { stop, ovsdb, netlink, ports }
    }
}

pub(super) fn spec(nic: &str) -> PortSpec {
    let request = PortRequest {
        vmi_uid: "6ad58a25-0b0e-4b7c-9f7e-5d3f3a0c1f11".into(),
        vmi: "shop/db".into(),
        nic: nic.into(),
        bridge: BRIDGE.into(),
        vlan: 100,
        mac: MAC.into(),
        ip: Some("192.168.10.7".into()),
        prefix_len: Some(23),
        gateway: Some("192.168.10.1".into()),
        mtu: 1500,
        ip_object: "db.shop".into(),
        ..PortRequest::default()
    };
    PortSpec::parse(request).unwrap()
}

/// The guest's end of a tap, opened as QEMU does.
pub(super) struct Guest {
    tap: AsyncFd<std::fs::File>,
}

impl Guest {
    pub(super) fn open(name: &str) -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        // IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        request[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
        let set_iff = nix::request_code_write!(b'T', 202, size_of::<i32>());
        // SAFETY: the descriptor is open and the request as long as `struct ifreq`.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), set_iff, request.as_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the file is owned by the AsyncFd from here on.
        Self { tap: unsafe { AsyncFd::register(file) }.unwrap() }
    }

    pub(super) fn send(&self, frame: &[u8]) {
        let bytes = [&[0; VNET_HEADER][..], frame].concat();
        let mut file: &std::fs::File = self.tap.get_ref();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
    }

    /// The next frame that fits.
    pub(super) async fn receive(&self, fits: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            let mut ready = self.tap.readable().await.unwrap();
            let read = ready.try_io(|tap| std::io::Read::read(&mut tap.get_ref(), &mut buffer));
            if let Ok(length) = read {
                let frame = &buffer[VNET_HEADER..length.unwrap()];
                if fits(frame) {
                    return frame.to_vec();
                }
            }
        }
    }
}

/// A UDP datagram to everybody in a frame.
pub(super) fn datagram(mac: &str, source: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac.parse::<PortMac>().unwrap().bytes()].concat();
    frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    let length = u16::try_from(28 + payload.len()).unwrap();
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&[255, 255, 255, 255]);
    for field in [ports.0, ports.1, length - 20, 0] {
        frame.extend_from_slice(&field.to_be_bytes());
    }
    // A right header checksum, or OVS takes the packet for garbage and matches no field of it.
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Whether a frame with this payload arrives in time.
pub(super) async fn arrives(socket: &PacketSocket, payload: &[u8], within: Duration) -> bool {
    let mut buffer = [0; 2048];
    let wait = async {
        loop {
            let length = socket.receive(&mut buffer).await.unwrap();
            if buffer[..length].ends_with(payload) {
                return;
            }
        }
    };
    tokio::time::timeout(within, wait).await.is_ok()
}

/// Waits for something to become true.
pub(super) async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not happen within 10 s");
}
