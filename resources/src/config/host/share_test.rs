use super::*;

fn read(text: &str) -> Result<ShareSpec, String> {
    toml::from_str(text).map_err(|error| error.message().to_owned())
}

#[test]
fn cpu_is_a_word_or_a_table() {
    assert_eq!(
        read("cpu = \"dedicated\"").unwrap().cpu,
        Some(CpuSpec::Dedicated(DedicatedWord::Dedicated))
    );
    let Some(CpuSpec::Table(table)) = read("cpu = { min = 0.5, max = 2 }").unwrap().cpu else {
        panic!("no table");
    };
    assert_eq!(table.min.map(Thousandths::thousandths), Some(500));
    for bad in ["\"exclusive\"", "4", "{ minimum = 1 }", "{ pins = \"x\" }"] {
        assert!(read(&format!("cpu = {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn failures_alone_count_for_on_failure_and_up_to_the_limit() {
    let policy = Restart::OnFailure(Some(2));
    assert!(!policy.follows(0, 0));
    assert!(policy.follows(1, 0) && policy.follows(1, 1) && !policy.follows(1, 2));
    assert!(Restart::Always.follows(0, 1000));
    assert!(!Restart::No.follows(1, 0));
}

#[test]
fn restart_policies_are_dockers() {
    for word in ["no", "on-failure", "on-failure:3", "unless-stopped", "always"] {
        let restart: Restart = word.parse().unwrap();
        assert_eq!(String::from(restart), word);
    }
    for bad in ["", "never", "on-failure:", "on-failure:0", "on-failure:-1", "Always"] {
        let error = bad.parse::<Restart>().unwrap_err().to_string();
        assert!(error.contains("unless-stopped"), "{error}");
    }
}

#[test]
fn times_have_a_unit_and_are_shown_in_the_largest() {
    for (text, millis, shown) in [
        ("60s", 60_000, "1m"),
        ("500ms", 500, "500ms"),
        ("90s", 90_000, "90s"),
        ("2 h", 7_200_000, "2h"),
    ] {
        let time = DurationText::try_from(text.to_owned()).unwrap();
        assert_eq!((time.get().as_millis(), String::from(time)), (millis, shown.to_owned()));
    }
    for bad in ["", "60", "s", "0s", "25h", "1.5s", "-1s", "1d", "99999999999999999999h"] {
        assert!(DurationText::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

#[test]
fn a_share_lies_over_another_key_by_key() {
    let above = read("tenant = \"a\"\nlabels.x = \"1\"").unwrap();
    let below = read("tenant = \"b\"\ncount = 3\nlabels = { x = \"0\", y = \"2\" }").unwrap();
    let both = above.over(below);
    assert_eq!(both, read("tenant = \"a\"\ncount = 3\nlabels = { x = \"1\", y = \"2\" }").unwrap());
}

#[test]
fn the_list_of_fields_is_complete() {
    let all = "tenant = \"a\"\ncount = 1\ncpu = \"dedicated\"\nworkers = 0\nnuma = 0\n\
               restart = \"no\"\nready = { vsock = 1 }\nafter = []\nstate = \"running\"\n\
               labels = { a = \"b\" }\nenforce = \"strict\"";
    let written = toml::Table::try_from(read(all).unwrap()).unwrap();
    assert_eq!(written.keys().map(String::as_str).collect::<Vec<_>>(), ShareSpec::FIELDS);
}
