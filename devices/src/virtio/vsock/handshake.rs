//! The first words between a program of the host and the device: which port of the guest's it
//! wants, and that it has got it.

/// `CONNECT `, ten digits, carriage return, newline, and some room for spaces.
pub(super) const LONGEST: usize = 32;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// So far the beginning of a line.
    Incomplete,
    /// A request, `len` bytes long, for a port of the guest's.
    Connect {
        /// Which.
        port: u32,
        /// Its newline included; what follows belongs to the stream.
        len: usize,
    },
    /// Nothing that makes sense.
    Malformed,
}

/// Understands the first bytes of a connection, of which at most [`LONGEST`] are looked at.
pub(super) fn parse(bytes: &[u8]) -> Greeting {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < LONGEST { Greeting::Incomplete } else { Greeting::Malformed };
    };
    match port(&bytes[..end]) {
        Some(port) => Greeting::Connect { port, len: end + 1 },
        None => Greeting::Malformed,
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (verb, port) = (words.next()?, words.next()?);
    let sound = verb.eq_ignore_ascii_case("CONNECT")
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && words.next().is_none();
    port.parse().ok().filter(|_| sound)
}

#[cfg(test)]
mod handshake_test {
    use super::*;

    #[test]
    fn the_line_names_a_port_and_what_follows_is_left_alone() {
        assert_eq!(parse(b"CONNECT 52\nhello"), Greeting::Connect { port: 52, len: 11 });
        assert_eq!(parse(b"connect 0\r\n"), Greeting::Connect { port: 0, len: 11 });
        let most = Greeting::Connect { port: u32::MAX, len: 19 };
        assert_eq!(parse(b"CONNECT 4294967295\n"), most);
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        for part in [&b""[..], b"CON", b"CONNECT 52"] {
            assert_eq!(parse(part), Greeting::Incomplete);
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT \n",
            b"CONNECT x\n",
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"HELLO 1\n",
            b"CONNECT \xff\n",
            &[b' '; LONGEST],
        ] {
            assert_eq!(parse(line), Greeting::Malformed, "{line:?}");
        }
    }
}
