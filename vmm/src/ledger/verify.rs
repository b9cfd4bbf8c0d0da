//! [`verify()`]: reads back from the kernel that everybody is held to what is booked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use resources::config::Name;
use resources::enforce::{Hierarchy, affinity_of};
use resources::inventory::Host;
use resources::plan::{Booking, Cgroup, HostCpus, Options, Origin, Owner, Present, plan};
use resources::{CpuSet, Size};
use serde::Serialize;

use super::books::{Error, Ledger};
use crate::explain;
use crate::guests::{Entry, Store};

mod huge_pages;
pub(super) mod limits;

/// Something that is not as it is booked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The VM it is about; a tenant's or the host's own if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// What was looked at: a file of a control group, a thread, a setting.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is; nothing if it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// What was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many things were looked at.
    pub checked: usize,
    /// Those that are wrong.
    pub findings: Vec<Finding>,
    /// VMs whose limits are not all enforced, as they asked for no more, and by which controllers.
    pub unenforced: Vec<(Name, Vec<String>)>,
}

/// Reads back every limit of every VM that is booked, of tenants, and of all together.
///
/// # Errors
///
/// There is no ledger to compare with; nothing if no host file was applied.
pub fn verify(store: &Store) -> Result<Option<Verified>, Error> {
    let Some(ledger) = Ledger::open(store)? else { return Ok(None) };
    // Of guests that were killed nobody has given anything back.
    if let Err(error) = ledger.lower() {
        tracing::warn!("{}", explain(&error));
    }
    let host = Ledger::host(ledger.config())?;
    let plan = plan(ledger.config(), &host, ledger.booked(), Options::default());
    let mut check = Check { hierarchy: Hierarchy::new(), verified: Verified::default() };
    // To the user of a tenant, what it has is root's to look after.
    let of_tenant = ledger.tenancy().is_some();
    if !of_tenant {
        for group in plan.cgroups.iter().filter(|group| !matches!(group.owner, Owner::Vm(_))) {
            check.group(None, group);
        }
        check.huge_pages_of_host(&host, ledger.booked());
    }
    let mut running = Vec::new();
    for (name, booking) in &ledger.booked().bookings {
        if of_tenant && booking.origin == Origin::File {
            continue;
        }
        if let Some(group) = &booking.cgroup {
            if booking.running || check.hierarchy.outlives_processes() {
                check.group(Some(name), group);
            }
            if !group.unenforced.is_empty() {
                let missing = group.unenforced.iter().cloned().collect();
                check.verified.unenforced.push((name.clone(), missing));
            }
        }
        if let Some(entry) = ledger.guest(name)?
            && booking.running
        {
            running.push((name.clone(), booking.clone(), entry));
        }
    }
    // Guests are asked now, and nobody is to wait for their answers who wants the ledger.
    drop(ledger);
    for (name, booking, entry) in &running {
        check.process(name, booking, entry);
        check.devices(name, booking, entry);
    }
    Ok(Some(check.verified))
}

struct Check {
    hierarchy: Hierarchy,
    verified: Verified,
}

impl Check {
    fn group(&mut self, vm: Option<&Name>, group: &Cgroup) {
        self.verified.checked += group.files().len();
        for difference in self.hierarchy.differences(group) {
            self.verified.findings.push(Finding {
                vm: vm.cloned(),
                what: difference.file,
                expected: difference.expected,
                found: difference.found,
            });
        }
    }

    fn expect(&mut self, vm: &Name, what: String, expected: String, found: Option<String>) {
        self.verified.checked += 1;
        if found.as_ref() != Some(&expected) {
            self.verified.findings.push(Finding { vm: Some(vm.clone()), what, expected, found });
        }
    }

    /// That the host still has the huge pages that are promised.
    fn huge_pages_of_host(&mut self, host: &Host, present: &Present) {
        let mut promised: BTreeMap<Size, u64> = BTreeMap::new();
        for vm in present.bookings.values().map(|booking| &booking.guest.vm) {
            if let Some(page) = vm.hugepages.map(|page| page.size()) {
                *promised.entry(page).or_default() += vm.memory.size.bytes() / page.bytes();
            }
        }
        for (page, promised) in promised {
            self.verified.checked += 1;
            let pages = host.huge_pages(page);
            if pages < promised {
                self.verified.findings.push(Finding {
                    vm: None,
                    what: format!("huge pages of {page}"),
                    expected: format!("at least {promised}"),
                    found: Some(pages.to_string()),
                });
            }
        }
    }

    /// What the guest's own devices hold it to. A guest of a command may be changed by commands, so
    /// what is kept about it counts.
    fn devices(&mut self, name: &Name, booking: &Booking, entry: &Entry) {
        let expected = match booking.origin {
            Origin::File => &booking.guest.vm,
            Origin::Command => &entry.guest.config,
        };
        if expected.disk.is_empty() && expected.net.is_empty() {
            return;
        }
        match limits::in_force(entry) {
            Ok(found) => {
                for limit in limits::of(expected, &found) {
                    self.expect(name, limit.what, limit.expected, limit.found);
                }
            }
            // It ended between the two looks.
            Err(error) if error.is_gone() => {}
            Err(error) => {
                let expected = "told by its process".to_owned();
                self.expect(name, "rates of its devices".into(), expected, Some(explain(&error)));
            }
        }
    }

    /// That the guest's memory lies on the huge pages it asked for, and is charged for them.
    fn huge_pages(&mut self, name: &Name, booking: &Booking, process: &Path) {
        let vm = &booking.guest.vm;
        let Some(page) = vm.hugepages.map(|page| page.size()) else { return };
        // It ended between the two looks.
        let Ok(smaps) = fs::read_to_string(process.join("smaps")) else { return };
        let size = vm.memory.size;
        let mapped = huge_pages::mapped(&smaps, page).to_string();
        let what = format!("guest memory in huge pages of {page}");
        self.expect(name, what, size.to_string(), Some(mapped));
        let Some(group) = booking.cgroup.as_ref().filter(|_| self.hierarchy.is_usable()) else {
            return;
        };
        if !group.unenforced.contains("hugetlb") {
            let file = format!("hugetlb.{}.rsvd.current", Cgroup::page_name(page));
            let found = self.hierarchy.number(&group.path, &file).map(|bytes| bytes.to_string());
            self.expect(name, format!("{}/{file}", group.path), size.bytes().to_string(), found);
        }
    }

    /// The process of a guest: its control group, its place in a shortage, and where its threads run.
    fn process(&mut self, name: &Name, booking: &Booking, entry: &Entry) {
        let status = entry.status().ok();
        // Between two looks it may have ended.
        let Some(pid) = status.and_then(|status| status.pid()) else { return };
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let folder = Path::new(&folder);
        if let Some(group) = &booking.cgroup
            && self.hierarchy.is_usable()
        {
            let listed = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
            let found = listed.lines().find_map(|line| line.strip_prefix("0::/"));
            let what = format!("control group of process {}", pid.as_raw_nonzero());
            self.expect(name, what, group.path.clone(), found.map(str::to_owned));
        }
        let record = entry.record().ok().flatten();
        if !record.is_some_and(|record| record.unenforced.iter().any(|s| s == "oom_score_adj")) {
            let score = fs::read_to_string(folder.join("oom_score_adj")).ok();
            let found = score.map(|text| text.trim().to_owned());
            self.expect(name, "oom_score_adj".into(), booking.oom_score_adj.to_string(), found);
        }
        self.huge_pages(name, booking, folder);
        if let HostCpus::Dedicated { pins, workers, .. } = &booking.cpus {
            self.threads(name, folder, pins, workers);
        }
    }

    fn threads(&mut self, name: &Name, process: &Path, pins: &[u32], workers: &CpuSet) {
        let entries = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
        for entry in entries {
            let thread = entry.file_name().to_string_lossy().into_owned();
            let called = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let called = called.trim_end();
            let vcpu = called.strip_prefix("vcpu").and_then(|index| index.parse::<usize>().ok());
            let pin = vcpu.and_then(|index| pins.get(index)).map(|&cpu| CpuSet::from_iter([cpu]));
            let found = thread.parse().ok().and_then(|thread| affinity_of(thread).ok());
            // It ended between the two looks.
            let Some(found) = found else { continue };
            let expected = pin.unwrap_or_else(|| workers.clone());
            let what = format!("CPUs of thread {called}");
            self.expect(name, what, expected.to_string(), Some(found.to_string()));
        }
    }
}
