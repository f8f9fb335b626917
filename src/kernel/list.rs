// SPDX-License-Identifier: Apache-2.0
//! The processes that exist now, as the kernel knows them: all, or one.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::libbpf_sys;

use crate::kernel::record::decode_list;
use crate::model::process::ProcessEvent;
use crate::model::process::ProcessList;

/// Of the time at most one part in so many is for asking about one process where
/// that takes a walk over all: before 6.1, and 6 ms with 10,000 of them.
const WALKS_SHARE: u32 = 10;

/// Outlives the tracer's hooks, which it has nothing to do with.
pub struct Lister {
    pub(super) program: OwnedFd,
    pub(super) link: OwnedFd,
    /// After a walk over all: when there may be another.
    pub(super) rests_until: Cell<Option<Instant>>,
}

/// libbpf's calls that make a descriptor return an error as its negative number.
fn made(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn read(link: &OwnedFd) -> Result<Vec<ProcessEvent>> {
    // SAFETY: takes no memory.
    let list = made(unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) })?;
    let mut bytes = Vec::new();
    File::from(list).read_to_end(&mut bytes)?;
    Ok(decode_list(&bytes)?)
}

impl Lister {
    /// Kernels before 6.1 do not know of this choice, and list all.
    fn only(&self, pid: u32) -> Result<Vec<ProcessEvent>> {
        let mut which = libbpf_sys::bpf_iter_link_info::default();
        which.task.tid = pid;
        let opts = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
            iter_info: &raw mut which,
            iter_info_len: size_of::<libbpf_sys::bpf_iter_link_info>() as _,
            ..Default::default()
        };
        let program = self.program.as_raw_fd();
        // SAFETY: the options and what they point to live until it returns.
        let link = made(unsafe {
            libbpf_sys::bpf_link_create(program, 0, libbpf_sys::BPF_TRACE_ITER, &raw const opts)
        })?;
        read(&link)
    }
}

impl ProcessList for Lister {
    fn list(&self) -> Result<Vec<ProcessEvent>> {
        read(&self.link).context("failed to list the processes")
    }

    fn now(&self, proc_pid: u32, start_ns: u64) -> Option<Option<ProcessEvent>> {
        let began = Instant::now();
        if self.rests_until.get().is_some_and(|at| began < at) {
            return None;
        }
        let found = self.only(proc_pid).ok()?;
        if found.len() > 1 {
            self.rests_until.set(Some(Instant::now() + began.elapsed() * (WALKS_SHARE - 1)));
        }
        let same = |e: &&ProcessEvent| e.proc_pid == proc_pid && e.start_ns == start_ns;
        Some(found.iter().find(same).cloned())
    }
}
