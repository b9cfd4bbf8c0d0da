//! Percent-encoding, for words on a kernel command line: it splits at blanks and gives quotes a meaning.

/// What means nothing to the kernel, besides letters and digits. A command line has 2047 bytes.
const PLAIN: &[u8] = b"-._,:;=+/@$|<>()[]{}*?!&^~#";

/// Encodes what means something to the kernel.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
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
        assert_eq!(super::encode("echo 'a%b' >/x"), "echo%20%27a%25b%27%20>/x");
    }
}
