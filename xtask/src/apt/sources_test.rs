//! Sources files as machines have them, old and new format, with other vendors' beside Debian's.

use super::*;

fn derive(files: &[(&str, &str)]) -> Option<String> {
    let files: Vec<_> =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    with_backports(&files, "bookworm")
}

const DEB822: &str = "\
Types: deb
# a remark
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

#[test]
fn deb822_stanza_is_kept_and_copied_for_backports() {
    let expected = "\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";
    assert_eq!(derive(&[("debian.sources", DEB822)]).unwrap(), expected);
}

#[test]
fn one_line_sources_keep_their_options() {
    let text = "\
deb [signed-by=/k.gpg arch=amd64,i386] http://mirror.example/debian bookworm main contrib # own
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
";
    let derived = derive(&[("sources.list", text)]).unwrap();
    assert!(!derived.contains("deb-src"));
    let last = derived.rsplit("\n\n").next().unwrap();
    assert_eq!(
        last,
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n\
         Components: main contrib\nsigned-by: /k.gpg\nArchitectures: amd64 i386\n"
    );
}

#[test]
fn another_vendor_with_the_same_suite_is_not_taken_for_the_archive() {
    let vendor = "deb http://vendor.example bookworm main\n";
    let derived = derive(&[("a.list", vendor), ("debian.sources", DEB822)]).unwrap();
    let last = derived.rsplit("\n\n").next().unwrap();
    assert!(last.contains("mirror.example") && last.contains("bookworm-backports"), "{last}");
}

#[test]
fn sources_of_other_suites_are_left_out() {
    let node = "Types: deb\nURIs: http://node.example\nSuites: nodistro\nComponents: main\n";
    let derived = derive(&[("node.sources", node), ("debian.sources", DEB822)]).unwrap();
    assert!(!derived.contains("node.example"));
}

#[test]
fn disabled_sources_do_not_count() {
    let disabled = format!("Enabled: no\n{DEB822}");
    assert_eq!(derive(&[("debian.sources", &disabled)]), None);
}

#[test]
fn backports_already_configured_are_not_added_twice() {
    let both = format!("{DEB822}\n{}", DEB822.replace("bookworm-updates", "bookworm-backports"));
    let derived = derive(&[("debian.sources", &both)]).unwrap();
    assert_eq!(derived.matches("bookworm-backports").count(), 1);
}

#[test]
fn embedded_keys_survive() {
    let with_key = DEB822.replace(
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
    );
    let derived = derive(&[("debian.sources", &with_key)]).unwrap();
    assert_eq!(derived.matches("\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n").count(), 2);
}
