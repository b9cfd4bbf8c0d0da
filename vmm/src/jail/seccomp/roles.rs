//! The allow-lists: what each role needs, and nothing else. Found by reading the code and by running the tests
//! under `--seccomp=log`.

use devices::thread::Role;
use libc::*;

use super::ioctls;
use super::rules::Allowed;
use super::rules::Check::{Has, Is, Lacks};

/// What `role` may do.
pub fn allowed(role: Role) -> Allowed {
    let every = every();
    match role {
        Role::Main => main().and(&every),
        Role::Nursery => {
            let others =
                Role::ALL.into_iter().filter(|role| !matches!(role, Role::Main | Role::Nursery));
            others.fold(nursery().and(&every), |all, role| all.and(&allowed(role)))
        }
        Role::Vcpu => vcpu().and(&every),
        Role::Block => block().and(&device()).and(&every),
        Role::Net => net().and(&device()).and(&every),
        Role::VirtioConsole => virtio_console().and(&device()).and(&every),
        Role::Vsock => vsock().and(&device()).and(&every),
        Role::Balloon => balloon().and(&device()).and(&every),
        Role::Rng => device().and(&every),
        Role::Console => waits().and(&every),
        Role::Api => api().and(&every),
        Role::Passt => passt().and(&every),
    }
}

/// Memory, locks, clocks, descriptors that are there, panics, ends.
fn every() -> Allowed {
    let list = Allowed::default()
        .calls(&[
            SYS_read,
            SYS_write,
            SYS_close,
            SYS_futex,
            SYS_munmap,
            SYS_mremap,
            SYS_brk,
            SYS_sched_yield,
            SYS_clock_gettime,
            SYS_clock_nanosleep,
            SYS_nanosleep,
            SYS_restart_syscall,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_sigaltstack,
            SYS_getrandom,
            SYS_getpid,
            SYS_gettid,
            // How many processors there are, which decides how many arenas malloc(3) has.
            SYS_sched_getaffinity,
            SYS_exit,
            SYS_exit_group,
        ])
        // Never memory that can be executed.
        .when(SYS_mmap, &[Lacks(2, bits(PROT_EXEC)), Has(3, bits(MAP_PRIVATE | MAP_ANONYMOUS))])
        .when(SYS_mprotect, &[Lacks(2, bits(PROT_EXEC))])
        .one_of(SYS_madvise, 2, &numbers([MADV_DONTNEED, MADV_FREE]))
        .one_of(SYS_fcntl, 1, &numbers([F_GETFD, F_GETFL]))
        // What a fault does is up to the handlers that are there; they put the default back. Not SIGSYS.
        .one_of(SYS_rt_sigaction, 0, &numbers(FAULTS))
        // raise(3), abort(3).
        .when(SYS_tgkill, &[Is(0, std::process::id())]);
    if cfg!(target_env = "musl") {
        list.one_of(SYS_tkill, 1, &numbers(FAULTS))
    } else {
        list.and(&probes())
    }
}

/// What glibc tries and can do without. To have it on a list saves the process; [`absent`] keeps it from being done.
fn probes() -> Allowed {
    // malloc(3), which gives memory back, reads /proc/sys/vm/overcommit_memory.
    Allowed::default()
        .when(SYS_openat, &[Is(0, number(AT_FDCWD)), Is(2, number(O_RDONLY | O_CLOEXEC))])
}

/// Calls that are answered as by a kernel that has none such.
pub(super) fn absent() -> Allowed {
    // What clone3(2) is to do is in memory, where no filter can look. C libraries use clone(2) then.
    probes().calls(&[SYS_clone3])
}

/// Signals that a thread's own doing raises.
pub(super) const FAULTS: [i32; 6] = [SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV];

/// Starting a thread, up to where that thread confines itself.
fn nursery() -> Allowed {
    // As the C libraries start threads; musl adds a flag without a meaning.
    let thread = CLONE_VM
        | CLONE_FS
        | CLONE_FILES
        | CLONE_SIGHAND
        | CLONE_THREAD
        | CLONE_SYSVSEM
        | CLONE_SETTLS
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_CLEARTID;
    Allowed::default()
        .one_of(SYS_clone, 0, &numbers([thread, thread | CLONE_DETACHED]))
        // See `absent`.
        .calls(&[SYS_clone3])
        .calls(&[SYS_set_robust_list, SYS_rseq, SYS_set_tid_address, SYS_sched_setaffinity])
        .one_of(SYS_prctl, 0, &numbers([PR_SET_NAME, PR_SET_NO_NEW_PRIVS]))
        .one_of(SYS_seccomp, 0, &[SECCOMP_SET_MODE_FILTER])
        // Rings of disks.
        .calls(&[SYS_io_uring_setup, SYS_io_uring_register])
        .when(SYS_mmap, &[Lacks(2, bits(PROT_EXEC)), Has(3, bits(MAP_SHARED))])
        .one_of(SYS_madvise, 2, &numbers([MADV_DONTFORK]))
        // What workers wait with.
        .calls(&[SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl, SYS_timerfd_create])
}

/// Waiting for descriptors.
fn waits() -> Allowed {
    Allowed::default().calls(&[SYS_poll, SYS_ppoll])
}

/// Serving queues. An interrupt line of a device on virtio-mmio is connected by its first edge.
fn device() -> Allowed {
    waits().calls(&[SYS_eventfd2]).ioctls(&[ioctls::KVM_IRQFD])
}

/// What a descriptor is of, without a path.
fn stat() -> Allowed {
    Allowed::default()
        .calls(&[SYS_fstat])
        .when(SYS_statx, &[Has(2, bits(AT_EMPTY_PATH))])
        .when(SYS_newfstatat, &[Has(3, bits(AT_EMPTY_PATH))])
}

/// Waiting for many descriptors.
fn epoll() -> Allowed {
    Allowed::default().calls(&[SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait])
}

fn vcpu() -> Allowed {
    Allowed::default()
        .ioctls(&[ioctls::KVM_RUN])
        .ioctls(&ioctls::KVM_WIRING)
        .ioctls(&ioctls::KVM_VCPU)
        // A device that starts sets up its tap; one that stops lets go of its sockets.
        .ioctls(&ioctls::TAP)
        // Interrupts of a network with vhost, which follow the guest's vectors.
        .ioctls(&[ioctls::VHOST_SET_VRING_CALL])
        // Whether the process was stopped meanwhile.
        .calls(&[SYS_rt_sigpending])
        .calls(&[SYS_eventfd2, SYS_epoll_ctl, SYS_shutdown])
        // A console's emergency write, before its driver is there (virtio 5.3.4).
        .calls(&[SYS_poll, SYS_ppoll, SYS_accept4, SYS_writev, SYS_fstat])
        .one_of(SYS_fcntl, 1, &numbers([F_DUPFD_CLOEXEC]))
}

/// Whether this thread, woken up, interrupts a vCPU.
fn preemption() -> Allowed {
    Allowed::default()
        .when(SYS_sched_getscheduler, &[Is(0, 0)])
        .when(SYS_sched_setscheduler, &[Is(0, 0), Is(1, number(SCHED_OTHER))])
        .when(SYS_sched_setscheduler, &[Is(0, 0), Is(1, number(SCHED_BATCH))])
}

fn block() -> Allowed {
    waits()
        .and(&preemption())
        .calls(&[
            SYS_pread64,
            SYS_pwrite64,
            SYS_preadv,
            SYS_pwritev,
            SYS_preadv2,
            SYS_pwritev2,
            SYS_fdatasync,
            SYS_fsync,
            SYS_fallocate,
            SYS_ftruncate,
            SYS_lseek,
            SYS_io_uring_enter,
        ])
        .one_of(SYS_io_uring_register, 1, &[IORING_UNREGISTER_FILES, IORING_REGISTER_ENABLE_RINGS])
        .and(&stat())
        .ioctls(&ioctls::BLOCK_DEVICE)
}

const IORING_UNREGISTER_FILES: u32 = 3;
const IORING_REGISTER_ENABLE_RINGS: u32 = 12;

/// Streams and packets over sockets that are there.
fn sockets() -> Allowed {
    waits().ioctls(&[ioctls::FIONBIO]).calls(&[
        SYS_readv,
        SYS_writev,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_sendto,
        SYS_sendmsg,
        SYS_shutdown,
    ])
}

fn net() -> Allowed {
    sockets().and(&preemption()).ioctls(&ioctls::TAP).ioctls(&ioctls::VHOST_SERVE)
}

fn virtio_console() -> Allowed {
    sockets()
        .and(&epoll())
        .and(&stat())
        .calls(&[SYS_accept4])
        .one_of(SYS_fcntl, 1, &numbers([F_DUPFD_CLOEXEC]))
        .ioctls(&ioctls::TERMINAL)
}

fn vsock() -> Allowed {
    sockets()
        .and(&preemption())
        .and(&epoll())
        .calls(&[SYS_accept4, SYS_connect])
        .one_of(SYS_socket, 0, &numbers([AF_UNIX]))
        .one_of(SYS_setsockopt, 1, &numbers([SOL_SOCKET]))
        .one_of(SYS_getsockopt, 1, &numbers([SOL_SOCKET]))
}

fn balloon() -> Allowed {
    epoll()
        .one_of(SYS_fallocate, 1, &numbers([FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE]))
        .calls(&[SYS_timerfd_settime])
}

fn api() -> Allowed {
    sockets()
        .calls(&[SYS_accept4, SYS_geteuid])
        // Who connects.
        .when(SYS_getsockopt, &[Is(1, number(SOL_SOCKET)), Is(2, number(SO_PEERCRED))])
}

fn passt() -> Allowed {
    sockets().one_of(SYS_fcntl, 1, &numbers([F_DUPFD_CLOEXEC, F_SETFL, F_SETFD]))
}

/// The main thread builds machines, changes devices on request and puts everything away at the end.
fn main() -> Allowed {
    sockets()
        .calls(&[
            SYS_epoll_create1,
            SYS_epoll_ctl,
            SYS_epoll_wait,
            SYS_epoll_pwait,
            SYS_eventfd2,
            SYS_timerfd_create,
            SYS_timerfd_settime,
            SYS_pwrite64,
            SYS_memfd_create,
            SYS_ftruncate,
            SYS_fallocate,
            SYS_lseek,
            SYS_pread64,
            SYS_preadv,
            // Whether the file systems of disks are full.
            SYS_fstatfs,
            SYS_geteuid,
            SYS_getpgrp,
            // The process that watches over the terminal.
            SYS_wait4,
            SYS_waitid,
        ])
        .and(&stat())
        // Guest memory that is a file, and what vCPUs share with KVM.
        .when(SYS_mmap, &[Lacks(2, bits(PROT_EXEC)), Has(3, bits(MAP_SHARED))])
        .one_of(
            SYS_madvise,
            2,
            &numbers([
                MADV_HUGEPAGE,
                MADV_NOHUGEPAGE,
                MADV_DONTFORK,
                MADV_POPULATE_WRITE,
                MADV_UNMERGEABLE,
                MADV_DONTDUMP,
            ]),
        )
        .one_of(SYS_fcntl, 1, &numbers([F_DUPFD_CLOEXEC, F_SETFL, F_SETFD]))
        // Stopped and continued on a terminal.
        .one_of(SYS_rt_sigaction, 0, &numbers([SIGTSTP, SIGCONT]))
        .one_of(SYS_rt_sigaction, 0, &numbers([SIGHUP, SIGINT, SIGQUIT, SIGTERM]))
        .ioctls(&ioctls::KVM_BUILD)
        .ioctls(&ioctls::KVM_WIRING)
        .ioctls(&ioctls::TERMINAL)
        .ioctls(&ioctls::TAP)
        .ioctls(&[ioctls::VHOST_SET_OWNER])
        .ioctls(&ioctls::BLOCK_DEVICE)
        .one_of(SYS_tkill, 1, &[crate::kvm::kick::signal().unsigned_abs()])
}

/// Writing down how the run ended, once the guest is gone, where no other process does it.
pub(super) fn records() -> Allowed {
    Allowed::default().calls(&[
        SYS_open,
        SYS_openat,
        SYS_stat,
        SYS_lstat,
        SYS_statx,
        SYS_newfstatat,
        SYS_rename,
        SYS_renameat,
        SYS_unlink,
        SYS_unlinkat,
        SYS_rmdir,
        SYS_readlink,
        SYS_getdents64,
        SYS_flock,
        SYS_fsync,
    ])
}

/// linux/prctl.h.
const PR_SCHED_CORE: u32 = 62;
const PR_SCHED_CORE_GET: u32 = 0;

/// What a process outside the jail may do once it hears what a VMM says: files by their names, control groups among
/// them, and sockets of this host's programs. No other program, process or network.
pub(super) fn outside() -> Allowed {
    waits()
        .and(&every())
        .and(&records())
        .calls(&[
            SYS_access,
            SYS_faccessat,
            SYS_faccessat2,
            SYS_fstat,
            SYS_statfs,
            SYS_fstatfs,
            SYS_readlinkat,
            SYS_mkdir,
            SYS_mkdirat,
            SYS_lseek,
            SYS_pread64,
            SYS_pwrite64,
            SYS_writev,
            SYS_ftruncate,
            SYS_fdatasync,
            SYS_geteuid,
            SYS_getppid,
            SYS_pidfd_open,
        ])
        // Whether the host has siblings to keep apart is part of what there is to give.
        .when(SYS_prctl, &[Is(0, PR_SCHED_CORE), Is(1, PR_SCHED_CORE_GET)])
        // Who lives holds a lock, and lists of files are read.
        .one_of(SYS_fcntl, 1, &numbers([F_SETLK, F_GETLK, F_DUPFD_CLOEXEC, F_SETFL, F_SETFD]))
        .one_of(SYS_socket, 0, &numbers([AF_UNIX]))
        .one_of(SYS_setsockopt, 1, &numbers([SOL_SOCKET]))
        .one_of(SYS_getsockopt, 1, &numbers([SOL_SOCKET]))
        .ioctls(&[ioctls::FIONBIO])
        .calls(&[SYS_connect, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown])
}

fn number(value: i32) -> u32 {
    value.cast_unsigned()
}

fn numbers<const N: usize>(values: [i32; N]) -> [u32; N] {
    values.map(number)
}

fn bits(value: i32) -> u64 {
    number(value).into()
}

#[cfg(test)]
mod roles_test {
    use seccompiler::SeccompAction;

    use super::*;

    /// What nobody ever needs: other programs, other processes, more rights, other networks.
    const NEVER: [i64; 20] = [
        SYS_execve,
        SYS_execveat,
        SYS_fork,
        SYS_vfork,
        SYS_kill,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_mount,
        SYS_unshare,
        SYS_setns,
        SYS_bind,
        SYS_listen,
        SYS_setuid,
        SYS_setresuid,
        SYS_capset,
        SYS_bpf,
        SYS_init_module,
        SYS_keyctl,
        SYS_userfaultfd,
    ];

    fn lists() -> impl Iterator<Item = (&'static str, Allowed)> {
        let roles = Role::ALL.map(|role| (role.name(), allowed(role)));
        roles.into_iter().chain([("outside", outside())])
    }

    #[test]
    fn no_list_has_what_an_attacker_wants_most() {
        for (name, list) in lists() {
            let found: Vec<_> = NEVER.into_iter().filter(|&number| list.has(number)).collect();
            assert!(found.is_empty(), "{name}: {found:?}");
        }
    }

    #[test]
    fn only_the_nursery_starts_threads_and_adds_filters() {
        for (name, list) in lists().filter(|&(name, _)| name != Role::Nursery.name()) {
            assert!(!list.has(SYS_clone) && !list.has(SYS_clone3), "{name}");
            assert!(!list.has(SYS_seccomp) && !list.has(SYS_io_uring_setup), "{name}");
        }
    }

    #[test]
    fn every_list_is_a_filter_the_kernel_takes() {
        for (name, list) in lists() {
            let filter = list.compile(SeccompAction::Trap).unwrap();
            assert!(filter.len() < 4096, "{name}: {}", filter.len());
        }
    }
}
