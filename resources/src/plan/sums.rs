//! Whether everything that is promised is there: reservations of tenants in what the host has, VMs
//! in the reservation of their tenant or else in what the host has.
//!
//! That shared CPUs suffice for what shared VMs are guaranteed follows from these sums and is not one
//! of its own: guarantees and dedicated CPUs of a tenant are within its reservation, and reservations
//! within the CPUs of the host.

use std::collections::BTreeMap;

use super::roster::{Entry, Roster};
use super::shared::Shared;
use super::{Account, Present, Problems, Unit, memory, network, storage};
use crate::config::host::{HostConfig, HostConflict, Tenant};
use crate::config::{Code, Name};
use crate::inventory::Host;
use crate::{Size, Thousandths};

/// What was given away.
pub(super) struct Sums {
    /// Host CPUs to tenants and to VMs without one.
    pub cpus: Account,
    /// vCPUs of shared VMs on shared CPUs.
    pub vcpus: Account,
    /// Memory to tenants and to VMs without one, huge pages included.
    pub memory: Account,
    /// Ordinary memory that is guaranteed to VMs.
    pub ordinary: Account,
    /// Ordinary memory that VMs can have at most.
    pub limits: Account,
    /// Huge pages by size.
    pub hugepages: BTreeMap<Size, Account>,
    /// Reservations of tenants.
    pub tenants: BTreeMap<Name, TenantSums>,
    /// Pools.
    pub pools: BTreeMap<Name, PoolSums>,
}

/// What was given away of a tenant's reservation.
pub(super) struct TenantSums {
    pub cpus: Account,
    pub memory: Account,
    pub limits: Account,
    pub storage: BTreeMap<Name, Account>,
    /// What its network devices may receive, and what they may send.
    pub network: Option<[Account; 2]>,
}

/// What was given away of a pool.
pub(super) struct PoolSums {
    pub storage: Account,
    /// What is left of its file system where other pools are on it, too.
    pub beside: Option<u64>,
    pub operations: Option<Account>,
    pub bandwidth: Option<Account>,
}

/// What the sums are made from.
pub(super) struct Inputs<'a> {
    pub config: &'a HostConfig,
    pub host: &'a Host,
    pub present: &'a Present,
}

pub(super) fn check(
    config: &HostConfig,
    host: &Host,
    present: &Present,
    roster: &mut Roster<'_>,
    shared: &Shared,
    problems: &mut Problems,
) -> Sums {
    let inputs = Inputs { config, host, present };
    let mut sums = Sums::open(&inputs, shared, problems);
    for (name, tenant) in &config.tenants {
        sums.reserve(name, tenant, problems);
    }
    for entry in &roster.entries {
        sums.cpus_of(entry, &inputs, problems);
        memory::charge(&mut sums, entry, &inputs, problems);
        network::charge(&mut sums, entry, problems);
    }
    storage::charge(&mut sums, roster, &inputs, problems);
    sums
}

impl Sums {
    /// Everything there is, and nothing given away.
    fn open(inputs: &Inputs<'_>, shared: &Shared, problems: &mut Problems) -> Self {
        let Inputs { config, host, .. } = inputs;
        let usable = host.online().difference(&config.reserved_cpus);
        let memory = memory::Budget::of(inputs, problems);
        let pages = host.nodes.iter().flat_map(|node| &node.hugepages).map(|pool| pool.page);
        let mut tenants = BTreeMap::new();
        for (name, tenant) in &config.tenants {
            tenants.insert(name.clone(), TenantSums::open(tenant, config));
        }
        let shared_cpus = u64::from(shared.cpus.len());
        Self {
            cpus: Account::new(Unit::Cpus, Thousandths::whole(usable.len()).thousandths()),
            vcpus: Account::new(Unit::Vcpus, config.overcommit_cpu.of(shared_cpus)),
            memory: Account::new(Unit::Bytes, memory.all),
            ordinary: Account::new(Unit::Bytes, memory.ordinary),
            limits: Account::new(Unit::Bytes, config.overcommit_memory.of(memory.ordinary)),
            hugepages: pages.map(|page| (page, memory::huge_account(inputs, page))).collect(),
            tenants,
            pools: storage::open(inputs, problems),
        }
    }

    /// Gives `tenant` its reservation.
    fn reserve(&mut self, name: &Name, tenant: &Tenant, problems: &mut Problems) {
        let label = format!("tenant {name}");
        let cpus = tenant.cpus.thousandths();
        if !self.cpus.take(&label, cpus) {
            let message = format!(
                "{label} reserves {}, more than the {} left of {} that are not kept for the host",
                Unit::Cpus.show(cpus),
                Unit::Cpus.show(self.cpus.left),
                Unit::Cpus.show(self.cpus.total)
            );
            let conflict = HostConflict::new(Code::CpuFull, format!("tenant.{name}.cpus"), message)
                .remedy(format!("reserve at most {}", Unit::Cpus.show(self.cpus.left)))
                .remedy("lower another reservation, or host.reserve.cpus");
            problems.push(self.cpus.refuse(cpus, conflict));
        }
        let memory = tenant.memory.bytes();
        if !self.memory.take(&label, memory) {
            let message = format!(
                "{label} reserves {}, more than the {} left of {} that are not kept for the host",
                Unit::Bytes.show(memory),
                Unit::Bytes.show(self.memory.left),
                Unit::Bytes.show(self.memory.total)
            );
            let conflict =
                HostConflict::new(Code::MemoryFull, format!("tenant.{name}.memory"), message)
                    .remedy(format!("reserve at most {}", Unit::Bytes.show(self.memory.left)))
                    .remedy("lower another reservation, or host.reserve.memory");
            problems.push(self.memory.refuse(memory, conflict));
        }
        storage::reserve(self, name, tenant, problems);
    }

    fn cpus_of(&mut self, entry: &Entry<'_>, inputs: &Inputs<'_>, problems: &mut Problems) {
        // One that found no CPUs has been refused for that.
        let Some(cpus) = &entry.cpus else { return };
        let (name, label, charge) = (entry.name(), entry.label(), cpus.charge().thousandths());
        let asked = Unit::Cpus.show(charge);
        let key = entry.guest.key("cpu");
        let tenant = entry.guest.tenant.as_ref();
        match tenant.and_then(|tenant| Some((tenant, self.tenants.get_mut(tenant)?))) {
            Some((tenant, sums)) => {
                if !sums.cpus.take(&label, charge) {
                    let account = &sums.cpus;
                    let message = format!(
                        "{label} takes {asked} of tenant {tenant}, more than the {} it has left",
                        Unit::Cpus.show(account.left)
                    );
                    let short = charge - account.left;
                    let raised = Unit::Cpus.show(account.total.saturating_add(short));
                    let conflict = HostConflict::new(Code::TenantFull, key, message)
                        .of(name)
                        .remedy(format!("raise tenant.{tenant}.cpus to {raised}"))
                        .remedy("give it less, or lower another VM of the tenant");
                    problems.push(account.refuse(charge, conflict));
                }
            }
            None => {
                if !self.cpus.take(&label, charge) {
                    let left = Unit::Cpus.show(self.cpus.left);
                    let message = format!(
                        "{label} takes {asked}, more than the {left} left of {} that are not \
                         kept for the host",
                        Unit::Cpus.show(self.cpus.total)
                    );
                    let conflict =
                        HostConflict::new(inputs.code(entry, Code::CpuFull), key, message)
                            .of(name)
                            .remedy(format!("give it at most {left}"))
                            .remedy("lower a tenant's reservation, or host.reserve.cpus");
                    problems.push(self.cpus.refuse(charge, conflict));
                }
            }
        }
        let vcpus = u64::from(entry.guest.vm.vcpus);
        if cpus.dedicated().is_none() && !self.vcpus.take(&label, vcpus) {
            let message = format!(
                "{label} has {}, more than the {} left: host.overcommit.cpu allows {} to each \
                 shared CPU, {} altogether",
                Unit::Vcpus.show(vcpus),
                Unit::Vcpus.show(self.vcpus.left),
                inputs.config.overcommit_cpu,
                self.vcpus.total
            );
            let conflict = HostConflict::new(
                inputs.code(entry, Code::CpuOvercommit),
                entry.guest.key("vcpus"),
                message,
            )
            .of(name)
            .remedy("raise host.overcommit.cpu")
            .remedy("give it fewer vCPUs, or others fewer CPUs of their own");
            problems.push(self.vcpus.refuse(vcpus, conflict));
        }
    }
}

impl TenantSums {
    fn open(tenant: &Tenant, config: &HostConfig) -> Self {
        let memory = tenant.memory.bytes();
        let network = tenant.bandwidth.map(|bandwidth| bandwidth.bytes_per_second());
        let storage = tenant
            .storage
            .iter()
            .map(|(pool, size)| (pool.clone(), Account::new(Unit::Bytes, size.bytes())));
        Self {
            cpus: Account::new(Unit::Cpus, tenant.cpus.thousandths()),
            memory: Account::new(Unit::Bytes, memory),
            limits: Account::new(Unit::Bytes, config.overcommit_memory.of(memory)),
            storage: storage.collect(),
            network: network
                .map(|rate| [rate, rate].map(|rate| Account::new(Unit::Bandwidth, rate))),
        }
    }
}

impl Inputs<'_> {
    /// `code`, unless `entry` had its share and the host has lost something since.
    pub fn code(&self, entry: &Entry<'_>, code: Code) -> Code {
        let unchanged = entry.booking.is_some_and(|booking| booking.guest == *entry.guest);
        let shrank = self.present.footing.as_ref().is_some_and(|footing| {
            self.host.memory < footing.memory || !footing.online.is_subset(&self.host.online())
        });
        if unchanged && shrank { Code::HostShrank } else { code }
    }
}
