use super::super::{CpuShare, Restart, Source};
use super::*;

fn resolve(text: &str) -> Result<HostConfig, String> {
    let source = Source { path: "f".into(), content: text.into() };
    let layers = Layers::parse(vec![source]).map_err(|error| error.to_string())?;
    layers.resolve().map_err(|error| error.to_string())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn defaults_lie_below_every_vm_and_counts_are_written_out() {
    let config = resolve(
        "host.overcommit.cpu = 4\n[defaults]\nkernel = \"/k\"\nrestart = \"always\"\n\
         [vm.web]\ncount = 2\nvcpus = 2\n[vm.db]\ncpu = \"dedicated\"\nrestart = \"no\"",
    )
    .unwrap();
    let names: Vec<_> = config.guests.keys().map(Name::as_str).collect();
    assert_eq!(names, ["db", "web-1", "web-2"]);
    let web = &config.guests[&name("web-2")];
    assert_eq!((web.restart, web.section.as_str()), (Restart::Always, "web"));
    assert_eq!(web.vm.name.as_deref(), Some("web-2"));
    let half = Thousandths::from_thousandths(500);
    assert_eq!(web.cpu, CpuShare::Shared { min: half, max: Thousandths::whole(2) });
    assert_eq!(config.guests[&name("db")].restart, Restart::No);
}

#[test]
fn each_of_a_count_has_its_own_disks_and_addresses() {
    let config = resolve(
        "[pool.fast]\npath = \"/srv/fast\"\n[vm.web]\ncount = 2\nkernel = \"/k\"\n\
         disk.root = { pool = \"fast\", size = \"1GiB\" }\nnet.lan.bridge = \"br0\"",
    )
    .unwrap();
    let [first, second] = [&config.guests[&name("web-1")], &config.guests[&name("web-2")]];
    assert_eq!(first.vm.disk[0].path, std::path::Path::new("/srv/fast/web-1.root.img"));
    assert_eq!(second.vm.disk[0].path, std::path::Path::new("/srv/fast/web-2.root.img"));
    assert_ne!(first.vm.net[0].mac, second.vm.net[0].mac);
}

#[test]
fn shares_of_cpus_follow_from_each_other() {
    let cpu = |text: &str| {
        let config = resolve(&format!(
            "host.overcommit.cpu = 3\n[vm.a]\nkernel = \"/k\"\nvcpus = 2\n{text}"
        ));
        config.map(|config| config.guests[&name("a")].cpu.clone())
    };
    let shared = |min, max| {
        let of = Thousandths::from_thousandths;
        Ok(CpuShare::Shared { min: of(min), max: of(max) })
    };
    assert_eq!(cpu(""), shared(666, 2000));
    assert_eq!(cpu("cpu.min = 0.25"), shared(250, 2000));
    assert_eq!(cpu("cpu.max = 0.5"), shared(500, 500));
    assert_eq!(cpu("cpu.min = 3"), shared(3000, 3000));
    for (text, reason) in [
        ("cpu = { min = 2, max = 1 }", "cpu.min is 2, but cpu.max only 1"),
        ("cpu.max = 0.001", "no less than 0.01"),
        ("cpu = { pins = \"1-2\", min = 1 }", "keep one of the two"),
        ("cpu.pins = \"1\"", "pins has 1 CPUs, but a needs 2"),
        ("workers = 1", "workers is for dedicated CPUs"),
        ("numa = 0", "numa is for dedicated CPUs"),
        ("cpu = \"dedicated\"\nworkers = 300", "at most 256"),
    ] {
        let error = cpu(text).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_circle_is_told_once_and_in_its_order() {
    let vm = |name: &str, after: &str| format!("[vm.{name}]\nkernel = \"/k\"\nafter = [{after}]\n");
    let text =
        [vm("a", "\"b\""), vm("b", "\"c\""), vm("c", "\"a\""), vm("d", "\"a\""), vm("e", "\"e\"")];
    let error = resolve(&text.concat()).unwrap_err();
    assert!(error.contains("in a circle: a after b after c after a"), "{error}");
    assert!(error.contains("in a circle: e after e"), "{error}");
    assert_eq!(error.matches("[after-cycle]").count(), 2, "{error}");
    assert!(resolve(&[vm("a", "\"b\", \"c\""), vm("b", "\"c\""), vm("c", "")].concat()).is_ok());
}

#[test]
fn everything_wrong_is_told_at_once() {
    let error = resolve(
        "host.overcommit.cpu = 0.5\nhost.reserve.memory = 8\n[pool.p]\nsize = 5\niops = 0\n\
         [tenant.t]\nuser = \"a b\"\nstorage.none = \"1GiB\"\n[vm.a]\ntenant = \"u\"\ncount = 0\n\
         [vm.b]\nmemory = 16\ntenant = \"u\"\nafter = [\"z\"]\n\
         disk.d = { pool = \"q\", size = \"1GiB\", path = \"x\" }\nready.vsock = 5\nkernel = \"\"",
    )
    .unwrap_err();
    for part in [
        "overcommit.cpu is 0.5, but it is at least 1",
        "host.reserve.memory is 8 bytes",
        "pool p has no path",
        "pool.p.size is 5 bytes",
        "iops 0",
        "user `a b`",
        "storage in pool none, which is not defined; defined are: p",
        "count is 0",
        "VM b is of tenant u, which is not defined; defined are: t",
        "b comes after z",
        "in pool q, which is not defined",
        "has both pool and path",
        "memory is 16B",
        "kernel is an empty path",
    ] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

#[test]
fn a_resolved_vm_reads_back_as_it_was_written() {
    let config = resolve(
        "[pool.p]\npath = \"/p\"\n[vm.a]\nkernel = \"/k\"\nvcpus = 2\nmemory = { size = \"1GiB\", min = \"512MiB\" }\n\
         balloon = {}\ndisk.r = { pool = \"p\", size = \"1GiB\", image = \"/i\" }\nnet.l = { bridge = \"b\", bandwidth = \"1MB/s\" }\n\
         cpu = { min = 0.5, max = 1.5 }\nrestart = \"on-failure:3\"\nvsock = { cid = 3, socket = \"s\" }\nready.vsock = 1",
    )
    .unwrap();
    let guest = &config.guests[&name("a")];
    let text = serde_json::to_string(guest).unwrap();
    assert_eq!(&serde_json::from_str::<Guest>(&text).unwrap(), guest);
}
