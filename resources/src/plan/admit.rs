//! [`admit`]: whether one more VM, that of a command and not of the file, fits beside everything else.

use super::{Allocation, Cgroup, Options, Owner, Present, divide, plan};
use crate::config::Code;
use crate::config::host::{Guest, HostConfig, HostConflict};
use crate::inventory::Host;

/// What a VM gets that is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its share.
    pub allocation: Allocation,
    /// Every control group with it in place: those above its own change, too.
    pub cgroups: Vec<Cgroup>,
}

impl Admission {
    /// The VM's own control group.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroups.iter().find(|group| {
            matches!(group.owner, Owner::Vm(_)) && group.path == self.allocation.cgroup
        })
    }
}

/// Admits `guest` beside what is booked and what `config` promises, whether that runs yet or not.
/// It comes last everywhere and moves nobody.
///
/// # Errors
///
/// Everything that would no longer fit. What does not fit without it either does not count.
pub fn admit(
    config: &HostConfig,
    host: &Host,
    present: &Present,
    guest: &Guest,
) -> Result<Admission, Vec<HostConflict>> {
    let name = &guest.name;
    if let Some(other) = config.guests.get(name) {
        let key = format!("vm.{}", other.section);
        let message = format!("{name} is the name of a VM of the host file");
        let conflict = HostConflict::new(Code::NameTaken, key, message).of(name);
        return Err(vec![conflict.remedy("choose another name")]);
    }
    if present.bookings.contains_key(name) {
        let message = format!("there is a guest {name} already");
        let conflict = HostConflict::new(Code::NameTaken, format!("vm.{name}"), message).of(name);
        return Err(vec![conflict.remedy("choose another name")]);
    }
    let without = plan(config, host, present, Options::default()).conflicts;
    let mut with = divide(config, host, present, Options::default(), Some(guest));
    with.conflicts.retain(|conflict| !without.contains(conflict));
    match with.allocations.remove(name) {
        Some(allocation) if with.conflicts.is_empty() => {
            Ok(Admission { allocation, cgroups: with.cgroups })
        }
        _ => Err(with.conflicts),
    }
}

#[cfg(test)]
mod admit_test {
    use super::*;
    use crate::config::Name;
    use crate::config::host::{Layers, Source};

    fn config(text: &str) -> HostConfig {
        let source = Source { path: "f".into(), content: text.into() };
        Layers::parse(vec![source]).unwrap().resolve().unwrap()
    }

    /// The only VM of `text`.
    fn guest(text: &str) -> Guest {
        config(text).guests.into_values().next().unwrap()
    }

    fn host() -> Host {
        Host::from_json(include_str!("golden/hosts/plain.json")).unwrap()
    }

    const FILE: &str = "[defaults]\nkernel = \"/k\"\ncpu = \"dedicated\"\n[vm.z]\nvcpus = 5\n";

    #[test]
    fn a_guest_takes_nothing_from_a_vm_of_the_file_that_does_not_run_yet() {
        let (config, host, present) = (config(FILE), host(), Present::default());
        let asks = |vcpus: u32| {
            let text = format!("[vm.a]\nkernel = \"/k\"\ncpu = \"dedicated\"\nvcpus = {vcpus}\n");
            admit(&config, &host, &present, &guest(&text))
        };
        let admitted = asks(3).unwrap();
        let of_file = plan(&config, &host, &present, Options::default());
        let z: Name = "z".parse().unwrap();
        let taken = of_file.allocations[&z].cpus.cpus();
        assert!(admitted.allocation.cpus.cpus().is_disjoint(taken));
        assert_eq!(admitted.cgroup().map(|group| group.cpus.len()), Some(3));
        let refused = asks(4).unwrap_err();
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].code, refused[0].vms[0].as_str()), (Code::CpuFull, "a"));
    }

    #[test]
    fn a_name_is_given_once() {
        let (config, host) = (config(FILE), host());
        let z = guest("[vm.z]\nkernel = \"/k\"\n");
        let refused = admit(&config, &host, &Present::default(), &z).unwrap_err();
        assert_eq!((refused[0].code, refused[0].keys[0].as_str()), (Code::NameTaken, "vm.z"));
    }

    #[test]
    fn what_does_not_fit_anyway_stands_in_nobodys_way() {
        let too_much = config("[vm.z]\nkernel = \"/k\"\nvcpus = 50\ncpu = \"dedicated\"\n");
        let a = guest("[vm.a]\nkernel = \"/k\"\n");
        assert!(admit(&too_much, &host(), &Present::default(), &a).is_ok());
    }
}
