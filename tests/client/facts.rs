// SPDX-License-Identifier: Apache-2.0
//! What the kernel knows about a connect, for a row to be compared with. Asserts nothing.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use libc::c_int;
use serde_json::{Value, json};

use crate::sockets::Sock;
use crate::system::lossy;
use crate::{LO4, LO6};

/// What a tracer should say about `sock`'s connect to `to`, from the kernel.
pub fn fact(case: &str, sock: &Sock, to: SocketAddr, errno: c_int) -> Value {
    let name = match errno {
        0 => "",
        libc::EINPROGRESS => "EINPROGRESS",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EISCONN => "EISCONN",
        libc::EALREADY => "EALREADY",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EINVAL => "EINVAL",
        _ => "other",
    };
    // Of these only the peer, or its silence, gives a connect that has sent its SYN.
    let sent = ["", "EINPROGRESS", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT"].contains(&name);
    let from = sock.local().ok().filter(|from| from.port() != 0);
    let source = from.map(|from| from.ip()).filter(|ip| !ip.is_unspecified());
    // The kernel takes the unspecified address as this host: the source if that is bound.
    let to = sock.0.peer_addr().unwrap_or(match to.ip() {
        ip if !ip.is_unspecified() => to,
        IpAddr::V4(_) => SocketAddr::new(source.unwrap_or(LO4), to.port()),
        IpAddr::V6(_) => SocketAddr::new(LO6, to.port()),
    });
    let mut line = identity();
    line["case"] = json!(case);
    line["errno"] = json!(errno);
    line["errno_name"] = json!(Some(name).filter(|name| !name.is_empty()));
    line["rows"] = json!(u8::from(sent));
    line["family"] = json!(if to.is_ipv4() { 4 } else { 6 });
    line["saddr"] = json!(source);
    line["lport"] = json!(from.map(|from| from.port()));
    line["daddr"] = json!(to.ip());
    line["dport"] = json!(to.port());
    line["cookie"] = json!(sock.cookie().map(|cookie| cookie.to_string()).ok());
    if to.is_ipv6() && to.ip().to_canonical().is_ipv4() {
        line["saddr4"] = json!(source.map(|ip| ip.to_canonical()));
        line["daddr4"] = json!(to.ip().to_canonical());
    }
    if let SocketAddr::V6(to) = to
        && to.scope_id() != 0
    {
        line["scope_id"] = json!(to.scope_id());
    }
    line
}

/// Who the calling thread is. /proc answers in the pid namespace it was mounted in, the one the
/// client started in, also to a child in a namespace of its own.
pub fn identity() -> Value {
    let status = lossy(&fs::read("/proc/thread-self/status").unwrap_or_default());
    let number = |name: &str| -> Option<u32> {
        let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
        lines.find(|(key, _)| *key == name)?.1.split_whitespace().next()?.parse().ok()
    };
    let namespace = |name: &str| -> Option<u32> {
        let link = fs::read_link(format!("/proc/thread-self/ns/{name}")).ok()?;
        link.to_str()?.split(['[', ']']).nth(1)?.parse().ok()
    };
    let pid = number("Tgid");
    let (comm, thread) = (read_comm(&pid.unwrap_or(0).to_string()), read_comm("thread-self"));
    let mut who = json!({
        "pid": pid, "tid": number("Pid"), "ppid": number("PPid"), "uid": number("Uid"),
        "gid": number("Gid"), "comm": lossy(&comm), "thread": lossy(&thread),
        "netns": namespace("net"), "mntns": namespace("mnt"),
        "exe": fs::read_link("/proc/thread-self/exe").ok(),
        "args": std::env::args_os().map(|word| lossy(word.as_bytes())).collect::<Vec<_>>(),
    });
    for (key, name) in [("comm_hex", comm), ("thread_hex", thread)] {
        if str::from_utf8(&name).is_err() {
            who[key] = json!(name.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
    who
}

pub fn read_comm(task: &str) -> Vec<u8> {
    let mut name = fs::read(format!("/proc/{task}/comm")).unwrap_or_default();
    // A name may hold newlines; the last one is the file's.
    name.pop();
    name
}
