// SPDX-License-Identifier: Apache-2.0
//! The client's cases about names: looks them up in every way, then connects, and plays the servers
//! that no real one would be. Owns no assertion.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libc::c_void;
use serde_json::json;

use crate::acts::mount;
use crate::connects::ring_call;
use crate::system::{ensure, lossy, number, text, unescape};
use crate::{Ctx, Res};

const DNS: u16 = 53;
const IORING_OP_RECV: u8 = 27;
/// Where the odd server says that every name is.
const ODD: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);

/// `dns resolver ADDR`, `dns name NAME PORT`, `dns ask HOW SERVER NAME [PORT]`, `dns run PROGRAM
/// ARG...`, `dns odd ADDR`, `dns own NAME PORT` (its own server), `dns unasked`, `dns forged`, `dns flood UID N`, `dns
/// hostile N`, `dns storm N PER_SECOND`.
pub fn dns(ctx: &Ctx, args: &[&str]) -> Res {
    match args {
        ["resolver", server] => resolver(server),
        ["name", name, port] => {
            let port: u16 = port.parse().map_err(text)?;
            let to = (*name, port).to_socket_addrs().map_err(text)?.next().ok_or("no address")?;
            connect(ctx, to)
        }
        ["ask", how, server, name] => ask(how, server, name).map(drop),
        ["ask", how, server, name, port] => {
            let address = ask(how, server, name)?;
            connect(ctx, SocketAddr::new(address, port.parse().map_err(text)?))
        }
        ["run", program, args @ ..] => run(ctx, program, args),
        ["odd", address] => odd_server(address.parse().map_err(text)?),
        ["own", name, port] => {
            dns(ctx, &["odd", "127.0.0.9"])?;
            dns(ctx, &["ask", "recv", "127.0.0.9", name, port])
        }
        ["unasked"] => unasked(),
        ["forged"] => forged(),
        ["hostile", n] => hostile(ctx, n.parse().map_err(text)?),
        ["flood", uid, n] => flood(uid.parse().map_err(text)?, n.parse().map_err(text)?),
        ["storm", rest @ ..] => storm(ctx, number(rest, 0, None)?, number(rest, 1, None)?),
        _ => Err("not one of the things this case can do".into()),
    }
}

fn connect(ctx: &Ctx, to: SocketAddr) -> Res {
    crate::connects::connect(ctx, &[&to.ip().to_string(), &to.port().to_string()])
}

/// In a mount namespace of our own.
fn resolver(server: &str) -> Res {
    // SAFETY: a plain system call.
    crate::system::sys("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE)?;
    let file = std::env::temp_dir().join(format!("resolv-{}", std::process::id()));
    fs::write(&file, format!("nameserver {server}\n")).map_err(text)?;
    // Nothing is there in a machine that has just booted.
    fs::OpenOptions::new().append(true).create(true).open("/etc/resolv.conf").map_err(text)?;
    mount(&file.to_string_lossy(), "/etc/resolv.conf", "", libc::MS_BIND)?;
    fs::remove_file(&file).map_err(text)
}

fn run(ctx: &Ctx, program: &str, args: &[&str]) -> Res {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    ctx.emit(&json!({"case": ctx.case, "pid": child.id(), "rows": 0}));
    child.wait().map(drop).map_err(text)
}

/// A question for the IPv4 address of a name (`\xNN` in it: a byte), or, if the name begins with
/// `six`, the IPv6 one.
fn question(name: &str) -> Res<Vec<u8>> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in unescape(name)?.split(|&byte| byte == b'.') {
        message.push(u8::try_from(label.len()).map_err(text)?);
        message.extend_from_slice(label);
    }
    let kind = if name.starts_with("six") { 28 } else { 1 };
    message.extend_from_slice(&[0, 0, kind, 0, 1]);
    Ok(message)
}

/// Without EDNS an answer ends with the address.
fn address_in(answer: &[u8]) -> Res<IpAddr> {
    ensure(answer.len() > 12 && answer[7] > 0, "no address in the answer")?;
    match answer.last_chunk::<18>() {
        Some([0, 16, v6 @ ..]) => Ok(IpAddr::from(*v6)),
        _ => Ok(IpAddr::from(*answer.last_chunk::<4>().ok_or("a short answer")?)),
    }
}

fn ask(how: &str, server: &str, name: &str) -> Res<IpAddr> {
    let server: IpAddr = server.parse().map_err(text)?;
    let (to, question) = (SocketAddr::new(server, DNS), question(name)?);
    if how == "tcp" {
        let mut stream = TcpStream::connect(to).map_err(text)?;
        let length = u16::try_from(question.len()).map_err(text)?.to_be_bytes();
        stream.write_all(&[&length[..], &question].concat()).map_err(text)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).map_err(text)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).map_err(text)?;
        return address_in(&answer);
    }
    let any: SocketAddr =
        if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().map_err(text)?;
    let socket = UdpSocket::bind(any).map_err(text)?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
    if how == "recvfrom" {
        socket.send_to(&question, to).map_err(text)?;
    } else {
        socket.connect(to).map_err(text)?;
        socket.send(&question).map_err(text)?;
    }
    let mut answer = vec![0u8; 65_535];
    let (fd, at, size) = (socket.as_raw_fd(), answer.as_mut_ptr().cast::<c_void>(), answer.len());
    let len = match how {
        "recvfrom" => loop {
            let (len, _) = uninterrupted(|| socket.recv_from(&mut answer))?;
            if answer[..2] == question[..2] {
                break len;
            }
        },
        "recv" => uninterrupted(|| socket.recv(&mut answer))?,
        "io_uring" => {
            ring_call(fd, IORING_OP_RECV, 0, 0, at.cast(), size as u32)?.0.unsigned_abs() as usize
        }
        // SAFETY: the buffer outlives the call and has the length given.
        "read" => received(unsafe { libc::read(fd, at, size) })?,
        "recvmsg" | "recvmmsg" => {
            let mut part = libc::iovec { iov_base: at, iov_len: size };
            // SAFETY: plain data.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (&raw mut part, 1);
            // SAFETY: the message and what it points to outlive the calls.
            unsafe {
                match how {
                    "recvmsg" => received(libc::recvmsg(fd, &mut message.msg_hdr, 0))?,
                    _ => {
                        received(libc::recvmmsg(fd, &mut message, 1, 0, null_mut()) as isize)?;
                        message.msg_len as usize
                    }
                }
            }
        }
        _ => return Err(format!("ask how? {how}")),
    };
    address_in(&answer[..len])
}

/// The end of an io_uring interrupts what its thread does next.
fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Res<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(text),
        }
    }
}

fn received(result: isize) -> Res<usize> {
    usize::try_from(result).map_err(|_| format!("receive: {}", std::io::Error::last_os_error()))
}

/// The answer that every name is at this address, for an hour.
fn answer(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = question.to_vec();
    (message[2], message[7]) = (0x81, 1);
    // The name of the question, A, IN, 3,600 s, 4 bytes.
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]);
    message.extend_from_slice(&address.octets());
    message
}

/// Over UDP: for a name with `broken` something else before the answer. Over TCP: two answers, the
/// first to nobody's question, cut where it is worst.
fn odd_server(address: IpAddr) -> Res {
    let socket = UdpSocket::bind((address, DNS)).map_err(text)?;
    let listener = TcpListener::bind((address, DNS)).map_err(text)?;
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            if lossy(&bytes[..len]).contains("broken") {
                let _ = socket.send_to(&[0xff; 700], from);
            }
            let _ = socket.send_to(&answer(&bytes[..len], ODD), from);
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer_in_pieces(stream);
        }
    });
    Ok(())
}

fn answer_in_pieces(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let answer = answer(&question, ODD);
    let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
    for piece in [&framed[..1], &framed[1..20], &framed[20..]] {
        stream.write_all(piece)?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// An answer from port 53 to a socket on which nobody has asked.
fn unasked() -> Res {
    let from = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 99), DNS)).map_err(text)?;
    let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let message = answer(&question("unasked.test")?, Ipv4Addr::new(127, 9, 0, 2));
    from.send_to(&message, to.local_addr().map_err(text)?).map_err(text)?;
    let len = to.recv(&mut [0; 512]).map_err(text)?;
    ensure(len == message.len(), "another message")
}

/// `n` answers at this pace, each for a name and an address of its own: `N.storm.test`,
/// 127.16.0.0 and N.
fn storm(ctx: &Ctx, n: u32, per_second: u32) -> Res {
    let server = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 16), DNS)).map_err(text)?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    client.connect(server.local_addr().map_err(text)?).map_err(text)?;
    let started = Instant::now();
    let mut bytes = [0; 512];
    for i in 0..n {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 16, 0, 0)) + i);
        client.send(&question(&format!("{i}.storm.test"))?).map_err(text)?;
        let (len, from) = server.recv_from(&mut bytes).map_err(text)?;
        server.send_to(&answer(&bytes[..len], address), from).map_err(text)?;
        client.recv(&mut bytes).map_err(text)?;
        let due = Duration::from_secs_f64(f64::from(i) / f64::from(per_second));
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    let seconds = started.elapsed().as_secs_f64();
    ctx.emit(&json!({"case": ctx.case, "answers": n, "seconds": seconds, "rows": 0}));
    Ok(())
}

/// Asks 127.0.0.9 on a socket that is not connected, and gets five answers. Only the last, for
/// 127.9.0.1, is from there, with the number and the question it asked; the others are for
/// 127.66.0.1 to 4.
fn forged() -> Res {
    let [server, other] = [[127, 0, 0, 9], [127, 0, 0, 66]]
        .map(|address| UdpSocket::bind((IpAddr::from(address), DNS)).map_err(text));
    let (server, other) = (server?, other?);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let question = question("bank.test")?;
    client.send_to(&question, server.local_addr().map_err(text)?).map_err(text)?;
    let (len, from) = server.recv_from(&mut [0; 512]).map_err(text)?;
    ensure(len == question.len(), "another question")?;
    let mut another_id = question.clone();
    another_id[1] ^= 1;
    let mut another_name = question.clone();
    another_name[13] ^= 1;
    let forged = [
        (&other, &another_id),
        (&other, &question),
        (&server, &another_id),
        (&server, &another_name),
    ];
    for (i, (by, question)) in (1..).zip(forged) {
        let message = answer(question, Ipv4Addr::new(127, 66, 0, i));
        by.send_to(&message, from).map_err(text)?;
        client.recv(&mut [0; 512]).map_err(text)?;
    }
    server.send_to(&answer(&question, ODD), from).map_err(text)?;
    client.recv(&mut [0; 512]).map(drop).map_err(text)
}

/// As this user, for good: answers to itself, each with 250 addresses that are nobody else's.
fn flood(uid: u32, n: u32) -> Res {
    let server = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 17), DNS)).map_err(text)?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    // SAFETY: a plain system call.
    crate::system::sys("setresuid", unsafe { libc::setresuid(uid, uid, uid) })?;
    client.connect(server.local_addr().map_err(text)?).map_err(text)?;
    for i in 0..n {
        client.send(&question("flood.test")?).map_err(text)?;
        let mut bytes = [0; 8192];
        let (len, from) = server.recv_from(&mut bytes).map_err(text)?;
        let mut message = answer(&bytes[..len], Ipv4Addr::UNSPECIFIED);
        message[7] = 250;
        for k in 1..250 {
            message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]);
            message.extend_from_slice(&(0x6440_0000 + 250 * i + k).to_be_bytes());
        }
        server.send_to(&message, from).map_err(text)?;
        client.recv(&mut bytes).map_err(text)?;
    }
    Ok(())
}

/// A message of 16 KB: a name of 127 labels that is 1,123 times another name of itself.
fn hostile_answer(question: &[u8]) -> Vec<u8> {
    let mut message = question.to_vec();
    (message[2], message[6], message[7]) = (0x81, 4, 99);
    for _ in 0..1123 {
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 14, 16, 0, 2, 0xc0, 12]);
    }
    message
}

/// `n` connects to port 1, while one thread is flooded with hostile messages and two others
/// connect to port 2 as fast as they can.
fn hostile(ctx: &Ctx, n: u32) -> Res {
    let server = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 18), DNS)).map_err(text)?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    client.connect(server.local_addr().map_err(text)?).map_err(text)?;
    let question = question(["a"; 127].join(".").as_str())?;
    let message = hostile_answer(&question);
    let end = AtomicBool::new(false);
    let ends = || end.load(Ordering::Relaxed);
    let refused = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err();
    let (messages, others) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut bytes = [0; 512];
            (0u64..)
                .take_while(|_| {
                    let asked = client.send(&question).and_then(|_| server.recv_from(&mut bytes));
                    let told = asked.and_then(|(_, from)| server.send_to(&message, from));
                    told.and_then(|_| client.recv(&mut bytes)).is_ok() && !ends()
                })
                .count()
        });
        let storms = [(); 2]
            .map(|()| scope.spawn(|| (0u64..).take_while(|_| refused(2) && !ends()).count()));
        for _ in 0..n {
            refused(1);
            thread::sleep(Duration::from_millis(5));
        }
        end.store(true, Ordering::Relaxed);
        (flood.join().ok(), storms.map(|storm| storm.join().ok()))
    });
    ctx.emit(&json!({"case": ctx.case, "messages": messages, "others": others, "rows": 0}));
    Ok(())
}
