//! Control interfaces: HTTP/1.1 with JSON over a unix socket, one of each running guest, and one of all guests
//! ([`host`]) that is served where somebody wants it.
//!
//! [`types`] are the words, the same for server, clients and the OpenAPI document; [`routes`] are the
//! paths of a guest. What is done about them is decided in its main loop ([`crate::command`]), never here.
//!
//! A client may be slow, broken or hostile: heads, bodies, connections and waiting are bounded
//! ([`server::Limits`]), and the one thread that serves never waits for any of them.

pub mod activation;
pub mod client;
mod connection;
mod console;
pub mod events;
pub mod host;
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

#[cfg(test)]
mod compatibility_test;
