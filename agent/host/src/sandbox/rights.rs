//! What a sandboxed program gives up from inside: files by Landlock, system calls by seccomp.
//!
//! Both are kernel interfaces without a function in libc; numbers and layouts are those of
//! `linux/landlock.h` and `linux/seccomp.h`. A kernel without Landlock leaves files to the user's
//! own rights, and the answer says so; a kernel without seccomp is an error, for every one we
//! run on has it.
//!
//! The filter is a list of what is denied, not of what is allowed: librados uses many calls, and
//! a missing one would show as a hang on some later version. Denied is what lets a process start
//! another program, look into others, change the kernel or reach rarely used parts of it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// What was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Whether the kernel restricts files (Landlock).
    pub files_restricted: bool,
}

/// Why rights could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// Landlock is there and failed.
    #[error("could not restrict the files that can be opened")]
    Files(#[source] io::Error),
    /// The filter was not accepted.
    #[error("could not restrict system calls")]
    Calls(#[source] io::Error),
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REG: u64 = 1 << 8;
/// All rights of the first version: execute to make_sym.
const ALL: u64 = (1 << 13) - 1;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// Gives up, for this thread and all that it starts from now on, every file but those under `readable` and `writable`,
/// and the calls listed here. To be called before further threads are started.
pub fn give_up_rights(readable: &[&Path], writable: &[&Path]) -> Result<Rights, RightsError> {
    // SAFETY: sets a flag of this process. Being not dumpable keeps others of the same user out of our memory.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    let files_restricted = restrict_files(readable, writable).map_err(RightsError::Files)?;
    restrict_calls().map_err(RightsError::Calls)?;
    Ok(Rights { files_restricted })
}

fn restrict_files(readable: &[&Path], writable: &[&Path]) -> io::Result<bool> {
    // SAFETY: a null attribute with this flag asks for the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    if version < 1 {
        return Ok(false);
    }
    let attr = RulesetAttr { handled_access_fs: ALL };
    // SAFETY: a valid attribute of the size that is given.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size_of::<RulesetAttr>(), 0u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    for path in readable {
        allow(&ruleset, path, EXECUTE | READ_FILE | READ_DIR)?;
    }
    for path in writable {
        allow(&ruleset, path, READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_REG)?;
    }
    // SAFETY: a valid ruleset; no new privileges is set by the starter.
    if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// Allows a path; one that is not there needs no rule.
fn allow(ruleset: &OwnedFd, path: &Path, access: u64) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a C string.
    let fd = unsafe { libc::open(name.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    }
    // SAFETY: just opened.
    let parent = unsafe { OwnedFd::from_raw_fd(fd) };
    let directory = PathBuf::from(path).is_dir();
    let access = if directory { access } else { access & (EXECUTE | READ_FILE | WRITE_FILE) };
    let rule = PathBeneathAttr { allowed_access: access, parent_fd: parent.as_raw_fd() };
    // SAFETY: a valid ruleset and a valid rule.
    let code =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &rule, 0u32) };
    if code != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Answered with EPERM.
const DENIED: [libc::c_long; 38] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
];

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
const DATA_ARCHITECTURE: u32 = 4;
/// Call numbers from here on are x86-64's 32-bit variant, which nothing of ours uses.
const X32: u32 = 0x4000_0000;

fn restrict_calls() -> io::Result<()> {
    let load = |offset| step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset);
    let give = |answer| step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, answer);
    let equal = |value, then: usize, or: usize| {
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, then as u8, or as u8, value)
    };
    let deny = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = vec![load(DATA_ARCHITECTURE), equal(ARCHITECTURE, 1, 0), give(libc::SECCOMP_RET_KILL_PROCESS)];
    program.push(load(DATA_NUMBER));
    program.push(step((libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, (DENIED.len() + 1) as u8, 0, X32));
    for (index, number) in DENIED.iter().enumerate() {
        program.push(equal(*number as u32, DENIED.len() - index, 0));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program.push(give(deny));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a valid filter that lives over the call; no new privileges is set by the starter.
    let code = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter, 0, 0) };
    if code != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}
