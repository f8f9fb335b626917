// SPDX-License-Identifier: Apache-2.0
//! What the kernel says of programs and links that are loaded.

use std::ffi::c_void;
use std::os::fd::RawFd;

use libbpf_rs::Link;
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::query::PerfEventType;

/// bpf_prog_info.recursion_misses, kernel 5.12; 0 where it cannot be had.
pub(super) fn recursion_misses(fd: RawFd) -> u64 {
    program_info(fd).map_or(0, |info| info.recursion_misses)
}

/// What the kernel says of a program without being asked for its code.
pub(super) fn program_info(fd: RawFd) -> Option<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is zeroed, as the kernel demands, and `len` its size.
    let ret = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(fd, (&raw mut info).cast::<c_void>(), &mut len)
    };
    (ret == 0).then_some(info)
}

/// Misses of an entry probe, kernel 6.7.
pub(super) fn entry_probe_misses(link: &Link) -> Option<u64> {
    match link.info().ok()?.info {
        LinkTypeInfo::PerfEvent(info) => match info.event_type {
            PerfEventType::Kprobe { is_retprobe: false, missed, .. } => Some(missed),
            _ => None,
        },
        _ => None,
    }
}
