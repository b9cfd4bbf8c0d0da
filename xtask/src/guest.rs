//! `xtask guest`: the kernels of the tests, initramfs images for them and disks to boot from, listed in a manifest that
//! tests read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cpio::Archive;
use crate::files;
use crate::initramfs::{self, Contents};
use crate::kernels::{self, Catalogue, Kernel};
use crate::modules;
use crate::rootfs::{self, Roots};
use crate::workspace::Workspace;

const INIT: &str = include_str!("init/guest.sh");
/// What the init script hands over to where there is no other root.
pub const TEST: &str = include_str!("init/test.sh");
/// What the DHCP client runs.
pub const UDHCPC: &str = include_str!("init/udhcpc.sh");
const SCRIPTS: [(&str, &str); 2] =
    [("bin/carve-test", TEST), ("etc/udhcpc/default.script", UDHCPC)];
/// Raised where images change for a reason other than the scripts' text or the kernel.
const FORMAT: u32 = 2;

/// Modules without which a test cannot work.
const REQUIRED: [&str; 9] = [
    "button",
    "evdev",
    "overlay",
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_mmio",
    "virtio_net",
    "virtio_pci",
];
/// Modules that kernels name differently or leave out.
const OPTIONAL: [&str; 10] = [
    "crc32c_generic",
    "erofs",
    "pvpanic",
    "pvpanic_mmio",
    "pvpanic_pci",
    "virtio_mem",
    "virtio_pmem",
    "virtio_rng",
    "virtiofs",
    "vmw_vsock_virtio_transport",
];
/// Modules that are there for whoever asks for their file system: loading all would take a boot half a second more.
const ON_DEMAND: [&str; 3] = ["btrfs", "ext4", "isofs"];
/// What a guest with as little memory as the kernel gets along with can afford.
const TINY: [&str; 3] = ["button", "evdev", "virtio_mmio"];
const TINY_OPTIONAL: [&str; 2] = ["pvpanic", "pvpanic_mmio"];

/// Size of the incompressible file in the huge image.
const BALLAST_MIB: usize = 300;
const MIB: usize = 1 << 20;

/// Why the guests cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kernels.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),
    /// No modules.
    #[error(transparent)]
    Modules(#[from] modules::Error),
    /// No image.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
    /// A file of the cache.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// No disks.
    #[error(transparent)]
    Roots(#[from] rootfs::Error),
    /// There is no kernel of that name.
    #[error("no kernel is called {id}; there are: {known}")]
    NoKernel {
        /// The name asked for.
        id: String,
        /// All there are.
        known: String,
    },
}

/// Arguments of `xtask guest`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Ask the distribution for newer kernels even where the cache is complete
    #[arg(long)]
    refresh: bool,
}

/// What `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Distinguishes images made from other contents.
    pub key: String,
    /// The statically linked busybox the images are made of.
    pub busybox: PathBuf,
    /// The kernels; the first is the default.
    pub kernels: Vec<Guest>,
    /// Disks to boot from; `None` where they were not asked for yet.
    #[serde(default)]
    pub roots: Option<Roots>,
}

/// A kernel with the images made for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Short name, such as `debian-6.1-cloud`.
    pub id: String,
    /// Its release, as `uname -r` prints it.
    pub version: String,
    /// The bzImage.
    pub kernel: PathBuf,
    /// Images by kind: `standard` (every virtio driver), `tiny` (for as little memory as possible), and for the
    /// default kernel `huge` (the tiny one and 300 MiB in `/ballast`, its digest in `/ballast.sha256`).
    pub initrds: BTreeMap<String, PathBuf>,
}

impl Manifest {
    /// Whether the initramfs images are still there.
    fn complete(&self) -> bool {
        self.kernels.iter().all(|guest| guest.initrds.values().all(|image| image.exists()))
    }

    /// The guest called `id`, or the default one.
    pub fn guest(&self, id: Option<&str>) -> Result<&Guest, Error> {
        let found = match id {
            Some(id) => self.kernels.iter().find(|guest| guest.id == id || guest.version == id),
            None => self.kernels.first(),
        };
        found.ok_or_else(|| Error::NoKernel {
            id: id.unwrap_or("the default").to_owned(),
            known: self
                .kernels
                .iter()
                .map(|guest| guest.id.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// The folder that holds `manifest.json` and the images.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache("guests")
}

/// Runs the task: makes everything and prints where it is.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Error> {
    let manifest = obtain_with_roots(workspace, arguments.refresh)?;
    println!("{}", manifest_path(workspace).display());
    for guest in &manifest.kernels {
        println!("{:24} {:28} {}", guest.id, guest.version, guest.kernel.display());
        for (kind, image) in &guest.initrds {
            println!("{:24} {kind:28} {}", "", image.display());
        }
    }
    for (kind, image) in manifest.roots.iter().flat_map(|roots| &roots.images) {
        println!("{:24} {kind:28} {}", "root", image.display());
    }
    Ok(())
}

/// The kernels and initramfs images, made if they are not there already or made of something else.
pub fn obtain(workspace: &Workspace, refresh: bool) -> Result<Manifest, Error> {
    let directory = directory(workspace);
    files::create_dir(&directory)?;
    let _lock = files::lock(&workspace.cache("lock"))?;
    let catalogue = Catalogue::obtain(workspace, refresh)?;
    let key = key(&catalogue);
    let path = manifest_path(workspace);
    let old = files::read_json::<Manifest>(&path).ok().flatten();
    let roots = match old {
        Some(manifest) if manifest.key == key && manifest.complete() => return Ok(manifest),
        old => old.and_then(|manifest| manifest.roots),
    };
    let mut guests = Vec::new();
    for (index, kernel) in catalogue.kernels.iter().enumerate() {
        eprintln!("xtask: building the initramfs images of {}", kernel.id);
        guests.push(build(&directory, &catalogue.busybox, kernel, index == 0)?);
    }
    let manifest = Manifest { key, busybox: catalogue.busybox, kernels: guests, roots };
    files::write_json(&path, &manifest)?;
    Ok(manifest)
}

/// The same and disks to boot from, which only root can make. `refresh` makes them anew.
pub fn obtain_with_roots(workspace: &Workspace, refresh: bool) -> Result<Manifest, Error> {
    let mut manifest = obtain(workspace, refresh)?;
    let _lock = files::lock(&workspace.cache("lock"))?;
    if refresh || !manifest.roots.as_ref().is_some_and(Roots::current) {
        manifest.roots = Some(Roots::build(workspace, &directory(workspace))?);
        files::write_json(&manifest_path(workspace), &manifest)?;
    }
    Ok(manifest)
}

fn manifest_path(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("manifest.json")
}

fn key(catalogue: &Catalogue) -> String {
    let mut digest = Sha256::new();
    digest.update(FORMAT.to_le_bytes());
    digest.update(INIT);
    digest.update(format!("{SCRIPTS:?}{catalogue:?}"));
    digest.update(format!("{REQUIRED:?}{OPTIONAL:?}{ON_DEMAND:?}{TINY:?}{TINY_OPTIONAL:?}"));
    hex(&digest.finalize())
}

fn build(directory: &Path, busybox: &Path, kernel: &Kernel, huge: bool) -> Result<Guest, Error> {
    let directory = directory.join(&kernel.id);
    files::create_dir(&directory)?;
    let tree = modules::Tree::open(&kernel.modules)?;
    let mut initrds = BTreeMap::new();
    for (kind, required, optional, on_demand) in [
        ("standard", &REQUIRED[..], &OPTIONAL[..], &ON_DEMAND[..]),
        ("tiny", &TINY[..], &TINY_OPTIONAL[..], &[]),
    ] {
        let image = directory.join(format!("{kind}.cpio"));
        let modules = tree.collect(required, optional)?;
        let loaded = modules.len();
        let modules = tree.extend(modules, on_demand)?;
        let contents = Contents {
            busybox,
            init: INIT,
            version: &kernel.version,
            scripts: &SCRIPTS,
            modules: &modules,
            loaded,
            mount_points: &["etc/udhcpc"],
        };
        contents.build(&image)?;
        initrds.insert(kind.to_owned(), image);
    }
    if huge {
        let image = directory.join("huge.cpio");
        write_huge(&image, &initrds["tiny"]).map_err(files::at("write", &image))?;
        initrds.insert("huge".to_owned(), image);
    }
    Ok(Guest {
        id: kernel.id.clone(),
        version: kernel.version.clone(),
        kernel: kernel.image.clone(),
        initrds,
    })
}

/// The small image followed by a second archive: the kernel unpacks one after the other.
fn write_huge(path: &Path, small: &Path) -> io::Result<()> {
    let ballast = ballast();
    let digest = format!("{}  /ballast\n", hex(&Sha256::digest(&ballast)));
    let mut out = BufWriter::new(File::create(path)?);
    io::copy(&mut File::open(small)?, &mut out)?;
    let mut archive = Archive::new(out);
    archive.file("ballast", 0o644, &ballast)?;
    archive.file("ballast.sha256", 0o644, digest.as_bytes())?;
    archive.finish()?.flush()
}

/// Bytes that no compressor shortens, the same every time (xorshift64*).
fn ballast() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(BALLAST_MIB * MIB);
    while bytes.len() < BALLAST_MIB * MIB {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
