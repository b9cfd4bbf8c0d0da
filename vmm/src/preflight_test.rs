use super::*;

fn file_error(path: &Path) -> String {
    check_file("kernel", path, KERNEL).unwrap_err().to_string()
}

#[test]
fn files_that_cannot_be_a_kernel_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    assert!(file_error(&missing).contains("does not exist; give --kernel"));
    assert!(file_error(folder.path()).contains("is a folder, not a file; give --kernel"));
    assert!(file_error(Path::new("/dev/null")).contains("is a device or a pipe"));
    fs::write(&missing, "x").unwrap();
    assert!(check_file("kernel", &missing, KERNEL).is_ok());
    let inside_a_file = missing.join("x");
    assert!(file_error(&inside_a_file).contains("cannot be opened; give --kernel"));
}

#[test]
fn memory_is_compared_with_the_host() {
    let host = host_memory();
    assert!(host > Size::from_mib(64));
    assert!(check_memory(host, host).is_ok());
    let asked = Size::from_bytes(host.bytes() + 4096);
    let error = check_memory(asked, host).unwrap_err().to_string();
    assert!(error.contains(&asked.to_string()) && error.contains("--memory"), "{error}");
}
