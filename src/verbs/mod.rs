//! One file for each verb of the command line.

pub mod api_spec;
pub mod apply;
pub mod attach;
pub mod capacity;
pub mod completions;
pub mod config;
pub mod create;
pub mod doctor;
pub mod down;
pub mod enter;
pub mod events;
mod host_file;
pub mod inspect;
pub mod inventory;
pub mod kill;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod monitor;
mod new;
pub mod pause;
pub mod plan;
pub mod prune;
pub mod ps;
pub mod rename;
pub mod restart;
pub mod rm;
pub mod run;
pub mod schema;
pub mod serve;
pub mod start;
pub mod stats;
pub mod stop;
pub mod tui;
pub mod update;
pub mod verify;
pub mod vmm;
pub mod wait;
mod which;
pub mod why;

/// What a verb answers with when it fails for a reason of Carve's own.
type Error = Box<dyn std::error::Error>;

/// What `ps` and `top` show, of a process that was started as `/proc/self/exe`.
fn set_process_name(name: &std::ffi::CStr) {
    // A name is for people alone.
    let _ = rustix::thread::set_name(name);
}
