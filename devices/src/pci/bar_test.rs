use super::*;

fn bar() -> Bar {
    Bar::new(0x1000, vec![0x1_0000..0x2_0000, 0x10_0000_0000..0x10_0001_0000].into())
}

#[test]
fn memory_answers_within_its_windows_only() {
    let bar = bar();
    for inside in [0x1_0000, 0x1_f000, 0x10_0000_0000, 0x10_0000_f000] {
        assert_eq!(bar.answers_at(inside), Some(inside));
    }
    for outside in [0, 0xf000, 0x2_0000, 0x10_0001_0000, u64::MAX - 0xfff] {
        assert_eq!(bar.answers_at(outside), None, "{outside:#x}");
    }
}

#[test]
fn an_access_must_lie_within_the_memory_as_a_whole() {
    let bar = bar();
    assert_eq!(bar.offset(0x1_0000, 1), None);
    bar.move_to(Some(0x1_0000));
    assert_eq!(bar.offset(0x1_0000, 8), Some(0));
    assert_eq!(bar.offset(0x1_0fff, 1), Some(0xfff));
    assert_eq!(bar.offset(0x1_0fff, 2), None);
    assert_eq!(bar.offset(0xffff, 1), None);
    bar.move_to(None);
    assert_eq!(bar.offset(0x1_0000, 8), None);
}

#[test]
fn addresses_are_aligned_and_run_out() {
    let mut addresses = BarAllocator::new(0x1800..0x8000);
    assert_eq!(addresses.allocate(0x1000), Some(0x2000));
    assert_eq!(addresses.allocate(0x4000), Some(0x4000));
    assert_eq!(addresses.allocate(0x1000), None);
    assert_eq!(BarAllocator::new(u64::MAX - 1..u64::MAX).allocate(0x1000), None);
}
