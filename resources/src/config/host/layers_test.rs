use super::*;

fn source(path: &str, content: &str) -> Source {
    Source { path: path.into(), content: content.into() }
}

fn shown(sources: Vec<Source>) -> String {
    Layers::parse(sources).unwrap_err().to_string()
}

#[test]
fn later_sources_win_key_by_key_and_devices_are_replaced_whole() {
    let layers = Layers::parse(vec![
        source("etc/carve.toml", "[host]\nsmt = \"shared\"\nreserve.cpus = \"0\"\n[vm.db]\nkernel = \"k\"\nvcpus = 2\ndisk.root = { path = \"a\", readonly = true }"),
        source("etc/carve.d/10.toml", "host.reserve.cpus = \"0-1\"\n[vm.db]\nvcpus = 3\ndisk.root = \"b\"\n[vm.web]\nkernel = \"k\""),
    ])
    .unwrap();
    let spec = layers.spec();
    assert_eq!(spec.host.reserve.cpus.as_ref().unwrap().to_string(), "0-1");
    let db = &spec.vm[&"db".parse::<Name>().unwrap()].vm;
    assert_eq!((db.vcpus, db.kernel.as_deref()), (Some(3), Some("etc/k".as_ref())));
    assert_eq!(db.disk[0].path, std::path::Path::new("etc/carve.d/b"));
    assert!(!db.disk[0].readonly && spec.vm.len() == 2);
}

#[test]
fn every_value_has_an_origin() {
    let layers = Layers::parse(vec![
        source("a.toml", "host.overcommit.cpu = 2\n[vm.db]\nvcpus = 2\ndisk.root = { path = \"a\", readonly = true }"),
        source("b.toml", "\n[vm.db]\nvcpus = 3\ndisk.root.path = \"b\""),
    ])
    .unwrap();
    let values = layers.values();
    let of = |key: &str| {
        let value = values.iter().find(|value| value.key == key);
        value.map(|value| (value.value.as_str(), value.origin.as_str()))
    };
    assert_eq!(of("vm.db.vcpus"), Some(("3", "b.toml:3")));
    assert_eq!(of("vm.db.disk.root.path"), Some(("\"b\"", "b.toml:4")));
    assert_eq!(of("vm.db.disk.root.readonly"), None);
    assert_eq!(of("host.overcommit.cpu"), Some(("2", "a.toml:1")));
    assert_eq!(of("host.overcommit.memory"), Some(("1", "built-in")));
    assert_eq!(of("host.smt"), Some(("\"per-tenant\"", "built-in")));
    assert_eq!(of("host.reserve.memory"), Some(("\"0\"", "built-in")));
}

#[test]
fn everything_wrong_in_every_source_is_told_at_once() {
    let shown = shown(vec![
        source(
            "a.toml",
            "[vm.db]\nvcpus = \"two\"\nmemory = true\ncpu = \"mine\"\n[vm.Web]\nkernel = \"k\"",
        ),
        source("b.toml", "[hots]\nx = 1\n[vm.db]\ntennant = \"a\""),
        source("c.toml", "version = 2\nvm = 3\n[tenant.a]\ncpus = -1"),
        source("d.toml", "]"),
    ]);
    for part in [
        "a.toml:2:9: `vm.db.vcpus`",
        "a.toml:3:10: `vm.db.memory`",
        "a.toml:4:7: `vm.db.cpu`",
        "a.toml:5:5: `Web` is not a name",
        "b.toml:1:2: unknown key `hots`; did you mean `host`?",
        "b.toml:4:1: unknown key `vm.db.tennant`; did you mean `vm.db.tenant`?",
        "c.toml:1:11: `version` is not 1",
        "c.toml:2:6: `vm` is a table",
        "c.toml:4:8: `tenant.a.cpus`",
        "d.toml:1:1: this is not TOML",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}

#[test]
fn a_key_of_a_vm_is_found_where_it_was_said() {
    let layers = Layers::parse(vec![
        source("a.toml", "[defaults]\nvcpus = 2\n[vm.db]\nkernel = \"k\""),
        source("b.toml", "[vm.db]\nmemory = \"1g\""),
    ])
    .unwrap();
    let place = |path: &str| layers.locate(path).map(|at| (at.path.display().to_string(), at.line));
    assert_eq!(place("vm.db.vcpus"), Some(("a.toml".into(), 2)));
    assert_eq!(place("vm.db.memory.size"), Some(("b.toml".into(), 2)));
    assert_eq!(place("vm.db.kernel"), Some(("a.toml".into(), 4)));
    // Nowhere said: the VM itself.
    assert_eq!(place("vm.db.cmdline"), Some(("b.toml".into(), 1)));
    assert_eq!(place("host.smt"), None);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[a-z\\[\\]{}=.,\"\n \t0-9é]{0,80}", bytes: Vec<u8>) {
        for content in [text.into_bytes(), bytes] {
            let layers = Layers::parse(vec![Source { path: "f".into(), content }]);
            let _ = layers.map(|layers| layers.resolve().map_err(|error| error.to_string()));
        }
    }
}
