//! What a guest has done so far, gathered when somebody asks: nothing is sampled meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use devices::virtio::balloon::{self, Statistic};
use devices::virtio::block::Requests;
use devices::virtio::interrupt::InterruptCounts;
use devices::virtio::net::Passed;
use rustix::time::{ClockId, clock_gettime};

use crate::api::types::{
    DiskQueueStatistics, DiskStatistics, InterruptStatistics, MemoryStatistics, NetQueueStatistics,
    NetStatistics, Statistics, VcpuStatistics,
};
use crate::kvm::tally::Tally;
use crate::machine::Context;
use crate::machine::disks::Disks;
use crate::machine::networks::{self, Networks};
use crate::machine::sources::Sources;

/// Everything about the run.
pub(crate) fn gather(context: &Context<'_>) -> Statistics {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Statistics {
        uptime: u64::try_from(context.timings.elapsed().as_millis()).unwrap_or(u64::MAX),
        vcpus: context.tallies.iter().map(vcpu).collect(),
        memory: memory(
            context.status.resident(),
            context.sources,
            context.config.memory.size.bytes(),
        ),
        disks: disks(context.sources.disks()),
        nets: nets(context.sources.networks()),
        interrupts: interrupts(context.sources),
        cpu_time: microseconds(Duration::try_from(now).unwrap_or_default()),
    }
}

fn vcpu(tally: &Tally) -> VcpuStatistics {
    VcpuStatistics { cpu_time: microseconds(tally.cpu_time()), exits: tally.exits() }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn memory(resident: u64, sources: &Sources, size: u64) -> MemoryStatistics {
    let mut memory = MemoryStatistics { size, resident, ..Default::default() };
    if let Some(balloon) = sources.balloon() {
        let handle = balloon.handle();
        let bytes = |pages: u32| u64::from(pages) * balloon::PAGE;
        // The guest's word, which may be anything.
        memory.balloon = bytes(handle.actual_pages()).min(size);
        memory.balloon_target = bytes(handle.target_pages());
        let told = handle.statistics();
        memory.available =
            told.and_then(|told| told.get(Statistic::Available)).map(|n| n.min(size));
        // For whoever asks next.
        handle.poll_statistics();
    }
    memory
}

/// What the kernel says of this process, opened while paths can be.
#[derive(Debug)]
pub(crate) struct OwnStatus(Option<File>);

impl OwnStatus {
    /// Opens it. Without procfs nothing will be known.
    pub(crate) fn open() -> Self {
        Self(File::open("/proc/self/status").ok())
    }

    /// Bytes of the host's memory that this process has and no file: the guest's, and the little of its own.
    fn resident(&self) -> u64 {
        let mut text = [0; 8192];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        resident_of(&String::from_utf8_lossy(&text[..read.unwrap_or(0)]))
    }
}

fn resident_of(status: &str) -> u64 {
    let kib = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let counts = matches!(name, "RssAnon" | "RssShmem" | "HugetlbPages");
        counts.then(|| value.trim().trim_end_matches(" kB").parse::<u64>().ok())?
    };
    status.lines().filter_map(kib).sum::<u64>().saturating_mul(1024)
}

fn disks(disks: &Disks) -> BTreeMap<String, DiskStatistics> {
    let of = |(name, size, queues): (&str, u64, Vec<Requests>)| {
        let sum = |count: fn(&Requests) -> u64| queues.iter().map(count).sum();
        let disk = DiskStatistics {
            size,
            reads: sum(|queue| queue.reads),
            writes: sum(|queue| queue.writes),
            flushes: sum(|queue| queue.flushes),
            read_bytes: sum(|queue| queue.read_bytes),
            written_bytes: sum(|queue| queue.written_bytes),
            errors: sum(|queue| queue.errors),
            queues: queues.iter().map(queue_statistics).collect(),
        };
        (name.to_owned(), disk)
    };
    disks.statistics().map(of).collect()
}

fn queue_statistics(requests: &Requests) -> DiskQueueStatistics {
    DiskQueueStatistics {
        reads: requests.reads,
        writes: requests.writes,
        flushes: requests.flushes,
        others: requests.others,
        read_bytes: requests.read_bytes,
        written_bytes: requests.written_bytes,
        errors: requests.errors,
        time: microseconds(requests.time),
        latency: requests.latency.to_vec(),
    }
}

fn nets(networks: &Networks) -> BTreeMap<String, NetStatistics> {
    let of = |net: &networks::Handle| {
        let queues: Vec<_> = net.statistics().map(pair_statistics).collect();
        let sum = |count: fn(&NetQueueStatistics) -> u64| queues.iter().map(count).sum();
        let statistics = NetStatistics {
            received_packets: sum(|queue| queue.received_packets),
            received_bytes: sum(|queue| queue.received_bytes),
            sent_packets: sum(|queue| queue.sent_packets),
            sent_bytes: sum(|queue| queue.sent_bytes),
            dropped: sum(|queue| queue.receive_dropped + queue.send_dropped),
            queues,
        };
        (net.short_name().to_owned(), statistics)
    };
    networks.handles().map(of).collect()
}

fn pair_statistics(passed: Passed) -> NetQueueStatistics {
    NetQueueStatistics {
        received_packets: passed.received_frames,
        received_bytes: passed.received_bytes,
        receive_dropped: passed.receive_dropped,
        receive_filtered: passed.filtered,
        sent_packets: passed.sent_frames,
        sent_bytes: passed.sent_bytes,
        send_dropped: passed.send_dropped + passed.malformed,
    }
}

fn interrupts(sources: &Sources) -> Vec<InterruptStatistics> {
    let of = |(kind, name, counts): (&str, &str, &Arc<InterruptCounts>)| InterruptStatistics {
        kind: kind.to_owned(),
        device: name.to_owned(),
        queues: counts.queues(),
        config: counts.config(),
    };
    sources.interrupts().map(of).collect()
}

#[cfg(test)]
mod statistics_test {
    use super::*;

    #[test]
    fn memory_of_files_is_not_the_guests() {
        let status = "Name:\tcarve\nVmRSS:\t 999 kB\nRssAnon:\t    100 kB\nRssFile:\t  7 kB\n\
                      RssShmem:\t      20 kB\nHugetlbPages:\t  2048 kB\n";
        assert_eq!(resident_of(status), (100 + 20 + 2048) << 10);
        let own = OwnStatus::open();
        assert!(own.resident() > 0 && own.resident() > 0);
    }
}
