//! Model-specific registers a vCPU starts with.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::{Error, failed};

/// IA32_MISC_ENABLE: bit 0 is fast string operation, which firmware leaves on.
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE: bit 11 enables MTRRs, the low byte is the default type (6: write-back).
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets what firmware would have set: fast strings, and write-back as the default memory type, so
/// that Linux neither disables PAT nor calls the memory uncached. Everything else keeps KVM's reset
/// value. A KVM without one of these registers is left as it is.
///
/// # Errors
///
/// [`Error::Operation`] when KVM_SET_MSRS itself fails.
pub fn set_up(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    for msr in
        [entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK), entry(IA32_MISC_ENABLE, FAST_STRINGS)]
    {
        let msrs = Msrs::from_entries(&[msr]).map_err(|e| Error::Operation {
            operation: "KVM_SET_MSRS",
            source: std::io::Error::other(format!("{e:?}")),
        })?;
        let set = vcpu.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
        if set == 0 {
            tracing::debug!(msr = format_args!("{:#x}", msr.index), "KVM has no such MSR");
        }
    }
    Ok(())
}
