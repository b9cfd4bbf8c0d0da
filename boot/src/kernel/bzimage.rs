//! The header of a bzImage: what the kernel file says about itself
//! (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
//!
//! The file is untrusted: all ranges handed out lie within it, all sizes are bounded.

use std::ops::Range;

use linux_loader::loader::bootparam::{self, setup_header};
use vm_memory::ByteValued;

use super::kaslr::MIN_ALIGNMENT;
use crate::cmdline;
use crate::layout;
use crate::x86_64::boot_params::{BOOT_FLAG, HEADER_MAGIC};

/// Where the header starts in the file.
pub const HEADER_OFFSET: usize = 0x1F1;
/// Length of the header in bytes.
pub const HEADER_LENGTH: usize = size_of::<setup_header>();

const SECTOR: u64 = 512;
/// First version that tells where the payload is.
const PROTOCOL_2_08: u16 = 0x0208;
/// First version that tells how much memory the kernel needs while it starts.
const PROTOCOL_2_10: u16 = 0x020A;
/// First version with a 64-bit entry point.
const PROTOCOL_2_12: u16 = 0x020C;
/// Offset of the 64-bit entry point in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// A kernel's virtual address range is 1 GiB; larger requests would only waste the host's memory.
const MAX_INIT_SIZE: u64 = 1 << 30;
/// Largest physical alignment that the kernel's configuration offers.
const MAX_ALIGNMENT: u64 = 16 << 20;

/// Why a bzImage cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No "HdrS" at offset 0x202.
    #[error("no Linux boot header")]
    NoHeader,
    /// The file is shorter than its header says.
    #[error("the bzImage is truncated: it has {have} bytes of {need}; copy it again")]
    Truncated {
        /// Size of the file.
        have: u64,
        /// Size the header asks for.
        need: u64,
    },
    /// A kernel without 64-bit entry point.
    #[error("it is a 32-bit x86 kernel; an x86-64 kernel is needed")]
    ThirtyTwoBit,
    /// Older than Linux 2.6.26.
    #[error("its boot protocol version {}.{:02} is too old; 2.08 is needed", .0 >> 8, .0 & 0xFF)]
    TooOld(u16),
    /// A zImage, which is loaded low.
    #[error("it is a zImage; a bzImage is needed")]
    ZImage,
    /// A field with an impossible value.
    #[error("its boot header field {field} has the impossible value {value:#x}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// A bzImage's header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header(setup_header);

impl Header {
    /// Parses the header of a file that starts with `head` and has `length` bytes.
    pub fn parse(head: &[u8], length: u64) -> Result<Self, Error> {
        let bytes = head.get(HEADER_OFFSET..HEADER_OFFSET + HEADER_LENGTH);
        let mut header = Self::from_bytes(bytes.ok_or(Error::NoHeader)?).ok_or(Error::NoHeader)?;
        // The jump instruction at 0x200 leaps over the header: what is behind it is code.
        let used = (0x202 - HEADER_OFFSET).saturating_add(head[0x201].into());
        if let Some(code) = header.0.as_mut_slice().get_mut(used..) {
            code.fill(0);
        }
        if header.0.version < PROTOCOL_2_08 {
            return Err(Error::TooOld(header.0.version));
        }
        if header.0.loadflags & bootparam::LOADED_HIGH == 0 {
            return Err(Error::ZImage);
        }
        if header.0.version >= PROTOCOL_2_12 && !header.has_entry_64() {
            return Err(Error::ThirtyTwoBit);
        }
        let init_size = header.init_size();
        if init_size > MAX_INIT_SIZE {
            return Err(Error::Field { field: "init_size", value: init_size });
        }
        let need = header.code().end.max(header.payload().end);
        if need > length {
            return Err(Error::Truncated { have: length, need });
        }
        Ok(header)
    }

    /// Takes the header from its [`HEADER_LENGTH`] bytes as [`Self::to_bytes`] gives them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut header = setup_header::default();
        let target = header.as_mut_slice();
        if bytes.len() != target.len() {
            return None;
        }
        target.copy_from_slice(bytes);
        (header.header == HEADER_MAGIC && header.boot_flag == BOOT_FLAG).then_some(Self(header))
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.as_slice().to_vec()
    }

    /// The header for the zero page.
    pub(crate) fn raw(&self) -> setup_header {
        self.0
    }

    /// Whether the protected-mode code can be entered in 64-bit mode.
    pub fn has_entry_64(&self) -> bool {
        self.0.version >= PROTOCOL_2_12 && self.0.xloadflags & bootparam::XLF_KERNEL_64 != 0
    }

    /// Offset of the 64-bit entry point from where the protected-mode code is loaded.
    pub fn entry_64(&self) -> u64 {
        ENTRY_64
    }

    /// Where the protected-mode code is in the file.
    pub fn code(&self) -> Range<u64> {
        let sectors = if self.0.setup_sects == 0 { 4 } else { self.0.setup_sects };
        let start = (u64::from(sectors) + 1) * SECTOR;
        start..start + u64::from(self.0.syssize) * 16
    }

    /// Where the compressed kernel is in the file. Empty if the header does not tell.
    pub fn payload(&self) -> Range<u64> {
        let start = self.code().start + u64::from(self.0.payload_offset);
        start..start + u64::from(self.0.payload_length)
    }

    /// Memory needed from the load address on until the kernel is up, in bytes; 0 if unknown.
    pub fn init_size(&self) -> u64 {
        if self.0.version < PROTOCOL_2_10 { 0 } else { self.0.init_size.into() }
    }

    /// Where the protected-mode code wants to be loaded, if that is in RAM.
    pub fn preferred_address(&self) -> Result<u64, Error> {
        let value = self.0.pref_address;
        let ram = layout::HIGH_RAM_START..layout::MMIO_HOLE.start;
        if ram.contains(&value) {
            Ok(value)
        } else {
            Err(Error::Field { field: "pref_address", value })
        }
    }

    /// Alignment of the kernel's physical address, a power of two of at least [`MIN_ALIGNMENT`].
    pub fn alignment(&self) -> u64 {
        let alignment = u64::from(self.0.kernel_alignment);
        let possible = MIN_ALIGNMENT..=MAX_ALIGNMENT;
        if alignment.is_power_of_two() && possible.contains(&alignment) {
            alignment
        } else {
            MAX_ALIGNMENT
        }
    }

    /// Whether the kernel runs at other physical addresses than the one it is linked for.
    pub fn is_relocatable(&self) -> bool {
        self.0.relocatable_kernel != 0
    }

    /// Longest command line without its NUL, in bytes.
    pub fn command_line_limit(&self) -> u64 {
        match self.0.cmdline_size {
            0 => cmdline::DEFAULT_LIMIT,
            limit => limit.into(),
        }
    }

    /// First address that the initrd must not reach.
    pub fn initrd_ceiling(&self) -> u64 {
        match self.0.initrd_addr_max {
            0 => layout::MMIO_HOLE.start,
            last => u64::from(last) + 1,
        }
    }
}

#[cfg(test)]
#[path = "bzimage_test.rs"]
mod bzimage_test;
