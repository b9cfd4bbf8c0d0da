//! The text, as a scraper reads it.

use std::collections::BTreeSet;

use super::super::types::{
    DiskStatistics, InterruptStatistics, MemoryStatistics, NetQueueStatistics, NetStatistics,
    RunState, VcpuStatistics,
};
use super::*;

fn sample(name: &str) -> Sample {
    let queue = DiskQueueStatistics {
        reads: 3,
        time: 1_500_000,
        latency: vec![1, 0, 2, 4],
        ..DiskQueueStatistics::default()
    };
    let disk = DiskStatistics { size: 1 << 30, queues: vec![queue], ..DiskStatistics::default() };
    let pair = NetQueueStatistics { sent_bytes: 60, send_dropped: 2, ..Default::default() };
    let net = NetStatistics { queues: vec![pair], ..NetStatistics::default() };
    let interrupts = InterruptStatistics {
        kind: "disk".into(),
        device: "root".into(),
        queues: vec![5, 6],
        config: 1,
    };
    let statistics = Statistics {
        uptime: 1500,
        vcpus: vec![VcpuStatistics { cpu_time: 250_000, exits: 7 }],
        memory: MemoryStatistics { available: Some(1), ..MemoryStatistics::default() },
        disks: [("root".to_owned(), disk)].into(),
        nets: [("lan".to_owned(), net)].into(),
        interrupts: vec![interrupts],
        cpu_time: 300_000,
    };
    let vm = Vm {
        id: "01".into(),
        name: name.into(),
        state: RunState::Running,
        pid: 1,
        carve_version: "0.1.0".into(),
        vcpus: 1,
        memory: 1 << 50,
        resets: 2,
        started_at: 1500,
    };
    Sample {
        id: "01".into(),
        name: name.into(),
        state: "running".into(),
        up: Some(true),
        vm: Some(vm),
        statistics: Some(statistics),
    }
}

#[test]
fn values_come_with_their_labels_and_in_base_units() {
    let text = text(&[sample("web")]);
    for line in [
        r#"carve_guest_up{id="01",name="web"} 1"#,
        r#"carve_guest_state{id="01",name="web",state="running"} 1"#,
        r#"carve_guest_uptime_seconds{id="01",name="web"} 1.5"#,
        r#"carve_guest_memory_bytes{id="01",name="web"} 1125899906842624"#,
        r#"carve_guest_vcpu_seconds_total{id="01",name="web",vcpu="0"} 0.25"#,
        r#"carve_guest_vcpu_exits_total{id="01",name="web",vcpu="0"} 7"#,
        r#"carve_guest_disk_requests_total{id="01",name="web",disk="root",queue="0",kind="read"} 3"#,
        r#"carve_guest_net_bytes_total{id="01",name="web",net="lan",queue="0",direction="send"} 60"#,
        r#"carve_guest_net_dropped_total{id="01",name="web",net="lan",queue="0",direction="send"} 2"#,
        r#"carve_guest_interrupts_total{id="01",name="web",kind="disk",device="root",queue="1"} 6"#,
        r#"carve_guest_interrupts_total{id="01",name="web",kind="disk",device="root",queue="config"} 1"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn latencies_are_a_cumulative_histogram() {
    let text = text(&[sample("web")]);
    let prefix = "carve_guest_disk_request_seconds";
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(prefix)).collect();
    let own = r#"id="01",name="web",disk="root",queue="0""#;
    let bucket = |le: &str, count| format!(r#"_bucket{{{own},le="{le}"}} {count}"#);
    let expected = [
        bucket("0.000016", 1),
        bucket("0.000032", 1),
        bucket("0.000064", 3),
        bucket("+Inf", 7),
        format!("_sum{{{own}}} 1.5"),
        format!("_count{{{own}}} 7"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn each_family_stands_together_under_its_head_and_no_line_is_there_twice() {
    let mut other = sample("db");
    other.id = "02".into();
    let text = text(&[sample("web"), other]);
    let (mut families, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(families.insert(current), "{current} stands there twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current), "{line} is under {current}");
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line} twice");
        }
    }
    assert_eq!(families.len(), FAMILIES.len());
}

#[test]
fn a_guest_that_does_not_answer_is_down_and_one_that_does_not_run_is_neither() {
    let silent = Sample { up: Some(false), vm: None, statistics: None, ..sample("a\"b\\c\nd") };
    let stopped = Sample { up: None, state: "exited".into(), ..silent.clone() };
    let down = text(&[silent]);
    assert!(down.contains(r#"carve_guest_up{id="01",name="a\"b\\c\nd"} 0"#), "{down}");
    assert_eq!(down.lines().filter(|line| !line.starts_with('#')).count(), 2, "{down}");
    assert!(!text(&[stopped]).contains("carve_guest_up"));
}

#[test]
fn the_user_guide_lists_every_metric_with_its_kind() {
    let guide = include_str!("../../../docs/user/metrics.md");
    for Family { name, kind, .. } in FAMILIES {
        assert!(guide.contains(&format!("| `{name}` | {kind} |")), "{name} ({kind}) is not there");
    }
}
