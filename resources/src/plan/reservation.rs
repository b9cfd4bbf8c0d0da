//! [`Reservation`]: what the user of a tenant has to know of the host to book in it, and no more.
//!
//! It is a division of its own: the host file with nobody else in it, on the CPUs that the tenant's
//! control group has. So the user's guests are admitted by the same plan as everybody's. What is wrong
//! in the user's books hurts the tenant alone: the group's limits are root's.

use serde::{Deserialize, Serialize};

use super::cgroup::weight;
use super::{Cgroup, HostCpus, Origin, Owner, Plan, Present};
use crate::config::Name;
use crate::config::host::{HostConfig, Smt};
use crate::inventory::Host;
use crate::{Size, Thousandths};

/// What a tenant has, for whoever may book in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The tenant.
    pub tenant: Name,
    /// The control group in which its user's guests are: its own, or a [scope](Self::within_scope) in that.
    pub group: Cgroup,
    /// Whether its guests need core-scheduling cookies, as siblings may serve other tenants.
    pub core_scheduling: bool,
    /// The host file without anybody else.
    pub config: HostConfig,
    /// What the tenant's VMs of the host file hold.
    pub present: Present,
}

impl Reservation {
    /// That of `tenant` in `plan`, which was made from `config` for `host`, once `present` is booked;
    /// none if it has no control group.
    #[must_use]
    pub fn of(
        tenant: &Name,
        config: &HostConfig,
        host: &Host,
        plan: &Plan,
        present: &Present,
    ) -> Option<Self> {
        let of_tenant = |group: &&Cgroup| group.owner == Owner::Tenant(tenant.clone());
        let group = plan.cgroups.iter().find(of_tenant)?.clone();
        let mut own = config.clone();
        own.tenants.retain(|name, _| name == tenant);
        own.guests.retain(|_, guest| guest.tenant.as_ref() == Some(tenant));
        // Their folders may be closed to the user, and guests of commands have no disks in them.
        own.pools.clear();
        own.reserved_cpus = host.online().difference(&group.cpus);
        let mut held = Present::default();
        let bookings = present.bookings.iter().filter(|(_, booking)| {
            booking.origin == Origin::File && booking.guest.tenant.as_ref() == Some(tenant)
        });
        held.bookings = bookings.map(|(name, booking)| (name.clone(), booking.clone())).collect();
        Some(Self {
            tenant: tenant.clone(),
            group,
            core_scheduling: config.smt == Smt::PerTenant && host.core_scheduling,
            config: own,
            present: held,
        })
    }

    /// The same with the user's guests in a scope of their own in the tenant's control group, for hosts on which that
    /// group cannot be the user's to make groups in. The scope is held to what the tenant's VMs of the host file leave.
    #[must_use]
    pub fn within_scope(mut self) -> Self {
        let bookings = self.present.bookings.values();
        let cpus = bookings.clone().map(|booking| match &booking.cpus {
            HostCpus::Dedicated { .. } => Thousandths::whole(booking.cpus.cpus().len()),
            HostCpus::Shared { min, .. } => *min,
        });
        let cpus = cpus.fold(0u64, |sum, cpus| sum.saturating_add(cpus.thousandths()));
        let groups = bookings.filter_map(|booking| booking.cgroup.as_ref());
        let memory = groups.fold(0u64, |sum, group| sum.saturating_add(group.memory_min.bytes()));
        let all = self.config.tenants.get(&self.tenant);
        let all = all.map_or(0, |tenant| tenant.cpus.thousandths());
        let Cgroup { path, weight: share, memory_min, .. } = &mut self.group;
        *path = format!("{path}/{}", Self::scope(&self.tenant));
        *share = weight(all.saturating_sub(cpus), all);
        *memory_min = Size::from_bytes(memory_min.bytes().saturating_sub(memory));
        self
    }

    /// The name of the scope in the control group of `tenant`, which is no VM's.
    #[must_use]
    pub fn scope(tenant: &Name) -> String {
        format!("carve-{tenant}:users.scope")
    }

    /// Moves the control group of a guest of the user to where the user may make it.
    pub fn place(&self, group: &mut Cgroup) {
        let name = group.path.rsplit('/').next().unwrap_or_default();
        group.path = format!("{}/{name}", self.group.path);
    }
}

#[cfg(test)]
mod reservation_test {
    use super::*;
    use crate::config::host::{Guest, Layers, Source};
    use crate::plan::{Options, admit, plan};

    const FILE: &str = "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\novercommit = { cpu = 2 }\n\
        [tenant.acme]\nuser = \"ada\"\ncpus = 4\nmemory = \"2GiB\"\n\
        [tenant.zeta]\ncpus = 2\nmemory = \"1GiB\"\n\
        [defaults]\nkernel = \"/k\"\nmemory = \"512MiB\"\n\
        [vm.db]\ntenant = \"acme\"\ncpu = \"dedicated\"\nvcpus = 2\n\
        [vm.secret]\ntenant = \"zeta\"\ncpu = \"dedicated\"\n";

    fn config(text: &str) -> HostConfig {
        let source = Source { path: "f".into(), content: text.into() };
        Layers::parse(vec![source]).unwrap().resolve().unwrap()
    }

    fn reservation() -> (Reservation, Host) {
        let host = Host::from_json(include_str!("golden/hosts/plain.json")).unwrap();
        let config = config(FILE);
        let plan = plan(&config, &host, &Present::default(), Options::default());
        let present = Present::default().after(&plan, &config, &host, false).unwrap();
        let acme = "acme".parse().unwrap();
        (Reservation::of(&acme, &config, &host, &plan, &present).unwrap(), host)
    }

    fn guest(reservation: &Reservation, name: &str, vcpus: u32, memory: &str) -> Guest {
        let text = format!("[vm.x]\nkernel = \"/k\"\nvcpus = {vcpus}\nmemory = \"{memory}\"\n");
        let vm = config(&text).guests.into_values().next().unwrap().vm;
        let tenant = Some(reservation.tenant.clone());
        reservation.config.guest_of_command(name.parse().unwrap(), tenant, vm)
    }

    #[test]
    fn nobody_else_is_told_of() {
        let (reservation, _) = reservation();
        let text = serde_json::to_string(&reservation).unwrap();
        assert!(!text.contains("zeta") && !text.contains("secret"), "{text}");
        let read: Reservation = serde_json::from_str(&text).unwrap();
        assert_eq!(read, reservation);
    }

    #[test]
    fn a_scope_for_the_users_guests_has_what_vms_of_the_file_leave() {
        let (reservation, host) = reservation();
        let mut own =
            Cgroup { path: "carve.slice/carve-x.scope".into(), ..reservation.group.clone() };
        reservation.place(&mut own);
        assert_eq!(own.path, "carve.slice/carve-acme.slice/carve-x.scope");
        let all = reservation.group.clone();
        let reservation = reservation.within_scope();
        let scope = &reservation.group;
        assert_eq!(scope.path, "carve.slice/carve-acme.slice/carve-acme:users.scope");
        // 2 of its 4 CPUs and the guarantee of db's memory are taken.
        let db = reservation.present.bookings.values().next().unwrap();
        let taken = db.cgroup.as_ref().unwrap().memory_min.bytes();
        assert_eq!(scope.memory_min.bytes(), all.memory_min.bytes() - taken);
        assert_eq!(
            (scope.weight, &scope.cpus, scope.memory_max),
            (5000, &all.cpus, all.memory_max)
        );
        let guest = guest(&reservation, "x", 1, "64MiB");
        let admitted = admit(&reservation.config, &host, &reservation.present, &guest).unwrap();
        let mut own = admitted.cgroup().unwrap().clone();
        reservation.place(&mut own);
        assert_eq!(own.path, format!("{}/carve-x.scope", scope.path));
    }

    #[test]
    fn a_guest_gets_what_the_tenant_has_left_and_no_more() {
        let (reservation, host) = reservation();
        let ask = |guest: &Guest| {
            admit(&reservation.config, &host, &reservation.present, guest)
                .map_err(|conflicts| conflicts[0].code.to_string())
        };
        // 2 of its 4 CPUs are promised to db; a vCPU is promised half a CPU.
        let admitted = ask(&guest(&reservation, "x", 4, "256MiB")).unwrap();
        let group = admitted.cgroup().unwrap();
        assert_eq!(group.path, "carve.slice/carve-acme.slice/carve-x.scope");
        assert!(
            !group.cpus.is_empty() && group.cpus.difference(&reservation.group.cpus).is_empty()
        );
        assert_eq!(ask(&guest(&reservation, "x", 5, "256MiB")).unwrap_err(), "tenant-full");
        assert_eq!(ask(&guest(&reservation, "x", 1, "1536MiB")).unwrap_err(), "tenant-full");
        assert_eq!(ask(&guest(&reservation, "db", 1, "64MiB")).unwrap_err(), "name-taken");
    }
}
