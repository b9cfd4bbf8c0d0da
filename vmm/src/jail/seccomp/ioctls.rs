//! Numbers of the ioctls that threads make, by who makes them (Documentation/virt/kvm/api.rst, tty_ioctl(4),
//! linux/if_tun.h, linux/fs.h).

use kvm_bindings::{
    kvm_cpuid2, kvm_enable_cap, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_lapic_state,
    kvm_mp_state, kvm_msi, kvm_msrs, kvm_regs, kvm_sregs, kvm_translation,
    kvm_userspace_memory_region,
};

const READ: u32 = 2;
const WRITE: u32 = 1;

/// A number as the macros `_IO`, `_IOR`, `_IOW` and `_IOWR` of linux/ioctl.h make it.
#[allow(clippy::cast_possible_truncation)] // Structures of less than 16 KiB.
const fn number<T>(direction: u32, kind: u8, command: u8) -> u32 {
    let size = std::mem::size_of::<T>() as u32;
    direction << 30 | size << 16 | (kind as u32) << 8 | command as u32
}

const fn kvm<T>(direction: u32, command: u8) -> u32 {
    number::<T>(direction, 0xae, command)
}

pub const KVM_RUN: u32 = kvm::<()>(0, 0x80);
pub const KVM_IRQFD: u32 = kvm::<kvm_irqfd>(WRITE, 0x76);
pub const KVM_IOEVENTFD: u32 = kvm::<kvm_ioeventfd>(WRITE, 0x79);
pub const KVM_SET_GSI_ROUTING: u32 = kvm::<kvm_irq_routing>(WRITE, 0x6a);
pub const KVM_SIGNAL_MSI: u32 = kvm::<kvm_msi>(WRITE, 0xa5);

/// What is done to a machine while it runs: doorbells, interrupts.
pub const KVM_WIRING: [u32; 4] = [KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI];

/// What a vCPU's thread does to its vCPU beside running it.
pub const KVM_VCPU: [u32; 4] = [
    kvm::<kvm_regs>(READ, 0x81),                // KVM_GET_REGS
    kvm::<kvm_sregs>(READ, 0x83),               // KVM_GET_SREGS
    kvm::<kvm_translation>(READ | WRITE, 0x85), // KVM_TRANSLATE
    kvm::<()>(0, 0xad),                         // KVM_KVMCLOCK_CTRL
];

/// What building a machine takes.
pub const KVM_BUILD: [u32; 17] = [
    kvm::<()>(0, 0x01),                              // KVM_CREATE_VM
    kvm::<()>(0, 0x03),                              // KVM_CHECK_EXTENSION
    kvm::<()>(0, 0x04),                              // KVM_GET_VCPU_MMAP_SIZE
    kvm::<kvm_cpuid2>(READ | WRITE, 0x05),           // KVM_GET_SUPPORTED_CPUID
    kvm::<()>(0, 0x41),                              // KVM_CREATE_VCPU
    kvm::<kvm_userspace_memory_region>(WRITE, 0x46), // KVM_SET_USER_MEMORY_REGION
    kvm::<()>(0, 0x47),                              // KVM_SET_TSS_ADDR
    kvm::<u64>(WRITE, 0x48),                         // KVM_SET_IDENTITY_MAP_ADDR
    kvm::<kvm_regs>(WRITE, 0x82),                    // KVM_SET_REGS
    kvm::<kvm_sregs>(READ, 0x83),                    // KVM_GET_SREGS
    kvm::<kvm_sregs>(WRITE, 0x84),                   // KVM_SET_SREGS
    kvm::<kvm_msrs>(READ | WRITE, 0x88),             // KVM_GET_MSRS
    kvm::<kvm_msrs>(WRITE, 0x89),                    // KVM_SET_MSRS
    kvm::<kvm_cpuid2>(WRITE, 0x90),                  // KVM_SET_CPUID2
    kvm::<kvm_mp_state>(WRITE, 0x99),                // KVM_SET_MP_STATE
    kvm::<kvm_lapic_state>(WRITE, 0x8f),             // KVM_SET_LAPIC
    kvm::<kvm_enable_cap>(WRITE, 0xa3),              // KVM_ENABLE_CAP
];

/// Not to wait.
#[allow(clippy::cast_possible_truncation)] // Numbers of ioctls have 32 bits; libc's types differ.
pub const FIONBIO: u32 = libc::FIONBIO as u32;

/// Modes and size of the terminal that a console is on.
#[allow(clippy::cast_possible_truncation)]
pub const TERMINAL: [u32; 6] = [
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TIOCGPGRP as u32,
    libc::TIOCGWINSZ as u32,
    libc::TIOCSWINSZ as u32,
    libc::FIONREAD as u32,
];

/// Queues and offloads of a tap.
#[allow(clippy::cast_possible_truncation)]
pub const TAP: [u32; 3] =
    [libc::TUNSETOFFLOAD as u32, libc::TUNSETQUEUE as u32, libc::TUNSETVNETHDRSZ as u32];

/// Of `/dev/vhost-net`: what a pair of queues is served with, where interrupts go, whose its worker is.
pub use devices::virtio::net::vhost::ioctls::{
    SERVE as VHOST_SERVE, SET_OWNER as VHOST_SET_OWNER, SET_VRING_CALL as VHOST_SET_VRING_CALL,
};

/// linux/fs.h: BLKDISCARD, BLKGETSIZE64, BLKSSZGET.
pub const BLOCK_DEVICE: [u32; 3] =
    [number::<()>(0, 0x12, 119), number::<usize>(READ, 0x12, 114), number::<()>(0, 0x12, 104)];

#[cfg(test)]
mod ioctls_test {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        assert_eq!((KVM_RUN, KVM_IRQFD, KVM_IOEVENTFD), (0xae80, 0x4020_ae76, 0x4040_ae79));
        assert_eq!((KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI), (0x4008_ae6a, 0x4020_aea5));
        assert_eq!(KVM_BUILD[3], 0xc008_ae05);
        assert_eq!(KVM_BUILD[5], 0x4020_ae46);
        assert_eq!((KVM_BUILD[11], KVM_BUILD[16]), (0xc008_ae88, 0x4068_aea3));
        assert_eq!(BLOCK_DEVICE, [0x1277, 0x8008_1272, 0x1268]);
    }
}
