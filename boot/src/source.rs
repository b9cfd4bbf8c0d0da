//! Everything a guest boots from, and how it is put into guest memory: places for kernel and
//! initrd are chosen, both are loaded, and the guest is told.

use std::fmt;
use std::io;
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::cmdline::CommandLine;
use crate::initrd::{self, Initrd};
use crate::kernel::{self, Kernel, kaslr};
use crate::layout::{self, PAGE_SIZE, RamLayout};
use crate::x86_64::boot_params::ZeroPage;
use crate::x86_64::{Registers, gdt, paging, pvh};

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit Linux boot protocol.
    Linux64,
    /// Xen's PVH, entered in 32-bit mode.
    Pvh,
}

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kernel and initrd do not fit.
    #[error(
        "{} of memory are too few: the kernel needs {} and the initrd {}; give the guest at least {} (--memory)",
        Mebibytes(*.have), Mebibytes(*.kernel), Mebibytes(*.initrd), Mebibytes(*.minimum)
    )]
    MemoryTooSmall {
        /// RAM of the guest.
        have: u64,
        /// End of the kernel in guest-physical memory.
        kernel: u64,
        /// Size of the initrd.
        initrd: u64,
        /// RAM with which it would fit.
        minimum: u64,
    },
    /// No amount of memory would do.
    #[error(
        "the initrd {path} has {}, but between the kernel and the highest address at which the \
         kernel accepts an initrd there are only {}; make it smaller",
        Mebibytes(*.size), Mebibytes(*.room)
    )]
    InitrdTooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// What would fit.
        room: u64,
    },
    /// The kernel would cut the line off.
    #[error(
        "the kernel command line has {length} bytes, defaults included; the kernel takes {limit}; \
         shorten it"
    )]
    CommandLineTooLong {
        /// Length without the NUL.
        length: u64,
        /// The kernel's limit.
        limit: u64,
    },
    /// Trouble with the kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// Trouble with the initrd.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// Guest memory does not match the layout.
    #[error("cannot write {what} to guest memory")]
    Write {
        /// What was written.
        what: &'static str,
        /// What the guest memory said.
        #[source]
        source: GuestMemoryError,
    },
    /// The host has no randomness.
    #[error("cannot get random bytes from the host")]
    Random(#[source] io::Error),
}

/// A size rounded up to MiB.
struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// Kernel, initrd and command line of a guest.
#[derive(Debug)]
pub struct BootSource {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk, if any.
    pub initrd: Option<Initrd>,
    /// The kernel command line.
    pub cmdline: CommandLine,
}

/// A guest ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// State of the boot vCPU.
    pub registers: Registers,
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// How far the kernel was moved in virtual memory, in bytes.
    pub virtual_shift: u64,
    /// How far the kernel was moved in guest-physical memory, in bytes.
    pub physical_shift: u64,
    /// Whether the kernel is in memory unpacked; else it unpacks itself.
    pub extracted: bool,
    /// Guest-physical addresses of the kernel, the memory it needs to start included.
    pub kernel: Range<u64>,
    /// Guest-physical addresses of the initrd.
    pub initrd: Option<Range<u64>>,
}

/// Where kernel and initrd go.
struct Places {
    initrd: Option<Range<u64>>,
    /// First address that the kernel must leave alone.
    kernel_ceiling: u64,
}

impl BootSource {
    /// Least RAM in bytes with which [`Self::check`] passes, in whole MiB: kernel, `init_size`
    /// included, and initrd. A kernel may need more to come up.
    pub fn minimum_memory(&self) -> u64 {
        let initrd = self.initrd.as_ref().map_or(0, Initrd::size);
        let end = self.kernel.memory().end.saturating_add(initrd.next_multiple_of(PAGE_SIZE));
        end.checked_next_multiple_of(1 << 20).unwrap_or(end)
    }

    /// Checks that everything fits into `ram` and the kernel takes the command line. To be called
    /// before a VM is made; [`Self::load`] checks again.
    pub fn check(&self, ram: &RamLayout) -> Result<(), Error> {
        let (length, limit) = (self.cmdline.len(), self.kernel.command_line_limit());
        if length > limit {
            return Err(Error::CommandLineTooLong { length, limit });
        }
        self.places(ram).map(drop)
    }

    fn places(&self, ram: &RamLayout) -> Result<Places, Error> {
        let kernel = self.kernel.memory();
        let ram_end = ram.below_hole().end;
        let too_small = || Error::MemoryTooSmall {
            have: ram.size(),
            kernel: kernel.end,
            initrd: self.initrd.as_ref().map_or(0, Initrd::size),
            minimum: self.minimum_memory(),
        };
        let Some(initrd) = &self.initrd else {
            return if kernel.end > ram_end {
                Err(too_small())
            } else {
                Ok(Places { initrd: None, kernel_ceiling: ram_end })
            };
        };
        let ceiling = self.kernel.initrd_ceiling().min(layout::MMIO_HOLE.start);
        if let Some(place) = initrd.place(kernel.end, ceiling.min(ram_end)) {
            return Ok(Places { kernel_ceiling: place.start, initrd: Some(place) });
        }
        if initrd.place(kernel.end, ceiling).is_some() {
            return Err(too_small());
        }
        Err(Error::InitrdTooLarge {
            path: initrd.path().display().to_string(),
            size: initrd.size(),
            room: ceiling.saturating_sub(kernel.end),
        })
    }

    /// Loads everything into guest memory, which is zero and laid out as `ram`, and prepares the
    /// boot vCPU. `rsdp` is where the ACPI root pointer is.
    ///
    /// Can be called any number of times, each time on fresh memory. Each call chooses a new base
    /// for the kernel, unless the command line says `nokaslr`, and a new seed for its randomness.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        ram: &RamLayout,
        rsdp: GuestAddress,
    ) -> Result<Entry, Error> {
        self.check(ram)?;
        let Places { initrd, kernel_ceiling } = self.places(ram)?;
        let random = crate::random::<16>().map_err(Error::Random)?;
        let shift = self.shift(kernel_ceiling, random);
        let protocol = self.kernel.protocol();
        self.kernel.load(memory, shift.unwrap_or_default())?;
        if let (Some(initrd), Some(place)) = (&self.initrd, &initrd) {
            initrd.load(memory, place.start)?;
        }
        let kaslr = shift.is_some();
        let shift = shift.unwrap_or_default();
        let linked = self.kernel.memory();
        let entry = Entry {
            registers: self.registers(shift)?,
            protocol,
            virtual_shift: shift.virtual_shift.into(),
            physical_shift: shift.physical,
            extracted: self.kernel.is_extracted(),
            kernel: linked.start + shift.physical..linked.end + shift.physical,
            initrd,
        };
        self.describe(memory, ram, rsdp.0, &entry, kaslr)?;
        Ok(entry)
    }

    /// The kernel's new base, or `None` if it stays where it is linked.
    fn shift(&self, ceiling: u64, random: [u8; 16]) -> Option<kaslr::Shift> {
        if self.cmdline.has_flag("nokaslr") || !self.kernel.is_extracted() {
            return None;
        }
        if !self.kernel.is_relocatable() {
            let kernel = self.kernel.path().display();
            tracing::info!(%kernel, "the kernel has no relocation table, its base is not randomised");
            return None;
        }
        let linked = self.kernel.memory();
        let (halves, _) = random.as_chunks::<8>();
        let room = kaslr::Room {
            base: linked.start,
            size: linked.end - linked.start,
            alignment: self.kernel.alignment(),
            ceiling,
            // Parameters that take memory away from the kernel could take its own.
            fixed: ["mem", "memmap", "hugepagesz"].iter().any(|name| self.cmdline.has_value(name)),
        };
        let random = [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])];
        Some(kaslr::choose(self.kernel.protocol(), &room, random))
    }

    fn registers(&self, shift: kaslr::Shift) -> Result<Registers, Error> {
        let entry = self.kernel.entry(shift)?;
        Ok(match self.kernel.protocol() {
            Protocol::Linux64 => Registers::linux64(entry),
            // Below the MMIO hole, like all of the kernel.
            Protocol::Pvh => Registers::pvh(u32::try_from(entry).unwrap_or(u32::MAX)),
        })
    }

    /// Writes what the guest reads about itself.
    fn describe<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        ram: &RamLayout,
        rsdp: u64,
        entry: &Entry,
        kaslr: bool,
    ) -> Result<(), Error> {
        let failed = |what| move |source| Error::Write { what, source };
        let mut line = self.cmdline.as_str().as_bytes().to_vec();
        line.push(0);
        memory
            .write_slice(&line, GuestAddress(layout::COMMAND_LINE))
            .map_err(failed("the command line"))?;
        gdt::write(memory, &entry.registers.cs).map_err(failed("the descriptor table"))?;
        let initrd = entry.initrd.as_ref();
        match entry.protocol {
            Protocol::Linux64 => {
                paging::write(memory).map_err(failed("the page tables"))?;
                let page = ZeroPage {
                    header: self.kernel.header().map(|header| header.raw()),
                    ram,
                    rsdp,
                    initrd: initrd.cloned(),
                    kernel: entry.kernel.start,
                    kaslr,
                    seed: crate::random().map_err(Error::Random)?,
                };
                page.write(memory).map_err(failed("the zero page"))
            }
            Protocol::Pvh => {
                pvh::write(memory, ram, rsdp, initrd).map_err(failed("the PVH start info"))
            }
        }
    }
}

#[cfg(test)]
#[path = "source_test.rs"]
mod source_test;
