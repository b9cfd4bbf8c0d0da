//! Threads made to do what nobody wrote: a system call of another's choice, or an answer that the kernel did not give.
#![allow(unsafe_code)] // ptrace(2).

/// The answer that a system call left by a signal has on x86_64, unless it is restarted.
const INTERRUPTED: i64 = -(libc::EINTR as i64);

/// Has the thread `tid` make the system call `number`, as somebody would who has taken it over. It must be waiting in
/// a system call, or in KVM_RUN.
pub fn inject_call(tid: i32, number: i64) {
    change(tid, |registers| {
        // Back to the instruction that led into the kernel (syscall, two bytes).
        registers.rip -= 2;
        registers.rax = number.cast_unsigned();
        (registers.rdi, registers.rsi, registers.rdx) = (0, 0, 0);
    });
}

/// Has KVM_RUN, which the thread `tid` is in, fail with `errno`.
pub fn fail_run(tid: i32, errno: i32) {
    let mut failed = false;
    while !failed {
        change(tid, |registers| {
            // It may have been on its way between two of them.
            failed = registers.rax.cast_signed() == INTERRUPTED
                && registers.orig_rax == libc::SYS_ioctl as u64;
            if failed {
                registers.rax = i64::from(-errno).cast_unsigned();
            }
        });
    }
}

/// Stops the thread `tid`, changes its registers, and lets it go on, without restarting the call it was in.
fn change(tid: i32, with: impl FnOnce(&mut libc::user_regs_struct)) {
    let null = std::ptr::null_mut::<libc::c_void>;
    let ptrace = |request: libc::c_uint, data: *mut libc::c_void| {
        // SAFETY: pointers are null, or to registers that the caller has.
        let done = unsafe { libc::ptrace(request, tid, null(), data) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    ptrace(libc::PTRACE_ATTACH, null());
    let mut status = 0;
    // SAFETY: `status` is ours.
    assert_eq!(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) }, tid);
    assert!(libc::WIFSTOPPED(status));
    // SAFETY: all zeros are registers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, (&raw mut registers).cast());
    let before = (registers.rip, registers.rax);
    with(&mut registers);
    if before != (registers.rip, registers.rax) {
        registers.orig_rax = u64::MAX;
        ptrace(libc::PTRACE_SETREGS, (&raw mut registers).cast());
    }
    ptrace(libc::PTRACE_DETACH, null());
}
