use vm_memory::GuestMemoryMmap;

use super::*;

#[test]
fn start_info_points_to_memory_map_and_initrd() {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let ram = RamLayout::new(1 << 28);
    write(&memory, &ram, 0xE_0000, Some(&(0x20_0000..0x20_0800))).unwrap();

    let info: hvm_start_info = memory.read_obj(GuestAddress(layout::PVH_START_INFO)).unwrap();
    assert_eq!((info.magic, info.version), (0x336E_C578, 1));
    assert_eq!((info.cmdline_paddr, info.rsdp_paddr), (0x2_0000, 0xE_0000));
    assert_eq!(info.nr_modules, 1);
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (0x20_0000, 0x800));
    assert_eq!(info.memmap_entries as usize, ram.e820().len());
    for (i, expected) in ram.e820().iter().enumerate() {
        let at = GuestAddress(info.memmap_paddr + i as u64 * 24);
        let entry: hvm_memmap_table_entry = memory.read_obj(at).unwrap();
        assert_eq!(entry.addr..entry.addr + entry.size, expected.range);
        assert_eq!(entry.type_, expected.kind as u32);
    }
}
