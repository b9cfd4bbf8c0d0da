//! What the emulated host boots from, made once and kept in the cache: its kernel, an initramfs that mounts this
//! machine's root, and a folder of modules that commands inside may load.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, qemu};
use crate::apt::{Apt, Suite};
use crate::decompress;
use crate::files;
use crate::initramfs::Contents;
use crate::kernels::{Catalogue, Kernel};
use crate::modules::{self, Tree};
use crate::workspace::Workspace;

/// Chooses the kernel by id or release.
const KERNEL_VARIABLE: &str = "CARVE_HOST_KERNEL";
const INIT: &str = include_str!("../init/host.sh");
/// What `--init systemd` boots.
const SYSTEMD: &str = "/lib/systemd/systemd";
const BUS: &str = "/usr/bin/dbus-daemon";
/// Raised where the files change for a reason other than the init script's text or the kernel.
const FORMAT: u32 = 2;

/// Needed to reach the root file system and the agent's port.
const BOOT: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
/// Loaded by the agent.
const KVM: [&str; 1] = ["kvm_amd"];
/// What a host of guests offers; loaded on demand with `modprobe`, the first three by the agent.
const OFFERED: [&str; 27] = [
    "crc32c_generic",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "vhost_iotlb",
    "virtio_rng",
    "virtio_blk",
    "virtio_net",
    "bridge",
    "br_netfilter",
    "veth",
    "dummy",
    "loop",
    "null_blk",
    "nbd",
    "brd",
    "dm_mod",
    "dm_thin_pool",
    "dm_snapshot",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_limit",
    "ext4",
    "xfs",
    "erofs",
    "sch_htb",
];
/// Modules the agent loads before it runs the command.
pub const LOADED: [&str; 4] = ["kvm_amd", "tun", "vhost_net", "vhost_vsock"];

/// The files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    key: String,
    /// Release of the kernel.
    pub version: String,
    /// The kernel: uncompressed if it could be extracted, else the bzImage.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// A folder for `/lib/modules/VERSION`.
    pub modules: PathBuf,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}

/// Makes what is missing, QEMU included.
pub fn obtain(workspace: &Workspace) -> Result<(qemu::Qemu, Host), Error> {
    let directory = workspace.cache("host");
    files::create_dir(&directory)?;
    let _lock = files::lock(&workspace.cache("lock"))?;
    let qemu = qemu::Qemu::obtain(workspace)?;
    let catalogue = Catalogue::obtain(workspace, false)?;
    let kernel = choose(&catalogue)?;
    let key =
        format!("{FORMAT} {kernel:?} {:?} {BOOT:?}{KVM:?}{OFFERED:?} {INIT}", catalogue.busybox);
    let record = directory.join(format!("{}.json", kernel.id));
    if let Ok(Some(host)) = files::read_json::<Host>(&record)
        && host.key == key
        && host.kernel.exists()
        && host.initrd.exists()
        && host.modules.exists()
    {
        return Ok((qemu, host));
    }
    eprintln!("xtask: building the initramfs of the emulated host ({})", kernel.id);
    let host = build(&directory, &catalogue.busybox, kernel, key)?;
    files::write_json(&record, &host)?;
    Ok((qemu, host))
}

/// Makes sure that this machine's file system has a systemd to boot the host with, and the bus it is talked to by.
pub fn obtain_systemd(workspace: &Workspace) -> Result<(), Error> {
    for (path, package) in [(SYSTEMD, "systemd"), (BUS, "dbus")] {
        if !Path::new(path).exists() {
            let remedy = "The emulated host boots with it, but for --init agent.";
            Apt::open(workspace, remedy)?.install(&[package], Suite::Stable)?;
        }
    }
    Ok(())
}

fn choose(catalogue: &Catalogue) -> Result<&Kernel, Error> {
    let fit = |kernel: &&Kernel| {
        Tree::open(&kernel.modules)
            .is_ok_and(|tree| BOOT.iter().chain(&KVM).all(|module| tree.has(module)))
    };
    let chosen = match std::env::var(KERNEL_VARIABLE) {
        Ok(id) => catalogue.kernel(&id).filter(fit),
        Err(_) => catalogue.kernels.iter().find(fit),
    };
    chosen.ok_or_else(|| Error::NoKernel {
        known: catalogue.kernels.iter().map(|k| k.id.as_str()).collect::<Vec<_>>().join(", "),
    })
}

fn build(directory: &Path, busybox: &Path, kernel: &Kernel, key: String) -> Result<Host, Error> {
    let tree = Tree::open(&kernel.modules)?;
    let initrd = directory.join(format!("{}.cpio", kernel.id));
    let boot = tree.collect(&BOOT, &[])?;
    Contents {
        busybox,
        init: INIT,
        version: &kernel.version,
        scripts: &[],
        modules: &boot,
        loaded: boot.len(),
        mount_points: &["lower", "upper"],
    }
    .build(&initrd)?;

    let folder = directory.join(format!("{}-modules", kernel.id));
    let partial = files::sibling(&folder, "new");
    files::remove_tree(&partial)?;
    files::create_dir(&partial)?;
    let offered: Vec<_> = BOOT.iter().chain(&OFFERED).copied().collect();
    let all = tree.collect(&KVM, &offered)?;
    for module in &all {
        files::replace(&partial.join(format!("{}.ko", module.name)), &module.image)?;
    }
    files::replace(&partial.join("modules.dep"), modules::modules_dep(&all).as_bytes())?;
    files::replace(&partial.join("modules.alias"), modules::modules_alias(&all).as_bytes())?;
    files::remove_tree(&folder)?;
    files::rename(&partial, &folder)?;
    Ok(Host {
        key,
        version: kernel.version.clone(),
        kernel: extract(directory, kernel)?,
        initrd,
        modules: folder,
        busybox: busybox.to_owned(),
    })
}

fn extract(directory: &Path, kernel: &Kernel) -> Result<PathBuf, Error> {
    let Some(image) = decompress::vmlinux(&files::read(&kernel.image)?) else {
        return Ok(kernel.image.clone());
    };
    let path = directory.join(format!("{}.vmlinux", kernel.id));
    files::replace(&path, &image)?;
    Ok(path)
}
