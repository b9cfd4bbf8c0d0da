//! [`Record`]: the last run of a guest, and how it ended.

use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guest::VERSION;
use super::oom::{self, Told};
use super::shortage::Shortage;
use crate::clock::now;
use crate::outcome::{End, signal_code, signal_name};

/// The last run of a guest. Its VMM writes it at the start and at an orderly end; whoever finds an end
/// that was not orderly writes that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Counts the runs of the guest, from 1.
    pub run: u32,
    /// When this one was started, in milliseconds since 1970.
    pub started_at: u64,
    /// The host's start it happened in.
    pub boot_id: String,
    /// The process of its VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Processes that the host's out-of-memory killer had killed when the run began.
    #[serde(default)]
    pub oom_kills: u64,
    /// Starts by the restart policy since the user started the guest.
    #[serde(default)]
    pub restarts: u32,
    /// What it is not held to, with `enforce = "best-effort"` only: limits by controllers that the host
    /// lacks, and settings that the kernel refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
    /// What of its storage the host had no room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_room: Vec<Shortage>,
    /// How it ended; nothing while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What `carve run` would end with.
    pub exit_code: u8,
    /// The end in one word: those of [`End`], and `error`, `killed`, `out-of-memory`, `host-down`,
    /// `forbidden-call`.
    pub kind: String,
    /// In a sentence, with the remedy where there is one.
    pub message: String,
    /// Resets during the run.
    #[serde(default)]
    pub resets: u32,
    /// The last lines on the console of a guest that panicked or crashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output: Option<String>,
}

/// Carve itself failed.
pub const OWN_ERROR: u8 = 125;

impl Record {
    /// The record of a run that begins now.
    pub fn begin(run: u32, restarts: u32) -> Self {
        Self {
            version: VERSION,
            run,
            started_at: now(),
            boot_id: boot_id(),
            pid: i32::try_from(std::process::id()).ok(),
            oom_kills: oom_kills(),
            restarts,
            unenforced: Vec::new(),
            no_room: Vec::new(),
            ended: None,
        }
    }

    /// The end of a run whose VMM left no record: `signal` is what killed it, where that is known,
    /// `requested` whether somebody asked for that, `words` what it left: its own account of the end
    /// ([`Ended::as_last_words`]), or what it said in dying of a forbidden system call.
    pub fn lost(&self, signal: Option<i32>, requested: bool, words: Option<&str>) -> Ended {
        if let Some(words) = words {
            return serde_json::from_str(words).unwrap_or_else(|_| self.forbidden(words));
        }
        let signal_text = signal.map_or_else(|| "a signal".to_owned(), signal_name);
        let (kind, message) = if requested {
            ("killed", "the guest was killed on request".to_owned())
        } else if self.boot_id != boot_id() {
            ("host-down", "the host went down while the guest ran".to_owned())
        } else if signal.is_none_or(|signal| signal == libc::SIGKILL)
            && let Some(message) = self.starved()
        {
            ("out-of-memory", message.to_owned())
        } else if signal.is_none_or(|signal| signal == libc::SIGKILL) {
            ("killed", format!("the guest's process was killed by {signal_text}, not by Carve"))
        } else {
            let text = format!("the guest's process ended by {signal_text}");
            ("error", format!("{text}: this is a bug in Carve, please report it"))
        };
        Ended {
            at: now(),
            exit_code: signal_code(signal.unwrap_or(libc::SIGKILL)),
            kind: kind.to_owned(),
            message,
            resets: 0,
            last_output: None,
        }
    }

    fn forbidden(&self, words: &str) -> Ended {
        Ended {
            at: now(),
            exit_code: signal_code(libc::SIGSYS),
            kind: FORBIDDEN_CALL.to_owned(),
            message: format!(
                "{words}: either the guest has taken over its VMM, which ends here, or this is a bug in Carve; please report it"
            ),
            resets: 0,
            last_output: None,
        }
    }
}

/// The end of a VMM that made a system call its filter forbids, in one word.
pub const FORBIDDEN_CALL: &str = "forbidden-call";

impl Record {
    /// How a VMM was killed for lack of memory, as far as the host's kernel tells; nothing if it was not.
    fn starved(&self) -> Option<&'static str> {
        match self.pid.and_then(|pid| oom::told(pid, self.started_at)) {
            Some(Told::Host) => Some(
                "the host ran out of memory, and its kernel killed the guest; give the host more memory, or its guests less",
            ),
            Some(Told::Group) => Some(
                "the control group that the guest was in ran out of memory, and the kernel killed the guest; give the group more memory, or the guest less",
            ),
            Some(Told::Neither) => None,
            None => (oom_kills() > self.oom_kills).then_some(
                "the guest was killed, probably by the host's kernel, which ran out of memory meanwhile; give the host more memory, or its guests less",
            ),
        }
    }
}

impl Ended {
    /// The end `end` of a guest's run.
    pub fn by(end: &End, resets: u32, last_output: &[u8]) -> Self {
        let kind = serde_json::to_value(end).ok();
        let kind = kind.as_ref().and_then(|value| value.get("kind")?.as_str());
        let last_output = String::from_utf8_lossy(last_output).into_owned();
        Self {
            at: now(),
            exit_code: end.code(),
            kind: kind.unwrap_or_default().to_owned(),
            message: end.message(),
            resets,
            last_output: (!last_output.is_empty()).then_some(last_output),
        }
    }

    /// The same for the file of the VMM's sign of life, from where whoever looks next writes it down: for a VMM whose
    /// clerk is gone. What the console said last is left out, as there is no room for it.
    pub fn as_last_words(&self) -> String {
        let short = Self { last_output: None, ..self.clone() };
        serde_json::to_string(&short).unwrap_or_default()
    }

    /// An error of Carve's ended the run, or kept it from starting.
    pub fn failed(message: String) -> Self {
        Self {
            at: now(),
            exit_code: OWN_ERROR,
            kind: "error".to_owned(),
            message,
            resets: 0,
            last_output: None,
        }
    }
}

/// What tells one start of the host from another.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Processes that the out-of-memory killer killed since the host's start (proc_vmstat(5), `oom_kill`),
/// in whichever memory cgroup.
fn oom_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod record_test {
    use super::*;

    #[test]
    fn an_end_that_nobody_wrote_down_is_explained_as_far_as_it_can_be() {
        let record = Record::begin(1, 0);
        assert_eq!(
            record.lost(Some(libc::SIGKILL), true, None).message,
            "the guest was killed on request"
        );
        assert_eq!(record.lost(Some(libc::SIGKILL), false, None).exit_code, 137);
        assert_eq!(record.lost(Some(libc::SIGSEGV), false, None).kind, "error");
        let other_boot = Record { boot_id: "another".into(), ..record.clone() };
        assert_eq!(other_boot.lost(None, false, None).kind, "host-down");
        let forbidden = record.lost(Some(libc::SIGSYS), false, Some("the thread x did y"));
        assert_eq!((forbidden.kind.as_str(), forbidden.exit_code), ("forbidden-call", 159));
        assert!(forbidden.message.starts_with("the thread x did y"));
        let told = Ended { last_output: Some("x".repeat(5000)), ..Ended::failed("no disk".into()) };
        let words = told.as_last_words();
        let read = record.lost(Some(libc::SIGKILL), false, Some(&words));
        assert_eq!(read, Ended { last_output: None, ..told });
        // What can only be guessed where the kernel's log is for others.
        let starved = Record { oom_kills: 0, pid: None, ..record };
        if oom_kills() > 0 {
            assert_eq!(starved.lost(None, false, None).kind, "out-of-memory");
        }
    }

    #[test]
    fn ends_carry_their_word_and_code() {
        let ended = Ended::by(&End::Panicked, 3, b"Kernel panic");
        assert_eq!((ended.kind.as_str(), ended.exit_code, ended.resets), ("panicked", 1, 3));
        assert_eq!(ended.last_output.as_deref(), Some("Kernel panic"));
    }
}
