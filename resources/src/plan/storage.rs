//! The sums of storage: sizes of disks in their pools, space of file systems, requests and bytes a
//! second.

use std::collections::BTreeMap;
use std::path::Path;

use super::roster::{Entry, Roster};
use super::sums::{Inputs, PoolSums, Sums};
use super::{Account, Problems, StoredVolume, Unit};
use crate::config::host::{HostConflict, Tenant};
use crate::config::{Code, Disk, Name, Volume};

/// Every pool with nothing given away.
pub(super) fn open(inputs: &Inputs<'_>, problems: &mut Problems) -> BTreeMap<Name, PoolSums> {
    let mut pools = BTreeMap::new();
    for (name, pool) in &inputs.config.pools {
        let file_system = inputs.host.file_systems.get(&pool.path);
        let key = format!("pool.{name}.size");
        let conflict = |message: String| HostConflict::new(Code::PoolSpace, key.clone(), message);
        let size = match (pool.size, file_system) {
            (Some(size), Some(file_system)) if size > file_system.size => {
                let account = Account::new(Unit::Bytes, file_system.size.bytes());
                let message = format!(
                    "pool {name} is to hold {}, but the file system of {} holds {}",
                    Unit::Bytes.show(size.bytes()),
                    pool.path.display(),
                    Unit::Bytes.show(account.total)
                );
                problems.push(account.refuse(
                    size.bytes(),
                    conflict(message).remedy("lower the size, or leave it out"),
                ));
                file_system.size
            }
            (Some(size), _) => size,
            (None, Some(file_system)) => file_system.size,
            (None, None) => {
                let message = format!(
                    "the size of pool {name} is not known: there is no {}",
                    pool.path.display()
                );
                problems.push(conflict(message).remedy("make that folder").remedy("say pool size"));
                continue;
            }
        };
        let promised = inputs.config.overcommit_storage.of(size.bytes());
        let rate = |unit, rate: Option<u64>| rate.map(|rate| Account::new(unit, rate));
        pools.insert(
            name.clone(),
            PoolSums {
                storage: Account::new(Unit::Bytes, promised),
                beside: None,
                operations: rate(Unit::Operations, pool.iops),
                bandwidth: rate(
                    Unit::Bandwidth,
                    pool.bandwidth.map(|bandwidth| bandwidth.bytes_per_second()),
                ),
            },
        );
    }
    pools
}

/// Gives `tenant` its storage.
pub(super) fn reserve(sums: &mut Sums, name: &Name, tenant: &Tenant, problems: &mut Problems) {
    for (pool, size) in &tenant.storage {
        let Some(PoolSums { storage, .. }) = sums.pools.get_mut(pool) else { continue };
        if !storage.take(&format!("tenant {name}"), size.bytes()) {
            let message = format!(
                "tenant {name} reserves {} of pool {pool}, more than the {} left of {} with \
                 overcommit",
                Unit::Bytes.show(size.bytes()),
                Unit::Bytes.show(storage.left),
                Unit::Bytes.show(storage.total)
            );
            let conflict =
                HostConflict::new(Code::PoolFull, format!("tenant.{name}.storage.{pool}"), message)
                    .remedy(format!("reserve at most {}", Unit::Bytes.show(storage.left)))
                    .remedy("raise host.overcommit.storage, or the size of the pool");
            problems.push(storage.refuse(size.bytes(), conflict));
        }
    }
}

/// Charges every disk in a pool: those that are there and no VM of the file has any more, then those
/// of VMs.
pub(super) fn charge(
    sums: &mut Sums,
    roster: &Roster<'_>,
    inputs: &Inputs<'_>,
    problems: &mut Problems,
) {
    let used: std::collections::BTreeSet<&Path> = roster
        .entries
        .iter()
        .flat_map(|entry| entry.guest.vm.disk.values())
        .filter(|disk| disk.volume.is_some())
        .map(|disk| disk.path.as_path())
        .collect();
    for (path, stored) in &inputs.present.volumes {
        if !used.contains(path.as_path()) {
            keep(sums, path, stored, problems);
        }
    }
    let mut fresh: BTreeMap<&str, Account> = BTreeMap::new();
    for entry in &roster.entries {
        for (name, disk) in &entry.guest.vm.disk {
            if let Some(volume) = &disk.volume {
                let disk = InPool { entry, name, disk, volume };
                disk.size(sums, inputs, problems);
                disk.space(&mut fresh, inputs, problems);
                disk.rates(sums, problems);
            }
        }
    }
    together(sums, inputs, problems);
}

/// Holds pools that are on one file system to what it has, however large each of them is.
fn together(sums: &mut Sums, inputs: &Inputs<'_>, problems: &mut Problems) {
    let mut shared: BTreeMap<&str, (u64, Vec<&Name>)> = BTreeMap::new();
    for (name, pool) in &inputs.config.pools {
        let file_system = inputs.host.file_systems.get(&pool.path);
        if let Some((id, file_system)) = file_system.and_then(|fs| Some((fs.id.as_deref()?, fs))) {
            let size = inputs.config.overcommit_storage.of(file_system.size.bytes());
            shared.entry(id).or_insert((size, Vec::new())).1.push(name);
        }
    }
    for (size, pools) in shared.into_values().filter(|(_, pools)| pools.len() > 1) {
        let mut account = Account::new(Unit::Bytes, size);
        for &name in &pools {
            let Some(PoolSums { storage, .. }) = sums.pools.get(name) else { continue };
            let promised = storage.total - storage.left;
            if account.take(&format!("pool {name}"), promised) {
                continue;
            }
            let names: Vec<&str> = pools.iter().map(|name| name.as_str()).collect();
            let message = format!(
                "pool {name} promises {}, more than the {} left of {} with overcommit on the file \
                 system that {} are on",
                Unit::Bytes.show(promised),
                Unit::Bytes.show(account.left),
                Unit::Bytes.show(account.total),
                names.join(" and ")
            );
            let conflict = HostConflict::new(Code::PoolFull, format!("pool.{name}.path"), message)
                .remedy("put it on a file system of its own")
                .remedy("raise host.overcommit.storage, or promise less");
            problems.push(account.refuse(promised, conflict));
            account.left = 0;
        }
        for name in pools {
            if let Some(pool) = sums.pools.get_mut(name) {
                pool.beside = Some(account.left);
            }
        }
    }
}

/// Charges a disk whose VM is gone.
fn keep(sums: &mut Sums, path: &Path, stored: &StoredVolume, problems: &mut Problems) {
    let label = format!("{} (disk of {}, kept)", path.display(), stored.vm);
    let size = stored.size.bytes();
    let own = stored.tenant.as_ref().and_then(|tenant| sums.tenants.get_mut(tenant));
    let own = own.and_then(|own| own.storage.get_mut(&stored.pool));
    let Some(account) = own.or(sums.pools.get_mut(&stored.pool).map(|pool| &mut pool.storage))
    else {
        return;
    };
    if !account.take(&label, size) {
        let message = format!(
            "{label} is there and larger than the {} left of pool {}",
            Unit::Bytes.show(account.left),
            stored.pool
        );
        let conflict = HostConflict::new(Code::PoolFull, format!("pool.{}", stored.pool), message)
            .remedy("remove disks that are no longer needed: carve rm --volumes");
        problems.push(account.refuse(size, conflict));
    }
}

/// A disk of a VM in a pool.
struct InPool<'e, 'a> {
    entry: &'e Entry<'a>,
    name: &'e Name,
    disk: &'e Disk,
    volume: &'e Volume,
}

impl InPool<'_, '_> {
    fn key(&self, key: &str) -> String {
        self.entry.guest.key(&format!("disk.{}.{key}", self.name))
    }

    fn label(&self) -> String {
        format!("disk {} of {}", self.name, self.entry.label())
    }

    fn conflict(&self, code: Code, key: &str, message: String) -> HostConflict {
        HostConflict::new(code, self.key(key), message).of(self.entry.name())
    }

    fn size(&self, sums: &mut Sums, inputs: &Inputs<'_>, problems: &mut Problems) {
        let (size, pool) = (self.volume.size.bytes(), &self.volume.pool);
        let label = self.label();
        if let Some(stored) = inputs.present.volumes.get(&self.disk.path)
            && stored.size > self.volume.size
        {
            let message = format!(
                "{label} is {} now and cannot become {}: what is stored behind that would be lost",
                Unit::Bytes.show(stored.size.bytes()),
                Unit::Bytes.show(size)
            );
            let conflict = self
                .conflict(Code::Shrink, "size", message)
                .remedy("make a smaller disk beside it and copy")
                .remedy("remove the disk first: carve rm --volumes");
            problems.push(conflict);
            return;
        }
        let tenant = self.entry.guest.tenant.as_ref();
        if let Some((tenant, own)) =
            tenant.and_then(|tenant| Some((tenant, sums.tenants.get_mut(tenant)?)))
        {
            let account =
                own.storage.entry(pool.clone()).or_insert_with(|| Account::new(Unit::Bytes, 0));
            if !account.take(&label, size) {
                let message = format!(
                    "{label} takes {} of pool {pool}, more than the {} that tenant {tenant} has \
                     left",
                    Unit::Bytes.show(size),
                    Unit::Bytes.show(account.left)
                );
                let raised = account.total.saturating_add(size - account.left);
                let conflict = self
                    .conflict(Code::TenantFull, "size", message)
                    .remedy(format!(
                        "raise tenant.{tenant}.storage.{pool} to {}",
                        Unit::Bytes.show(raised)
                    ))
                    .remedy("make it smaller");
                problems.push(account.refuse(size, conflict));
            }
            return;
        }
        let Some(PoolSums { storage, .. }) = sums.pools.get_mut(pool) else { return };
        if !storage.take(&label, size) {
            let message = format!(
                "{label} takes {} of pool {pool}, more than the {} left of {} with overcommit",
                Unit::Bytes.show(size),
                Unit::Bytes.show(storage.left),
                Unit::Bytes.show(storage.total)
            );
            let conflict = self
                .conflict(Code::PoolFull, "size", message)
                .remedy("make it smaller")
                .remedy("raise host.overcommit.storage, or the size of the pool");
            problems.push(storage.refuse(size, conflict));
        }
    }

    /// A disk that takes its space at once needs it now.
    fn space<'s>(
        &self,
        fresh: &mut BTreeMap<&'s str, Account>,
        inputs: &Inputs<'s>,
        problems: &mut Problems,
    ) {
        let is_new = !inputs.present.volumes.contains_key(&self.disk.path);
        let pool = inputs.config.pools.get(&self.volume.pool);
        let file_system =
            pool.and_then(|pool| Some((pool, inputs.host.file_systems.get(&pool.path)?)));
        let Some((pool, file_system)) = file_system.filter(|_| is_new && self.volume.preallocate)
        else {
            return;
        };
        let size = self.volume.size.bytes();
        let which = file_system.id.as_deref().or(pool.path.to_str()).unwrap_or_default();
        let account = fresh
            .entry(which)
            .or_insert_with(|| Account::new(Unit::Bytes, file_system.free.bytes()));
        if !account.take(&self.label(), size) {
            let message = format!(
                "{} takes {} at once, but the file system of {} has {} free",
                self.label(),
                Unit::Bytes.show(size),
                pool.path.display(),
                Unit::Bytes.show(account.left)
            );
            let conflict = self
                .conflict(Code::PoolSpace, "preallocate", message)
                .remedy("leave preallocate out")
                .remedy("make room, or use another pool");
            problems.push(account.refuse(size, conflict));
        }
    }

    fn rates(&self, sums: &mut Sums, problems: &mut Problems) {
        let Some(pool) = sums.pools.get_mut(&self.volume.pool) else { return };
        let bandwidth = self.disk.bandwidth.map(|bandwidth| bandwidth.bytes_per_second());
        let rates = [
            ("iops", self.disk.iops, pool.operations.as_mut()),
            ("bandwidth", bandwidth, pool.bandwidth.as_mut()),
        ];
        for (key, rate, account) in rates {
            let Some(account) = account else { continue };
            let Some(rate) = rate else {
                problems.notes.push(format!(
                    "{} has no {key}: it is promised nothing of pool {}, and held to nothing",
                    self.label(),
                    self.volume.pool
                ));
                continue;
            };
            if !account.take(&self.label(), rate) {
                let unit = account.unit;
                let message = format!(
                    "{} is promised {}, more than the {} left of {} that pool {} can give",
                    self.label(),
                    unit.show(rate),
                    unit.show(account.left),
                    unit.show(account.total),
                    self.volume.pool
                );
                let conflict = self
                    .conflict(Code::PoolRate, key, message)
                    .remedy(format!("promise at most {}", unit.show(account.left)));
                problems.push(account.refuse(rate, conflict));
            }
        }
    }
}
