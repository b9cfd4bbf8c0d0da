//! Descriptors and rings as a hostile driver might write them.

use devices::memory::GuestMemory;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use vm_memory::{Bytes, GuestAddress};

/// An address, most often one where something of interest is.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub u64);

impl<'a> Arbitrary<'a> for Address {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let kind: u8 = input.arbitrary()?;
        Ok(Self(match kind {
            // The first pages: rings, tables and buffers.
            0..128 => u64::from(input.arbitrary::<u16>()?),
            128..192 => u64::from(input.arbitrary::<u8>()?) << 12,
            // The edges of memory.
            192..224 => {
                (u64::from(input.arbitrary::<u8>()?)).wrapping_add(crate::MEMORY as u64 - 128)
            }
            _ => input.arbitrary()?,
        }))
    }
}

/// A length, most often a small one.
#[derive(Clone, Copy, Debug)]
pub struct Length(pub u32);

impl<'a> Arbitrary<'a> for Length {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let kind: u8 = input.arbitrary()?;
        Ok(Self(match kind {
            0..64 => u32::from(input.arbitrary::<u8>()?),
            64..192 => 16 * u32::from(input.arbitrary::<u8>()? % 32),
            192..240 => u32::from(input.arbitrary::<u16>()?),
            _ => input.arbitrary()?,
        }))
    }
}

/// A descriptor of a table that is direct or indirect.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Descriptor {
    /// Address of the buffer.
    pub address: Address,
    /// Its length.
    pub len: Length,
    /// Flags: the three that are defined, or any.
    pub flags: u16,
    /// The next descriptor.
    pub next: u8,
}

impl Descriptor {
    /// Writes it as entry `index` of the table at `table`, if that is memory.
    pub fn write(&self, memory: &GuestMemory, table: u64, index: u8) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.0.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14] = self.next;
        let at = table.wrapping_add(16 * u64::from(index));
        let _ = memory.write_slice(&bytes, GuestAddress(at));
    }
}
