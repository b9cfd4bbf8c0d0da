use std::collections::BTreeSet;

use super::*;

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

#[test]
fn lists_are_read_and_shown_as_linux_does() {
    for (text, shown) in [
        ("", ""),
        ("0", "0"),
        ("3,1,2", "1-3"),
        ("0-1,1-2", "0-2"),
        ("0-63,65,8191", "0-63,65,8191"),
    ] {
        assert_eq!(set(text).to_string(), shown);
    }
    assert_eq!(set("0-3,8,10-11").len(), 7);
}

#[test]
fn other_texts_are_refused_with_the_reason() {
    for (text, reason) in [
        (" ", "` ` is not a number"),
        ("1,", "`` is not"),
        ("+1", "`+1`"),
        ("3-1", "runs backwards"),
        ("0-8192", "`8192`"),
        ("a", "`a`"),
        ("1-2-3", "`2-3`"),
        ("99999999999", "`99999999999`"),
    ] {
        let error = text.parse::<CpuSet>().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("as in 0-3,8"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn sets_calculate_like_sets(a: BTreeSet<u8>, b: BTreeSet<u8>) {
        let of = |set: &BTreeSet<u8>| set.iter().map(|&cpu| u32::from(cpu)).collect::<CpuSet>();
        let (x, y) = (of(&a), of(&b));
        proptest::prop_assert_eq!(x.union(&y), of(&(&a | &b)));
        proptest::prop_assert_eq!(x.intersection(&y), of(&(&a & &b)));
        proptest::prop_assert_eq!(x.difference(&y), of(&(&a - &b)));
        proptest::prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
        proptest::prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
        proptest::prop_assert_eq!(x.len() as usize, a.len());
        proptest::prop_assert_eq!(set(&x.to_string()), x);
    }
}
