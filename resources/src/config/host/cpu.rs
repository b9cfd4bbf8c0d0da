//! What `cpu`, `workers` and `numa` of a VM make together.

use super::super::{Code, Name};
use super::share::{CpuTable, DedicatedWord};
use super::{CpuShare, CpuSpec, HostConflict, ShareSpec};
use crate::Thousandths;

/// Most CPUs for a VM's threads beside its vCPUs.
const MAX_WORKERS: u32 = 256;
/// The least `cpu.max`: 1 ms in each 100 ms, the least that Linux takes.
const MIN_CPU_MAX: Thousandths = Thousandths::from_thousandths(10);

/// What `share` says about the CPUs of a VM with `vcpus`, and what is wrong with it.
pub(super) fn resolve(
    section: &Name,
    vcpus: u32,
    share: &ShareSpec,
    overcommit: Thousandths,
) -> (CpuShare, Vec<HostConflict>) {
    let mut conflicts = Vec::new();
    let mut invalid = |key: &str, message: String| {
        let key = format!("vm.{section}.{key}");
        conflicts.push(HostConflict::new(Code::InvalidValue, key, message));
    };
    let workers = share.workers.unwrap_or(0);
    if workers > MAX_WORKERS {
        let message =
            format!("workers is {workers}, but a VM has at most {MAX_WORKERS}; choose fewer");
        invalid("workers", message);
    }
    let table = match &share.cpu {
        Some(CpuSpec::Dedicated(DedicatedWord::Dedicated)) => {
            return (CpuShare::Dedicated { pins: None, workers, numa: share.numa }, conflicts);
        }
        Some(CpuSpec::Table(table)) => table.clone(),
        None => CpuTable::default(),
    };
    if let Some(pins) = table.pins {
        if table.min.is_some() || table.max.is_some() {
            invalid(
                "cpu",
                "pins are CPUs of the VM's own, min and max a share of common ones; \
                 keep one of the two"
                    .to_owned(),
            );
        }
        let (needed, given) = (vcpus.saturating_add(workers), pins.len());
        if given < needed {
            let message = format!(
                "pins has {given} CPUs, but {section} needs {needed}: one for each vCPU and \
                 worker; name as many"
            );
            invalid("cpu.pins", message);
        }
        return (CpuShare::Dedicated { pins: Some(pins), workers, numa: share.numa }, conflicts);
    }
    for (key, given) in [("workers", workers > 0), ("numa", share.numa.is_some())] {
        if given {
            let message = format!(
                "{key} is for dedicated CPUs, but {section} shares them; use cpu = \
                 \"dedicated\", or leave {key} out"
            );
            invalid(key, message);
        }
    }
    let floor = u64::from(vcpus) * 1_000_000 / overcommit.max(Thousandths::whole(1)).thousandths();
    let floor = Thousandths::from_thousandths(floor);
    let max =
        table.max.unwrap_or_else(|| Thousandths::whole(vcpus).max(table.min.unwrap_or_default()));
    let min = table.min.unwrap_or(floor.min(max));
    if max < MIN_CPU_MAX {
        let message =
            format!("cpu.max is {max}, but Linux grants no less than {MIN_CPU_MAX}; raise it");
        invalid("cpu.max", message);
    }
    if min > max {
        let message =
            format!("cpu.min is {min}, but cpu.max only {max}; lower the one or raise the other");
        invalid("cpu.min", message);
    }
    (CpuShare::Shared { min, max }, conflicts)
}
