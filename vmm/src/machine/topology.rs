//! Sockets, cores and threads of a guest, and the APIC ids they give its vCPUs.
//!
//! An APIC id is a bit field of socket, core and thread numbers, each field a whole number of bits
//! wide (Intel SDM Vol. 3A, 10.9.1 "Hierarchical Mapping of Shared Resources"; AMD APM Vol. 3,
//! E.5 "Multiple Processor Calculation"), so ids have gaps where a count is no power of two.

/// How many of each a guest has. Every field is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u32,
    cores: u32,
    threads: u32,
}

impl Topology {
    /// A topology of `sockets` × `cores` per socket × `threads` per core; a zero counts as one.
    pub fn new(sockets: u32, cores: u32, threads: u32) -> Self {
        Self { sockets: sockets.max(1), cores: cores.max(1), threads: threads.max(1) }
    }

    /// vCPUs in all.
    pub fn vcpus(&self) -> u32 {
        self.sockets.saturating_mul(self.threads_per_socket())
    }

    /// Cores in a socket.
    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// Threads in a core.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Threads in a socket.
    pub fn threads_per_socket(&self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// Bits of an APIC id that number the thread within its core.
    pub fn thread_bits(&self) -> u32 {
        bits_for(self.threads)
    }

    /// Bits of an APIC id that number the thread within its socket.
    pub fn socket_shift(&self) -> u32 {
        bits_for(self.threads) + bits_for(self.cores)
    }

    /// The APIC id of vCPU `index`, threads counted first, then cores, then sockets.
    pub fn apic_id(&self, index: u32) -> u32 {
        let thread = index % self.threads;
        let core = index / self.threads % self.cores;
        let socket = index / self.threads_per_socket();
        socket << self.socket_shift() | core << self.thread_bits() | thread
    }

    /// The APIC ids of all vCPUs, in the order of their indices; strictly increasing.
    pub fn apic_ids(&self) -> impl Iterator<Item = u32> + use<> {
        let this = *self;
        (0..this.vcpus()).map(move |index| this.apic_id(index))
    }

    /// The number of the core within its socket that `apic_id` belongs to.
    pub fn core_of(&self, apic_id: u32) -> u32 {
        (apic_id >> self.thread_bits()) & ((1 << bits_for(self.cores)) - 1)
    }

    /// The number of the socket that `apic_id` belongs to.
    pub fn socket_of(&self, apic_id: u32) -> u32 {
        apic_id >> self.socket_shift()
    }
}

/// Bits needed to number `count` things.
fn bits_for(count: u32) -> u32 {
    u32::BITS - (count - 1).leading_zeros()
}

#[cfg(test)]
#[path = "topology_test.rs"]
mod topology_test;
