// SPDX-License-Identifier: Apache-2.0
//! The failures a user can act on, each saying what, why and what to do; and
//! telling them.

use std::io::ErrorKind;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use thiserror::Error;

use crate::escape::harmless;
use crate::poll::poll;
use crate::poll::writable;

#[derive(Debug, Error)]
pub enum StartError {
    #[error("{0}")]
    NotPermitted(String),
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing); it needs \
         CONFIG_DEBUG_INFO_BTF, or give a BTF file with --btf FILE"
    )]
    NoBtf,
    #[error("cannot use BTF file '{0}': {1}")]
    BadBtf(String, String),
    #[error("no hook can be attached: {reasons}{hint}")]
    NoHook { reasons: String, hint: String },
    #[error("{option} '{path}': {why}")]
    BadMap { option: &'static str, path: String, why: String },
    #[error("--cgroup '{0}': {1}")]
    BadCgroup(String, String),
    #[error("--netns '{0}': {1}")]
    BadNetns(String, String),
    #[error("the buffer of {0} bytes cannot be made: {1}; try a smaller --buffer-size")]
    BadBuffer(usize, String),
    #[error(
        "--container, --pod, --unit, --container-id, --container-name, --image and --cgroup-path \
         need cgroup v2, and none is mounted here; see mount -t cgroup2"
    )]
    NoCgroupsToName,
    #[error("-d needs cgroup v2, and none is mounted here; see mount -t cgroup2")]
    NoCgroupsForDns,
    #[error(
        "--container, --pod, --unit, --container-id, --container-name, --image, --cgroup-path \
         and --vpid read kernel memory, which lockdown=confidentiality forbids; --cgroup PATH \
         works"
    )]
    LockedDownForNames,
    #[error("-f reads kernel memory, which lockdown=confidentiality forbids")]
    LockedDownForFailed,
    #[error("too many of --container and --unit: trace them in two runs")]
    TooManyNames,
    #[error(
        "in a time namespace it can only run as a child process of who made that; see unshare \
         --fork"
    )]
    NoOwnClock,
}

/// A COMMAND that could not be started, with the shell's exit code for it.
#[derive(Debug, Error)]
#[error("cannot run '{command}': {why}")]
pub struct CommandError {
    pub command: String,
    pub why: String,
    /// 127: not found; 126: found but not runnable.
    pub code: u8,
}

/// One line on stderr, whatever a path in it holds. A closed stderr is no reason
/// to fail, let alone to panic as eprintln!() does; one that does not block, as that of a
/// terminal shared with such a program, gets a moment to take the rest.
pub fn warn(line: &str) {
    let text = harmless(line) + "\n";
    let mut rest = text.as_bytes();
    let mut stderr = std::io::stderr();
    while !rest.is_empty() {
        match stderr.write(rest) {
            Ok(n @ 1..) => rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut fds = [writable(stderr.as_raw_fd())];
                if poll(&mut fds, Duration::from_secs(1)).is_err() || fds[0].revents == 0 {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// The text of an OS error without Rust's "(os error N)".
pub fn text_of(error: &impl ToString) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
