//! `carve doctor`: what of this host is fit to run guests, and the remedy for each lack.
//!
//! Facts come from the inventory and from KVM; here they become findings, judged
//! and shown. Judging is pure, so every host there is can be tested.

mod confinement;

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use resources::Size;
use resources::inventory::{Cgroup, Inventory, hardware_virtualization};
use serde::Serialize;
use vmm::host::{Capability, Kvm};
use vmm::jail::seccomp;
use vmm::jail::support::{self, Support};

use crate::cli::{DoctorArgs, Format};
use crate::exit;

/// What a finding means for running guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// Guests run, but something is slower or not available.
    Warn,
    /// Guests do not run.
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    value: String,
    /// What to do about it; absent where nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// The report as JSON. Fields are only ever added within a version.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    fit: bool,
    findings: &'a [Finding],
}

/// What is known about the host.
struct Facts {
    /// KVM's answers, or why there are none.
    kvm: Result<Kvm, String>,
    hardware_virtualization: bool,
    inventory: Inventory,
    support: Support,
}

/// Looks at the host and prints the report.
///
/// # Errors
///
/// The report cannot be put into JSON.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, super::Error> {
    if args.seccomp {
        let sizes = seccomp::sizes();
        let text = match args.format {
            Format::Table => confinement::filters(&sizes),
            Format::Json => serde_json::to_string_pretty(&sizes)? + "\n",
        };
        return Ok(exit::print(text.as_bytes()));
    }
    let device = &args.kvm.kvm_device;
    let facts = Facts {
        kvm: vmm::host::probe(device).map_err(|error| vmm::explain(&error)),
        hardware_virtualization: hardware_virtualization(),
        inventory: Inventory::read(Path::new("/")),
        support: support::look(),
    };
    let findings = judge(&facts, device);
    let fit = fit(&findings);
    let text = match args.format {
        Format::Table => table(&findings),
        Format::Json => {
            let report = Report { version: 1, fit, findings: &findings };
            serde_json::to_string_pretty(&report)? + "\n"
        }
    };
    let printed = exit::print(text.as_bytes());
    Ok(if printed == ExitCode::SUCCESS && !fit { ExitCode::FAILURE } else { printed })
}

fn fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Fail)
}

fn judge(facts: &Facts, device: &Path) -> Vec<Finding> {
    let host = &facts.inventory;
    let mut findings = vec![kvm_device(facts, device), virtualization(facts)];
    if let Ok(kvm) = &facts.kvm {
        findings.push(capabilities("capabilities", kvm, true));
        findings.push(capabilities("optional capabilities", kvm, false));
        findings.push(ok("vCPUs per guest", format!("at most {}", kvm.max_vcpus)));
    }
    findings.extend(host.nested.map(nested));
    findings.push(match host.cpus {
        Some(count) => ok("CPUs online", count.to_string()),
        None => warn("CPUs online", "unknown", "mount sysfs on /sys"),
    });
    findings.push(memory(host));
    findings.push(transparent_hugepages(host));
    findings.push(hugepage_pools(host));
    findings.push(control_groups(host));
    findings.extend(host.delegated.as_deref().map(delegation));
    findings.extend(confinement::judge(&facts.support));
    findings.extend(host.device_nodes.iter().map(|&(name, present)| device_node(name, present)));
    findings
}

fn ok(name: &'static str, value: impl Into<String>) -> Finding {
    Finding { name, status: Status::Ok, value: value.into(), remedy: None }
}

fn warn(name: &'static str, value: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { name, status: Status::Warn, value: value.into(), remedy: Some(remedy.into()) }
}

fn fail(name: &'static str, value: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { name, status: Status::Fail, value: value.into(), remedy: Some(remedy.into()) }
}

fn kvm_device(facts: &Facts, device: &Path) -> Finding {
    match &facts.kvm {
        Ok(_) => ok("KVM", format!("{}, API version 12", device.display())),
        // The message carries reason and remedy, divided by its first semicolon or colon.
        Err(message) => {
            let (value, remedy) = message
                .split_once("; ")
                .or_else(|| message.split_once(": "))
                .unwrap_or((message, "see the kernel's log (dmesg)"));
            fail("KVM", value, remedy)
        }
    }
}

fn virtualization(facts: &Facts) -> Finding {
    let modules = match facts.inventory.kvm_modules.as_slice() {
        [] => "no KVM module seen".to_owned(),
        modules => modules.join(", "),
    };
    if facts.hardware_virtualization {
        ok("hardware virtualization", modules)
    } else {
        fail(
            "hardware virtualization",
            format!("none ({modules})"),
            "stock kernels do not get through their boot here, only small payloads run: enable \
             VT-x or AMD-V in the firmware, or nested virtualization for this virtual machine",
        )
    }
}

fn capabilities(name: &'static str, kvm: &Kvm, required: bool) -> Finding {
    let asked = || kvm.capabilities.iter().filter(|capability| capability.required == required);
    let missing: Vec<&Capability> = asked().filter(|capability| !capability.present).collect();
    let present = format!("{} of {}", asked().count() - missing.len(), asked().count());
    if missing.is_empty() {
        return ok(name, format!("{present} present"));
    }
    let names: Vec<_> = missing.iter().map(|c| format!("{} ({})", c.name, c.purpose)).collect();
    let value = format!("{present} present; missing: {}", names.join(", "));
    let remedy = "use a Linux kernel of 5.10 or later on hardware that has them";
    if required { fail(name, value, remedy) } else { warn(name, value, remedy) }
}

fn nested(allowed: bool) -> Finding {
    let value = if allowed { "guests may run KVM themselves" } else { "off" };
    ok("nested virtualization", value)
}

fn memory(host: &Inventory) -> Finding {
    match (host.memory_total, host.memory_available) {
        (Some(total), Some(available)) => {
            let value = format!("{} available of {}", available.approximate(), total.approximate());
            if available < Size::from_mib(128) {
                warn("memory", value, "end what uses it, or run guests of less memory")
            } else {
                ok("memory", value)
            }
        }
        _ => warn("memory", "unknown", "mount procfs on /proc"),
    }
}

fn transparent_hugepages(host: &Inventory) -> Finding {
    let name = "transparent huge pages";
    let remedy = "guests start slower without: echo madvise > \
                  /sys/kernel/mm/transparent_hugepage/enabled";
    match host.transparent_hugepages.as_deref() {
        Some(mode @ ("always" | "madvise")) => ok(name, mode),
        Some(mode) => warn(name, mode, remedy),
        None => warn(name, "not in this kernel", "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE"),
    }
}

fn hugepage_pools(host: &Inventory) -> Finding {
    let pools: Vec<_> = host
        .hugepage_pools
        .iter()
        .map(|pool| format!("{} of {} free at {}", pool.free, pool.total, pool.page))
        .collect();
    let name = "reserved huge pages";
    if host.hugepage_pools.iter().any(|pool| pool.total > 0) {
        return ok(name, pools.join(", "));
    }
    // None is the usual state and only --hugepages needs them.
    Finding {
        remedy: Some(
            "for --hugepages reserve some, such as 512 of 2MiB: sysctl vm.nr_hugepages=512"
                .to_owned(),
        ),
        ..ok(name, "none")
    }
}

fn control_groups(host: &Inventory) -> Finding {
    let name = "control groups";
    let remedy = "limits on guests need version 2: boot with systemd.unified_cgroup_hierarchy=1, \
                  or mount cgroup2 on /sys/fs/cgroup";
    match host.cgroup {
        Some(Cgroup::V2) => match host.systemd_bus {
            Some(true) => ok(name, "version 2, by systemd"),
            Some(false) => warn(name, "version 2, but systemd cannot be asked", BUS_REMEDY),
            None => ok(name, "version 2"),
        },
        Some(Cgroup::V1) => warn(name, "version 1", remedy),
        None => warn(name, "none", remedy),
    }
}

const BUS_REMEDY: &str =
    "limits on guests of a divided host need the system bus: install and start dbus";

/// Controllers without which a user's own limits of CPUs and disks cannot be.
const DELEGATED: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

fn delegation(controllers: &[String]) -> Finding {
    let name = "delegated controllers";
    let has = |wanted: &str| controllers.iter().any(|controller| controller == wanted);
    let missing: Vec<&str> = DELEGATED.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return ok(name, controllers.join(", "));
    }
    let remedy = format!(
        "as root, let systemd give users all of them, then log in anew: \
         mkdir -p /etc/systemd/system/user@.service.d; \
         printf '[Service]\\nDelegate={}\\n' > /etc/systemd/system/user@.service.d/carve.conf; \
         systemctl daemon-reload",
        DELEGATED.join(" ")
    );
    warn(name, format!("without {}", missing.join(", ")), remedy)
}

fn device_node(name: &'static str, present: bool) -> Finding {
    match (present, name) {
        (true, _) => ok(name, "present"),
        // Nobody needs it who does not ask for it.
        (false, "vhost_net") => ok(name, "absent; for networks with vhost, modprobe vhost_net"),
        (false, _) => {
            warn(name, "absent", format!("networks on taps and bridges need it: modprobe {name}"))
        }
    }
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { name, status, value, remedy } in findings {
        let status = match status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{status}  {name:width$}  {value}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "      {:width$}  -> {remedy}", "");
        }
    }
    let verdict = if fit(findings) {
        "This host is fit to run guests."
    } else {
        "This host is not fit to run guests: see FAIL above."
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

#[cfg(test)]
#[path = "doctor_test.rs"]
mod doctor_test;
