//! Values of flags, keys and requests, each a word of its own grammar, chosen by the first byte. What is accepted
//! reads back as it is shown.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use resources::config::host::Restart;
use resources::config::{
    BalloonSpec, Bandwidth, ConsolePort, Disk, Forward, HugePageSize, MacAddress, Name, NetSpec,
    Overlay, PortName, Topology, Vsock,
};
use resources::{CpuSet, Size};

/// Reads a word, shows it and reads that.
fn shown<T>(word: &str)
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match word.parse::<T>() {
        Ok(value) => {
            let again = value.to_string();
            assert_eq!(again.parse::<T>().ok().as_ref(), Some(&value), "{again}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads a word that is never shown.
fn read<T: FromStr<Err: Display>>(word: &str) {
    if let Err(error) = word.parse::<T>() {
        assert!(!error.to_string().is_empty());
    }
}

const GRAMMARS: [fn(&str); 17] = [
    shown::<Size>,
    shown::<Bandwidth>,
    shown::<CpuSet>,
    shown::<Topology>,
    shown::<Forward>,
    shown::<MacAddress>,
    shown::<Name>,
    shown::<Restart>,
    shown::<HugePageSize>,
    shown::<BalloonSpec>,
    shown::<ConsolePort>,
    read::<Disk>,
    read::<NetSpec>,
    read::<Overlay>,
    shown::<PortName>,
    shown::<Vsock>,
    |word| {
        let parsed: Result<vmm::guests::Id, _> = word.parse();
        if let Ok(id) = parsed {
            assert_eq!(id.as_str(), word);
        }
    },
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, word)) = data.split_first() else { return };
    let Ok(word) = std::str::from_utf8(word) else { return };
    GRAMMARS[usize::from(*choice) % GRAMMARS.len()](word);
});
