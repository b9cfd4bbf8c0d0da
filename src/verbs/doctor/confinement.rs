//! What of this host keeps guests in, and apart from each other.

use std::fmt::Write;

use vmm::jail::seccomp::Size;
use vmm::jail::support::{Leaks, Support};

use super::{Finding, fail, ok, warn};

/// The findings, in the order of the report.
pub fn judge(support: &Support) -> Vec<Finding> {
    let Leaks { merging, huge_pages, .. } = &support.leaks;
    let mut findings =
        vec![seccomp(support.seccomp), namespaces(support), landlock(support.landlock)];
    findings.extend(merging.map(same_page_merging));
    findings.extend(huge_pages.as_deref().map(executable_huge_pages));
    findings.push(processor(&support.leaks));
    findings
}

fn seccomp(present: bool) -> Finding {
    let name = "system call filters";
    if present {
        return ok(name, "present");
    }
    fail(name, "absent", "use a kernel with CONFIG_SECCOMP_FILTER, or --seccomp off for debugging")
}

fn namespaces(support: &Support) -> Finding {
    let name = "namespaces";
    match &support.namespaces {
        Ok(()) => ok(name, "this user can have them, with an empty root"),
        Err(error) => warn(
            name,
            format!("not for this user: {error}"),
            "guests run, kept in by filters and Landlock alone; allow user namespaces (sysctl \
             user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns), or run as root",
        ),
    }
}

fn landlock(version: Option<u32>) -> Finding {
    let name = "Landlock";
    match version {
        Some(version) => ok(name, format!("version {version}")),
        None => warn(
            name,
            "absent",
            "guests run without this layer: use a kernel of 5.13 or later with CONFIG_SECURITY_LANDLOCK, \
             and `landlock` in its parameter lsm=",
        ),
    }
}

fn same_page_merging(on: bool) -> Finding {
    let value = if on { "on, but memory of guests is left out" } else { "off" };
    ok("same-page merging (KSM)", value)
}

fn executable_huge_pages(says: &str) -> Finding {
    let name = "huge-page NX mitigation";
    if says.to_lowercase().contains("vulnerable") {
        return warn(
            name,
            says,
            "a guest can halt this host: echo auto > /sys/module/kvm/parameters/nx_huge_pages",
        );
    }
    ok(name, says)
}

fn processor(leaks: &Leaks) -> Finding {
    let name = "processor mitigations";
    let microcode = leaks.microcode.as_deref().unwrap_or("unknown");
    let open: Vec<_> = leaks.open.iter().filter(|(name, _)| name != "itlb_multihit").collect();
    if leaks.known == 0 {
        return warn(name, "unknown", "mount sysfs on /sys");
    }
    if open.is_empty() {
        let value = format!("nothing open of {}; microcode {microcode}", leaks.known);
        return ok(name, value);
    }
    let listed: Vec<_> = open.iter().map(|(name, says)| format!("{name} ({says})")).collect();
    warn(
        name,
        format!("open: {}; microcode {microcode}", listed.join(", ")),
        "guests may read each other's secrets: update the microcode and the kernel, boot without \
         mitigations=off, and give guests cores of their own or turn SMT off",
    )
}

/// The sizes of the filters, as a table.
pub fn filters(sizes: &[Size]) -> String {
    let mut text = "thread           calls  rules  instructions\n".to_owned();
    for Size { role, calls, rules, instructions } in sizes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{role:15}  {calls:5}  {rules:5}  {instructions:12}");
    }
    text
}

#[cfg(test)]
mod confinement_test {
    use super::super::Status;
    use super::*;

    fn good() -> Support {
        Support {
            seccomp: true,
            landlock: Some(6),
            namespaces: Ok(()),
            leaks: Leaks { merging: Some(false), known: 12, ..Leaks::default() },
        }
    }

    fn spoilt(name: &str, change: impl FnOnce(&mut Support)) -> Finding {
        let mut support = good();
        change(&mut support);
        judge(&support).into_iter().find(|finding| finding.name == name).unwrap()
    }

    #[test]
    fn a_host_that_has_everything_needs_nothing() {
        assert!(judge(&good()).iter().all(|finding| finding.status == Status::Ok));
    }

    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        let finding = spoilt("system call filters", |support| support.seccomp = false);
        assert_eq!(finding.status, Status::Fail);
        let finding = spoilt("Landlock", |support| support.landlock = None);
        assert!(finding.status == Status::Warn && finding.remedy.unwrap().contains("lsm="));
        let refuse =
            |support: &mut Support| support.namespaces = Err("Operation not permitted".into());
        let finding = spoilt("namespaces", refuse);
        assert!(finding.value.contains("not permitted") && finding.status == Status::Warn);
    }

    #[test]
    fn open_weaknesses_are_named() {
        let mds = ("mds".to_owned(), "Vulnerable".to_owned());
        let finding = spoilt("processor mitigations", |support| support.leaks.open = vec![mds]);
        assert!(finding.status == Status::Warn && finding.value.contains("mds (Vulnerable)"));
        let finding = spoilt("huge-page NX mitigation", |support| {
            support.leaks.huge_pages = Some("KVM: Vulnerable".to_owned());
        });
        assert_eq!(finding.status, Status::Warn);
    }
}
