//! What the verbs of a host share: reading the files, the environment and the flags that configure
//! it, and the inventory it is for.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use resources::config;
use resources::config::host::{HostConfig, Layers, Source};
use resources::inventory::{Host, HostError};
use resources::plan::Present;
use vmm::guests::Store;
use vmm::ledger::Ledger;

use crate::cli::host::{ForHostArgs, HostFileArgs};

/// Why there is no configuration, or no host for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the host file {} cannot be read; name another one", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the current folder cannot be told; go to one that exists")]
    Folder(#[source] io::Error),
    #[error("--set {0} has no value; write it as in --set host.smt=shared")]
    Set(String),
    #[error("CARVE_SET is not text; unset it, or set it to TOML")]
    Environment,
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("the inventory {} cannot be read; write it with `carve inventory`", .path.display())]
    ReadInventory { path: PathBuf, source: io::Error },
    #[error("the inventory {} cannot be used", .path.display())]
    Inventory { path: PathBuf, source: HostError },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Everything that configures the host, lowest first, read.
pub fn layers(args: &HostFileArgs) -> Result<Layers, Error> {
    let mut sources = vec![read(&args.file)?];
    for path in drop_ins(&args.file)? {
        sources.push(read(&path)?);
    }
    sources.extend(environment(env::var_os("CARVE_SET"))?);
    for setting in &args.set {
        sources.push(set(setting)?);
    }
    let folder = env::current_dir().map_err(Error::Folder)?;
    Ok(Layers::parse(sources)?.starting_at(&folder))
}

/// The same, complete.
pub fn load(args: &HostFileArgs) -> Result<(Layers, HostConfig), Error> {
    let layers = layers(args)?;
    let config = layers.resolve()?;
    Ok((layers, config))
}

/// The host that `config` is for.
pub fn host(args: &ForHostArgs, config: &HostConfig) -> Result<Host, Error> {
    let Some(path) = &args.inventory else {
        let folders: Vec<PathBuf> = config.pools.values().map(|pool| pool.path.clone()).collect();
        return Ok(Host::read(Path::new("/"), &folders)?);
    };
    let text = fs::read_to_string(path)
        .map_err(|source| Error::ReadInventory { path: path.clone(), source })?;
    Host::from_json(&text).map_err(|source| Error::Inventory { path: path.clone(), source })
}

/// What is booked on that host; nothing is known of another one.
pub fn present(args: &ForHostArgs) -> Result<Present, super::Error> {
    match &args.inventory {
        Some(_) => Ok(Present::default()),
        None => Ok(Ledger::present(&Store::of_user()?)?),
    }
}

fn read(path: &Path) -> Result<Source, Error> {
    let content = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Source { path: path.to_owned(), content })
}

/// The files in the folder beside `file`, by name; none if there is no such folder.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = file.with_extension("d");
    if folder == file {
        return Ok(Vec::new());
    }
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.map_err(|source| Error::Read { path: folder, source })?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths)
}

fn environment(value: Option<OsString>) -> Result<Option<Source>, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let content = value.into_string().map_err(|_| Error::Environment)?.into_bytes();
    Ok(Some(Source { path: "CARVE_SET".into(), content }))
}

/// `KEY=VALUE` as TOML. A value that is none in TOML is text.
fn set(setting: &str) -> Result<Source, Error> {
    let (key, value) = setting.split_once('=').ok_or_else(|| Error::Set(setting.to_owned()))?;
    let is_toml = format!("value = {value}").parse::<toml::Table>().is_ok();
    let value =
        if is_toml { value.to_owned() } else { toml::Value::String(value.to_owned()).to_string() };
    Ok(Source { path: "--set".into(), content: format!("{key} = {value}").into_bytes() })
}

#[cfg(test)]
mod host_file_test {
    use super::*;

    #[test]
    fn layers_are_file_drop_ins_environment_and_flags() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write(
            "carve.toml",
            "[host]\nreserve = { cpus = \"0\", memory = \"1GiB\" }\nsmt = \"shared\"",
        );
        write("carve.d/20.toml", "host.reserve.cpus = \"0-2\"");
        write("carve.d/10.toml", "host.reserve.cpus = \"0-1\"\nhost.reserve.memory = \"2GiB\"");
        write("carve.d/note.txt", "not TOML");
        let file = folder.path().join("carve.toml");
        let args = HostFileArgs { file, set: vec!["host.smt=per-tenant".into()] };
        let (_, config) = load(&args).unwrap();
        assert_eq!(config.reserved_cpus.to_string(), "0-2");
        assert_eq!(config.reserved_memory.to_string(), "2GiB");
        assert_eq!(config.smt, resources::config::host::Smt::PerTenant);
        let environment = environment(Some("host.smt = \"shared\"".into())).unwrap().unwrap();
        assert_eq!(environment.path, Path::new("CARVE_SET"));
    }

    #[test]
    fn settings_are_toml_or_text() {
        let content =
            |setting| set(setting).map(|source| String::from_utf8(source.content).unwrap());
        assert_eq!(content("host.overcommit.cpu=1.5").unwrap(), "host.overcommit.cpu = 1.5");
        assert_eq!(content("host.smt=shared").unwrap(), "host.smt = \"shared\"");
        assert_eq!(content("vm.a.after=[\"b\"]").unwrap(), "vm.a.after = [\"b\"]");
        assert!(content("host.smt").unwrap_err().to_string().contains("has no value"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = HostFileArgs { file: "/none/carve.toml".into(), set: Vec::new() };
        assert!(load(&args).unwrap_err().to_string().contains("/none/carve.toml"));
    }
}
