//! ELF64 kernels: `vmlinux`, what a bzImage unpacks to, and plain executables for bare machines.
//!
//! Every field of the file is untrusted. Relocation tables behind the ELF file and the choice of a
//! boot protocol are dealt with elsewhere.

use std::io;

use linux_loader::elf as abi;
use vm_memory::ByteValued;

use super::image::{Image, Layout, MAX_RANGES, Piece};
use super::read_at::ReadAt;
use crate::layout;

/// Start of the virtual address range in which Linux is linked.
pub(crate) const LINUX_MAP: u64 = 0xFFFF_FFFF_8000_0000;

/// XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point of a PVH boot.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Notes longer than this are not read: an entry point is in the first few hundred bytes.
const MAX_NOTES: u64 = 64 << 10;

/// Why a file is not an ELF kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("cannot read {length} bytes at offset {offset:#x}")]
    Read {
        /// Offset in the file.
        offset: u64,
        /// Bytes wanted.
        length: usize,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The ELF file refers to bytes it does not have.
    #[error("the ELF file is truncated: it has {have} bytes and refers to {need}; copy it again")]
    Truncated {
        /// Size of the file.
        have: u64,
        /// Size at which it would be complete.
        need: u64,
    },
    /// Not an ELF file at all.
    #[error("no ELF header")]
    NotElf,
    /// A kernel for another processor.
    #[error("it is an ELF file for {0}; an x86-64 kernel is needed")]
    Architecture(String),
    /// An object file, a core dump or the like.
    #[error("it is an ELF file of type {0}, not an executable (2 or 3)")]
    NotExecutable(u16),
    /// The program headers make no sense.
    #[error("its ELF program headers are malformed ({count} of {size} bytes each)")]
    ProgramHeaders {
        /// e_phnum.
        count: u16,
        /// e_phentsize.
        size: u16,
    },
    /// Nothing to load.
    #[error("it has no loadable segment")]
    NoSegments,
    /// The segments cannot be placed in guest memory.
    #[error(
        "its segments occupy guest-physical addresses {start:#x} to {end:#x}, overlapping, or \
         not between {:#x} and {:#x}; link it there (p_paddr counts)",
        layout::HIGH_RAM_START,
        layout::MMIO_HOLE.start
    )]
    Placement {
        /// Lowest address.
        start: u64,
        /// Highest end.
        end: u64,
    },
    /// The file has more bytes for a segment than the segment has memory.
    #[error("segment {index} has {file} bytes in the file but only {memory} in memory")]
    SegmentSize {
        /// Index of the program header.
        index: usize,
        /// p_filesz.
        file: u64,
        /// p_memsz.
        memory: u64,
    },
    /// The entry point is in no segment.
    #[error("its entry point {0:#x} is in none of its segments")]
    Entry(u64),
}

/// A parsed file: the image, and where the ELF file ends within the source.
#[derive(Debug)]
pub struct Elf {
    /// What to load; without relocations.
    pub image: Image,
    /// Offset after the last byte that belongs to the ELF file.
    pub end: u64,
}

/// Reads the ELF64 file at the start of `source`, which has `length` bytes.
pub fn parse(source: &dyn ReadAt, length: u64) -> Result<Elf, Error> {
    let header = file_header(source, length)?;
    let mut end = headers_end(source, length, &header)?;
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    for index in 0..header.e_phnum {
        let at = header.e_phoff + u64::from(index) * size_of::<abi::Elf64_Phdr>() as u64;
        let segment: abi::Elf64_Phdr = read(source, at, length)?;
        let file_end = segment.p_offset.saturating_add(segment.p_filesz);
        if segment.p_type == abi::PT_LOAD && segment.p_memsz > 0 {
            if segment.p_filesz > segment.p_memsz {
                let (file, memory) = (segment.p_filesz, segment.p_memsz);
                return Err(Error::SegmentSize { index: index.into(), file, memory });
            }
            if file_end > length {
                return Err(Error::Truncated { have: length, need: file_end });
            }
            segments.push(segment);
        } else if file_end > length {
            // Nothing that a boot needs.
            continue;
        } else if segment.p_type == abi::PT_NOTE && pvh_entry.is_none() {
            pvh_entry = find_pvh_entry(source, &segment)?;
        }
        end = end.max(file_end);
    }
    Ok(Elf { image: image(&header, segments, pvh_entry)?, end })
}

fn image(
    header: &abi::Elf64_Ehdr,
    mut segments: Vec<abi::Elf64_Phdr>,
    pvh_entry: Option<u32>,
) -> Result<Image, Error> {
    if segments.is_empty() {
        return Err(Error::NoSegments);
    }
    if segments.len() > MAX_RANGES {
        return Err(Error::ProgramHeaders { count: header.e_phnum, size: header.e_phentsize });
    }
    segments.sort_by_key(|segment| segment.p_paddr);
    let memory_end = |segment: &abi::Elf64_Phdr| segment.p_paddr.saturating_add(segment.p_memsz);
    let mut layout = Layout {
        ranges: segments.iter().map(|s| s.p_paddr..memory_end(s)).collect(),
        entry: entry(header.e_entry, &segments).ok_or(Error::Entry(header.e_entry))?,
        pvh_entry: None,
        linux: segments.iter().any(|segment| segment.p_vaddr >= LINUX_MAP),
    };
    if !layout.is_sound() {
        let end = segments.iter().map(memory_end).max().unwrap_or(0);
        return Err(Error::Placement { start: layout.start(), end });
    }
    // A note that points elsewhere is not an entry point of this kernel.
    layout.pvh_entry = pvh_entry.filter(|entry| layout.contains_address(u64::from(*entry)));
    let piece = |segment: &abi::Elf64_Phdr| Piece {
        address: segment.p_paddr,
        offset: segment.p_offset,
        length: segment.p_filesz,
        checksum: None,
    };
    let pieces = segments.iter().filter(|s| s.p_filesz > 0).map(piece).collect();
    Ok(Image { layout, pieces, relocations: None })
}

/// The entry point as a physical address: Linux gives one, other programs may give a virtual one.
fn entry(entry: u64, segments: &[abi::Elf64_Phdr]) -> Option<u64> {
    let within = |start: u64, s: &&abi::Elf64_Phdr| {
        entry.checked_sub(start).is_some_and(|offset| offset < s.p_memsz)
    };
    if segments.iter().any(|s| within(s.p_paddr, &s)) {
        return Some(entry);
    }
    let segment = segments.iter().find(|s| within(s.p_vaddr, s))?;
    segment.p_paddr.checked_add(entry - segment.p_vaddr)
}

fn file_header(source: &dyn ReadAt, length: u64) -> Result<abi::Elf64_Ehdr, Error> {
    let header: abi::Elf64_Ehdr = read(source, 0, length)?;
    let [m0, m1, m2, m3, class, data, ..] = header.e_ident;
    if [m0, m1, m2, m3] != *b"\x7fELF" {
        return Err(Error::NotElf);
    }
    // Other byte orders swap e_machine too.
    let big_endian = data == 2;
    let machine = if big_endian { header.e_machine.swap_bytes() } else { header.e_machine };
    if big_endian || class != 2 || machine != abi::EM_X86_64 {
        let bits = if class == 2 { 64 } else { 32 };
        return Err(Error::Architecture(format!("{} ({bits} bits)", machine_name(machine))));
    }
    if ![abi::ET_EXEC, abi::ET_DYN].contains(&header.e_type) {
        return Err(Error::NotExecutable(header.e_type));
    }
    let size = u64::from(header.e_phnum) * size_of::<abi::Elf64_Phdr>() as u64;
    let table_end = header.e_phoff.checked_add(size);
    if usize::from(header.e_phentsize) != size_of::<abi::Elf64_Phdr>() || table_end.is_none() {
        return Err(Error::ProgramHeaders { count: header.e_phnum, size: header.e_phentsize });
    }
    Ok(header)
}

fn machine_name(machine: u16) -> String {
    match machine {
        abi::EM_386 => "x86".into(),
        abi::EM_X86_64 => "x86-64".into(),
        abi::EM_ARM => "Arm".into(),
        abi::EM_AARCH64 => "AArch64".into(),
        abi::EM_RISCV => "RISC-V".into(),
        abi::EM_S390 => "s390".into(),
        abi::EM_LOONGARCH => "LoongArch".into(),
        20 | 21 => "PowerPC".into(),
        other => format!("machine number {other}"),
    }
}

/// End of the header tables and of the sections, which reach past the last segment.
fn headers_end(source: &dyn ReadAt, length: u64, header: &abi::Elf64_Ehdr) -> Result<u64, Error> {
    const SECTION_HEADER: usize = size_of::<abi::Elf64_Shdr>();
    let programs = u64::from(header.e_phnum) * u64::from(header.e_phentsize);
    let mut end = header.e_phoff.saturating_add(programs);
    if end > length {
        return Err(Error::Truncated { have: length, need: end });
    }
    if header.e_shoff == 0 || usize::from(header.e_shentsize) != SECTION_HEADER {
        return Ok(end);
    }
    let size = usize::from(header.e_shnum) * SECTION_HEADER;
    let table_end = header.e_shoff.saturating_add(size as u64);
    if table_end > length {
        return Err(Error::Truncated { have: length, need: table_end });
    }
    end = end.max(table_end);
    let mut table = vec![0; size];
    source.read_exact_at(&mut table, header.e_shoff).map_err(|source| Error::Read {
        offset: header.e_shoff,
        length: size,
        source,
    })?;
    for section in table.chunks_exact(SECTION_HEADER) {
        let kind = u32::from_le_bytes(array(section, 4));
        if kind != abi::SHT_NOBITS && kind != abi::SHT_NULL {
            let offset = u64::from_le_bytes(array(section, 24));
            let size = u64::from_le_bytes(array(section, 32));
            end = end.max(offset.saturating_add(size));
        }
    }
    Ok(end)
}

/// Looks for the PVH entry point in a note segment.
fn find_pvh_entry(source: &dyn ReadAt, segment: &abi::Elf64_Phdr) -> Result<Option<u32>, Error> {
    let length = usize::try_from(segment.p_filesz.min(MAX_NOTES)).unwrap_or(0);
    let mut notes = vec![0; length];
    source.read_exact_at(&mut notes, segment.p_offset).map_err(|source| Error::Read {
        offset: segment.p_offset,
        length,
        source,
    })?;
    let alignment = if segment.p_align == 8 { 8 } else { 4 };
    let mut rest = notes.as_slice();
    while let Some((head, body)) = rest.split_at_checked(12) {
        let name_size = u32::from_le_bytes(array(head, 0)) as usize;
        let value_size = u32::from_le_bytes(array(head, 4)) as usize;
        let kind = u32::from_le_bytes(array(head, 8));
        // Offsets count from the note's own start, which matters where the alignment is 8.
        let value_at = (head.len() + name_size).next_multiple_of(alignment) - head.len();
        let value = body.get(value_at..).and_then(|value| value.get(..value_size));
        let Some(value) = value else { break };
        if kind == NOTE_PHYS32_ENTRY && body.starts_with(b"Xen\0") && name_size == 4 {
            let entry = match value_size {
                4 => Some(u32::from_le_bytes(array(value, 0))),
                8 => u32::try_from(u64::from_le_bytes(array(value, 0))).ok(),
                _ => None,
            };
            return Ok(entry);
        }
        let next = (head.len() + value_at + value_size).next_multiple_of(alignment) - head.len();
        rest = body.get(next..).unwrap_or_default();
    }
    Ok(None)
}

/// The `N` bytes at `at`; the caller has checked that they exist.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn read<T: ByteValued + Default>(source: &dyn ReadAt, at: u64, length: u64) -> Result<T, Error> {
    let mut value = T::default();
    let size = size_of::<T>();
    let need = at.saturating_add(size as u64);
    if need > length {
        return Err(Error::Truncated { have: length, need });
    }
    source.read_exact_at(value.as_mut_slice(), at).map_err(|source| Error::Read {
        offset: at,
        length: size,
        source,
    })?;
    Ok(value)
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod elf_test;
