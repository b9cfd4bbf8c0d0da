use std::collections::BTreeSet;

use super::super::{GuestSpec, HostSpec, Layers, Source};
use super::*;

/// A host file that sets every key that is not one of a VM.
const EVERYTHING: &str = r#"
version = 1
[host]
reserve = { cpus = "0", memory = "1GiB" }
overcommit = { cpu = 2, memory = 1.5, storage = 1.25 }
smt = "shared"
[pool.p]
path = "/p"
size = "1GiB"
iops = 1
bandwidth = "1MB/s"
on_full = "error"
[tenant.t]
user = "u"
cpus = 1.5
memory = "1GiB"
storage = { p = "1GiB" }
bandwidth = "1MB/s"
[defaults]
tenant = "t"
count = 1
cpu = { min = 1, max = 2, pins = "1" }
workers = 1
numa = 0
restart = "always"
ready = { vsock = 1, timeout = "1s" }
after = ["a"]
state = "stopped"
labels = { a = "b" }
enforce = "best-effort"
"#;

fn leaves(table: &toml::Table, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => leaves(inner, &format!("{prefix}{key}."), paths),
            _ => drop(paths.insert(format!("{prefix}{key}"))),
        }
    }
}

/// The documented keys that are no tables around others.
fn documented(keys: &[Key]) -> BTreeSet<String> {
    let inner = |key: &&Key| !keys.iter().any(|k| k.path.starts_with(&format!("{}.", key.path)));
    keys.iter().filter(inner).map(|key| key.path.to_owned()).collect()
}

#[test]
fn every_key_of_the_schema_is_documented_and_every_documented_key_exists() {
    let source = Source { path: "f".into(), content: EVERYTHING.into() };
    let HostSpec { host, pool, tenant, defaults: GuestSpec { share, .. }, .. } =
        Layers::parse(vec![source]).unwrap().spec().clone();
    let mut written = BTreeSet::from(["version".to_owned()]);
    leaves(&toml::Table::try_from(&host).unwrap(), "host.", &mut written);
    leaves(&toml::Table::try_from(pool.values().next()).unwrap(), "pool.*.", &mut written);
    leaves(&toml::Table::try_from(tenant.values().next()).unwrap(), "tenant.*.", &mut written);
    assert!(written.remove("tenant.*.storage.p") && written.insert("tenant.*.storage.*".into()));
    assert_eq!(written, documented(HOST_KEYS));

    let mut written = BTreeSet::new();
    leaves(&toml::Table::try_from(&share).unwrap(), "", &mut written);
    assert!(written.remove("labels.a") && written.insert("labels.*".into()));
    assert_eq!(written, documented(SHARE_KEYS));
}

#[test]
fn the_user_guide_lists_every_key_as_documented_here() {
    let guide = include_str!("../../../../docs/user/divide.md");
    for key in HOST_KEYS.iter().chain(SHARE_KEYS) {
        let row = format!("| `{}` | {} | {} | {} |", key.path, key.takes, key.default, key.meaning);
        assert!(guide.contains(&row), "docs/user/divide.md lacks the row\n{row}");
    }
}

#[test]
fn the_user_guide_lists_every_code() {
    let guide = include_str!("../../../../docs/user/divide.md");
    for code in crate::config::Code::ALL {
        let row = format!("| `{code}` | {} |", code.meaning());
        assert!(guide.contains(&row), "docs/user/divide.md lacks the row\n{row}");
    }
}
