//! One machine from its first to its last instruction: memory, vCPUs and devices put together,
//! run, and taken apart again.
//!
//! KVM cannot reset a machine, so a reset drops the whole `Machine` and builds a new one from the
//! same [`Sources`]. What happens after an end is decided in [`crate::run()`], not here.

pub mod balloons;
pub mod console_ports;
pub mod disks;
pub mod memory;
pub mod networks;
pub mod passt;
pub(crate) mod pause;
pub mod sources;
pub mod topology;
pub mod unix_socket;
pub mod virtio;
pub mod vsocks;
mod wiring;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use boot::acpi;
use boot::layout::RamLayout;
use devices::legacy::{Ged, Serial};
use devices::thread::{Role, Start};
use devices::virtio::transport::Core;
use resources::config::VmConfig;
use resources::{CpuSet, enforce};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::Killable;

use self::sources::Sources;
use self::topology::Topology;
use self::wiring::{Devices, Host, Wired};
use crate::kvm::gate::{Gate, Wish};
use crate::kvm::tally::Tally;
use crate::kvm::vcpu::{Ended, Platform, Vcpu};
use crate::kvm::{self, System, Vm, cpuid, kick, msr, registers};
use crate::statistics::OwnStatus;
use crate::timings::Timings;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// Kernel, initrd or command line do not fit or cannot be read.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The ACPI tables do not fit.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// The reset code does not fit.
    #[error("cannot write the reset vector to guest memory: {0}")]
    ResetVector(vm_memory::GuestMemoryError),
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] devices::bus::Error),
    /// A device could not be made again.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// A virtio device could not be connected.
    #[error(transparent)]
    Virtio(#[from] virtio::Error),
    /// A thread or file descriptor could not be had.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A vCPU thread ended by a bug of this program.
    #[error("the thread of vCPU {0} panicked: this is a bug in Carve, please report it")]
    VcpuPanicked(u32),
}

/// What a machine needs beyond its sources, kept over resets.
pub(crate) struct Context<'a> {
    pub system: &'a System,
    pub config: &'a VmConfig,
    pub sources: &'a Sources,
    pub timings: &'a Arc<Timings>,
    /// What each vCPU does is counted here.
    pub tallies: &'a Arc<[Tally]>,
    /// What the host's kernel says of this process.
    pub status: &'a OwnStatus,
    /// The host CPU of each vCPU, as far as it has one.
    pub pins: &'a [u32],
    /// Signalled when a vCPU's loop ends.
    pub vcpu_ended: &'a Arc<EventFd>,
}

/// Where the console is connected while a machine is built.
pub(crate) struct ConsolePorts {
    pub output: Box<dyn io::Write + Send>,
    pub on_input_drained: Box<dyn Fn() + Send>,
}

/// The ends of vCPU loops that nobody has looked at yet.
type Ends = Arc<Mutex<Vec<Result<Ended, Error>>>>;

/// A running machine. Dropping it stops its vCPUs and frees everything it has.
pub(crate) struct Machine {
    threads: Vec<JoinHandle<()>>,
    ends: Ends,
    platform: Arc<Platform>,
    serial: Arc<Mutex<Serial>>,
    ged: Arc<Mutex<Ged>>,
    /// In the guest's order.
    virtio: Vec<Arc<Mutex<Core>>>,
    paused: bool,
    _vm: Vm,
}

impl Machine {
    /// Builds a machine from its sources and starts its vCPUs.
    pub(crate) fn start(context: &Context<'_>, console: ConsolePorts) -> Result<Self, Error> {
        let Context { system, config, sources, timings, .. } = *context;
        let topology = guest_topology(config);
        check_vcpus(system, &topology)?;
        let layout = RamLayout::new(config.memory.size.bytes());
        let cpuid = cpuid::Template::new(system, topology)?;

        let vm = Vm::new(system)?;
        timings.vm.mark();
        let memory = memory::map(&layout, config)?;
        vm.map_memory(&memory)?;
        timings.memory.mark();

        let device_space = layout.device_space(cpuid.physical_bits());
        let host = Host { vm: &vm, system, memory: &memory, device_space };
        let Wired { pio, mmio, ioapic, devices, virtio, described } =
            wiring::connect(&host, config, console, sources.devices()?)?;
        for (core, (_, _, counts)) in virtio.iter().zip(sources.interrupts()) {
            devices::mutex::lock(core).count_interrupts(Arc::clone(counts));
        }
        let apic_ids = topology.apic_ids().collect();
        let tables = acpi::Tables::build(&wiring::acpi_platform(apic_ids, described))?;
        let rsdp = tables.write(&memory)?;
        wiring::write_reset_vector(&memory).map_err(Error::ResetVector)?;
        let entry = sources.boot.load(&memory, &layout, rsdp)?;
        memory::settle(&memory, config)?;
        tracing::debug!(?entry, "loaded");
        timings.loaded.mark();

        let vcpus = create_vcpus(&vm, &cpuid, topology, &entry)?;
        timings.vcpus.mark();

        let platform = Arc::new(Platform {
            pio,
            mmio,
            ioapic,
            memory,
            panicked: AtomicBool::new(false),
            gate: Arc::default(),
        });
        let Devices { serial, ged } = devices;
        let ends = Ends::default();
        let threads = Vec::new();
        let mut machine =
            Self { threads, ends, platform, serial, ged, virtio, paused: false, _vm: vm };
        for (index, vcpu) in (0..).zip(vcpus) {
            machine.spawn(index, vcpu, context)?;
        }
        Ok(machine)
    }

    fn spawn(&mut self, index: u32, mut vcpu: Vcpu, context: &Context<'_>) -> Result<(), Error> {
        let (platform, ends) = (Arc::clone(&self.platform), Arc::clone(&self.ends));
        let (timings, event) = (Arc::clone(context.timings), Arc::clone(context.vcpu_ended));
        let (tallies, at) = (Arc::clone(context.tallies), usize::try_from(index).unwrap_or(0));
        let pin = context.pins.get(at).map(|&cpu| CpuSet::from_iter([cpu]));
        let entered = Gate::enter(Arc::clone(&platform.gate));
        let body = move || {
            let _entered = entered;
            let run = AssertUnwindSafe(|| vcpu.run(&platform, &timings, &tallies[at]));
            // A device's bug ends this guest with a message, not the process with a mess.
            let ended = panic::catch_unwind(run).map_err(|_| Error::VcpuPanicked(index));
            ends.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
            let _ = event.write(1);
        };
        // While the thread still can move.
        let keep_to_cpu = move || pin.as_ref().map_or(Ok(()), enforce::pin);
        let thread = Start::new(Role::Vcpu, format!("vcpu{index}"))
            .run_with(keep_to_cpu, |()| body())
            .map_err(|source| Error::Host { what: "start a vCPU thread on its CPU", source })?;
        self.threads.push(thread);
        Ok(())
    }

    /// The next end of a vCPU's loop that has not been looked at.
    pub(crate) fn take_end(&self) -> Option<Result<Ended, Error>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Whether a vCPU's loop has ended and nobody has looked at it.
    fn has_ended(&self) -> bool {
        !self.ends.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether the guest's kernel has said that it panicked.
    pub(crate) fn panicked(&self) -> bool {
        self.platform.panicked.load(Ordering::Acquire)
    }

    /// The UART, for console input.
    pub(crate) fn serial(&self) -> Arc<Mutex<Serial>> {
        Arc::clone(&self.serial)
    }

    /// Presses the guest's power button.
    pub(crate) fn press_power_button(&self) {
        let mut ged = self.ged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ged.press_power_button() {
            tracing::error!("the power button's interrupt could not be sent: {error}");
        }
    }

    fn tell_vcpus(&self, wish: Wish) {
        self.platform.gate.set(wish);
        for thread in &self.threads {
            // A thread that has ended already cannot be signalled; it needs no signal either.
            let _ = thread.kill(kick::signal());
        }
    }

    /// Stops every vCPU and waits until its thread is gone.
    fn stop(&mut self) {
        self.tell_vcpus(Wish::Stop);
        for thread in self.threads.drain(..) {
            // Its panics are caught and kept in `ends`.
            let _ = thread.join();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last id a local APIC has in xAPIC mode; 255 is broadcast.
const LAST_XAPIC_ID: u32 = 254;

fn guest_topology(config: &VmConfig) -> Topology {
    let resources::config::Topology { sockets, cores, threads } = config.topology;
    Topology::new(sockets, cores, threads)
}

fn check_vcpus(system: &System, topology: &Topology) -> Result<(), kvm::Error> {
    let (asked, limit) = (topology.vcpus(), system.max_vcpus());
    if asked > limit {
        return Err(kvm::Error::TooManyVcpus { asked, limit });
    }
    let limit = system.max_apic_id();
    match (0..).zip(topology.apic_ids()).find(|&(_, apic_id)| apic_id >= limit) {
        Some((vcpu, apic_id)) => Err(kvm::Error::ApicId { vcpu, apic_id, limit }),
        None => Ok(()),
    }
}

/// Creates all vCPUs. The first gets the boot protocol's registers; the others wait for the first
/// to start them (INIT, SIPI), as KVM's reset state has it.
fn create_vcpus(
    vm: &Vm,
    template: &cpuid::Template,
    topology: Topology,
    entry: &boot::Entry,
) -> Result<Vec<Vcpu>, kvm::Error> {
    let x2apic = topology.apic_ids().any(|id| id > LAST_XAPIC_ID);
    (0..)
        .zip(topology.apic_ids())
        .map(|(index, apic_id)| {
            let fd = vm.create_vcpu(apic_id)?;
            fd.set_cpuid2(&template.for_vcpu(apic_id)?).map_err(kvm::failed("KVM_SET_CPUID2"))?;
            msr::set_up(&fd)?;
            if x2apic {
                registers::enable_x2apic(&fd)?;
            }
            if index == 0 {
                registers::set_up(&fd, &entry.registers)?;
            }
            Ok(Vcpu::new(index, fd))
        })
        .collect()
}
