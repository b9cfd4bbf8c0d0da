//! The sums of network rates.

use super::roster::Entry;
use super::sums::Sums;
use super::{Problems, Unit};
use crate::config::Code;
use crate::config::host::HostConflict;

/// Charges what the network devices of a VM may receive and send to its tenant, if that has a rate.
pub(super) fn charge(sums: &mut Sums, entry: &Entry<'_>, problems: &mut Problems) {
    let Some(tenant) = &entry.guest.tenant else { return };
    let Some(accounts) = sums.tenants.get_mut(tenant).and_then(|sums| sums.network.as_mut()) else {
        return;
    };
    let (label, name) = (entry.label(), entry.name());
    let (receive, send) = match entry.guest.network() {
        Ok(rates) => rates,
        Err(device) => {
            let message = format!(
                "net.{device} of {label} has no bandwidth, but tenant {tenant} has {} for all \
                 its devices; give it a part of that",
                Unit::Bandwidth.show(accounts[0].total)
            );
            let key = entry.guest.key(&format!("net.{device}"));
            return problems.push(HostConflict::new(Code::RateMissing, key, message).of(name));
        }
    };
    let key = entry
        .guest
        .vm
        .net
        .keys()
        .next()
        .map(|device| entry.guest.key(&format!("net.{device}.bandwidth")));
    let rates = [("receive", receive), ("send", send)];
    for (account, (does, rate)) in accounts.iter_mut().zip(rates) {
        if !account.take(&label, rate) {
            let message = format!(
                "{label} may {does} {}, more than the {} that tenant {tenant} has left",
                Unit::Bandwidth.show(rate),
                Unit::Bandwidth.show(account.left)
            );
            let conflict =
                HostConflict::new(Code::TenantFull, key.clone().unwrap_or_default(), message)
                    .of(name)
                    .remedy(format!("raise tenant.{tenant}.bandwidth"))
                    .remedy("give its devices less");
            // Both directions are usually short together.
            return problems.push(account.refuse(rate, conflict));
        }
    }
}
