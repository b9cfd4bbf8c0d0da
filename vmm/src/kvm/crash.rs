//! What is left of a vCPU that cannot go on: registers and the instruction bytes at the end.

use std::fmt;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_regs,
    kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use devices::memory::GuestMemory;

/// Longest x86 instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;

/// A vCPU's last state.
#[derive(Clone)]
pub struct Report {
    vcpu: u32,
    state: Option<(kvm_regs, kvm_sregs)>,
    instruction: Vec<u8>,
}

impl Report {
    /// Reads the registers of `vcpu` and, where its page tables still lead there, the bytes at its
    /// instruction pointer. Bytes that KVM itself reported (`known`) are preferred.
    pub fn of(index: u32, vcpu: &VcpuFd, memory: &GuestMemory, known: Option<Vec<u8>>) -> Self {
        let state = vcpu.get_regs().ok().zip(vcpu.get_sregs().ok());
        let instruction = known.unwrap_or_else(|| {
            state.as_ref().map_or_else(Vec::new, |(regs, sregs)| fetch(vcpu, memory, regs, sregs))
        });
        Self { vcpu: index, state, instruction }
    }

    /// Whether KVM reset the registers before it reported the end, as it does on AMD CPUs, where
    /// the processor leaves them undefined on shutdown.
    fn was_reset(&self) -> bool {
        self.state.as_ref().is_some_and(|(regs, sregs)| {
            regs.rip == 0xfff0 && sregs.cs.base == 0xffff_0000 && sregs.cr0 & 1 == 0
        })
    }
}

/// The bytes at the instruction pointer, as many as are mapped.
fn fetch(vcpu: &VcpuFd, memory: &GuestMemory, regs: &kvm_regs, sregs: &kvm_sregs) -> Vec<u8> {
    let long_mode = sregs.cs.l != 0;
    let base = if long_mode { 0 } else { sregs.cs.base };
    let mut bytes = Vec::with_capacity(MAX_INSTRUCTION);
    for offset in 0..MAX_INSTRUCTION as u64 {
        let linear = base.wrapping_add(regs.rip).wrapping_add(offset);
        let Ok(translation) = vcpu.translate_gva(linear) else { break };
        if translation.valid == 0 {
            break;
        }
        let Ok(byte) = memory.read_obj::<u8>(GuestAddress(translation.physical_address)) else {
            break;
        };
        bytes.push(byte);
    }
    bytes
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.vcpu)?;
        let Some((r, s)) = &self.state else { return write!(f, ": registers unavailable") };
        if self.was_reset() {
            return write!(
                f,
                ": registers unavailable (on AMD CPUs KVM resets them when the guest shuts down)"
            );
        }
        write!(
            f,
            "\n  rip {:#018x}  rflags {:#x}  cs {:#x}  ss {:#x}",
            r.rip, r.rflags, s.cs.selector, s.ss.selector
        )?;
        write!(
            f,
            "\n  rax {:#018x}  rbx {:#018x}  rcx {:#018x}  rdx {:#018x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        write!(
            f,
            "\n  rsi {:#018x}  rdi {:#018x}  rbp {:#018x}  rsp {:#018x}",
            r.rsi, r.rdi, r.rbp, r.rsp
        )?;
        write!(
            f,
            "\n  r8  {:#018x}  r9  {:#018x}  r10 {:#018x}  r11 {:#018x}",
            r.r8, r.r9, r.r10, r.r11
        )?;
        write!(
            f,
            "\n  r12 {:#018x}  r13 {:#018x}  r14 {:#018x}  r15 {:#018x}",
            r.r12, r.r13, r.r14, r.r15
        )?;
        write!(
            f,
            "\n  cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.efer
        )?;
        if self.instruction.is_empty() {
            return write!(f, "\n  instruction bytes unreadable");
        }
        write!(f, "\n  instruction bytes")?;
        self.instruction.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// KVM_EXIT_INTERNAL_ERROR in words, and the instruction bytes where KVM gives them.
#[allow(unsafe_code)]
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> (String, Option<Vec<u8>>) {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so the kernel filled in this member.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction KVM cannot emulate",
        2 => "an exception while another was delivered",
        3 => "an exit while an event was delivered",
        4 => "an exit reason KVM does not know",
        _ => "an unknown kind of error",
    };
    let what = format!("KVM internal error {suberror}: {what}");
    if suberror != KVM_INTERNAL_ERROR_EMULATION {
        return (what, None);
    }
    // SAFETY: for this suberror the kernel fills in `emulation_failure`, all of it plain integers.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    if failure.ndata < 3 || failure.flags & flag == 0 {
        return (what, None);
    }
    // SAFETY: the flag says that size and bytes are filled in.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let size = usize::from(instruction.insn_size).min(MAX_INSTRUCTION);
    (what, Some(instruction.insn_bytes[..size].to_vec()))
}
