//! A guest's control interface: HTTP/1.1 with JSON over a unix socket.
//!
//! [`types`] are the words, the same for server, clients and the OpenAPI document. What is done about
//! them is decided in the main loop ([`crate::command`]), never here.

pub mod types;
