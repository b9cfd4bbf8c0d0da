//! The FADT of a hardware-reduced platform (ACPI 6.5, 5.2.9): where sleep and reset registers are,
//! and which pieces of a PC are missing.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform};

/// CMOS offset of the century.
const CENTURY: u8 = 0x32;

/// Boot architecture flags (ACPI 6.5, 5.2.9.3). Those left clear deny legacy devices that only a
/// probe would find, and an i8042.
const VGA_NOT_PRESENT: u16 = 1 << 2;
const NO_PCIE_ASPM: u16 = 1 << 4;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// A FADT that points at the DSDT at guest-physical address `dsdt`.
pub(super) fn build(platform: &Platform, dsdt: u64) -> FADT {
    let power = &platform.power;
    let flags = [
        Flags::HwReducedAcpi,
        Flags::ResetRegSup,
        // Caches are coherent and WBINVD works; HLT works.
        Flags::Wbinvd,
        Flags::ProcC1,
        // Set, these say that there is no such button, or no RTC wake status, in fixed registers.
        Flags::PwrButton,
        Flags::SlpButton,
        Flags::FixRtc,
    ];
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION).dsdt_64(dsdt);
    for flag in flags {
        fadt = fadt.flag(flag);
    }
    let rtc = if platform.rtc { 0 } else { CMOS_RTC_NOT_PRESENT };
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | NO_PCIE_ASPM | rtc).into();
    fadt.century = if platform.rtc { CENTURY } else { 0 };
    fadt.reset_reg = io_port(power.reset);
    fadt.reset_value = power.reset_value;
    fadt.sleep_control_reg = io_port(power.sleep_control);
    fadt.sleep_status_reg = io_port(power.sleep_status);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"CARVE\0\0\0").into();
    fadt.finalize()
}

/// An 8-bit register at an I/O port.
fn io_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}
