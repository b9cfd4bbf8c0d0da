//! The relocation table of an x86-64 Linux kernel, which stands directly behind the ELF file in a
//! bzImage's payload (`arch/x86/boot/compressed/misc.c`, `handle_relocations`).
//!
//! The table is a list of 32-bit words, each the sign-extended virtual address of a site to patch.
//! A zero word opens each group: sites of 64 bits, sites of 32 bits that hold the negated base, and
//! sites of 32 bits. Newer kernels have no middle group, so the number of zero words tells.

use std::ops::Range;

use vm_memory::bitmap::MS;
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileSlice,
};

use super::elf::LINUX_MAP;
use super::image::{self, Layout, for_each_chunk};
use super::read_at::ReadAt;

const CHUNK: usize = 64 << 10;

/// Largest table looked for, in bytes; Linux has 1 MiB. Stops a search through a file of any size.
const MAX_TABLE: u64 = 64 << 20;

/// Why a kernel cannot be relocated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read, or is damaged.
    #[error("cannot read the relocation table")]
    Table(#[from] image::Error),
    /// A site to patch is not in the kernel. A hostile table would patch anything else in memory.
    #[error("the relocation table is malformed: it patches {0:#x}, which is not in the kernel")]
    Site(u64),
}

/// Where the table is in the image's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Offset of the first word.
    pub offset: u64,
    /// Number of words, zeros included.
    pub words: u32,
    /// Whether there is a group of inverse sites.
    pub inverse: bool,
    /// CRC-32 of the table, where the source may be damaged.
    pub checksum: Option<u32>,
}

#[derive(Clone, Copy)]
enum Group {
    Abs64,
    Inverse32,
    Abs32,
}

impl Table {
    /// Recognises the table in the bytes from `start` to `end` of `source`. `None` where there is
    /// none, or something else.
    pub fn find(source: &dyn ReadAt, start: u64, end: u64) -> Result<Option<Self>, image::Error> {
        let length = end.saturating_sub(start);
        if !length.is_multiple_of(4) || length > MAX_TABLE {
            return Ok(None);
        }
        let Ok(words) = u32::try_from(length / 4) else { return Ok(None) };
        let mut first = None;
        let mut zeros = 0;
        let mut buffer = vec![0; CHUNK];
        for_each_chunk(source, start, length, &mut buffer, |_, bytes| {
            let (chunk, _) = bytes.as_chunks::<4>();
            first = first.or(chunk.first().copied());
            zeros += chunk.iter().filter(|word| **word == [0; 4]).count();
            Ok::<_, image::Error>(())
        })?;
        let inverse = match zeros {
            2 => false,
            3 => true,
            _ => return Ok(None),
        };
        let known = first == Some([0; 4]);
        Ok(known.then_some(Self { offset: start, words, inverse, checksum: None }))
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.words) * 4
    }

    /// Patches a kernel that was loaded `physical` bytes above its link address so that it runs
    /// `virtual_shift` bytes above it. Returns the number of sites.
    pub fn apply<M: GuestMemoryBackend>(
        &self,
        source: &dyn ReadAt,
        layout: &Layout,
        memory: &M,
        physical: u64,
        virtual_shift: u32,
    ) -> Result<usize, Error> {
        let groups: &[Group] = if self.inverse {
            &[Group::Abs64, Group::Inverse32, Group::Abs32]
        } else {
            &[Group::Abs64, Group::Abs32]
        };
        let mut groups = groups.iter().copied();
        let mut group = Group::Abs32;
        let mut sites = Sites::new(layout, memory, physical);
        let mut count = 0;
        let mut checksum = crc32fast::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        for_each_chunk(source, self.offset, self.size(), &mut buffer, |_, bytes| {
            if self.checksum.is_some() {
                checksum.update(bytes);
            }
            for word in bytes.as_chunks::<4>().0 {
                let word = i32::from_le_bytes(*word);
                if word == 0 {
                    group = groups.next().unwrap_or(group);
                    continue;
                }
                let site = i64::from(word).cast_unsigned();
                let shift = virtual_shift;
                let patched = match group {
                    Group::Abs64 => sites.patch(site, |v: u64| v.wrapping_add(shift.into())),
                    Group::Inverse32 => sites.patch(site, |v: u32| v.wrapping_sub(shift)),
                    Group::Abs32 => sites.patch(site, |v: u32| v.wrapping_add(shift)),
                };
                patched.ok_or(Error::Site(site))?;
                count += 1;
            }
            Ok::<_, Error>(())
        })?;
        if self.checksum.is_some_and(|expected| expected != checksum.finalize()) {
            return Err(image::Error::Checksum { offset: self.offset }.into());
        }
        Ok(count)
    }
}

/// Part of a loaded segment that is contiguous in the VMM's memory, by its address as linked.
struct Window<'a, M: GuestMemoryBackend> {
    range: Range<u64>,
    slice: VolatileSlice<'a, MS<'a, M>>,
}

/// Access to the sites in a loaded kernel. Tables are sorted, so the window of the last site is
/// nearly always that of the next.
struct Sites<'a, M: GuestMemoryBackend> {
    layout: &'a Layout,
    memory: &'a M,
    physical: u64,
    windows: Vec<Window<'a, M>>,
    last: usize,
}

impl<'a, M: GuestMemoryBackend> Sites<'a, M> {
    fn new(layout: &'a Layout, memory: &'a M, physical: u64) -> Self {
        let mut windows = Vec::new();
        for segment in &layout.ranges {
            let mut start = segment.start;
            let length = usize::try_from(segment.end - segment.start).unwrap_or(0);
            let slices = memory.get_slices(GuestAddress(start + physical), length);
            for slice in slices.map_while(Result::ok) {
                let end = start + slice.len() as u64;
                windows.push(Window { range: start..end, slice });
                start = end;
            }
        }
        Self { layout, memory, physical, windows, last: 0 }
    }

    /// Replaces the value at a virtual address, or returns `None` if it is not in a segment.
    fn patch<T: ByteValued>(&mut self, site: u64, f: impl Fn(T) -> T) -> Option<()> {
        let start = site.wrapping_sub(LINUX_MAP);
        let end = start.checked_add(size_of::<T>() as u64)?;
        let holds = |window: &Window<'_, M>| window.range.start <= start && end <= window.range.end;
        if !self.windows.get(self.last).is_some_and(holds) {
            let next = self.windows.partition_point(|window| window.range.start <= start);
            self.last = next.checked_sub(1)?;
        }
        let window = self.windows.get(self.last)?;
        if !holds(window) {
            return self.patch_across(start..end, f);
        }
        let offset = usize::try_from(start - window.range.start).ok()?;
        let value = window.slice.get_ref::<T>(offset).ok()?;
        value.store(f(value.load()));
        Some(())
    }

    /// Patches a site that lies on the border of two memory regions.
    #[cold]
    fn patch_across<T: ByteValued>(&self, site: Range<u64>, f: impl Fn(T) -> T) -> Option<()> {
        if !self.layout.contains(&site) {
            return None;
        }
        let address = GuestAddress(site.start + self.physical);
        let value = self.memory.read_obj(address).ok()?;
        self.memory.write_obj(f(value), address).ok()
    }
}

#[cfg(test)]
#[path = "relocations_test.rs"]
mod relocations_test;
