//! The host's mode of transparent huge pages, which decides a good part of what guests take and how fast they boot.

use super::Result;

const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Measures in the mode `always` and in `never`, then puts back what was there.
pub fn in_both_modes(mut measure: impl FnMut() -> Result<()>) -> Result<()> {
    let before = std::fs::read_to_string(FILE)?;
    let done = ["always", "never"].into_iter().try_for_each(|mode| {
        std::fs::write(FILE, mode)?;
        println!("\ntransparent huge pages: {mode}");
        measure()
    });
    // The file shows the chosen mode in brackets.
    let chosen = before.split(['[', ']']).nth(1).unwrap_or("madvise");
    std::fs::write(FILE, chosen)?;
    done
}
