//! vCPUs' first registers, in KVM's structures.

use boot::x86_64::registers::{DescriptorTable, Registers, Segment};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::{Error, failed};

/// IA32_APIC_BASE: the local APIC is enabled.
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: the local APIC is in x2APIC mode (EXTD).
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// Gives `vcpu` the registers that the boot protocol asks for (KVM_SET_SREGS, KVM_SET_REGS). What
/// they do not name, such as the local APIC's base, keeps KVM's reset value.
///
/// # Errors
///
/// [`Error::Operation`] when KVM refuses them.
pub fn set_up(vcpu: &VcpuFd, registers: &Registers) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    sregs.cr0 = registers.cr0;
    sregs.cr3 = registers.cr3;
    sregs.cr4 = registers.cr4;
    sregs.efer = registers.efer;
    sregs.cs = segment(&registers.cs);
    sregs.ds = segment(&registers.ds);
    sregs.es = segment(&registers.es);
    sregs.fs = segment(&registers.fs);
    sregs.gs = segment(&registers.gs);
    sregs.ss = segment(&registers.ss);
    sregs.tr = segment(&registers.tr);
    sregs.ldt = segment(&registers.ldt);
    sregs.gdt = table(registers.gdt);
    sregs.idt = table(registers.idt);
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: registers.rip,
        rsp: registers.rsp,
        rbx: registers.rbx,
        rsi: registers.rsi,
        rflags: registers.rflags,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))
}

/// Hands `vcpu` over in x2APIC mode (IA32_APIC_BASE: EN and EXTD), which INIT leaves as it is. So
/// does firmware where a local APIC's id passes 254 (Intel 64 x2APIC specification, 4.5): Linux
/// ignores such processors when it finds the boot processor in xAPIC mode.
///
/// # Errors
///
/// [`Error::Operation`] when KVM refuses it.
pub fn enable_x2apic(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    sregs.apic_base |= APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))
}

fn segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.type_,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.default_32.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granularity.into(),
        avl: 0,
        unusable: segment.unusable.into(),
        padding: 0,
    }
}

fn table(DescriptorTable { base, limit }: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base, limit, ..Default::default() }
}
