use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> u64 {
    text.parse::<Size>().unwrap().bytes()
}

#[test]
fn units_are_powers_of_1024_as_in_docker() {
    for (letter, shift) in [("k", 10), ("m", 20), ("g", 30), ("t", 40), ("p", 50)] {
        for suffix in ["", "b", "ib", "iB", "B"] {
            for unit in [format!("{letter}{suffix}"), format!("{}{suffix}", letter.to_uppercase())]
            {
                assert_eq!(bytes(&format!("3{unit}")), 3 << shift, "{unit}");
                assert_eq!(bytes(&format!("3 {unit}")), 3 << shift, "{unit}");
            }
        }
    }
    assert_eq!(bytes("4096"), 4096);
    assert_eq!(bytes("4096b"), 4096);
    assert_eq!(bytes("0"), 0);
}

#[test]
fn fractions_are_exact_or_refused() {
    assert_eq!(bytes("1.5GiB"), 3 << 29);
    assert_eq!(bytes("0.5k"), 512);
    assert_eq!(bytes("1.000000000000000000000000m"), 1 << 20);
    for text in ["0.1GiB", "1.5", "0.3b", "1.00000000000000000000001g"] {
        assert_eq!(text.parse::<Size>(), Err(ParseSizeError::Fraction(text.to_owned())), "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused_with_the_reason() {
    for text in ["", "MiB", ".5g", "5.", "1.2.3", "-1", "+1", " 1", "٣"] {
        assert!(matches!(text.parse::<Size>(), Err(ParseSizeError::NoNumber(_))), "{text}");
    }
    for text in ["1x", "1ib", "1i", "1mi", "1  m", "1m ", "1kk", "1é", "1mé", "1e3"] {
        assert!(matches!(text.parse::<Size>(), Err(ParseSizeError::UnknownUnit { .. })), "{text}");
    }
}

#[test]
fn overflow_is_refused() {
    assert_eq!(bytes("18446744073709551615"), u64::MAX);
    for text in ["18446744073709551616", "16384p", "99999999999999999999999999999999999999999g"] {
        assert_eq!(text.parse::<Size>(), Err(ParseSizeError::TooLarge(text.to_owned())), "{text}");
    }
    assert_eq!(bytes("16383p"), 16383 << 50);
}

#[test]
fn shown_in_the_largest_unit_that_divides() {
    for (count, text) in
        [(0, "0B"), (4097, "4097B"), (4096, "4KiB"), (1536 << 20, "1536MiB"), (2 << 50, "2PiB")]
    {
        assert_eq!(Size::from_bytes(count).to_string(), text);
    }
    assert_eq!(Size::from_bytes(25_125_000_000).approximate(), "23.4GiB");
    assert_eq!(Size::from_mib(512).approximate(), "512MiB");
    assert_eq!(Size::from_bytes(12).approximate(), "12B");
}

proptest! {
    #[test]
    fn what_is_shown_reads_back(count: u64, shift in 0u32..64) {
        for count in [count, count >> shift, count << shift] {
            let size = Size::from_bytes(count);
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }
    }

    #[test]
    fn no_text_panics(text: String, number: u64, unit in "[ .a-zé]{0,4}") {
        let _ = text.parse::<Size>();
        let _ = format!("{number}{unit}").parse::<Size>();
    }
}
