//! Percent-encoding, for words on a kernel command line: it splits at blanks and gives quotes a meaning.

/// Encodes every byte but letters, digits and `-._~/:`.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod percent_test {
    #[test]
    fn blanks_quotes_and_percent_signs_are_encoded() {
        assert_eq!(super::encode("echo 'a%b' >/x"), "echo%20%27a%25b%27%20%3E/x");
    }
}
