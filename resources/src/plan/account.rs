//! [`Account`]: an amount that is given away until nothing is left.

use serde::Serialize;

use crate::config::Shortage;
use crate::config::host::HostConflict;
use crate::{Size, Thousandths};

/// What an amount counts, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Thousandths of host CPUs.
    Cpus,
    /// vCPUs.
    Vcpus,
    /// Bytes.
    Bytes,
    /// Pages.
    Pages,
    /// Requests a second.
    Operations,
    /// Bytes a second.
    Bandwidth,
}

impl Unit {
    /// `amount` with its unit.
    pub(super) fn show(self, amount: u64) -> String {
        match self {
            Self::Cpus => match Thousandths::from_thousandths(amount) {
                one if one == Thousandths::whole(1) => "1 CPU".to_owned(),
                many => format!("{many} CPUs"),
            },
            Self::Vcpus => format!("{amount} {}", if amount == 1 { "vCPU" } else { "vCPUs" }),
            Self::Bytes => exact(amount),
            Self::Pages => format!("{amount} {}", if amount == 1 { "page" } else { "pages" }),
            Self::Operations => format!("{amount}/s"),
            Self::Bandwidth => crate::config::Bandwidth::new(amount)
                .map_or_else(|| "0B/s".to_owned(), |bandwidth| bandwidth.to_string()),
        }
    }
}

/// A size, exact, in the largest unit that leaves no more than three decimals.
fn exact(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        // Exact in thousandths only where the fraction is one of eighths.
        if bytes >> shift > 0 && bytes.is_multiple_of(1 << (shift - 3)) {
            let thousandths = (u128::from(bytes) * 1000) >> shift;
            let thousandths = u64::try_from(thousandths).unwrap_or(u64::MAX);
            return format!("{}{unit}", Thousandths::from_thousandths(thousandths));
        }
    }
    Size::from_bytes(bytes).to_string()
}

/// Something to give away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// What it counts.
    pub unit: Unit,
    /// All of it.
    pub total: u64,
    /// What is not given away.
    pub left: u64,
    /// Who has what.
    #[serde(skip)]
    pub(super) holders: Vec<Holder>,
}

/// Who has how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// A VM, a tenant, or the host.
    pub name: String,
    /// How much of it.
    pub amount: u64,
}

/// Holders that a message names.
const NAMED: usize = 5;

impl Account {
    pub(super) fn new(unit: Unit, total: u64) -> Self {
        Self { unit, total, left: total, holders: Vec::new() }
    }

    /// Gives `amount` to `name`, or nothing if there is less.
    pub(super) fn take(&mut self, name: &str, amount: u64) -> bool {
        let Some(left) = self.left.checked_sub(amount) else { return false };
        self.left = left;
        if amount > 0 {
            self.holders.push(Holder { name: name.to_owned(), amount });
        }
        true
    }

    /// What stands in the way of `asked`.
    pub(super) fn shortage(&self, asked: u64) -> Shortage {
        self.shortage_with_largest(asked, self.left)
    }

    /// What stands in the way of `asked`, if `largest` would fit.
    pub(super) fn shortage_with_largest(&self, asked: u64, largest: u64) -> Shortage {
        let mut holders: Vec<&Holder> = self.holders.iter().collect();
        let larger =
            |a: &&Holder, b: &&Holder| b.amount.cmp(&a.amount).then_with(|| a.name.cmp(&b.name));
        // Of thousands of holders only a few are named: no need to sort them all for each refusal.
        let named = holders.len().min(NAMED);
        if holders.len() > NAMED {
            holders.select_nth_unstable_by(NAMED, larger);
        }
        holders[..named].sort_by(larger);
        let mut held_by: Vec<String> = holders
            .iter()
            .take(NAMED)
            .map(|holder| format!("{} {}", holder.name, self.unit.show(holder.amount)))
            .collect();
        if let Some(others) = holders.len().checked_sub(NAMED).filter(|&others| others > 0) {
            let rest = holders[NAMED..].iter().map(|holder| holder.amount).sum();
            held_by.push(format!("{others} more {}", self.unit.show(rest)));
        }
        Shortage {
            asked: self.unit.show(asked),
            free: self.unit.show(self.left),
            largest: self.unit.show(largest),
            held_by,
        }
    }

    /// `conflict` with what stands in the way of `asked`.
    pub(super) fn refuse(&self, asked: u64, conflict: HostConflict) -> HostConflict {
        HostConflict { shortage: Some(self.shortage(asked)), ..conflict }
    }
}

#[cfg(test)]
mod account_test {
    use super::*;

    #[test]
    fn nothing_is_given_twice() {
        let mut account = Account::new(Unit::Cpus, 4000);
        assert!(account.take("a", 2500) && account.take("b", 1500) && !account.take("c", 1));
        let shortage = account.shortage(500);
        assert_eq!((shortage.asked.as_str(), shortage.free.as_str()), ("0.5 CPUs", "0 CPUs"));
        assert_eq!(shortage.held_by, ["a 2.5 CPUs", "b 1.5 CPUs"]);
    }

    #[test]
    fn many_holders_are_summed_up() {
        let mut account = Account::new(Unit::Bytes, 100 << 30);
        (1..=8).for_each(|n| assert!(account.take(&format!("vm-{n}"), n << 30)));
        let held_by = account.shortage(1).held_by;
        assert_eq!(held_by.first().map(String::as_str), Some("vm-8 8GiB"));
        assert_eq!(held_by.last().map(String::as_str), Some("3 more 6GiB"));
    }

    #[test]
    fn sizes_are_exact_and_short() {
        for (bytes, shown) in [
            (0, "0B"),
            (3 << 29, "1.5GiB"),
            ((1 << 30) + (1 << 20), "1025MiB"),
            ((1 << 30) + 4096, "1048580KiB"),
            (1 << 27, "128MiB"),
        ] {
            assert_eq!(exact(bytes), shown);
        }
    }
}
