//! Index files from made-up modules; the reading of real ones is covered by every boot.

use super::*;

fn module(name: &str, depends: &[&str]) -> Module {
    let depends = depends.iter().map(|name| (*name).to_owned()).collect();
    Module { name: name.to_owned(), image: Vec::new(), depends, aliases: Vec::new() }
}

#[test]
fn module_files_are_told_by_name() {
    let name = |path: &str| module_name(Path::new(path));
    assert_eq!(name("kernel/drivers/virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
    assert_eq!(name("a/b.ko").as_deref(), Some("b"));
    assert_eq!(name("a/b.ko.bak"), None);
    assert_eq!(name("modules.order"), None);
}

#[test]
fn modules_dep_lists_the_whole_closure_first_to_load_last() {
    let modules = [
        module("virtio", &[]),
        module("virtio_ring", &["virtio"]),
        module("virtio_net", &["virtio_ring", "virtio"]),
    ];
    assert_eq!(
        modules_dep(&modules),
        "virtio.ko:\nvirtio_ring.ko: virtio.ko\nvirtio_net.ko: virtio_ring.ko virtio.ko\n"
    );
}

#[test]
fn a_dependency_that_is_built_in_is_left_out() {
    assert_eq!(modules_dep(&[module("overlay", &["built_in"])]), "overlay.ko:\n");
}

#[test]
fn collecting_reports_a_required_module_the_kernel_lacks() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("kernel")).unwrap();
    std::fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    let tree = Tree::open(folder.path()).unwrap();
    assert!(tree.collect(&["ext4"], &["absent"]).unwrap().is_empty());
    assert!(
        matches!(tree.collect(&["absent"], &[]), Err(Error::Missing { name, .. }) if name == "absent")
    );
}
