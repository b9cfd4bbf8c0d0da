//! What a control group is as properties of a unit (systemd.resource-control(5), systemd.scope(5)).
//!
//! Only what systemd has properties for: these are the files that it writes itself, again and again as it sees fit, so
//! it has to know what belongs in them. The others it leaves alone.

use rustbus::{Marshal, Signature};

use crate::plan::Cgroup;
use crate::{CpuSet, Thousandths};

/// To systemd, no limit.
const UNLIMITED: u64 = u64::MAX;
/// Of a time and of its period: what `cpu.max` counts in.
const PERIOD_MICROSECONDS: u64 = 100_000;
/// Microseconds of CPU time a second, for each thousandth of a CPU.
const MICROSECONDS: u64 = 1000;

/// A property's value, which goes over the bus as a variant.
#[derive(Clone, Debug, PartialEq, Eq, Marshal, Signature)]
pub enum Value {
    /// `b`
    Switch(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `au`
    Numbers(Vec<u32>),
}

/// A property and its value.
pub type Property = (&'static str, Value);

/// What limits a group.
pub fn limits(group: &Cgroup) -> Vec<Property> {
    let of = |controller: &str, properties: Vec<Property>| {
        let held = !group.unenforced.contains(controller);
        properties.into_iter().filter(move |_| held)
    };
    let quota = group.cpu_max.map_or(UNLIMITED, quota);
    let cpuset = vec![("AllowedCPUs", Value::Bytes(mask(&group.cpus)))];
    let cpu = vec![
        ("CPUWeight", Value::Number(group.weight)),
        ("CPUQuotaPerSecUSec", Value::Number(quota)),
        ("CPUQuotaPeriodUSec", Value::Number(PERIOD_MICROSECONDS)),
    ];
    let memory = vec![
        ("MemoryMin", Value::Number(group.memory_min.bytes())),
        // It takes none of 0; the kernel makes the same of 1.
        ("MemoryMax", Value::Number(group.memory_max.bytes().max(1))),
    ];
    // A scope would have systemd's own default where it is told nothing.
    let pids = vec![("TasksMax", Value::Number(group.pids_max.unwrap_or(UNLIMITED)))];
    let memory = of("memory", memory).chain(of("pids", pids));
    of("cpuset", cpuset).chain(of("cpu", cpu)).chain(memory).collect()
}

/// What makes a scope, in `slice`, of the process `pid`: delegated, so that what is below it is Carve's.
pub fn scope(slice: &str, pid: u32, stopped_by: &str) -> Vec<Property> {
    vec![
        ("Slice", Value::Text(slice.to_owned())),
        ("PIDs", Value::Numbers(vec![pid])),
        ("Delegate", Value::Switch(true)),
        // Units stop the other way round: guests are given their time by that service before systemd ends them.
        ("Before", Value::Texts(vec![stopped_by.to_owned()])),
        // Also one in which processes were killed for want of memory leaves nothing behind.
        ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
    ]
}

/// As a mask, the lowest CPU in the lowest bit of the first byte.
fn mask(cpus: &CpuSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cpu in cpus.iter() {
        let byte = (cpu / 8) as usize;
        if bytes.len() <= byte {
            bytes.resize(byte + 1, 0);
        }
        bytes[byte] |= 1 << (cpu % 8);
    }
    bytes
}

fn quota(max: Thousandths) -> u64 {
    max.thousandths().saturating_mul(MICROSECONDS)
}

#[cfg(test)]
#[path = "properties_test.rs"]
mod properties_test;
