// SPDX-License-Identifier: Apache-2.0
//! Attaches to the perf side of a tracepoint where tracefs, which alone has its number, is
//! mounted nowhere: from a mount of our own, that no one else can see.

use std::ffi::OsStr;
use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::IntoRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use libbpf_rs::Link;
use libbpf_rs::ProgramMut;
use libbpf_rs::libbpf_sys;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::MountAttrFlags;
use rustix::mount::fsconfig_create;
use rustix::mount::fsmount;
use rustix::mount::fsopen;

/// Needs CAP_SYS_ADMIN.
pub(super) fn attach_unmounted(program: &ProgramMut<'_>) -> io::Result<Link> {
    let event = perf_event(number(program.section())?)?.into_raw_fd();
    program.attach_perf_event(event).map_err(|e| {
        // SAFETY: libbpf owns the descriptor only if it has made a link of it.
        drop(unsafe { OwnedFd::from_raw_fd(event) });
        io::Error::other(e)
    })
}

/// `section` is `tp/CATEGORY/NAME`.
fn number(section: &OsStr) -> io::Result<u64> {
    let event = Path::new(section).strip_prefix("tp").map_err(io::Error::other)?;
    let tracefs = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&tracefs)?;
    let mount = fsmount(&tracefs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let path = Path::new("events").join(event).join("id");
    let id = openat(&mount, path, OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(id).read_to_string(&mut text)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// As libbpf opens it: programs run on all CPUs, though the event is of the first.
fn perf_event(number: u64) -> io::Result<OwnedFd> {
    let attr = libbpf_sys::perf_event_attr {
        type_: libbpf_sys::PERF_TYPE_TRACEPOINT,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: number,
        ..Default::default()
    };
    let [any_pid, cpu, no_group]: [c_long; 3] = [-1, 0, -1];
    let flags = c_long::from(libbpf_sys::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: the kernel reads `size` bytes of `attr` and keeps no pointer to it.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &attr, any_pid, cpu, no_group, flags) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
