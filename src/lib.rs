// SPDX-License-Identifier: Apache-2.0
//! tcpconnect: which process opened this TCP connection?
//!
//! A BPF program (src/bpf) turns each connect into a fixed-size record;
//! `tracer` loads it and, beside the small `files`, is the only module that knows
//! libbpf; `event` decodes records; `output` writes them; `app` is the
//! single-threaded loop between them. `cli` and `config` say what was asked.
//! Dependencies point one way: main -> app -> {tracer, event, output} -> std and
//! one crate each.

pub mod app;
pub mod background;
pub mod cgroup;
mod cgroup_scan;
pub mod cli;
pub mod clock;
pub mod command;
pub mod community_id;
pub mod config;
pub mod connector;
pub mod container;
pub mod dns;
pub mod dns_message;
pub mod dns_questions;
pub mod error;
pub mod event;
pub mod existing;
pub mod files;
pub mod filter;
pub mod harmless;
pub mod holders;
mod kept;
pub mod output;
mod output_file;
pub mod peers;
pub mod privilege;
pub mod process;
pub mod procs;
pub mod programs;
mod ready;
pub mod retract;
pub mod rights;
pub mod shares;
pub mod sink;
mod skel;
pub mod snapshot;
pub mod sockets;
mod stop;
pub mod tracer;
mod users;
pub mod who;
