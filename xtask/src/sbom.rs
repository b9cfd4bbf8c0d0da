//! `xtask sbom`: what the released binary is made of, as a CycloneDX 1.5 bill of materials: the crates that are
//! linked into it, from cargo's own resolution of the lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::workspace::Workspace;
use crate::{cargo, process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The portable target; dependencies of others are not in the binary.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// The package that is released.
const PACKAGE: &str = "carve";

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None for packages of the workspace.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// None for what is linked; `build` and `dev` otherwise.
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Prints the bill of materials as JSON.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut command = cargo::command(workspace);
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let metadata: Metadata = serde_json::from_str(&process::output(&mut command)?)?;
    let lock: Lock = toml::from_str(&fs::read_to_string(workspace.root().join("Cargo.lock"))?)?;
    println!("{}", serde_json::to_string_pretty(&bill(&metadata, &lock)?)?);
    Ok(())
}

fn bill(metadata: &Metadata, lock: &Lock) -> Result<Value> {
    let root = metadata.packages.iter().find(|package| package.name == PACKAGE);
    let root = root.ok_or_else(|| format!("there is no package {PACKAGE}"))?;
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let linked = |id: &str| -> Vec<&str> {
        let deps = nodes.get(id).map(|node| node.deps.iter()).into_iter().flatten();
        let linked = deps.filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        linked.map(|dep| dep.pkg.as_str()).collect()
    };
    let mut reached = BTreeSet::from([root.id.as_str()]);
    let mut next = vec![root.id.as_str()];
    while let Some(id) = next.pop() {
        next.extend(linked(id).into_iter().filter(|id| reached.insert(id)));
    }
    let mut packages: Vec<&Package> =
        metadata.packages.iter().filter(|package| reached.contains(package.id.as_str())).collect();
    packages.sort_by_key(|package| (&package.name, &package.version));
    let reference = |id: &str| {
        let found = packages.iter().find(|package| package.id == id);
        found.map(|package| purl(package)).unwrap_or_default()
    };
    let components = packages.iter().filter(|package| package.id != root.id);
    let components: Vec<_> = components.map(|package| component(package, lock)).collect();
    let dependencies: Vec<_> = packages
        .iter()
        .map(|package| {
            let on: BTreeSet<_> = linked(&package.id).into_iter().map(reference).collect();
            json!({ "ref": purl(package), "dependsOn": on })
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "bom-ref": purl(root), "name": root.name, "version": root.version } },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn component(package: &Package, lock: &Lock) -> Value {
    let same = |locked: &&Locked| locked.name == package.name && locked.version == package.version;
    let checksum = lock.package.iter().find(same).and_then(|locked| locked.checksum.as_ref());
    let hashes: Vec<_> =
        checksum.iter().map(|sum| json!({ "alg": "SHA-256", "content": sum })).collect();
    // Cargo's own older way to write OR.
    let license = package.license.as_ref().map(|license| license.replace('/', " OR "));
    let licenses: Vec<_> = license.iter().map(|license| json!({ "expression": license })).collect();
    json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
        "licenses": licenses,
        "hashes": hashes,
    })
}

/// Its package URL; one of the workspace is of no registry.
fn purl(package: &Package) -> String {
    match package.source {
        Some(_) => format!("pkg:cargo/{}@{}", package.name, package.version),
        None => format!("pkg:generic/{}@{}", package.name, package.version),
    }
}

#[cfg(test)]
mod sbom_test {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_with_licence_and_checksum_and_nothing_else() {
        let package = |name: &str, source: Option<&str>| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source });
        let dep = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("carve", None), package("used", Some("registry")), package("builds", Some("registry")), package("below", Some("registry"))],
            "resolve": { "nodes": [
                { "id": "carve", "deps": [dep("used", None), dep("builds", Some("build"))] },
                { "id": "used", "deps": [dep("below", None)] },
                { "id": "builds", "deps": [] },
                { "id": "below", "deps": [] },
            ] },
        });
        let metadata = serde_json::from_value(metadata).unwrap();
        let lock = Lock {
            package: vec![Locked {
                name: "used".into(),
                version: "1.0.0".into(),
                checksum: Some("00ff".into()),
            }],
        };
        let bill = bill(&metadata, &lock).unwrap();
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["below", "used"]);
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "00ff");
        assert_eq!(bill["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["dependencies"][1]["dependsOn"], json!(["pkg:cargo/used@1.0.0"]));
    }
}
