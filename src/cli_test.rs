use clap::CommandFactory;
use resources::config::KEYS;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_key_with_a_flag_has_that_flag_and_the_words_it_takes_in_the_help() {
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in KEYS.iter().filter(|key| !key.flag.is_empty()) {
        let argument = run.get_arguments().find(|a| {
            Some(a.get_id().as_str()) != Some("help")
                && a.get_long().is_some_and(|long| key.flag.strip_prefix("--") == Some(long))
        });
        let argument = argument.unwrap_or_else(|| panic!("no flag {}", key.flag));
        if argument.get_action().takes_values() {
            assert!(help.contains(key.meaning), "{} in {help}", key.meaning);
        }
    }
}

#[test]
fn flags_become_the_keys_they_stand_for() {
    let arguments = [
        "carve",
        "run",
        "--kernel",
        "k",
        "--initrd",
        "i",
        "--cmdline",
        "-x y",
        "--cpus",
        "4",
        "--memory",
        "1g",
        "--name",
        "web-1",
        "--topology",
        "cores=4",
        "--hugepages",
        "2M",
        "--memory-backing",
        "memfd",
        "--no-thp",
        "--prefault",
        "--boot-protocol",
        "pvh",
        "--no-extract",
        "--no-reboot",
        "--debug-exit",
        "--no-rng",
        "--transport",
        "mmio",
    ];
    let Verb::Run(run) = Cli::try_parse_from(arguments).unwrap().verb else { panic!("not run") };
    let config = run.vm.spec().resolve().unwrap();
    let shown = serde_json::to_value(&config).unwrap();
    let expected = serde_json::json!({
        "name": "web-1", "kernel": "k", "initrd": "i", "cmdline": "-x y", "vcpus": 4,
        "hugepages": "2MiB", "on_reboot": "exit",
        "topology": { "sockets": 1, "cores": 4, "threads": 1 },
        "memory": {
            "size": "1GiB", "backing": "memfd", "transparent_hugepages": false, "prefault": true,
        },
        "boot": { "protocol": "pvh", "extract": false },
        "devices": { "debug_exit": true, "rng": false, "transport": "mmio" },
    });
    assert_eq!(shown, expected);
}

#[test]
fn flags_not_given_set_nothing() {
    let Verb::Run(run) = Cli::try_parse_from(["carve", "run"]).unwrap().verb else {
        panic!("not run")
    };
    assert_eq!(run.vm.spec(), VmSpec::default());
}
