//! CPU time of a monitor's threads while it runs, to the nanosecond.

use std::time::Duration;

use super::Result;

/// CPU time of all threads of a process but those that run guest code, and of those that the kernel has for it.
pub fn cpu_beside_vcpus(process: u32) -> Result<Duration> {
    let own = cpu_of(&format!("/proc/{process}/task"), |name| !is_vcpu(name))?;
    // Before Linux 6.4 these are not threads of the process itself.
    let vhost = format!("vhost-{process}\n");
    Ok(own + cpu_of("/proc", |name| name == vhost)?)
}

/// CPU time of the chosen threads in a folder of them.
fn cpu_of(folder: &str, chosen: impl Fn(&str) -> bool) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(folder)? {
        let task = task?.path();
        // Threads come and go.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        if chosen(&name)
            && let Ok(times) = std::fs::read_to_string(task.join("schedstat"))
        {
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
