//! The tables judged by ACPICA's compiler: each disassembles without a complaint, and the DSDT
//! compiles again without one.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::acpi_test::{bare_platform, full_platform};
use super::*;

/// Runs iasl in `folder` and returns what it printed; it must not have complained.
fn iasl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl").args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    let complaint = text.lines().find(|line| {
        let line = line.to_lowercase();
        ["warning", "error", "invalid", "unknown"].iter().any(|word| line.contains(word))
            && !line.contains("0 errors, 0 warnings, 0 remarks")
    });
    assert_eq!(complaint, None, "iasl {arguments:?}: {text}");
    text
}

/// Whether iasl is there. Without it the caller skips, unless the environment insists on tools.
fn have_iasl() -> bool {
    let found = Command::new("iasl").arg("-v").output().is_ok();
    if !found {
        let required = std::env::var_os("CARVE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "iasl is required here and missing: install acpica-tools");
        eprintln!("skipped: iasl is missing, install acpica-tools");
    }
    found
}

fn check(platform: &Platform) {
    if !have_iasl() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::build(platform).unwrap();
    // iasl takes tables with the standard header only.
    for (name, table) in tables.files().filter(|(name, _)| *name != "RSDP") {
        let (binary, source) = (format!("{name}.aml"), format!("{name}.dsl"));
        fs::write(folder.path().join(&binary), table).unwrap();
        iasl(folder.path(), &["-d", &binary]);
        let text = fs::read_to_string(folder.path().join(&source)).unwrap();
        let doubt = text.lines().find(|line| {
            ["Incorrect", "Invalid", "Unknown", "should be", "not supported"]
                .iter()
                .any(|word| line.contains(word))
        });
        assert_eq!(doubt, None, "{text}");
        if name == "DSDT" {
            let summary = iasl(folder.path(), &["-p", "again", "-tc", &source]);
            assert!(summary.contains("0 Errors, 0 Warnings, 0 Remarks"), "{summary}");
            let again = fs::read(folder.path().join("again.aml")).unwrap();
            assert!(again[36..] == table[36..], "recompiled DSDT differs");
        }
    }
}

#[test]
fn iasl_finds_no_fault_with_every_device_and_both_kinds_of_local_apic() {
    check(&full_platform(vec![0, 1, 2, 253, 254, 255, 256, 0x7fff, 0x12_3456]));
}

#[test]
fn iasl_finds_no_fault_with_no_device() {
    check(&bare_platform());
}

#[test]
fn iasl_finds_no_fault_with_1024_processors() {
    check(&full_platform((0..1024).collect()));
}
