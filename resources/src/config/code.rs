//! [`Code`]: what kind of problem it is, under a name that stays.

use std::fmt;

use serde::{Serialize, Serializer};

/// Defines the codes: a variant, its name, and what it means in one sentence.
macro_rules! codes {
    ($($variant:ident = $name:literal: $meaning:literal,)+) => {
        /// The kind of a problem. Programs may rely on the names: they stay, new ones are added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)+
        }

        impl Code {
            /// Every code, in the order of the user guide.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, as in `pool-full`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, for the user guide.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

codes! {
    NotToml = "not-toml": "the file is not TOML, or not UTF-8",
    UnknownKey = "unknown-key": "a key that is not one of Carve's",
    InvalidValue = "invalid-value": "a value of a wrong type or out of its range, or keys that contradict each other",
    UnitMissing = "unit-missing": "a size without its unit",
    UnknownName = "unknown-name": "a tenant, a pool or a VM that the file does not define",
    DuplicateName = "duplicate-name": "two VMs would have one name",
    DuplicateMac = "duplicate-mac": "two network devices have one hardware address",
    DuplicateUse = "duplicate-use": "two VMs use one tap, socket or disk that only one can have",
    AfterCycle = "after-cycle": "VMs wait for each other in a circle",
    NameTaken = "name-taken": "a guest that is not of the file has the name already",
    CpuOffline = "cpu-offline": "a CPU that the host does not have, or that is offline",
    CpuReserved = "cpu-reserved": "a CPU that is reserved for the host",
    PinOverlap = "pin-overlap": "a CPU that another VM has for itself",
    SmtSibling = "smt-sibling": "a core would serve two tenants by its siblings",
    NumaFit = "numa-fit": "the VM does not fit on the NUMA node it is to be on",
    CpuFull = "cpu-full": "more host CPUs promised than there are",
    CpuOvercommit = "cpu-overcommit": "more vCPUs on the shared CPUs than overcommit.cpu allows",
    MemoryFull = "memory-full": "guaranteed memory and overhead of the VMMs exceed what the host has",
    MemoryOvercommit = "memory-overcommit": "sizes of guests exceed what overcommit.memory allows",
    ReclaimMissing = "reclaim-missing": "memory.min is less than memory.size, but nothing can take memory back",
    HugepagesShort = "hugepages-short": "more huge pages asked for than the host has",
    TenantFull = "tenant-full": "more than the reservation of the tenant holds",
    PoolFull = "pool-full": "more storage promised than the pool and overcommit.storage allow",
    PoolSpace = "pool-space": "the file system has not the space",
    PoolRate = "pool-rate": "more requests or bytes a second promised than the pool can give",
    RateMissing = "rate-missing": "a network device without a bandwidth in a tenant with one",
    ControllerMissing = "controller-missing": "a limit that the host's control groups cannot enforce",
    LiveChange = "live-change": "a change that cannot be made while the VM runs",
    Shrink = "shrink": "a disk would lose what is stored on it",
    HostShrank = "host-shrank": "the host has less than at the last apply",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
