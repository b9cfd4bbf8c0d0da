//! [`Used`]: what is used of what is promised, by the kernel's own counts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use resources::config::Name;
use resources::enforce::Hierarchy;
use resources::inventory::Inventory;
use resources::plan::{Owner, Plan, Present};
use serde::Serialize;

/// How long CPUs are watched.
const SAMPLE: Duration = Duration::from_millis(250);
/// Bytes of a block as stat(2) counts them.
const BLOCK: u64 = 512;

/// What VMs use at present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// By all together.
    #[serde(flatten)]
    pub all: Part,
    /// By those of each tenant.
    pub tenants: BTreeMap<Name, Part>,
    /// By everything else on the host: its own processes, and guests of users without a tenant.
    pub others: Part,
}

/// What a part of the VMs uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Host CPUs, in thousandths.
    pub cpus: u64,
    /// Memory in bytes, the host's caches of their disks included.
    pub memory: u64,
    /// Storage in bytes that their disks take in each pool.
    pub storage: BTreeMap<Name, u64>,
}

impl Used {
    /// What is used on this host, of what `plan` has control groups for and `present` disks. Takes a
    /// quarter of a second.
    #[must_use]
    pub fn look(plan: &Plan, present: &Present) -> Self {
        let hierarchy = Hierarchy::new();
        let groups: Vec<(Option<&Name>, &str)> = plan
            .cgroups
            .iter()
            .filter_map(|group| match &group.owner {
                Owner::Host => Some((None, group.path.as_str())),
                Owner::Tenant(name) => Some((Some(name), group.path.as_str())),
                Owner::Vm(_) => None,
            })
            .chain([(None, "")])
            .collect();
        let look = || -> Vec<u64> {
            groups.iter().map(|(_, path)| hierarchy.cpu_time(path).unwrap_or(0)).collect()
        };
        let (start, before) = (Instant::now(), look());
        thread::sleep(SAMPLE);
        let (took, after) = (start.elapsed(), look());
        let mut used = Self::default();
        for (((tenant, path), before), after) in groups.into_iter().zip(before).zip(after) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
            // The root of all groups counts everybody's.
            let part = if path.is_empty() { &mut used.others } else { used.part(tenant) };
            part.cpus = after.saturating_sub(before).saturating_mul(1000) / micros;
            part.memory = hierarchy.number(path, "memory.current").unwrap_or(0);
        }
        used.others.cpus = used.others.cpus.saturating_sub(used.all.cpus);
        let Inventory { memory_total, memory_available, .. } = Inventory::read(Path::new("/"));
        let taken = memory_total.zip(memory_available);
        let taken = taken.map_or(0, |(all, left)| all.bytes().saturating_sub(left.bytes()));
        // What is taken has no caches in it.
        let top = plan.cgroups.iter().find(|group| group.owner == Owner::Host);
        let cached = top.and_then(|top| hierarchy.statistic(&top.path, "memory.stat", "file"));
        let own = used.all.memory.saturating_sub(cached.unwrap_or(0));
        used.others.memory = taken.saturating_sub(own);
        for (path, volume) in &present.volumes {
            let Ok(found) = fs::metadata(path) else { continue };
            let bytes = found.blocks().saturating_mul(BLOCK);
            for tenant in std::iter::once(None).chain(volume.tenant.iter().map(Some)) {
                *used.part(tenant).storage.entry(volume.pool.clone()).or_default() += bytes;
            }
        }
        used
    }

    fn part(&mut self, tenant: Option<&Name>) -> &mut Part {
        match tenant {
            None => &mut self.all,
            Some(tenant) => self.tenants.entry(tenant.clone()).or_default(),
        }
    }
}
