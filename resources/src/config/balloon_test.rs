use super::*;

const MEMORY: Size = Size::from_mib(512);

fn spec(text: &str) -> BalloonSpec {
    text.parse().unwrap()
}

#[test]
fn keys_come_in_any_order_and_read_and_show_alike() {
    let text = "target=256MiB,deflate_on_oom=false,stats_interval=10,reporting=true";
    assert_eq!(spec(text).to_string(), text);
    let balloon = spec("reporting=true,stats_interval=10,deflate_on_oom=false,target=256m")
        .resolve(MEMORY)
        .unwrap();
    assert_eq!(balloon.target, Size::from_mib(256));
    assert_eq!(balloon.stats_interval.map(NonZeroU32::get), Some(10));
    assert!(balloon.reporting && !balloon.deflate_on_oom);
}

#[test]
fn nothing_given_is_an_empty_balloon_that_only_helps() {
    let balloon = BalloonSpec::default().resolve(MEMORY).unwrap();
    assert_eq!((balloon.target, balloon.stats_interval), (Size::default(), None));
    assert!(balloon.reporting && balloon.deflate_on_oom);
}

#[test]
fn errors_name_what_was_written_and_what_to_write() {
    for (text, part) in [
        ("", "`` has no value"),
        ("target", "`target` has no value"),
        ("size=1m", "`size` is not target, deflate_on_oom"),
        ("target=big", "`big` does not start with a number"),
        ("reporting=yes", "reporting `yes` is not true or false"),
        ("stats_interval=1.5", "stats_interval `1.5` is not a whole number"),
        ("target=1m,target=2m", "target is given twice"),
    ] {
        let error = text.parse::<BalloonSpec>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("write it as"), "{error}");
    }
}

#[test]
fn every_rule_is_checked_and_says_value_reason_and_remedy() {
    for (text, part) in [
        ("target=5000", "5000B, which is not whole pages of 4KiB; use 4KiB or 8KiB"),
        ("target=512MiB", "512MiB, but the guest has 512MiB"),
        ("stats_interval=0", "stats_interval is 0; use 1 second or more"),
    ] {
        let conflicts = spec(text).resolve(MEMORY).unwrap_err();
        assert_eq!(conflicts.len(), 1);
        assert!(conflicts[0].to_string().contains(part), "{}", conflicts[0]);
    }
    let most = format!("target={},stats_interval=0", u64::MAX);
    assert_eq!(spec(&most).resolve(MEMORY).unwrap_err().len(), 3);
}

#[test]
fn tables_are_read_and_laid_over_one_another() {
    let below: BalloonSpec = toml::from_str("target = \"1MiB\"\nreporting = false").unwrap();
    let both = spec("target=2m").over(below);
    assert_eq!(both, spec("target=2m,reporting=false"));
    assert_eq!(toml::from_str::<BalloonSpec>(&toml::to_string(&both).unwrap()).unwrap(), both);
    let error = toml::from_str::<BalloonSpec>("traget = \"1MiB\"").unwrap_err().to_string();
    assert!(error.contains("traget") && error.contains("line 1"), "{error}");
}
