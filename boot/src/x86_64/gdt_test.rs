use super::*;

#[test]
fn descriptors_have_the_values_every_boot_loader_uses() {
    assert_eq!(descriptor(&CODE_64), 0x00AF_9B00_0000_FFFF);
    assert_eq!(descriptor(&CODE_32), 0x00CF_9B00_0000_FFFF);
    assert_eq!(descriptor(&DATA), 0x00CF_9300_0000_FFFF);
    assert_eq!(descriptor(&TASK_STATE), 0x0000_8B00_0000_0067);
}

#[test]
fn selectors_lie_within_the_table() {
    for segment in [CODE_64, CODE_32, DATA, TASK_STATE] {
        assert!(segment.selector + 7 <= LIMIT);
    }
}
