//! CPU time of a monitor's threads while it runs, to the nanosecond.

use std::time::Duration;

use super::Result;

/// CPU time of all threads of a process but those that run guest code.
pub fn cpu_beside_vcpus(process: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        // Threads come and go.
        let (Ok(name), Ok(times)) = (
            std::fs::read_to_string(task.join("comm")),
            std::fs::read_to_string(task.join("schedstat")),
        ) else {
            continue;
        };
        if !is_vcpu(&name) {
            sum += running_time(&times).ok_or("an odd /proc/PID/task/TID/schedstat")?;
        }
    }
    Ok(sum)
}

/// Whether Carve or QEMU (`-name debug-threads=on`) calls a vCPU's thread so.
fn is_vcpu(name: &str) -> bool {
    name.starts_with("vcpu") || name.starts_with("CPU ")
}

/// The first number: nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
fn running_time(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod threads_test {
    use super::*;

    #[test]
    fn threads_of_guests_are_told_by_their_names() {
        assert!(is_vcpu("vcpu0\n") && is_vcpu("CPU 1/KVM\n"));
        assert!(!is_vcpu("disk.a.0\n") && !is_vcpu("IO io\n"));
    }

    #[test]
    fn time_on_a_cpu_comes_first() {
        assert_eq!(
            running_time("423996179 705080074 171\n"),
            Some(Duration::from_nanos(423_996_179))
        );
        assert_eq!(running_time(""), None);
    }
}
