use super::*;

fn parse(text: &str) -> Result<File, Error> {
    File::parse(Path::new("dir/vm.toml"), text.as_bytes().to_vec())
}

fn shown(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn paths_start_at_the_file() {
    let file = parse("kernel = \"vmlinuz\"\ninitrd = \"/boot/initrd\"").unwrap();
    assert_eq!(file.spec().kernel.as_deref(), Some(Path::new("dir/vmlinuz")));
    assert_eq!(file.spec().initrd.as_deref(), Some(Path::new("/boot/initrd")));
}

#[test]
fn memory_is_a_size_or_a_table() {
    let mib = |text: &str| parse(text).unwrap().spec().memory.size.unwrap().bytes() >> 20;
    assert_eq!(mib("memory = \"1g\""), 1024);
    assert_eq!(mib("memory = 2097152"), 2);
    assert_eq!(mib("memory.size = \"3MiB\""), 3);
    assert_eq!(mib("[memory]\nsize = \"4m\"\nprefault = true"), 4);
}

#[test]
fn unknown_keys_are_marked_with_the_nearest_known_one() {
    assert_eq!(
        shown("kernel = \"k\"\n  vcpu = 4"),
        "dir/vm.toml:2:3: unknown key `vcpu`; did you mean `vcpus`? [unknown-key]\n  \
         |\n2 |   vcpu = 4\n  |   ^^^^"
    );
}

#[test]
fn all_unknown_keys_are_found_also_in_tables() {
    let error =
        parse("colour = 1\n[memory]\nszie = 1\n[boot]\nextract = true\nx.y = 2").unwrap_err();
    let messages: Vec<_> = error.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages.iter().any(|m| m.contains("`memory.szie`; did you mean `memory.size`?")));
    assert!(messages.iter().any(|m| m.contains("`boot.x`; known here: protocol, extract")));
    assert!(messages.iter().any(|m| m.contains("`colour`; known here: name, kernel,")));
}

#[test]
fn a_wrong_type_is_marked_and_says_what_the_key_takes() {
    for (text, place, parts) in [
        ("vcpus = \"four\"", "1:9", ["`vcpus`", "\"four\"", "whole number from 1"]),
        ("\nvcpus = -1", "2:9", ["`vcpus`", "-1", "whole number from 1"]),
        ("memory = true", "1:10", ["`memory`", "true", "size"]),
        ("memory = \"12 parsecs\"", "1:10", ["`memory`", "parsecs", "512MiB"]),
        ("memory = -5", "1:10", ["`memory`", "-5", "size"]),
        ("memory.prefault = 1", "1:19", ["`memory.prefault`", "1", "true or false"]),
        ("memory = { size = \"x\" }", "1:19", ["`memory.size`", "`x`", "512MiB"]),
        ("memory.backing = \"ram\"", "1:18", ["`memory.backing`", "ram", "anonymous or memfd"]),
        ("hugepages = \"4MiB\"", "1:13", ["`hugepages`", "4MiB", "2MiB or 1GiB"]),
        ("name = \"A\"", "1:8", ["`name`", "`A`", "a-z"]),
        ("boot = \"pvh\"", "1:8", ["boot", "pvh", "expected"]),
        ("topology.cores = 1.5", "1:18", ["`topology.cores`", "1.5", "whole number"]),
        ("on_reboot = \"stop\"", "1:13", ["`on_reboot`", "stop", "restart or exit"]),
    ] {
        let shown = shown(text);
        assert!(shown.starts_with(&format!("dir/vm.toml:{place}: ")), "{shown}");
        for part in parts {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}

#[test]
fn broken_toml_is_marked() {
    for text in ["vcpus = ", "vcpus 4", "[memory", "vcpus = 1\nvcpus = 2", "name = \"a\nb\""] {
        let shown = shown(text);
        assert!(shown.starts_with("dir/vm.toml:"), "{shown}");
        assert!(shown.contains("not TOML") && shown.contains('^'), "{shown}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_place() {
    let error = File::parse(Path::new("f"), b"name = \"a\"\ncmdline = \"\xff\"".to_vec());
    assert!(error.unwrap_err().to_string().starts_with("f:2:12: this is not UTF-8"));
}

#[test]
fn columns_count_characters() {
    let shown = shown("cmdline = \"é\"; vcpus = 1");
    assert!(shown.starts_with("dir/vm.toml:1:14: "), "{shown}");
}

#[test]
fn values_are_located_and_a_table_stands_for_its_keys() {
    let file = parse("kernel = \"k\"\nmemory = \"1g\"\nboot.protocol = \"pvh\"").unwrap();
    let place = |key| file.locate(key).map(|at| (at.line, at.column, at.width));
    assert_eq!(place("kernel"), Some((1, 10, 3)));
    assert_eq!(place("memory.size"), Some((2, 10, 4)));
    assert_eq!(place("boot.protocol"), Some((3, 17, 5)));
    assert_eq!(place("vcpus"), None);
}

proptest::proptest! {
    #[test]
    fn no_file_panics(text in "[a-z\\[\\]{}=.,\"\n \t0-9é]{0,60}", bytes: Vec<u8>) {
        let _ = parse(&text).map_err(|error| error.to_string());
        let _ = File::parse(Path::new("f"), bytes).map_err(|error| error.to_string());
    }
}
