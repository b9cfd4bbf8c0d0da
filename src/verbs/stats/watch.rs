//! [`Watch`]: guests and what they use, looked at again and again.

use std::collections::HashMap;

use vmm::api::types::{MemoryStatistics, Statistics};
use vmm::guests::sampling::{self, Answer};
use vmm::guests::{Entry, Error, Id, State, Store};

use super::rates::Rates;

/// What is seen of one guest.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: Id,
    pub name: String,
    pub state: State,
    pub vcpus: u32,
    /// Bytes of memory that the guest was given.
    pub memory: u64,
    /// Nothing where the guest does not run, or did not answer.
    pub use_of_memory: Option<MemoryStatistics>,
    /// Nothing likewise, and at the first look.
    pub rates: Option<Rates>,
}

impl Seen {
    /// Bytes of memory that the guest uses by its own account, caches not counted.
    pub fn used(&self) -> Option<u64> {
        let memory = self.use_of_memory?;
        Some(memory.size.saturating_sub(memory.balloon).saturating_sub(memory.available?))
    }
}

/// Which guests there are to watch.
#[derive(Clone, Debug)]
pub enum Which {
    /// Those that run.
    Running,
    /// All.
    All,
    /// These, as the user calls them.
    Named(Vec<String>),
}

/// Guests that are watched.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    which: Which,
    /// The last counts of each guest and when its run began.
    before: HashMap<Id, (u64, Statistics)>,
}

impl Watch {
    pub fn new(store: Store, which: Which) -> Self {
        Self { store, which, before: HashMap::new() }
    }

    /// Looks at the guests, in the order they were created or named in.
    ///
    /// # Errors
    ///
    /// A guest that was named is not there, or files cannot be read.
    pub fn look(&mut self) -> Result<Vec<Seen>, crate::verbs::Error> {
        let mut looked = Vec::new();
        for entry in self.entries()? {
            // One that was removed meanwhile, or whose files are damaged, is `carve ps`'s to tell of.
            if let Ok(status) = entry.status() {
                looked.push((entry, status.state));
            }
        }
        if matches!(self.which, Which::Running) {
            looked.retain(|(_, state)| state.is_live());
        }
        let live = looked.iter().filter(|(_, state)| state.is_live());
        let live: Vec<_> = live.map(|(entry, _)| entry.clone()).collect();
        let mut answers = sampling::ask_all(&live)?.into_iter();
        let before = std::mem::take(&mut self.before);
        Ok(looked
            .into_iter()
            .map(|(entry, state)| {
                let answer = if state.is_live() { answers.next().flatten() } else { None };
                self.seen(&before, &entry, state, answer)
            })
            .collect())
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        match &self.which {
            Which::Named(names) => names.iter().map(|name| self.store.find(name)).collect(),
            Which::Running | Which::All => {
                Ok(self.store.entries()?.into_iter().flatten().collect())
            }
        }
    }

    fn seen(
        &mut self,
        before: &HashMap<Id, (u64, Statistics)>,
        entry: &Entry,
        state: State,
        answer: Option<Answer>,
    ) -> Seen {
        let guest = &entry.guest;
        let mut seen = Seen {
            id: guest.id.clone(),
            name: guest.name.to_string(),
            state,
            vcpus: guest.config.vcpus,
            memory: guest.config.memory.size.bytes(),
            use_of_memory: None,
            rates: None,
        };
        if let Some(Answer { vm, statistics: Some(now) }) = answer {
            seen.use_of_memory = Some(now.memory);
            // Counts of a run that has ended are no beginning for those of another.
            seen.rates = before
                .get(&guest.id)
                .filter(|(run, _)| *run == vm.started_at)
                .and_then(|(_, before)| Rates::between(before, &now));
            self.before.insert(guest.id.clone(), (vm.started_at, now));
        }
        seen
    }
}
