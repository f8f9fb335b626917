// SPDX-License-Identifier: Apache-2.0
//! The kernel's process connector, for the changes that have no tracepoint: uid,
//! gid, sid, ptrace and coredump. fork, exec, comm and exit come from BPF, which
//! knows more about them. Reads a netlink socket, decides nothing about output.

use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;

use neli::connector::CnMsg;
use neli::connector::CnMsgBuilder;
use neli::connector::ProcEvent;
use neli::connector::ProcEventHeader;
use neli::consts::connector::CnMsgIdx;
use neli::consts::connector::CnMsgVal;
use neli::consts::connector::ProcCnMcastOp;
use neli::consts::nl::NlmF;
use neli::consts::nl::Nlmsg;
use neli::consts::socket::NlFamily;
use neli::err::SocketError;
use neli::nl::NlPayload;
use neli::nl::NlmsghdrBuilder;
use neli::socket::synchronous::NlSocketHandle;
use neli::utils::Groups;

use crate::model::event::Event;
use crate::model::process::Notice;
use crate::model::process::NoticeKind;

/// Every fork, exec and exit on the host passes through it, too.
const RECEIVE_BYTES: libc::c_int = 4 << 20;

pub struct Connector {
    socket: NlSocketHandle,
    /// How often the kernel had no room for an event.
    pub overruns: u64,
}

impl Connector {
    /// Subscribes. Needs CAP_NET_ADMIN and the initial network, pid and user
    /// namespaces (drivers/connector/cn_proc.c).
    pub fn open() -> Result<Self, String> {
        let socket = NlSocketHandle::connect(
            NlFamily::Connector,
            None,
            Groups::new_bitmask(CnMsgIdx::Proc.into()),
        )
        .map_err(|e| e.to_string())?;
        let bytes = RECEIVE_BYTES;
        // SAFETY: the option's value is an int that lives through the call.
        // Without CAP_NET_ADMIN the size stays as it is.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                size_of_val(&bytes) as libc::socklen_t,
            );
        }
        let listen = CnMsgBuilder::default()
            .idx(CnMsgIdx::Proc)
            .val(CnMsgVal::Proc)
            .payload(ProcCnMcastOp::Listen)
            .build()
            .map_err(|e| e.to_string())?;
        let message = NlmsghdrBuilder::default()
            .nl_type(Nlmsg::Done)
            .nl_flags(NlmF::empty())
            .nl_payload(NlPayload::Payload(listen))
            .build()
            .map_err(|e| e.to_string())?;
        socket.send(&message).map_err(|e| e.to_string())?;
        // SAFETY: sets a flag of a descriptor that is ours.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        Ok(Connector { socket, overruns: 0 })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Appends what has come.
    pub fn drain(&mut self, events: &mut Vec<Event>) {
        loop {
            match self.socket.recv::<Nlmsg, CnMsg<ProcEventHeader>>() {
                Ok((messages, _)) => {
                    for message in messages.flatten() {
                        if let Some(payload) = message.get_payload() {
                            events.extend(notice(payload.payload()).map(Event::Notice));
                        }
                    }
                }
                Err(e) if is(&e, libc::ENOBUFS) => self.overruns += 1,
                Err(_) => return,
            }
        }
    }
}

fn is(error: &SocketError, errno: i32) -> bool {
    matches!(error, SocketError::Io(e) if e.raw_os_error() == Some(errno))
}

fn notice(header: &ProcEventHeader) -> Option<Notice> {
    let (kind, tid, pid) = match header.event {
        ProcEvent::Uid { process_pid, process_tgid, ruid, euid } => {
            (NoticeKind::Uid { real: ruid, effective: euid }, process_pid, process_tgid)
        }
        ProcEvent::Gid { process_pid, process_tgid, rgid, egid } => {
            (NoticeKind::Gid { real: rgid, effective: egid }, process_pid, process_tgid)
        }
        ProcEvent::Sid { process_pid, process_tgid } => {
            (NoticeKind::Sid, process_pid, process_tgid)
        }
        ProcEvent::Ptrace { process_pid, process_tgid, tracer_tgid, .. } => {
            let tracer = u32::try_from(tracer_tgid).ok().filter(|&pid| pid != 0);
            (NoticeKind::Ptrace { tracer }, process_pid, process_tgid)
        }
        ProcEvent::Coredump { process_pid, process_tgid, .. } => {
            (NoticeKind::Coredump, process_pid, process_tgid)
        }
        _ => return None,
    };
    Some(Notice {
        cgroup_id: None,
        ts_ns: header.timestamp_ns,
        pid: u32::try_from(pid).ok()?,
        tid: u32::try_from(tid).ok()?,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noticed(event: ProcEvent) -> Option<NoticeKind> {
        notice(&ProcEventHeader { cpu: 0, timestamp_ns: 7, event }).map(|notice| notice.kind)
    }

    #[test]
    fn what_bpf_tells_better_is_left_to_it() {
        let (process_pid, process_tgid) = (2, 1);
        assert_eq!(noticed(ProcEvent::Exec { process_pid, process_tgid }), None);
        assert_eq!(noticed(ProcEvent::Sid { process_pid, process_tgid }), Some(NoticeKind::Sid));
    }

    #[test]
    fn a_tracer_that_lets_go_is_no_tracer() {
        let ptrace = |tracer| ProcEvent::Ptrace {
            process_pid: 2,
            process_tgid: 1,
            tracer_pid: tracer,
            tracer_tgid: tracer,
        };
        assert_eq!(noticed(ptrace(9)), Some(NoticeKind::Ptrace { tracer: Some(9) }));
        assert_eq!(noticed(ptrace(0)), Some(NoticeKind::Ptrace { tracer: None }));
    }
}
