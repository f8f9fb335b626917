// SPDX-License-Identifier: Apache-2.0
//! A thread connects to itself in a network namespace that nobody has but it, and that is
//! deleted with it. The next namespace may have the same number.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;

use super::actor::Answer;
use super::actor::Identity;
use super::actor::Raw;
use super::actor::describe;
use super::actor::probe;
use super::actor::reset_at_close;
use super::actor::settle;
use super::steps::Via;
use super::ways;
use super::world::enter_new_netns;

/// Who was there, the end that connected and the other one.
pub fn visit() -> Answer {
    ways::perhaps_in_thread(true, || {
        enter_new_netns();
        let netns = fs::metadata("/proc/thread-self/ns/net").expect("a namespace").ino() as u32;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let to: SocketAddr = listener.local_addr().expect("it is bound");
        // SAFETY: makes a descriptor, which is ours.
        let client =
            unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
        assert_eq!(ways::connect(client.as_raw_fd(), &Raw::new(to)), 0);
        let (accepted, who) = ways::accept_via(listener.as_raw_fd(), Via::Itself);
        // SAFETY: accept() has just made it.
        let accepted = unsafe { OwnedFd::from_raw_fd(accepted as RawFd) };
        let [socket, other] = [&client, &accepted].map(|fd| describe(fd.as_raw_fd()));
        reset_at_close(client.as_raw_fd());
        drop(client);
        // The reset has come before the other end is closed.
        // SAFETY: a descriptor that nobody else has.
        settle(unsafe { OwnedFd::from_raw_fd(probe()) }.as_raw_fd());
        Answer { ret: 0, who: Identity { netns, ..who }, socket, other }
    })
}
