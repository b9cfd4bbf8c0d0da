//! The sums of memory: what is guaranteed, what can be used at most, and huge pages.

use super::roster::Entry;
use super::sums::{Inputs, Sums};
use super::{Account, Problems, Unit};
use crate::Size;
use crate::config::Code;
use crate::config::host::HostConflict;

/// The memory that can be given to VMs.
pub(super) struct Budget {
    /// All of it, huge pages included.
    pub all: u64,
    /// What is not set aside for huge pages.
    pub ordinary: u64,
}

impl Budget {
    pub fn of(inputs: &Inputs<'_>, problems: &mut Problems) -> Self {
        let (memory, reserved) =
            (inputs.host.memory.bytes(), inputs.config.reserved_memory.bytes());
        let huge = inputs.host.huge_memory().bytes();
        let ordinary = memory.saturating_sub(huge).checked_sub(reserved);
        if ordinary.is_none() {
            let account = Account::new(Unit::Bytes, memory.saturating_sub(huge));
            let huge = if huge > 0 {
                format!(", {} of it in huge pages", Unit::Bytes.show(huge))
            } else {
                String::new()
            };
            let message = format!(
                "host.reserve.memory is {}, but the host has {}{huge}",
                Unit::Bytes.show(reserved),
                Unit::Bytes.show(memory)
            );
            let conflict = HostConflict::new(Code::MemoryFull, "host.reserve.memory", message)
                .remedy("reserve less");
            problems.push(account.refuse(reserved, conflict));
        }
        Self { all: memory.saturating_sub(reserved), ordinary: ordinary.unwrap_or(0) }
    }
}

/// Charges the memory of a VM. Of several things in its way the first is told.
pub(super) fn charge(
    sums: &mut Sums,
    entry: &Entry<'_>,
    inputs: &Inputs<'_>,
    problems: &mut Problems,
) {
    let memory = &entry.memory;
    let charged = memory.charged();
    let limit = memory.limit().saturating_add(memory.huge());
    let label = entry.label();
    let name = entry.name();
    if memory.min < memory.size && inputs.host.swap.bytes() == 0 && entry.guest.vm.balloon.is_none()
    {
        let message = format!(
            "memory.min of {label} is {}, but of its {} nothing can be taken back: the host has \
             no swap, the VM no balloon",
            memory.min, memory.size
        );
        let conflict =
            HostConflict::new(Code::ReclaimMissing, entry.guest.key("memory.min"), message)
                .of(name)
                .remedy("give it a balloon: balloon = {}")
                .remedy("leave memory.min out");
        problems.push(conflict);
    }
    let what = || {
        format!(
            "{label} needs {} ({} and {} for its VMM)",
            Unit::Bytes.show(charged),
            Unit::Bytes.show(charged - memory.overhead.bytes()),
            Unit::Bytes.show(memory.overhead.bytes())
        )
    };
    let tenant = entry.guest.tenant.as_ref();
    let refused = match tenant.and_then(|tenant| Some((tenant, sums.tenants.get_mut(tenant)?))) {
        Some((tenant, own)) => {
            let short = |account: &Account, asked: u64, message: String| {
                let conflict =
                    HostConflict::new(Code::TenantFull, entry.guest.key("memory.size"), message)
                        .of(name)
                        .remedy(format!("raise tenant.{tenant}.memory"))
                        .remedy("give it less, or lower another VM of the tenant");
                Some(account.refuse(asked, conflict))
            };
            if !own.memory.take(&label, charged) {
                let message = format!(
                    "{}, more than the {} that tenant {tenant} has left",
                    what(),
                    Unit::Bytes.show(own.memory.left)
                );
                short(&own.memory, charged, message)
            } else if !own.limits.take(&label, limit) {
                let message = format!(
                    "{label} can use {}, more than the {} left of {} that host.overcommit.memory \
                     allows tenant {tenant}",
                    Unit::Bytes.show(limit),
                    Unit::Bytes.show(own.limits.left),
                    Unit::Bytes.show(own.limits.total)
                );
                short(&own.limits, limit, message)
            } else {
                None
            }
        }
        None if !sums.memory.take(&label, charged) => {
            let message = format!(
                "{}, more than the {} left of {} that are not kept for the host",
                what(),
                Unit::Bytes.show(sums.memory.left),
                Unit::Bytes.show(sums.memory.total)
            );
            Some(full(&sums.memory, charged, entry, inputs, message))
        }
        None => None,
    };
    if let Some(conflict) = refused {
        return problems.push(conflict);
    }
    ordinary(sums, entry, inputs, problems);
    huge_pages(sums, entry, inputs, problems);
}

fn full(
    account: &Account,
    asked: u64,
    entry: &Entry<'_>,
    inputs: &Inputs<'_>,
    message: String,
) -> HostConflict {
    let code = inputs.code(entry, Code::MemoryFull);
    let conflict = HostConflict::new(code, entry.guest.key("memory.size"), message)
        .of(entry.name())
        .remedy("give it less memory")
        .remedy("lower a tenant's reservation, or host.reserve.memory");
    account.refuse(asked, conflict)
}

/// What is not in huge pages, whoever's it is.
fn ordinary(sums: &mut Sums, entry: &Entry<'_>, inputs: &Inputs<'_>, problems: &mut Problems) {
    let (label, floor, limit) = (entry.label(), entry.memory.floor(), entry.memory.limit());
    if !sums.ordinary.take(&label, floor) {
        let message = format!(
            "{label} needs {} of ordinary memory with what its VMM needs, more than the {} left \
             of {} that are neither kept for the host nor huge pages",
            Unit::Bytes.show(floor),
            Unit::Bytes.show(sums.ordinary.left),
            Unit::Bytes.show(sums.ordinary.total)
        );
        problems.push(full(&sums.ordinary, floor, entry, inputs, message));
    } else if !sums.limits.take(&label, limit) {
        let message = format!(
            "{label} can use {}, more than the {} left of {} that host.overcommit.memory allows",
            Unit::Bytes.show(limit),
            Unit::Bytes.show(sums.limits.left),
            Unit::Bytes.show(sums.limits.total)
        );
        let code = inputs.code(entry, Code::MemoryOvercommit);
        let conflict = HostConflict::new(code, entry.guest.key("memory.size"), message)
            .of(entry.name())
            .remedy("raise host.overcommit.memory")
            .remedy("give it less memory");
        problems.push(sums.limits.refuse(limit, conflict));
    }
}

/// Huge pages of one size. Those that other programs have are not Carve's to give; once VMs run they
/// cannot be told from the VMs' own, and all count.
pub(super) fn huge_account(inputs: &Inputs<'_>, page: Size) -> Account {
    let in_use = inputs.present.bookings.values().any(|booking| {
        booking.running && booking.guest.vm.hugepages.is_some_and(|own| own.size() == page)
    });
    let host = inputs.host;
    let pages = if in_use { host.huge_pages(page) } else { host.free_huge_pages(page) };
    Account::new(Unit::Pages, pages)
}

fn huge_pages(sums: &mut Sums, entry: &Entry<'_>, inputs: &Inputs<'_>, problems: &mut Problems) {
    let Some(page) = entry.memory.hugepages else { return };
    let pages = entry.memory.size.bytes() / page.bytes();
    let none = || Account::new(Unit::Pages, 0);
    let account = sums.hugepages.entry(page).or_insert_with(none);
    if account.take(&entry.label(), pages) {
        return;
    }
    let message = format!(
        "{} needs {} of {page}, more than the {} left of {} that the host has",
        entry.label(),
        Unit::Pages.show(pages),
        account.left,
        account.total
    );
    let needed = account.total + pages - account.left;
    let code = inputs.code(entry, Code::HugepagesShort);
    let command = if page == Size::from_mib(2) {
        format!("reserve more: sysctl vm.nr_hugepages={needed}")
    } else {
        format!("reserve more on the kernel's command line: hugepagesz=1G hugepages={needed}")
    };
    let conflict = HostConflict::new(code, entry.guest.key("hugepages"), message)
        .of(entry.name())
        .remedy(command)
        .remedy("leave hugepages out");
    problems.push(account.refuse(pages, conflict));
}
