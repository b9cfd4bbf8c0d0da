//! [`HostConfig`]: a host file, complete and free of contradictions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::{Code, Error, Name, VmConfig, VmSpec};
use super::{
    Enforce, Guest, GuestSpec, HostConflict, HostSpec, Layers, Pool, PowerState, Restart, Smt,
    Tenant, cpu, order, unique,
};
use crate::{CpuSet, Size, Thousandths};

/// Most VMs of one section.
const MAX_COUNT: u32 = 10_000;
const ONE: Thousandths = Thousandths::whole(1);

/// What a host is to be, every key with its value. Whether it fits is not known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostConfig {
    /// CPUs kept for the host itself.
    pub reserved_cpus: CpuSet,
    /// Memory kept for the host itself.
    pub reserved_memory: Size,
    /// vCPUs of shared VMs to each shared CPU, at least 1.
    pub overcommit_cpu: Thousandths,
    /// Sizes of guests by memory, at least 1.
    pub overcommit_memory: Thousandths,
    /// Sizes of disks by the size of their pool, at least 1.
    pub overcommit_storage: Thousandths,
    /// Whether siblings may serve two tenants.
    pub smt: Smt,
    /// Pools by name.
    pub pools: BTreeMap<Name, Pool>,
    /// Tenants by name.
    pub tenants: BTreeMap<Name, Tenant>,
    /// VMs by name, each of a `count` by itself.
    pub guests: BTreeMap<Name, Guest>,
}

impl HostConfig {
    /// The VMs that each VM is started after, where there are any.
    #[must_use]
    pub fn prerequisites(&self) -> BTreeMap<&Name, BTreeSet<&Name>> {
        order::prerequisites(&self.guests)
    }

    /// What a VM of a command, such as `run`, asks of the host or of `tenant`: the default share.
    #[must_use]
    pub fn guest_of_command(&self, name: Name, tenant: Option<Name>, vm: VmConfig) -> Guest {
        let (cpu, _) = cpu::resolve(&name, vm.vcpus, &Default::default(), self.overcommit_cpu);
        Guest {
            section: name.clone(),
            name,
            tenant,
            vm,
            cpu,
            restart: Restart::default(),
            ready: None,
            after: Vec::new(),
            state: PowerState::Running,
            labels: BTreeMap::new(),
            enforce: Enforce::Strict,
        }
    }
}

impl Layers {
    /// Fills in the defaults and checks all of it.
    ///
    /// # Errors
    ///
    /// Every contradiction, with its place.
    pub fn resolve(&self) -> Result<HostConfig, Error> {
        self.spec().clone().resolve().map_err(|conflicts| Error {
            problems: conflicts.iter().map(|conflict| self.problem(conflict)).collect(),
        })
    }
}

impl HostSpec {
    /// Fills in the defaults and checks all of it.
    ///
    /// # Errors
    ///
    /// Every contradiction.
    pub fn resolve(self) -> Result<HostConfig, Vec<HostConflict>> {
        let mut resolver = Resolver { conflicts: Vec::new() };
        let config = resolver.host(self);
        resolver.conflicts.extend(unique::conflicts(&config.guests));
        if resolver.conflicts.is_empty() { Ok(config) } else { Err(resolver.conflicts) }
    }
}

struct Resolver {
    conflicts: Vec<HostConflict>,
}

impl Resolver {
    fn conflict(&mut self, code: Code, key: impl Into<String>, message: impl Into<String>) {
        self.conflicts.push(HostConflict::new(code, key, message));
    }

    fn invalid(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.conflict(Code::InvalidValue, key, message);
    }

    fn host(&mut self, spec: HostSpec) -> HostConfig {
        let overcommit = spec.host.overcommit;
        let mut at_least_one = |key: &str, ratio: Option<Thousandths>| {
            let ratio = ratio.unwrap_or(ONE);
            if ratio < ONE {
                let key = format!("host.overcommit.{key}");
                let message = format!(
                    "{key} is {ratio}, but it is at least 1; use host.reserve to keep something \
                     back"
                );
                self.invalid(key, message);
            }
            ratio
        };
        let overcommit_cpu = at_least_one("cpu", overcommit.cpu);
        let overcommit_memory = at_least_one("memory", overcommit.memory);
        let overcommit_storage = at_least_one("storage", overcommit.storage);
        let reserved_memory = self.size("host.reserve.memory", spec.host.reserve.memory);
        let mut config = HostConfig {
            reserved_cpus: spec.host.reserve.cpus.unwrap_or_default(),
            reserved_memory: reserved_memory.unwrap_or_default(),
            overcommit_cpu,
            overcommit_memory,
            overcommit_storage,
            smt: spec.host.smt.unwrap_or_default(),
            pools: BTreeMap::new(),
            tenants: BTreeMap::new(),
            guests: BTreeMap::new(),
        };
        for (name, pool) in spec.pool {
            self.pool(name, pool, &mut config);
        }
        for (name, tenant) in spec.tenant {
            self.tenant(name, tenant, &mut config);
        }
        let mut waits: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
        for (name, guest) in spec.vm {
            let guest = guest.over(spec.defaults.clone());
            waits.insert(name.clone(), guest.share.after.clone().unwrap_or_default());
            self.section(&name, guest, &mut config);
        }
        self.conflicts.extend(order::conflicts(&waits, &config.guests));
        config
    }

    /// `size`, refused if it looks like a number whose unit was forgotten.
    fn size(&mut self, key: &str, size: Option<Size>) -> Option<Size> {
        if let Some(count @ 1..=0xffff) = size.map(Size::bytes) {
            let message = format!(
                "{key} is {count} bytes, as a number without unit counts; did you mean {count}GiB?"
            );
            self.conflict(Code::UnitMissing, key, message);
        }
        size
    }

    fn pool(&mut self, name: Name, spec: super::PoolSpec, config: &mut HostConfig) {
        let at = |key: &str| format!("pool.{name}.{key}");
        let size = self.size(&at("size"), spec.size);
        if spec.iops == Some(0) {
            self.invalid(
                at("iops"),
                "iops 0 would let nothing pass; leave it out if it is not known",
            );
        }
        let path = spec.path.filter(|path| !path.as_os_str().is_empty());
        if path.is_none() {
            let message = format!("pool {name} has no path; give it the folder its disks are in");
            self.invalid(at("path"), message);
        }
        let pool = Pool {
            path: path.unwrap_or_default(),
            size,
            iops: spec.iops,
            bandwidth: spec.bandwidth,
            on_full: spec.on_full.unwrap_or_default(),
        };
        config.pools.insert(name, pool);
    }

    fn tenant(&mut self, name: Name, spec: super::TenantSpec, config: &mut HostConfig) {
        let memory = self.size(&format!("tenant.{name}.memory"), spec.memory);
        for (pool, &size) in &spec.storage {
            let key = format!("tenant.{name}.storage.{pool}");
            self.size(&key, Some(size));
            if !config.pools.contains_key(pool) {
                let message = format!(
                    "tenant {name} has storage in pool {pool}, which is not defined; {}",
                    known(config.pools.keys())
                );
                self.conflict(Code::UnknownName, key, message);
            }
        }
        let is_user = |user: &String| {
            !user.is_empty()
                && !user.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':')
        };
        if let Some(user) = spec.user.as_ref().filter(|user| !is_user(user)) {
            let message = format!(
                "user `{}` is no name of a user; use one of /etc/passwd",
                user.escape_debug()
            );
            self.invalid(format!("tenant.{name}.user"), message);
        }
        let tenant = Tenant {
            user: spec.user,
            cpus: spec.cpus.unwrap_or_default(),
            memory: memory.unwrap_or_default(),
            storage: spec.storage,
            bandwidth: spec.bandwidth,
        };
        config.tenants.insert(name, tenant);
    }

    /// Every VM of `[vm.SECTION]`.
    fn section(&mut self, section: &Name, spec: GuestSpec, config: &mut HostConfig) {
        let at = |key: &str| format!("vm.{section}.{key}");
        let names = match spec.share.count {
            None => vec![section.clone()],
            Some(count @ 1..=MAX_COUNT) => {
                let numbered = (1..=count).map(|n| format!("{section}-{n}").parse::<Name>());
                match numbered.collect::<Result<Vec<_>, _>>() {
                    Ok(names) => names,
                    Err(error) => return self.invalid(at("count"), error.to_string()),
                }
            }
            Some(count) => {
                let message = format!(
                    "count is {count}, but there are 1 to {MAX_COUNT} VMs of one section; use \
                     several sections"
                );
                return self.invalid(at("count"), message);
            }
        };
        if let Some(tenant) =
            spec.share.tenant.as_ref().filter(|t| !config.tenants.contains_key(*t))
        {
            let message = format!(
                "VM {section} is of tenant {tenant}, which is not defined; {}",
                known(config.tenants.keys())
            );
            self.conflict(Code::UnknownName, at("tenant"), message);
        }
        self.size(&at("memory.min"), spec.vm.memory.min);
        self.disks(section, &spec.vm, config);
        let Some(first) = self.guest(names[0].clone(), section, &spec, config) else { return };
        for name in names.into_iter().skip(1) {
            // What can be wrong is wrong with the first, too.
            let vm = machine(&spec.vm, &name, config).resolve();
            let Ok(vm) = vm else { continue };
            let guest = Guest { name: name.clone(), vm, ..first.clone() };
            self.add(guest, config);
        }
        self.add(first, config);
    }

    fn add(&mut self, guest: Guest, config: &mut HostConfig) {
        if let Some(other) = config.guests.get(&guest.name) {
            let message = format!(
                "two VMs would be called {}: one of [vm.{}] and one of [vm.{}]; rename one section",
                guest.name, other.section, guest.section
            );
            let key = format!("vm.{}", guest.section);
            self.conflict(Code::DuplicateName, key, message);
            return;
        }
        config.guests.insert(guest.name.clone(), guest);
    }

    fn disks(&mut self, section: &Name, vm: &VmSpec, config: &HostConfig) {
        for (name, disk) in &vm.disk {
            let Some(volume) = &disk.volume else { continue };
            let at = |key: &str| format!("vm.{section}.disk.{name}.{key}");
            self.size(&at("size"), Some(volume.size));
            if !config.pools.contains_key(&volume.pool) {
                let message = format!(
                    "disk {name} of {section} is in pool {}, which is not defined; {}",
                    volume.pool,
                    known(config.pools.keys())
                );
                self.conflict(Code::UnknownName, at("pool"), message);
            }
            if !disk.path.as_os_str().is_empty() {
                let message = format!(
                    "disk {name} of {section} has both pool and path; a disk in a pool has its \
                     path there, leave path out"
                );
                self.invalid(at("path"), message);
            }
        }
    }

    fn guest(
        &mut self,
        name: Name,
        section: &Name,
        spec: &GuestSpec,
        config: &HostConfig,
    ) -> Option<Guest> {
        let vm = machine(&spec.vm, &name, config).resolve();
        let vm = vm.map_err(|conflicts| {
            for conflict in conflicts {
                let keys =
                    conflict.keys().iter().map(|key| format!("vm.{section}.{key}")).collect();
                let message = format!("{section}: {conflict}");
                let host = HostConflict::new(conflict.code(), "", message).of(&name);
                self.conflicts.push(HostConflict { keys, ..host });
            }
        });
        let vm = vm.ok()?;
        let share = &spec.share;
        let (cpu, wrong) = cpu::resolve(section, vm.vcpus, share, config.overcommit_cpu);
        self.conflicts.extend(wrong);
        if let Some(ready) = &share.ready {
            let key = format!("vm.{section}.ready.vsock");
            if ready.vsock == 0 {
                self.invalid(
                    key,
                    "ready.vsock is 0, but ports begin at 1; use the port the guest listens at",
                );
            } else if vm.vsock.is_none() {
                let message = format!(
                    "ready.vsock asks {section} by its vsock device, but it has none; add vsock \
                     = {{ cid = 3, socket = \"{section}.vsock\" }}"
                );
                self.invalid(key, message);
            }
        }
        Some(Guest {
            name,
            section: section.clone(),
            tenant: share.tenant.clone(),
            vm,
            cpu,
            restart: share.restart.unwrap_or_default(),
            ready: share.ready.clone(),
            after: share.after.clone().unwrap_or_default(),
            state: share.state.unwrap_or_default(),
            labels: share.labels.clone().into_iter().collect(),
            enforce: share.enforce.unwrap_or_default(),
        })
    }
}

/// `spec` as the machine of the VM `name`, its disks in pools where they are there.
fn machine(spec: &VmSpec, name: &Name, config: &HostConfig) -> VmSpec {
    let mut spec = VmSpec { name: Some(name.clone()), ..spec.clone() };
    for (disk_name, disk) in &mut spec.disk {
        let pool = disk.volume.as_ref().and_then(|volume| config.pools.get(&volume.pool));
        if let Some(pool) = pool {
            disk.path = pool.disk(name, disk_name);
        }
    }
    spec
}

/// What could have been named instead.
fn known<'n>(names: impl Iterator<Item = &'n Name>) -> String {
    let names: Vec<_> = names.take(10).map(Name::as_str).collect();
    if names.is_empty() {
        "there is none yet".to_owned()
    } else {
        format!("defined are: {}", names.join(", "))
    }
}

#[cfg(test)]
#[path = "resolve_test.rs"]
mod resolve_test;
