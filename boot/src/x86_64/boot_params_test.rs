use vm_memory::GuestMemoryMmap;

use super::*;

fn written(page: &ZeroPage<'_>) -> (GuestMemoryMmap, Vec<u8>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    page.write(&memory).unwrap();
    let mut bytes = vec![0; 4096];
    memory.read_slice(&mut bytes, GuestAddress(layout::ZERO_PAGE)).unwrap();
    (memory, bytes)
}

fn page(ram: &RamLayout) -> ZeroPage<'_> {
    ZeroPage {
        header: None,
        ram,
        rsdp: 0xE_0000,
        initrd: Some(0x7000_0000..0x7000_1234),
        kernel: 0x100_0000,
        kaslr: true,
        seed: [7; 32],
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn fields_are_where_the_kernel_reads_them() {
    let ram = RamLayout::new(5 << 30);
    let (_, bytes) = written(&page(&ram));
    assert_eq!(&bytes[0x202..0x206], b"HdrS");
    assert_eq!(bytes[0x210], 0xFF);
    assert_eq!(bytes[0x211], 0b11, "LOADED_HIGH and KASLR_FLAG");
    assert_eq!(u32_at(&bytes, 0x070), 0xE_0000);
    assert_eq!(u32_at(&bytes, 0x218), 0x7000_0000);
    assert_eq!(u32_at(&bytes, 0x21C), 0x1234);
    assert_eq!(u32_at(&bytes, 0x228), 0x2_0000);
    let entries = usize::from(bytes[0x1E8]);
    assert_eq!(entries, ram.e820().len());
    for (i, entry) in ram.e820().iter().enumerate() {
        let at = 0x2D0 + i * 20;
        let start = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let size = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
        assert_eq!(start..start + size, entry.range);
        assert_eq!(u32_at(&bytes, at + 16), entry.kind as u32);
    }
}

#[test]
fn the_seed_is_a_setup_data_entry() {
    let ram = RamLayout::new(1 << 28);
    let (memory, bytes) = written(&page(&ram));
    assert_eq!(u32_at(&bytes, 0x250), 0x8000);
    let mut data = [0; 48];
    memory.read_slice(&mut data, GuestAddress(0x8000)).unwrap();
    assert_eq!(&data[..8], &[0; 8], "end of the list");
    assert_eq!((u32_at(&data, 8), u32_at(&data, 12)), (9, 32));
    assert_eq!(&data[16..], &[7; 32]);
}

#[test]
fn a_kernels_own_header_is_kept_but_for_what_the_loader_sets() {
    let ram = RamLayout::new(1 << 28);
    let header = setup_header {
        header: HEADER_MAGIC,
        version: 0x20D,
        loadflags: 0xFF,
        init_size: 0x1234,
        ..setup_header::default()
    };
    let built = ZeroPage { header: Some(header), kaslr: false, initrd: None, ..page(&ram) }.build();
    let (version, init_size) = (built.hdr.version, built.hdr.init_size);
    assert_eq!((version, init_size), (0x20D, 0x1234));
    assert_eq!(built.hdr.loadflags & bootparam::KASLR_FLAG, 0);
    assert_eq!(built.hdr.type_of_loader, 0xFF);
}
