use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
struct File {
    disk: Vec<Disk>,
}

fn parse(text: &str) -> Disk {
    text.parse().unwrap()
}

#[test]
fn a_plain_file_is_a_disk_with_every_default() {
    assert_eq!(parse("disk.img"), Disk::new("disk.img".into()));
    assert_eq!(parse("path=disk.img"), Disk::new("disk.img".into()));
}

#[test]
fn every_key_is_taken_from_a_flag_as_from_a_file() {
    let flag = parse(
        "path=/d,readonly=false,format=qcow2,queues=4,queue_size=512,overlay=over.qcow2,direct,\
         serial=A-1,block_size=4096,iops=500,iops_burst=50,bandwidth=100MB,bandwidth_burst=1MiB",
    );
    let file: File = toml::from_str(
        r#"
        [[disk]]
        path = "/d"
        readonly = false
        format = "qcow2"
        queues = 4
        queue_size = 512
        overlay = "over.qcow2"
        direct = true
        serial = "A-1"
        block_size = 4096
        iops = 500
        iops_burst = 50
        bandwidth = "100MB"
        bandwidth_burst = "1MiB"
        "#,
    )
    .unwrap();
    assert_eq!(file.disk, std::slice::from_ref(&flag));
    assert_eq!(flag.overlay, Overlay::Keep("over.qcow2".into()));
    assert_eq!(flag.operations_limit(), Some((500, 50)));
    assert_eq!(flag.bandwidth_limit(), Some((100_000_000, 1 << 20)));
}

#[test]
fn files_name_disks_by_path_alone_too() {
    let file: File =
        toml::from_str(r#"disk = ["a,b.img", { path = "c", overlay = false }]"#).unwrap();
    assert_eq!(file.disk, [Disk::new("a,b.img".into()), Disk::new("c".into())]);
}

#[test]
fn flags_without_a_value_are_on() {
    let disk = parse("d.img,readonly,direct");
    assert!(disk.readonly && disk.direct);
    assert_eq!(parse("d,overlay=discard").overlay, Overlay::Discard);
    assert_eq!(parse("d,overlay=false").overlay, Overlay::None);
}

#[test]
fn a_burst_is_a_tenth_of_a_second_unless_given() {
    let disk = parse("d,iops=5,bandwidth=1GB/s");
    assert_eq!(disk.operations_limit(), Some((5, 1)));
    assert_eq!(disk.bandwidth_limit(), Some((1_000_000_000, 100_000_000)));
    assert_eq!(parse("d").operations_limit(), None);
}

#[test]
fn what_is_written_out_reads_back() {
    for text in ["d", "d,readonly,serial=x,iops=9", "d,overlay=discard,bandwidth=3GiB"] {
        let disk = parse(text);
        let written = toml::to_string(&disk).unwrap();
        assert_eq!(toml::from_str::<Disk>(&written).unwrap(), disk, "{written}");
    }
}

#[test]
fn errors_name_the_value_and_the_remedy() {
    for (text, part) in [
        ("", "no path"),
        ("readonly", "no path"),
        ("path=", "no path"),
        ("d,readonyl", "`readonyl` has no value"),
        ("d,size=1", "`size` is not one of path"),
        ("d,path=e", "path is given twice"),
        ("d,format=vmdk", "format `vmdk` is not auto, raw or qcow2"),
        ("d,readonly=maybe", "readonly `maybe` is not true or false"),
        ("d,queues=0", "queues 0"),
        ("d,queues=17", "use 1 to 16"),
        ("d,queues=many", "queues `many`"),
        ("d,queue_size=100", "queue_size 100"),
        ("d,queue_size=2048", "queue_size 2048"),
        ("d,block_size=1024", "use 512 or 4096"),
        ("d,serial=", "serial ``"),
        ("d,serial=123456789012345678901", "20 printable"),
        ("d,serial=ä", "ASCII"),
        ("d,iops=0", "iops 0"),
        ("d,iops_burst=1", "iops_burst is given without iops"),
        ("d,bandwidth=fast", "bandwidth `fast` is not a rate"),
        ("d,bandwidth_burst=1k", "given without bandwidth"),
        ("d,readonly,overlay=discard", "no use for an overlay"),
        ("d,overlay=", "empty path"),
    ] {
        let error = text.parse::<Disk>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("write it as"), "{error}");
    }
}

#[test]
fn files_are_checked_as_flags_are() {
    for (text, part) in [
        (r#"disk = ["" ]"#, "no path"),
        ("disk = [1]", "the path of a disk"),
        (r#"disk = [{ path = "d", queues = 99 }]"#, "use 1 to 16"),
        (r#"disk = [{ path = "d", overlay = true }]"#, "false, \"discard\""),
        (r#"disk = [{ path = "d", colour = "red" }]"#, "colour"),
        (r#"disk = [{ path = "d", bandwidth = 0 }]"#, "a bandwidth such as"),
        ("disk = [{ readonly = true }]", "no path"),
    ] {
        let error = toml::from_str::<File>(text).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.span().is_some());
    }
}
