//! One file for each way a plan can end, and beside it what is said then.
//!
//! `golden/NAME.toml` begins with what it is for, in comments: `host`, an inventory of
//! `golden/hosts`; `before`, a file of `golden/before` that was carried out before, on the host
//! `before-host` if that was another; `present`, a VM that is now `stopped` or of a `command`.
//! With `UPDATE_GOLDEN=1` the texts are written instead of compared.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::host::{Layers, Source};
use crate::config::{Code, Error};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/golden")
}

fn host(name: &str) -> Host {
    let path = folder().join("hosts").join(format!("{name}.json"));
    Host::from_json(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What a comment at the beginning of `text` says after `key`.
fn header<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let comments = text.lines().map_while(|line| line.strip_prefix("# "));
    comments
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

fn config(text: &str) -> Result<(Layers, HostConfig), Error> {
    let source = Source { path: "carve.toml".into(), content: text.into() };
    let layers = Layers::parse(vec![source])?;
    let config = layers.resolve()?;
    Ok((layers, config))
}

fn present(text: &str, now: &str) -> Present {
    let Some(before) = header(text, "before") else { return Present::default() };
    let before = fs::read_to_string(folder().join("before").join(before)).unwrap();
    let host = host(header(text, "before-host").unwrap_or(now));
    let (_, config) = config(&before).unwrap();
    let plan = plan(&config, &host, &Present::default(), Options::default());
    let mut present = Present::default().after(&plan, &config, &host, false).unwrap();
    if let Some((vm, what)) = header(text, "present").and_then(|text| text.split_once(' ')) {
        let booking = present.bookings.get_mut(&vm.parse::<Name>().unwrap()).unwrap();
        match what {
            "stopped" => booking.running = false,
            _ => booking.origin = Origin::Command,
        }
    }
    present
}

fn shown(text: &str) -> String {
    let now = header(text, "host").unwrap();
    let (layers, config) = match config(text) {
        Ok(read) => read,
        Err(error) => return format!("{error}\n"),
    };
    let plan = plan(&config, &host(now), &present(text, now), Options::default());
    let mut shown = String::new();
    for conflict in &plan.conflicts {
        writeln!(shown, "{}", layers.problem(conflict)).unwrap();
    }
    for note in &plan.notes {
        writeln!(shown, "note: {note}").unwrap();
    }
    for Action { vm, kind, reasons } in &plan.actions {
        writeln!(shown, "{vm}: {}: {}", kind.as_str(), reasons.join("; ")).unwrap();
    }
    if plan.is_admitted() {
        for group in &plan.cgroups {
            writeln!(shown, "{}", group.path).unwrap();
            group
                .files()
                .iter()
                .for_each(|(file, content)| writeln!(shown, "    {file} = {content}").unwrap());
        }
    }
    shown
}

#[test]
fn every_end_says_what_is_written_beside_it() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() > 20);
    let mut wrong = String::new();
    for file in files {
        let shown = shown(&fs::read_to_string(&file).unwrap());
        let expected = file.with_extension("txt");
        if update {
            fs::write(&expected, &shown).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != shown {
            writeln!(wrong, "{} is now:\n{shown}", expected.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_code_has_a_file_of_its_name() {
    for code in Code::ALL {
        let text = fs::read_to_string(folder().join(format!("{code}.txt"))).unwrap_or_default();
        assert!(text.contains(&format!("[{code}]")), "golden/{code}.txt does not show {code}");
    }
}
