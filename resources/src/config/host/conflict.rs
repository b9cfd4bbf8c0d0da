//! [`HostConflict`]: a rule that a host file breaks, by itself or on the host it is for.

use super::super::{Code, Name, Shortage};

/// One thing that cannot be, before it is known where in the files it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConflict {
    /// What kind of problem it is.
    pub code: Code,
    /// Who, value and reason in one sentence.
    pub message: String,
    /// Paths of the keys involved, as in `vm.db.memory.size`, the one to show first.
    pub keys: Vec<String>,
    /// The VMs that cannot be because of it.
    pub vms: Vec<Name>,
    /// What is too little, if it is that.
    pub shortage: Option<Shortage>,
    /// What can be done about it, one of them.
    pub remedies: Vec<String>,
}

impl HostConflict {
    /// A conflict about the key at `key`.
    #[must_use]
    pub fn new(code: Code, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            keys: vec![key.into()],
            vms: Vec::new(),
            shortage: None,
            remedies: Vec::new(),
        }
    }

    /// It with a remedy more.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// It with `vm` as one that cannot be.
    #[must_use]
    pub fn of(mut self, vm: &Name) -> Self {
        self.vms.push(vm.clone());
        self
    }
}
