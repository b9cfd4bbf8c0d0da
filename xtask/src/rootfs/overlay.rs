//! What the root file systems hold besides Debian's packages: the configuration of a guest without a network or a
//! keyboard, whose every instruction may be emulated, so that a boot is short and ends in a root shell on its consoles.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Error;
use crate::{files, guest};

/// Path, permissions and text.
const FILES: [(&str, u32, &str); 12] = [
    ("usr/bin/carve-test", 0o755, guest::TEST),
    ("etc/udhcpc/default.script", 0o755, guest::UDHCPC),
    ("etc/hostname", 0o644, "carve-guest\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 carve-guest\n"),
    ("etc/fstab", 0o644, ""),
    // A machine that has one does not go through its first boot.
    ("etc/machine-id", 0o444, "c0de5f3ad1c2467b9c4e2b6f8a7d1e30\n"),
    ("etc/systemd/system/serial-getty@.service.d/autologin.conf", 0o644, AUTOLOGIN),
    ("etc/systemd/system/systemd-logind.service.d/late.conf", 0o644, LOGIND),
    ("etc/systemd/system/systemd-udev-trigger.service.d/few.conf", 0o644, UDEV_TRIGGER),
    ("etc/systemd/journald.conf.d/guest.conf", 0o644, JOURNAL),
    ("etc/systemd/system.conf.d/guest.conf", 0o644, SYSTEM),
    ("etc/systemd/network/80-dhcp.network", 0o644, NETWORK),
];

// Not of type idle: that waits for everything else.
const AUTOLOGIN: &str = "\
[Service]
Type=simple
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 --noclear - $TERM
";
// It is for the power button: a prompt need not wait for it.
const LOGIND: &str = "\
[Unit]
After=getty.target
";
// Each device takes programs to be started, and a kernel has 64 virtual terminals alone.
const UDEV_TRIGGER: &str = "\
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=input --subsystem-match=virtio-ports
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty --sysname-match=ttyS0 --sysname-match=hvc*
";
const JOURNAL: &str = "\
[Journal]
Storage=volatile
RuntimeMaxUse=8M
Audit=no
ReadKMsg=no
ForwardToSyslog=no
ForwardToWall=no
";
const SYSTEM: &str = "\
[Manager]
ShowStatus=no
LogLevel=warning
DefaultTimeoutStartSec=600
DefaultDeviceTimeoutSec=600
DefaultTimeoutStopSec=10
";
// For guests started with systemd.wants=systemd-networkd.service on the kernel command line.
const NETWORK: &str = "\
[Match]
Type=ether

[Network]
DHCP=yes
LinkLocalAddressing=no
IPv6AcceptRA=no
";

/// Path and target, besides the masked units.
const LINKS: [(&str, &str); 3] = [
    ("etc/resolv.conf", "../run/resolv.conf"),
    // Modules come from the initramfs, with the index that busybox reads.
    ("usr/sbin/modprobe", "../bin/busybox"),
    ("etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target"),
];

/// Units that take time and do nothing for a test.
const MASKED: [&str; 36] = [
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "remote-fs.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-modules-load.service",
    "systemd-network-generator.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// What decides the contents.
pub fn description() -> String {
    format!("{FILES:?}{LINKS:?}{MASKED:?}")
}

/// Puts everything into `tree`.
pub fn apply(tree: &Path) -> Result<(), Error> {
    for (path, mode, text) in FILES {
        let path = tree.join(path);
        make(&path, |path| {
            fs::write(path, text)?;
            fs::set_permissions(path, Permissions::from_mode(mode))
        })?;
    }
    for (path, target) in LINKS {
        make(&tree.join(path), |path| symlink(target, path))?;
    }
    for unit in MASKED {
        let path = tree.join("etc/systemd/system").join(unit);
        make(&path, |path| symlink("/dev/null", path))?;
    }
    files::create_dir(&tree.join("lib/modules"))?;
    let shadow = tree.join("etc/shadow");
    let text = files::read_text(&shadow)?.replace("root:*:", "root::");
    fs::write(&shadow, text).map_err(files::at("write", &shadow))?;
    Ok(())
}

/// Makes a file, or a link, in the place of what may be there.
fn make(path: &Path, how: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        files::create_dir(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files::at("replace", path)(error).into());
        }
        _ => {}
    }
    Ok(how(path).map_err(files::at("write", path))?)
}
