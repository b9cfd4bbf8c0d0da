//! One step for each VM, several at once, each after those it waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use resources::config::Name;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed(String),
    /// Not tried, as one it waits for failed.
    Blocked(Name),
}

struct Progress<'n> {
    waiting: BTreeSet<&'n Name>,
    at_work: usize,
    ended: BTreeMap<&'n Name, Outcome>,
}

/// What a worker does next.
enum Next<'n> {
    Step(&'n Name),
    Blocked(&'n Name, Name),
    Nothing,
}

/// Most steps at once: starts wait for disks and for guests as much as for CPUs.
fn at_once() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).saturating_mul(4).clamp(8, 128)
}

/// Does `step` for each of `names`. Who is in `after` of one and not of `names` counts as done.
/// `report` hears of each end, one at a time.
pub(super) fn run<'n>(
    names: impl IntoIterator<Item = &'n Name>,
    after: &BTreeMap<&'n Name, BTreeSet<&'n Name>>,
    step: impl Fn(&'n Name) -> Result<(), String> + Sync,
    report: impl Fn(&'n Name, &Outcome) + Sync,
) -> BTreeMap<&'n Name, Outcome> {
    let waiting: BTreeSet<&Name> = names.into_iter().collect();
    let workers = at_once().min(waiting.len());
    let all = waiting.clone();
    let progress = Mutex::new(Progress { waiting, at_work: 0, ended: BTreeMap::new() });
    let changed = Condvar::new();
    let next = |progress: &Progress<'n>| {
        for &name in &progress.waiting {
            let mut ready = true;
            for other in after.get(name).into_iter().flatten().filter(|other| all.contains(*other))
            {
                match progress.ended.get(other) {
                    Some(Outcome::Done) => {}
                    Some(_) => return Next::Blocked(name, (*other).clone()),
                    None => ready = false,
                }
            }
            if ready {
                return Next::Step(name);
            }
        }
        Next::Nothing
    };
    let work = || {
        let mut guard = progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (name, outcome) = match next(&guard) {
                Next::Blocked(name, other) => {
                    guard.waiting.remove(name);
                    (name, Outcome::Blocked(other))
                }
                Next::Step(name) => {
                    guard.waiting.remove(name);
                    guard.at_work += 1;
                    drop(guard);
                    let outcome = step(name).map_or_else(Outcome::Failed, |()| Outcome::Done);
                    guard = progress.lock().unwrap_or_else(PoisonError::into_inner);
                    guard.at_work -= 1;
                    (name, outcome)
                }
                // Whoever waits, waits for one that is at work; circles were refused before.
                Next::Nothing if guard.waiting.is_empty() || guard.at_work == 0 => return,
                Next::Nothing => {
                    guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            report(name, &outcome);
            guard.ended.insert(name, outcome);
            changed.notify_all();
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).ended
}

/// The other way round: who waits for whom when they are stopped.
pub(super) fn reversed<'n>(
    after: &BTreeMap<&'n Name, BTreeSet<&'n Name>>,
) -> BTreeMap<&'n Name, BTreeSet<&'n Name>> {
    let mut reversed: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for (&name, others) in after {
        for &other in others {
            reversed.entry(other).or_default().insert(name);
        }
    }
    reversed
}

#[cfg(test)]
mod order_test {
    use super::*;

    fn names(text: &str) -> Vec<Name> {
        text.split(' ').map(|name| name.parse().unwrap()).collect()
    }

    fn after<'n>(
        names: &'n [Name],
        pairs: &[(usize, usize)],
    ) -> BTreeMap<&'n Name, BTreeSet<&'n Name>> {
        let mut after: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
        for &(name, other) in pairs {
            after.entry(&names[name]).or_default().insert(&names[other]);
        }
        after
    }

    #[test]
    fn each_comes_after_those_it_waits_for() {
        let names = names("a b c d");
        let after = after(&names, &[(0, 1), (1, 2), (3, 2)]);
        let seen = Mutex::new(Vec::new());
        let ended =
            run(&names, &after, |_| Ok(()), |name, _| seen.lock().unwrap().push(name.to_string()));
        let seen = seen.into_inner().unwrap();
        let at = |name: &str| seen.iter().position(|seen| seen == name).unwrap();
        assert!(at("c") < at("b") && at("b") < at("a") && at("c") < at("d"), "{seen:?}");
        assert!(ended.values().all(|outcome| *outcome == Outcome::Done));
        assert_eq!(reversed(&after)[&names[2]], BTreeSet::from([&names[1], &names[3]]));
    }

    #[test]
    fn a_failure_blocks_those_behind_it_and_no_others() {
        let names = names("a b c d");
        let after = after(&names, &[(1, 0), (2, 1)]);
        let step = |name: &Name| if name.as_str() == "a" { Err("no".to_owned()) } else { Ok(()) };
        let ended = run(&names, &after, step, |_, _| {});
        assert_eq!(ended[&names[0]], Outcome::Failed("no".into()));
        assert_eq!(ended[&names[1]], Outcome::Blocked(names[0].clone()));
        assert_eq!(ended[&names[2]], Outcome::Blocked(names[1].clone()));
        assert_eq!(ended[&names[3]], Outcome::Done);
    }

    #[test]
    fn who_does_nothing_is_not_waited_for() {
        let names = names("a b");
        let after = after(&names, &[(0, 1)]);
        let ended = run([&names[0]], &after, |_| Ok(()), |_, _| {});
        assert_eq!(ended[&names[0]], Outcome::Done);
    }
}
