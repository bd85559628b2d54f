//! A whole machine in QEMU: UEFI firmware, blank disks, the medium in its drive, a serial console that is written to a
//! file. Emulated unless `FURROW_ACCEL=kvm` says that this host's KVM runs Linux guests.
//!
//! Its network is QEMU's own and reaches nothing but ports that are forwarded from 127.0.0.1.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host::{self, run, spawn_detached};
use crate::layout::living_pid;

/// MiB of the machine: a server, its Ceph and a small guest.
const MEMORY_MIB: u32 = 6144;
/// Debian's build of OVMF.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The same with Secure Boot, whose variables only code in system management mode may write.
const SECURE_FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// Variables without any key: the firmware is in setup mode, and anything boots.
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Everything that QEMU can emulate but the fast `rep stosb`, which it emulates byte by byte (the kernel clears its pages by
/// it, and spends half of its time there), and AVX2, with which Go's SHA-256 and searches are three times as slow as without.
const EMULATED_CPU: &str = "max,-erms,-avx2";
/// Emulated, the plain SHA-256 is four times as fast as the one by vector instructions, and dm-verity checks all that is read.
const EMULATED_WORDS: &str = "module_blacklist=sha256_ssse3";

/// The file with the process id of its TPM.
const TPM_PID: &str = "tpm.pid";

/// An address on the machine's network that stands for what [`Machine::reach`] names.
pub(crate) const SERVER: &str = "10.0.2.100";

/// A machine's host key is new every time.
pub(crate) const SSH_OPTIONS: [&str; 10] = [
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
    "-o",
    "ConnectTimeout=20",
    "-o",
    "BatchMode=yes",
];

/// A disk of the machine, sparse on the host.
pub(crate) struct Disk {
    pub(crate) serial: &'static str,
    pub(crate) gib: u32,
}

/// What starts a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// UEFI that checks no signature.
    Uefi,
    /// UEFI that checks signatures as soon as it has keys.
    SecureBoot,
    /// A BIOS that shows its screen on the serial line too.
    Bios,
}

impl Firmware {
    /// QEMU's options for it. `variables`: the file that it keeps its variables in.
    fn words(self, variables: &str) -> String {
        let code = match self {
            Firmware::Uefi => FIRMWARE,
            Firmware::SecureBoot => SECURE_FIRMWARE,
            Firmware::Bios => return "-machine q35,graphics=off".to_owned(),
        };
        let machine = match self {
            Firmware::SecureBoot => "q35,smm=on -global driver=cfi.pflash01,property=secure,value=on",
            _ => "q35",
        };
        format!(
            "-machine {machine} -drive if=pflash,format=raw,readonly=on,file={code} \
             -drive if=pflash,format=raw,file={variables}"
        )
    }
}

/// How firmware looks for something to boot on its card.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum NetworkBoot {
    /// PXE first, and then by HTTP.
    Pxe,
    /// By HTTP only.
    Http,
}

/// A card on a tap in a network namespace, which the firmware boots from when the disks are blank; and who the machine is.
pub(crate) struct Wire {
    pub(crate) netns: String,
    pub(crate) tap: String,
    pub(crate) mac: String,
    pub(crate) serial: String,
    pub(crate) memory_mib: u32,
    pub(crate) boot: NetworkBoot,
}

/// One machine.
pub(crate) struct Machine {
    dir: PathBuf,
    firmware: Firmware,
    disks: Vec<PathBuf>,
    drives: Vec<String>,
    /// CDs in their drives; the chipset has a bus for each.
    discs: u32,
    /// What the machine reaches at [`SERVER`], as options of its network card.
    reached: String,
    ssh_port: u16,
    api_port: u16,
    wire: Option<Wire>,
    /// Whether it has a TPM 2.0.
    tpm: bool,
    /// How many processors it has.
    pub(crate) cpus: u32,
    /// The processors of each of its NUMA nodes, which have the same memory; empty: it is no NUMA machine.
    pub(crate) numa: &'static [&'static str],
}

impl Machine {
    /// A machine with blank disks, whose files lie in `dir`; what was there goes.
    pub(crate) fn new(dir: &Path, disks: &[Disk]) -> Result<Machine> {
        for pid in ["pid", TPM_PID].iter().filter_map(|name| living_pid(&dir.join(name))) {
            host::kill(pid, libc::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir)?;
        let mut machine = Machine {
            dir: dir.to_owned(),
            firmware: Firmware::Uefi,
            disks: Vec::new(),
            drives: Vec::new(),
            discs: 0,
            reached: String::new(),
            ssh_port: free_port()?,
            api_port: 0,
            wire: None,
            tpm: false,
            cpus: 2,
            numa: &[],
        };
        machine.api_port = free_port()?;
        machine.forget_variables()?;
        for (number, disk) in disks.iter().enumerate() {
            let path = dir.join(format!("{}.qcow2", disk.serial));
            run(&["qemu-img", "create", "-q", "-f", "qcow2", &text(&path), &format!("{}G", disk.gib)])?;
            machine.drives.extend(words(&format!(
                "-drive file={},if=none,id=d{number},discard=unmap,cache=unsafe -device \
                 virtio-blk-pci,drive=d{number},serial={},bootindex={}",
                text(&path),
                disk.serial,
                number + 1
            )));
            machine.disks.push(path);
        }
        Ok(machine)
    }

    /// Gives it another firmware than UEFI without Secure Boot.
    pub(crate) fn set_firmware(&mut self, firmware: Firmware) {
        self.firmware = firmware;
    }

    /// Gives it a TPM 2.0, emulated by a program beside it, which keeps what it holds over restarts.
    pub(crate) fn attach_tpm(&mut self) {
        self.tpm = true;
    }

    /// Starts its TPM, if it has one, which ends with QEMU; QEMU's options for it.
    fn start_tpm(&self) -> Result<Vec<String>> {
        if !self.tpm {
            return Ok(Vec::new());
        }
        let (dir, socket) = (text(&self.dir), self.dir.join("tpm.sock"));
        let _ = std::fs::remove_file(&socket);
        std::fs::create_dir_all(self.dir.join("tpm"))?;
        let swtpm = format!(
            "swtpm socket --tpm2 --terminate --tpmstate dir={dir}/tpm --ctrl type=unixio,path={dir}/tpm.sock --pid file={dir}/{TPM_PID}"
        );
        let swtpm: Vec<&str> = swtpm.split(' ').collect();
        spawn_detached(&swtpm, &[], &self.dir.join("tpm.log"))?;
        host::until("the TPM to start", Duration::from_secs(10), || {
            ensure!(socket.exists(), std::fs::read_to_string(self.dir.join("tpm.log")).unwrap_or_default());
            Ok(())
        })?;
        Ok(words(&format!(
            "-chardev socket,id=tpm,path={dir}/tpm.sock -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0"
        )))
    }

    /// Lets the machine reach a port of 127.0.0.1 as a port of [`SERVER`].
    pub(crate) fn reach(&mut self, port: u16, local: u16) {
        // A process for each connection: a socket of QEMU's own would be one for all of them.
        self.reached += &format!(",guestfwd=tcp:{SERVER}:{port}-cmd:socat STDIO TCP4:127.0.0.1:{local}");
    }

    /// Keeps the firmware's variables of another machine.
    pub(crate) fn take_variables(&self, other: &Machine) -> Result<()> {
        std::fs::copy(other.dir.join("variables.fd"), self.dir.join("variables.fd"))?;
        Ok(())
    }

    /// Makes the firmware's variables those of a new machine.
    pub(crate) fn forget_variables(&self) -> Result<()> {
        std::fs::copy(VARIABLES, self.dir.join("variables.fd")).context("UEFI variables (package ovmf)").map(|_| ())
    }

    /// Puts a USB stick with this image in before it is switched on, after the disks in the boot order.
    pub(crate) fn attach_stick(&mut self, image: &Path) {
        let image = text(image);
        self.drives.extend(words(&format!(
            "-drive if=none,id=stick,format=raw,readonly=on,file={image} -device usb-storage,bus=usb.0,drive=stick,bootindex=10"
        )));
    }

    /// Puts an image into a CD drive, after the disks in the boot order.
    pub(crate) fn insert(&mut self, image: &Path, id: &str) {
        let (bus, order) = (self.discs, 10 + self.discs);
        self.discs += 1;
        let drive = format!(
            "-drive file={},if=none,id={id},media=cdrom,readonly=on,format=raw -device ide-cd,bus=ide.{bus},drive={id},bootindex={order}",
            text(image)
        );
        self.drives.extend(words(&drive));
    }

    /// Puts its card on a tap instead of QEMU's own network.
    pub(crate) fn plug_into(&mut self, wire: Wire) {
        self.wire = Some(wire);
    }

    /// Its cards, as QEMU's options.
    fn cards(&self) -> Result<Vec<String>> {
        if let Some(Wire { tap, mac, serial, boot, .. }) = &self.wire {
            let pxe = if *boot == NetworkBoot::Pxe { "yes" } else { "no" };
            return Ok(words(&format!(
                "-netdev tap,id=management,ifname={tap},script=no,downscript=no \
                 -device virtio-net-pci,netdev=management,mac={mac},addr=0x10,romfile=,bootindex=9 \
                 -smbios type=1,serial={serial} -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string={pxe} \
                 -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=no -fw_cfg name=opt/org.tianocore/IPv6Support,string=no"
            )));
        }
        let (ssh, api) = (self.ssh_port, self.api_port);
        // A wire with nobody at its other end.
        let (wire, nobody) = (free_port()?, free_port()?);
        let mut cards = words(&format!(
            "-device virtio-net-pci,netdev=management,addr=0x10 \
             -netdev dgram,id=provider,local.type=inet,local.host=127.0.0.1,local.port={wire},remote.type=inet,remote.host=127.0.0.1,remote.port={nobody} -device virtio-net-pci,netdev=provider,addr=0x11"
        ));
        let forwarded = format!("hostfwd=tcp:127.0.0.1:{ssh}-:22,hostfwd=tcp:127.0.0.1:{api}-:6443");
        // One word: what is reached has spaces.
        cards.extend(["-netdev".into(), format!("user,id=management,restrict=on,{forwarded}{}", self.reached)]);
        Ok(cards)
    }

    /// Switches it on. `cmdline`: words that the boot image adds to the kernel's.
    pub(crate) fn start(&self, cmdline: &str) -> Result<()> {
        let (accel, cpu, cmdline) = if std::env::var("FURROW_ACCEL").is_ok_and(|a| a == "kvm") {
            ("kvm", "max", cmdline.to_owned())
        } else {
            ("tcg,thread=multi", EMULATED_CPU, format!("{EMULATED_WORDS} {cmdline}"))
        };
        let (dir, cards, cpus) = (text(&self.dir), self.cards()?, self.cpus);
        let memory = self.wire.as_ref().map_or(MEMORY_MIB, |wire| wire.memory_mib);
        let numa = numa(self.numa, cpus, memory);
        let enter =
            self.wire.as_ref().map(|wire| format!("nsenter --net=/run/netns/{} ", wire.netns)).unwrap_or_default();
        let firmware = self.firmware.words(&format!("{dir}/variables.fd"));
        let mut argv = words(&format!(
            "{enter}qemu-system-x86_64 {firmware} -accel {accel} -cpu {cpu} -smp {cpus}{numa} -m {memory} -display none -no-user-config \
             -chardev socket,id=serial,path={dir}/serial.sock,server=on,wait=off,logfile={dir}/serial.log,logappend=on \
             -serial chardev:serial -pidfile {dir}/pid \
             -device virtio-rng-pci -device qemu-xhci,id=usb -monitor unix:{dir}/monitor.sock,server=on,wait=off"
        ));
        argv.extend(cards);
        argv.extend(self.start_tpm()?);
        argv.extend(self.drives.iter().cloned());
        argv.extend(["-smbios".into(), format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={cmdline}")]);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        spawn_detached(&argv, &[], &self.dir.join("qemu.log"))?;
        host::until("QEMU to start", Duration::from_secs(20), || {
            self.pid().with_context(|| std::fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default())
        })?;
        Ok(())
    }

    fn pid(&self) -> Option<i32> {
        living_pid(&self.dir.join("pid"))
    }

    /// The socket of its serial console, for one person at a time.
    pub(crate) fn serial(&self) -> PathBuf {
        self.dir.join("serial.sock")
    }

    /// What it has written to its serial console.
    pub(crate) fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// How many bytes it has written there so far.
    pub(crate) fn console_end(&self) -> usize {
        std::fs::metadata(self.serial_log()).map_or(0, |log| log.len() as usize)
    }

    /// What it has written there after the offset `from`.
    pub(crate) fn console_from(&self, from: usize) -> String {
        let bytes = std::fs::read(self.serial_log()).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// Waits until the serial console shows `text` after the offset `from`, and returns the offset behind it.
    pub(crate) fn wait_for(&self, wanted: &str, from: usize, seconds: u64) -> Result<usize> {
        let started = Instant::now();
        loop {
            let bytes = std::fs::read(self.serial_log()).unwrap_or_default();
            let new = bytes.get(from..).unwrap_or_default();
            // In bytes: firmware draws with what is no UTF-8, and text made of it has other lengths.
            if let Some(at) = new.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
                return Ok(from + at + wanted.len());
            }
            let new = String::from_utf8_lossy(new);
            let tail = host::tail(&new, 800);
            ensure!(self.pid().is_some(), "QEMU ended; the console shows: {tail}");
            if started.elapsed() > Duration::from_secs(seconds) {
                bail!("`{wanted}` did not appear within {seconds} s; the console shows: {tail}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Puts a USB stick with this image into the running machine, as `/dev/disk/by-id/usb-...-<id>-0:0`.
    pub(crate) fn plug(&self, image: &Path, id: &str) -> Result<()> {
        let file = text(image);
        self.monitor(&format!("drive_add 0 if=none,id={id},file={file},format=raw,readonly=on"))?;
        self.monitor(&format!("device_add usb-storage,id=stick-{id},bus=usb.0,drive={id},serial={id}"))
    }

    /// Takes that stick out.
    pub(crate) fn unplug(&self, id: &str) -> Result<()> {
        self.monitor(&format!("device_del stick-{id}"))
    }

    /// Gives QEMU's monitor a line, and returns when it has been taken.
    fn monitor(&self, line: &str) -> Result<()> {
        let mut stream = UnixStream::connect(self.dir.join("monitor.sock")).context("QEMU's monitor")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        until_prompt(&mut stream)?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let answer = until_prompt(&mut stream)?;
        // The monitor answers a good line with its echo, or with `OK`.
        ensure!(!answer.contains("rror"), "`{line}`: {answer}");
        Ok(())
    }

    /// Cuts its power.
    pub(crate) fn power_cut(&self) {
        if let Some(pid) = self.pid() {
            host::kill(pid, libc::SIGKILL);
            let _ = host::ended("QEMU", pid, Duration::from_secs(30));
        }
        // It ends by itself as soon as it has seen that QEMU is gone, if it is not told.
        if let Some(tpm) = living_pid(&self.dir.join(TPM_PID)) {
            host::kill(tpm, libc::SIGTERM);
            let _ = host::ended("the TPM", tpm, Duration::from_secs(5));
        }
    }

    /// Runs a shell line as root over SSH with this key.
    pub(crate) fn shell(&self, key: &Path, line: &str) -> Result<String> {
        self.shell_within(key, line, 120)
    }

    /// The same for a line that may take so many seconds.
    pub(crate) fn shell_within(&self, key: &Path, line: &str, seconds: u64) -> Result<String> {
        let (key, port) = (text(key), self.ssh_port.to_string());
        let argv = [&["ssh", "-i", &key, "-p", &port], SSH_OPTIONS.as_slice(), &["root@127.0.0.1", line]].concat();
        host::run_with(&argv, "", Duration::from_secs(seconds))?.ok(&format!("`{line}` in the machine"))
    }

    /// Copies a file into the machine.
    pub(crate) fn upload(&self, key: &Path, file: &Path, to: &str) -> Result<()> {
        let (key, port, file) = (text(key), self.ssh_port.to_string(), text(file));
        let target = format!("root@127.0.0.1:{to}");
        let argv = [&["scp", "-q", "-i", &key, "-P", &port], SSH_OPTIONS.as_slice(), &[&file, &target]].concat();
        host::run_with(&argv, "", Duration::from_secs(120))?.ok("scp into the machine").map(|_| ())
    }

    /// Where its API server is reached from the build host.
    pub(crate) fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
    }
}

fn until_prompt(stream: &mut UnixStream) -> Result<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !said.ends_with(b"(qemu) ") {
        let n = stream.read(&mut buffer).context("QEMU's monitor does not answer")?;
        ensure!(n > 0, "QEMU's monitor has ended");
        said.extend_from_slice(&buffer[..n]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn words(line: &str) -> Vec<String> {
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What `-smp` goes on with for these NUMA nodes: a socket for each processor, since a kernel takes no socket for a NUMA
/// node's part.
fn numa(nodes: &[&str], cpus: u32, memory_mib: u32) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let share = memory_mib / u32::try_from(nodes.len()).unwrap_or(1);
    let node = |(id, cpus): (usize, &&str)| {
        format!(
            " -object memory-backend-ram,id=node{id},size={share}M -numa node,nodeid={id},cpus={cpus},memdev=node{id}"
        )
    };
    format!(",sockets={cpus}{}", nodes.iter().enumerate().map(node).collect::<String>())
}
