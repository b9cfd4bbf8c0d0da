//! The guests of a host, as files: what each is, what it does now, and how its last run ended.
//!
//! No process holds this together. Folders and locks do: whoever runs a command reads them, and repairs
//! what a killed process left behind ([`life::repair`]).
//!
//! | where | what |
//! |---|---|
//! | `STATE/guests/ID/guest.json` | what the guest is: [`Guest`] |
//! | `STATE/guests/ID/record.json` | its last run: [`Record`] |
//! | `STATE/guests/ID/console.log`, `.1`, `console.times`, `.1` | what its console said: [`log`] |
//! | `STATE/guests/ID/lock` | held by a command that starts, changes or removes the guest |
//! | `STATE/guests.lock` | held while names are given, changed or taken back |
//! | `STATE/events.ndjson` | what happened: [`journal`] |
//! | `RUNTIME/ID/vmm`, `RUNTIME/ID/monitor` | locked by the processes for as long as they live: [`live`] |
//! | `RUNTIME/ID/api.sock` | the control interface of a running guest |

mod books;
mod clerk;
mod entry;
pub(crate) mod files;
mod filter;
mod folders;
mod guest;
mod id;
mod journal;
mod keeper;
pub mod life;
pub mod live;
pub mod log;
pub mod monitor;
mod oom;
pub mod process;
mod record;
mod repair;
pub mod report;
pub mod sampling;
mod shortage;
pub(crate) mod spawn;
mod starter;
mod status;
mod store;
mod update;

pub use books::{Books, Error as BooksError, WriteExitRecord};
pub use entry::{Entry, Error};
pub use filter::{Filters, NotAFilter};
pub use folders::{Folders, NoFolder};
pub use guest::{Guest, InvalidLabel, Wanted, check_label};
pub use id::Id;
pub use journal::{Journal, Reader as JournalReader};
pub use record::{Ended, Record};
pub use resources::config::host::Restart;
pub use shortage::Shortage;
pub use status::{State, Status};
pub use store::{New, Store};
pub use update::{Error as UpdateError, Update};
