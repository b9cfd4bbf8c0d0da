//! A guest's control interface: HTTP/1.1 with JSON over a unix socket.
//!
//! [`types`] are the words, the same for server, clients and the OpenAPI document; [`routes`] are the
//! paths. What is done about them is decided in the main loop ([`crate::command`]), never here.
//!
//! A client may be slow, broken or hostile: heads, bodies, connections and waiting are bounded
//! ([`server::Limits`]), and the one thread that serves never waits for any of them.

pub mod client;
mod connection;
mod console;
pub mod events;
pub mod http;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod route;
pub mod routes;
pub mod server;
pub mod socket;
pub mod stream;
pub mod types;
