//! [`Named`]: devices under names the user chose, in the order of the file.

use indexmap::IndexMap;

use super::Name;

/// Devices of one kind by name, in the order in which the guest finds them.
pub type Named<T> = IndexMap<Name, T>;

/// The devices of `below`, those of the same name replaced by `above`'s, and then the rest of `above`.
pub(super) fn layered<T>(above: Named<T>, mut below: Named<T>) -> Named<T> {
    below.extend(above);
    below
}

/// Devices from flags, which have no names: `disk0`, `disk1` and so on.
#[must_use]
pub fn numbered<T>(kind: &str, devices: Vec<T>) -> Named<T> {
    let named = devices.into_iter().enumerate();
    let named = named.map(|(index, device)| Some((format!("{kind}{index}").parse().ok()?, device)));
    named.flatten().collect()
}
