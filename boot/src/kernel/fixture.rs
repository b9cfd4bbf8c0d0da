//! Small kernels for tests: ELF files and bzImages built field by field.

use linux_loader::elf as abi;
use vm_memory::ByteValued;

/// A segment of a test kernel.
#[derive(Clone)]
pub struct Segment {
    pub vaddr: u64,
    pub paddr: u64,
    pub bytes: Vec<u8>,
    pub memsz: u64,
}

/// A segment linked where Linux is, with the same virtual as physical offset.
pub fn linux_segment(paddr: u64, bytes: &[u8]) -> Segment {
    let vaddr = super::elf::LINUX_MAP + paddr;
    Segment { vaddr, paddr, bytes: bytes.to_vec(), memsz: bytes.len() as u64 }
}

/// An identity-mapped segment.
pub fn flat_segment(address: u64, bytes: &[u8]) -> Segment {
    Segment { vaddr: address, ..linux_segment(address, bytes) }
}

/// A note of the owner Xen with the PVH entry point.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, 8, 18] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(entry).to_le_bytes());
    note
}

pub fn elf_header(entry: u64, segments: u16) -> abi::Elf64_Ehdr {
    let mut header = abi::Elf64_Ehdr {
        e_type: abi::ET_EXEC,
        e_machine: abi::EM_X86_64,
        e_version: 1,
        e_entry: entry,
        e_phoff: 64,
        e_ehsize: 64,
        e_phentsize: 56,
        e_phnum: segments,
        ..abi::Elf64_Ehdr::default()
    };
    header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header
}

/// An ELF executable without section headers.
pub fn elf(entry: u64, segments: &[Segment], note: Option<&[u8]>) -> Vec<u8> {
    let count = segments.len() + usize::from(note.is_some());
    let mut file = elf_header(entry, count as u16).as_slice().to_vec();
    let mut body: Vec<u8> = Vec::new();
    let body_at = (64 + 56 * count) as u64;
    let loads = segments.iter().map(|s| (abi::PT_LOAD, s.vaddr, s.paddr, &s.bytes[..], s.memsz));
    let notes = note.iter().map(|note| (abi::PT_NOTE, 0, 0, *note, note.len() as u64));
    for (p_type, p_vaddr, p_paddr, bytes, p_memsz) in loads.chain(notes) {
        let header = abi::Elf64_Phdr {
            p_type,
            p_flags: 7,
            p_offset: body_at + body.len() as u64,
            p_vaddr,
            p_paddr,
            p_filesz: bytes.len() as u64,
            p_memsz,
            p_align: 4,
        };
        file.extend(header.as_slice());
        body.extend(bytes);
    }
    file.extend(body);
    file
}

/// A relocation table in file order.
pub fn relocation_table(groups: &[&[u64]]) -> Vec<u8> {
    let mut table = Vec::new();
    for group in groups {
        table.extend([0; 4]);
        table.extend(group.iter().flat_map(|site| (*site as u32).to_le_bytes()));
    }
    table
}

/// A bzImage around a payload, to which the uncompressed size is appended. `adjust` may change the
/// file's first sectors.
pub fn bzimage(payload: &[u8], uncompressed: usize, adjust: impl Fn(&mut [u8])) -> Vec<u8> {
    const SETUP: usize = 5 * 512;
    const PAYLOAD_OFFSET: usize = 0x40;
    let mut code = vec![0x90; PAYLOAD_OFFSET];
    code.extend(payload);
    code.extend((uncompressed as u32).to_le_bytes());
    let payload_length = (code.len() - PAYLOAD_OFFSET) as u32;
    code.resize(code.len().next_multiple_of(16).max(0x400), 0);
    let mut file = vec![0; SETUP];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[4]);
    put(0x1F4, &(code.len() as u32 / 16).to_le_bytes());
    put(0x1FE, &0xAA55u16.to_le_bytes());
    put(0x200, &[0xEB, 0x6A]);
    put(0x202, b"HdrS");
    put(0x206, &0x020Fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &0x7Fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &(PAYLOAD_OFFSET as u32).to_le_bytes());
    put(0x24C, &payload_length.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x40_0000u32.to_le_bytes());
    adjust(&mut file);
    file.extend(code);
    file
}

/// Where the test kernel is linked.
pub const BASE: u64 = 0x100_0000;

/// A kernel in the form of a bzImage's payload: two segments, the second with BSS and a stretch of
/// zeros, a PVH note, and a relocation table with a site of each kind at the start.
pub fn linux() -> Vec<u8> {
    let at = |offset: u64| super::elf::LINUX_MAP + BASE + offset;
    let mut text = vec![0x90; 0x1000];
    text[..8].copy_from_slice(&at(0x100).to_le_bytes());
    text[8..12].copy_from_slice(&(at(0x200) as u32).to_le_bytes());
    text[12..16].copy_from_slice(&0x1234_5678u32.to_le_bytes());
    let mut data = vec![0; 0x5_0000];
    data[0] = 1;
    *data.last_mut().unwrap() = 2;
    let data = Segment { memsz: 0x8_0000, ..linux_segment(BASE + 0x20_0000, &data) };
    let segments = [linux_segment(BASE, &text), data];
    let mut file = elf(BASE + 0x10, &segments, Some(&pvh_note(BASE as u32 + 0x20)));
    file.extend(relocation_table(&[&[at(0)], &[at(12)], &[at(8)]]));
    file
}

/// [`linux`] in a bzImage, compressed as `lz4 -l` does.
pub fn linux_bzimage() -> Vec<u8> {
    let kernel = linux();
    bzimage(&lz4(&kernel), kernel.len(), |_| ())
}

/// The legacy LZ4 format.
pub fn lz4(content: &[u8]) -> Vec<u8> {
    let mut file = 0x184C_2102u32.to_le_bytes().to_vec();
    for block in content.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        file.extend((block.len() as u32).to_le_bytes());
        file.extend(block);
    }
    file
}
