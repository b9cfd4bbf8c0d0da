use super::*;

fn port(text: &str) -> ConsolePort {
    text.parse().unwrap()
}

#[test]
fn every_form_reads_and_shows_alike() {
    for (text, target, name) in [
        ("stdio", ConsoleTarget::Stdio, None),
        ("off", ConsoleTarget::Off, None),
        ("pty,name=agent.0", ConsoleTarget::Pty, Some("agent.0")),
        ("file=a b/c=d.log", ConsoleTarget::File("a b/c=d.log".into()), None),
        ("socket=/run/x,name=y", ConsoleTarget::Socket("/run/x".into()), Some("y")),
    ] {
        let port = port(text);
        assert_eq!((&port.target, port.name.as_deref()), (&target, name), "{text}");
        assert_eq!(port.to_string(), text);
    }
}

#[test]
fn errors_name_what_was_written_and_what_to_write() {
    for (text, part) in [
        ("", "`` is not one of stdio, off, file, pty, socket"),
        ("serial", "`serial` is not one of"),
        ("file", "file has no path"),
        ("socket=", "socket has no path"),
        ("pty=/dev/pts/3", "pty takes no path, but has /dev/pts/3"),
        ("file=a,b", "`b` is not name=NAME (paths with commas"),
        ("pty,name=", "it is empty"),
        ("pty,name=a/b", "it has other characters"),
        ("pty,name=.a", "does not begin with a letter or digit"),
        ("pty,name=a,name=b", "name is given twice"),
    ] {
        let error = text.parse::<ConsolePort>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("write it as"), "{error}");
    }
    let error = format!("pty,name={}", "x".repeat(65)).parse::<ConsolePort>().unwrap_err();
    assert!(error.to_string().contains("longer than 64"), "{error}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct File {
    console: Vec<ConsolePort>,
}

#[test]
fn files_take_texts_and_tables() {
    let text = r#"
        console = [
            "pty",
            { to = "socket", path = "a,b", name = "agent" },
            { to = "off" },
        ]
    "#;
    let file: File = toml::from_str(text).unwrap();
    let with_comma = ConsolePort {
        target: ConsoleTarget::Socket("a,b".into()),
        name: Some("agent".parse().unwrap()),
    };
    assert_eq!(file.console, [port("pty"), with_comma, port("off")]);
    let again = toml::to_string(&file).unwrap();
    assert_eq!(toml::from_str::<File>(&again).unwrap(), file);
}

#[test]
fn mistakes_in_files_are_told_with_their_place() {
    for (text, parts) in [
        ("console = [3]", ["a console such as \"pty\"", "line 1"]),
        ("console = [\"ptty\"]", ["`ptty` is not one of", "line 1"]),
        ("console = [{ to = \"pty\", nam = \"x\" }]", ["nam", "line 1"]),
        ("console = [{ path = \"x\" }]", ["missing field `to`", "line 1"]),
        ("console = [{ to = \"file\" }]", ["file has no path; path is for", "line 1"]),
        ("console = [{ to = \"off\", path = \"x\" }]", ["off takes no path", "line 1"]),
        ("console = [{ to = \"off\", name = \"é\" }]", ["not a name for a port", "line 1"]),
    ] {
        let error = toml::from_str::<File>(text).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn what_cannot_be_had_together_is_told_all_at_once() {
    let named = |texts: &[&str]| -> Vec<_> {
        (0..).zip(texts).map(|(i, text): (u32, _)| (format!("c{i}"), port(text))).collect()
    };
    assert_eq!(console_conflicts(&named(&["stdio", "off", "off"])), []);
    let ports = ["stdio", "stdio", "pty,name=a", "off,name=a", "file=x", "socket=x", "file=x"];
    let conflicts: Vec<_> =
        console_conflicts(&named(&ports)).iter().map(ToString::to_string).collect();
    assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    assert!(conflicts[0].starts_with("the consoles c0, c1 are stdio"), "{conflicts:?}");
    assert!(conflicts[1].starts_with("the consoles c2, c3 have the name a "), "{conflicts:?}");
    assert!(conflicts[2].starts_with("the consoles c4, c5, c6 have the path x;"), "{conflicts:?}");
    let many = console_conflicts(&named(&["off"; 17]));
    assert_eq!(many, [ConsoleConflict::TooMany(17)]);
}
