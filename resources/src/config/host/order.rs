//! The order that `after` puts VMs in, and how it can be wrong: names that are none, and circles.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::{Code, Name};
use super::{Guest, HostConflict};

/// What is wrong with `waits`: for each section, what it comes after.
pub(super) fn conflicts(
    waits: &BTreeMap<Name, Vec<Name>>,
    guests: &BTreeMap<Name, Guest>,
) -> Vec<HostConflict> {
    let mut conflicts = Vec::new();
    let mut graph = Graph::default();
    for (section, after) in waits {
        let mut targets = BTreeSet::new();
        for name in after {
            let of_guest = || guests.get(name).map(|guest| guest.section.clone());
            let section_of = waits.contains_key(name).then(|| name.clone()).or_else(of_guest);
            match section_of {
                Some(target) => drop(targets.insert(target)),
                None => {
                    let known: Vec<_> = waits.keys().take(10).map(Name::as_str).collect();
                    let message = format!(
                        "VM {section} comes after {name}, which is not defined; defined are: {}",
                        known.join(", ")
                    );
                    let key = format!("vm.{section}.after");
                    conflicts.push(HostConflict::new(Code::UnknownName, key, message));
                }
            }
        }
        graph.add(section, targets);
    }
    while let Some(cycle) = graph.next_cycle() {
        let path: Vec<_> = cycle.iter().chain(cycle.first()).map(Name::as_str).collect();
        let message = format!(
            "VMs come after each other in a circle: {}; leave out one `after`",
            path.join(" after ")
        );
        let key = format!("vm.{}.after", cycle[0]);
        conflicts.push(HostConflict::new(Code::AfterCycle, key, message));
        cycle.into_iter().for_each(|name| graph.remove(name));
    }
    conflicts
}

/// For each of `guests` that comes after others: those.
pub(super) fn prerequisites(guests: &BTreeMap<Name, Guest>) -> BTreeMap<&Name, BTreeSet<&Name>> {
    let mut sections: HashMap<&Name, Vec<&Name>> = HashMap::new();
    for guest in guests.values() {
        sections.entry(&guest.section).or_default().push(&guest.name);
    }
    let of = |guest: &Guest| -> BTreeSet<&Name> {
        let named = |name: &Name| match (sections.get(name), guests.get_key_value(name)) {
            (Some(names), _) => names.clone(),
            (None, found) => found.map(|(name, _)| name).into_iter().collect(),
        };
        guest.after.iter().flat_map(named).collect()
    };
    let waiting = guests.values().filter(|guest| !guest.after.is_empty());
    waiting.map(|guest| (&guest.name, of(guest))).collect()
}

/// Sections that wait for others. What waits for nothing that is left leaves as well, so that only
/// circles, and what waits for them, stay.
#[derive(Default)]
struct Graph {
    targets: BTreeMap<Name, BTreeSet<Name>>,
    /// Who waits for a section.
    dependents: HashMap<Name, Vec<Name>>,
}

impl Graph {
    fn add(&mut self, section: &Name, targets: BTreeSet<Name>) {
        for target in &targets {
            self.dependents.entry(target.clone()).or_default().push(section.clone());
        }
        self.targets.insert(section.clone(), targets);
    }

    fn remove(&mut self, name: Name) {
        let mut leaving = vec![name];
        while let Some(name) = leaving.pop() {
            if self.targets.remove(&name).is_none() {
                continue;
            }
            for dependent in self.dependents.remove(&name).unwrap_or_default() {
                if let Some(targets) = self.targets.get_mut(&dependent) {
                    targets.remove(&name);
                    if targets.is_empty() {
                        leaving.push(dependent);
                    }
                }
            }
        }
    }

    /// A circle, from its first name on.
    fn next_cycle(&mut self) -> Option<Vec<Name>> {
        let free: Vec<Name> = self
            .targets
            .iter()
            .filter(|(_, targets)| targets.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        free.into_iter().for_each(|name| self.remove(name));
        let mut path = vec![self.targets.keys().next()?];
        let mut places: HashMap<&Name, usize> = HashMap::from([(path[0], 0)]);
        loop {
            // Everything left waits for something left.
            let next = self.targets.get(*path.last()?)?.first()?;
            if let Some(&start) = places.get(next) {
                let mut cycle: Vec<Name> = path.split_off(start).into_iter().cloned().collect();
                let first = (0..cycle.len()).min_by_key(|&index| &cycle[index])?;
                cycle.rotate_left(first);
                return Some(cycle);
            }
            places.insert(next, path.len());
            path.push(next);
        }
    }
}
