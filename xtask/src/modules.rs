//! Kernel modules of one kernel: where they are, what they depend on, and the index files `modprobe` reads.
//! Works on the module files themselves, since distribution packages carry no `modules.dep` (it is made by `depmod` at
//! installation).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::decompress::decompress;
use crate::files;

/// Why modules cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such module, built in or not.
    #[error("the kernel modules in {} have no {name}", directory.display())]
    Missing {
        /// `lib/modules/VERSION`.
        directory: PathBuf,
        /// The module's name.
        name: String,
    },
    /// The module's file does not decompress.
    #[error("cannot decompress {}", path.display())]
    Decompress {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The module's file is not a module.
    #[error("{} is not a kernel module", path.display())]
    NotModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: object::Error,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Files(#[from] files::Error),
}

/// One module, decompressed.
#[derive(Debug)]
pub struct Module {
    /// Name as the kernel shows it: underscores, no dashes.
    pub name: String,
    /// The ELF file.
    pub image: Vec<u8>,
    /// Modules that must be loaded before, directly needed ones only.
    pub depends: Vec<String>,
    /// Patterns of the device or file system names it serves.
    pub aliases: Vec<String>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct Tree {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Indexes `lib/modules/VERSION`.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let mut tree = Self {
            directory: directory.to_owned(),
            files: BTreeMap::new(),
            builtin: BTreeSet::new(),
        };
        let builtin = files::read_text(&directory.join("modules.builtin"))?;
        tree.builtin.extend(builtin.lines().filter_map(|line| module_name(Path::new(line))));
        tree.index(&directory.join("kernel"))?;
        Ok(tree)
    }

    fn index(&mut self, directory: &Path) -> Result<(), Error> {
        for path in files::list(directory)? {
            if path.is_dir() {
                self.index(&path)?;
            } else if let Some(name) = module_name(&path) {
                self.files.insert(name, path);
            }
        }
        Ok(())
    }

    /// Whether the kernel has a module of that name, built in or not.
    pub fn has(&self, name: &str) -> bool {
        let name = canonical(name);
        self.builtin.contains(&name) || self.files.contains_key(&name)
    }

    /// The modules called `required` and `optional` with all they depend on, dependencies first. Built-in ones need
    /// nothing; a required one that the kernel lacks is an error.
    pub fn collect(&self, required: &[&str], optional: &[&str]) -> Result<Vec<Module>, Error> {
        let mut collected = Collected::default();
        for name in required {
            if !self.add(&canonical(name), &mut collected)? {
                let directory = self.directory.clone();
                return Err(Error::Missing { directory, name: (*name).to_owned() });
            }
        }
        self.extend(collected.modules, optional)
    }

    /// `modules` and after them those called `more` with all they depend on that is not among them yet.
    pub fn extend(&self, modules: Vec<Module>, more: &[&str]) -> Result<Vec<Module>, Error> {
        let seen = modules.iter().map(|module| module.name.clone()).collect();
        let mut collected = Collected { seen, modules };
        for name in more {
            self.add(&canonical(name), &mut collected)?;
        }
        Ok(collected.modules)
    }

    /// Whether the kernel has the module at all.
    fn add(&self, name: &str, collected: &mut Collected) -> Result<bool, Error> {
        if self.builtin.contains(name) || collected.seen.contains(name) {
            return Ok(true);
        }
        let Some(path) = self.files.get(name) else { return Ok(false) };
        collected.seen.insert(name.to_owned());
        let module = load(name, path)?;
        for needed in &module.depends {
            // A soft dependency the kernel lacks is no error, and a hard one would have failed to link.
            self.add(needed, collected)?;
        }
        collected.modules.push(module);
        Ok(true)
    }
}

#[derive(Default)]
struct Collected {
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

/// The text of `modules.dep` for modules that lie flat in one folder: each with all it needs, in modprobe's order
/// (the one to be loaded first stands last).
pub fn modules_dep(modules: &[Module]) -> String {
    let mut closures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut text = String::new();
    for module in modules {
        let mut closure = Vec::new();
        for needed in &module.depends {
            let Some(deeper) = closures.get(needed.as_str()) else { continue };
            for name in deeper.iter().copied().chain([needed.as_str()]) {
                if !closure.contains(&name) {
                    closure.push(name);
                }
            }
        }
        text.push_str(&format!("{}.ko:", module.name));
        for name in closure.iter().rev() {
            text.push_str(&format!(" {name}.ko"));
        }
        text.push('\n');
        closures.insert(&module.name, closure);
    }
    text
}

/// The text of `modules.alias`.
pub fn modules_alias(modules: &[Module]) -> String {
    let lines = modules.iter().flat_map(|module| {
        module.aliases.iter().map(|alias| format!("alias {alias} {}\n", module.name))
    });
    lines.collect()
}

fn load(name: &str, path: &Path) -> Result<Module, Error> {
    let image = read(path)?;
    let information = modinfo(path, &image)?;
    let values = |key: &str| {
        let prefix = format!("{key}=");
        information
            .split('\0')
            .filter_map(move |entry| entry.strip_prefix(&prefix).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let hard = values("depends").into_iter().flat_map(|list| {
        list.split(',').filter(|name| !name.is_empty()).map(canonical).collect::<Vec<_>>()
    });
    let soft = values("softdep").into_iter().flat_map(|line| {
        let names = line.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
        names.take_while(|word| !word.ends_with(':')).map(canonical).collect::<Vec<_>>()
    });
    let depends = hard.chain(soft).collect();
    let aliases = values("alias");
    Ok(Module { name: name.to_owned(), depends, aliases, image })
}

fn modinfo(path: &Path, image: &[u8]) -> Result<String, Error> {
    let not_module = |source| Error::NotModule { path: path.to_owned(), source };
    let file = object::File::parse(image).map_err(not_module)?;
    match file.section_by_name(".modinfo") {
        Some(section) => {
            let data = section.data().map_err(not_module)?;
            Ok(String::from_utf8_lossy(data).into_owned())
        }
        None => Ok(String::new()),
    }
}

/// Reads a module's file; busybox loads only uncompressed ones.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let raw = files::read(path)?;
    let decompressed = decompress(&raw);
    let image =
        decompressed.map_err(|source| Error::Decompress { path: path.to_owned(), source })?;
    Ok(image.unwrap_or(raw))
}

/// The module's name if the path is a module's, compressed or not.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".gz" | ".zst").then(|| canonical(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
#[path = "modules_test.rs"]
mod modules_test;
