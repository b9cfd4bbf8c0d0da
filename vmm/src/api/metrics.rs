//! Guests as Prometheus sees them: the text format, version 0.0.4.
//!
//! Names, units and labels are part of the interface; the user guide lists them.

use std::fmt::Write as _;

use super::types::{DiskQueueStatistics, NetQueueStatistics, Statistics, Vm};

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bound of the first bucket of latencies in microseconds; each further one is twice the one before.
const FIRST_BUCKET: u64 = 16;

/// What is known of one guest.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it does, in one word.
    pub state: String,
    /// Whether it answers; nothing for one that does not run.
    pub up: Option<bool>,
    /// What it says of itself.
    pub vm: Option<Vm>,
    /// What it has done.
    pub statistics: Option<Statistics>,
}

/// Takes a value of a family, with the labels that it has beside those of its guest.
type Take<'a> = dyn FnMut(&str, &[(&str, &str)], f64) + 'a;

/// One metric of all guests.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Its values of one guest.
    values: fn(&Sample, &mut Take<'_>),
}

/// `guests` as text.
pub fn text(guests: &[Sample]) -> String {
    let mut text = String::new();
    for Family { name, kind, help, values } in FAMILIES {
        let mut lines = String::new();
        for guest in guests {
            values(guest, &mut |suffix, labels, value| {
                let _ = write!(lines, "{name}{suffix}");
                let own = [("id", guest.id.as_str()), ("name", guest.name.as_str())];
                for (index, (label, content)) in own.iter().chain(labels).enumerate() {
                    let before = if index == 0 { '{' } else { ',' };
                    let _ = write!(lines, "{before}{label}=\"{}\"", escaped(content));
                }
                let _ = writeln!(lines, "}} {value}");
            });
        }
        if !lines.is_empty() {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The metrics, in the order of the text.
static FAMILIES: &[Family] = &[
    gauge("carve_guest_up", "Whether the guest answers, of guests that run", |guest, take| {
        if let Some(up) = guest.up {
            take("", &[], f64::from(u8::from(up)));
        }
    }),
    gauge("carve_guest_state", "What the guest does; 1 for the label that holds", |guest, take| {
        take("", &[("state", &guest.state)], 1.0);
    }),
    gauge("carve_guest_info", "What runs the guest; always 1", |guest, take| {
        if let Some(vm) = &guest.vm {
            take("", &[("carve_version", &vm.carve_version)], 1.0);
        }
    }),
    gauge("carve_guest_start_time_seconds", "When the run began, since 1970", |guest, take| {
        of(&guest.vm, take, |vm| millis(vm.started_at));
    }),
    gauge("carve_guest_uptime_seconds", "How long the run has lasted", |guest, take| {
        of(&guest.statistics, take, |statistics| millis(statistics.uptime));
    }),
    counter("carve_guest_resets_total", "Resets in this run", |guest, take| {
        of(&guest.vm, take, |vm| f64::from(vm.resets));
    }),
    gauge("carve_guest_vcpus", "CPUs the guest sees", |guest, take| {
        of(&guest.vm, take, |vm| f64::from(vm.vcpus));
    }),
    counter(
        "carve_guest_cpu_seconds_total",
        "CPU time of the guest's process, devices and vCPUs",
        |guest, take| of(&guest.statistics, take, |statistics| micros(statistics.cpu_time)),
    ),
    counter(
        "carve_guest_vcpu_seconds_total",
        "CPU time of each vCPU, guest and exits",
        |guest, take| {
            for (number, vcpu) in guest.statistics.iter().flat_map(|s| s.vcpus.iter().enumerate()) {
                take("", &[("vcpu", &number.to_string())], micros(vcpu.cpu_time));
            }
        },
    ),
    counter(
        "carve_guest_vcpu_exits_total",
        "How often each vCPU left the guest for Carve",
        |guest, take| {
            for (number, vcpu) in guest.statistics.iter().flat_map(|s| s.vcpus.iter().enumerate()) {
                take("", &[("vcpu", &number.to_string())], whole(vcpu.exits));
            }
        },
    ),
    counter(
        "carve_guest_interrupts_total",
        "Interrupts of each queue of a virtio device, and of changes of its configuration",
        |guest, take| {
            for device in guest.statistics.iter().flat_map(|s| &s.interrupts) {
                let own = [("kind", device.kind.as_str()), ("device", device.device.as_str())];
                for (number, count) in device.queues.iter().enumerate() {
                    take("", &[own[0], own[1], ("queue", &number.to_string())], whole(*count));
                }
                take("", &[own[0], own[1], ("queue", "config")], whole(device.config));
            }
        },
    ),
    gauge("carve_guest_memory_bytes", "Memory the guest sees", |guest, take| {
        of(&guest.vm, take, |vm| whole(vm.memory));
    }),
    gauge("carve_guest_memory_resident_bytes", "Host memory the guest holds", |guest, take| {
        of(&guest.statistics, take, |statistics| whole(statistics.memory.resident));
    }),
    gauge(
        "carve_guest_memory_balloon_bytes",
        "Memory the guest gave back through its balloon",
        |guest, take| of(&guest.statistics, take, |s| whole(s.memory.balloon)),
    ),
    gauge(
        "carve_guest_memory_balloon_target_bytes",
        "Memory the guest is asked to give back",
        |guest, take| of(&guest.statistics, take, |s| whole(s.memory.balloon_target)),
    ),
    gauge(
        "carve_guest_memory_available_bytes",
        "Memory the guest could use without swapping, by its own account",
        |guest, take| {
            let available = guest.statistics.as_ref().and_then(|s| s.memory.available);
            of(&available, take, |available| whole(*available));
        },
    ),
    gauge("carve_guest_disk_size_bytes", "Size of each disk", |guest, take| {
        for (name, disk) in guest.statistics.iter().flat_map(|s| &s.disks) {
            take("", &[("disk", name)], whole(disk.size));
        }
    }),
    counter(
        "carve_guest_disk_requests_total",
        "Requests to each queue of a disk",
        |guest, take| {
            queues(guest, |disk, number, queue| {
                for (kind, count) in [
                    ("read", queue.reads),
                    ("write", queue.writes),
                    ("flush", queue.flushes),
                    ("other", queue.others),
                ] {
                    take("", &[("disk", disk), ("queue", number), ("kind", kind)], whole(count));
                }
            });
        },
    ),
    counter(
        "carve_guest_disk_bytes_total",
        "Bytes read and written by each queue of a disk",
        |guest, take| {
            queues(guest, |disk, number, queue| {
                for (kind, count) in [("read", queue.read_bytes), ("write", queue.written_bytes)] {
                    take("", &[("disk", disk), ("queue", number), ("kind", kind)], whole(count));
                }
            });
        },
    ),
    counter("carve_guest_disk_errors_total", "Requests that failed", |guest, take| {
        queues(guest, |disk, number, queue| {
            take("", &[("disk", disk), ("queue", number)], whole(queue.errors));
        });
    }),
    Family {
        name: "carve_guest_disk_request_seconds",
        kind: "histogram",
        help: "How long requests to each queue of a disk took",
        values: |guest, take| {
            queues(guest, |disk, number, queue| latency(disk, number, queue, take))
        },
    },
    counter(
        "carve_guest_net_packets_total",
        "Frames to and from the guest, of each pair of queues",
        |guest, take| {
            pairs(guest, |net, number, pair| {
                let own = [("net", net), ("queue", number)];
                take("", &[own[0], own[1], ("direction", "receive")], whole(pair.received_packets));
                take("", &[own[0], own[1], ("direction", "send")], whole(pair.sent_packets));
            });
        },
    ),
    counter(
        "carve_guest_net_bytes_total",
        "Bytes to and from the guest, of each pair of queues",
        |guest, take| {
            pairs(guest, |net, number, pair| {
                let own = [("net", net), ("queue", number)];
                take("", &[own[0], own[1], ("direction", "receive")], whole(pair.received_bytes));
                take("", &[own[0], own[1], ("direction", "send")], whole(pair.sent_bytes));
            });
        },
    ),
    counter(
        "carve_guest_net_dropped_total",
        "Frames that the guest had no room for, or the host did not take",
        |guest, take| {
            pairs(guest, |net, number, pair| {
                let own = [("net", net), ("queue", number)];
                take("", &[own[0], own[1], ("direction", "receive")], whole(pair.receive_dropped));
                take("", &[own[0], own[1], ("direction", "send")], whole(pair.send_dropped));
            });
        },
    ),
    counter(
        "carve_guest_net_filtered_total",
        "Frames that the guest does not want",
        |guest, take| {
            pairs(guest, |net, number, pair| {
                take("", &[("net", net), ("queue", number)], whole(pair.receive_filtered));
            });
        },
    ),
];

const fn gauge(
    name: &'static str,
    help: &'static str,
    values: fn(&Sample, &mut Take<'_>),
) -> Family {
    Family { name, kind: "gauge", help, values }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    values: fn(&Sample, &mut Take<'_>),
) -> Family {
    Family { name, kind: "counter", help, values }
}

/// One value without labels of its own, if there is what it is taken from.
fn of<T>(source: &Option<T>, take: &mut Take<'_>, value: impl FnOnce(&T) -> f64) {
    if let Some(source) = source {
        take("", &[], value(source));
    }
}

/// Each queue of each disk, with the disk's name and the queue's number.
fn queues(guest: &Sample, mut each: impl FnMut(&str, &str, &DiskQueueStatistics)) {
    for (name, disk) in guest.statistics.iter().flat_map(|statistics| &statistics.disks) {
        for (number, queue) in disk.queues.iter().enumerate() {
            each(name, &number.to_string(), queue);
        }
    }
}

/// Each pair of queues of each network device, with the device's name and the pair's number.
fn pairs(guest: &Sample, mut each: impl FnMut(&str, &str, &NetQueueStatistics)) {
    for (name, net) in guest.statistics.iter().flat_map(|statistics| &statistics.nets) {
        for (number, pair) in net.queues.iter().enumerate() {
            each(name, &number.to_string(), pair);
        }
    }
}

fn latency(disk: &str, number: &str, queue: &DiskQueueStatistics, take: &mut Take<'_>) {
    let own = [("disk", disk), ("queue", number)];
    let mut count = 0;
    for (index, bucket) in queue.latency.iter().enumerate() {
        count += bucket;
        let last = index + 1 == queue.latency.len();
        // The last one holds whatever took longer.
        if !last {
            let bound = FIRST_BUCKET.checked_shl(u32::try_from(index).unwrap_or(u32::MAX));
            let bound = micros(bound.unwrap_or(u64::MAX)).to_string();
            take("_bucket", &[own[0], own[1], ("le", &bound)], whole(count));
        }
    }
    take("_bucket", &[own[0], own[1], ("le", "+Inf")], whole(count));
    take("_sum", &own, micros(queue.time));
    take("_count", &own, whole(count));
}

/// Prometheus counts in floating point throughout.
#[allow(clippy::cast_precision_loss)]
fn whole(number: u64) -> f64 {
    number as f64
}

fn micros(number: u64) -> f64 {
    whole(number) / 1e6
}

fn millis(number: u64) -> f64 {
    whole(number) / 1e3
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod metrics_test;
