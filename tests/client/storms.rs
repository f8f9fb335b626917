// SPDX-License-Identifier: Apache-2.0
//! Connects as fast as they can be made.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::connects::join;
use crate::facts::identity;
use crate::sockets::{RawAddr, Sock};
use crate::system::{ensure, number};
use crate::{Ctx, LO4, Res};

/// A refused connect is answered in the call itself and leaves the socket reusable: no TIME_WAIT,
/// no peer, no port used up.
pub fn storm(ctx: &Ctx, args: &[&str]) -> Res {
    let (n, threads) = (number(args, 0, None)?, number(args, 1, Some(1))?.max(1));
    let fresh = args.get(2) == Some(&"fresh");
    let to = RawAddr::new(SocketAddr::new(LO4, 9));
    let barrier = Barrier::new(threads);
    let work = &|i: usize| -> Res<(Instant, usize)> {
        let share: usize = n / threads + usize::from(i < n % threads);
        let sock = Sock::tcp(LO4);
        barrier.wait();
        let mut sock = sock?;
        let (start, mut other) = (Instant::now(), 0);
        for i in 0..share {
            if fresh && i > 0 {
                sock = Sock::tcp(LO4)?;
            }
            other += usize::from(sock.connect(&to) != libc::ECONNREFUSED);
        }
        Ok((start, other))
    };
    // One thread means the leader, so that nothing but the connects runs.
    let results = thread::scope(|scope| {
        let spawn = |i| scope.spawn(move || work(i));
        let workers: Vec<_> = (1..threads).map(spawn).collect();
        let mut results = vec![work(0)?];
        results.extend(join(workers)?);
        Res::Ok(results)
    })?;
    let elapsed = results.iter().map(|(start, _)| start.elapsed()).max();
    let mut line = identity();
    line["threads"] = json!(threads);
    line["fresh"] = json!(fresh);
    line["elapsed_ns"] = json!(elapsed.map(|time| time.as_nanos() as u64));
    many(ctx, line, n, results.iter().map(|(_, other)| other).sum())
}

pub fn flows(ctx: &Ctx, args: &[&str]) -> Res {
    let n: u32 = number(args, 0, None)?;
    let sock = Sock::tcp(LO4)?;
    // 127.1.0.0 upward, clear of the broadcast addresses of 127.0.0.0/8.
    let to = |i: u32| {
        let [_, b, c, d] = (i % 0x00f0_0000).to_be_bytes();
        SocketAddr::new([127, b + 1, c, d].into(), 9 + (i / 0x00f0_0000) as u16)
    };
    let refused = |i: &u32| sock.connect(&RawAddr::new(to(*i))) == libc::ECONNREFUSED;
    let other = n as usize - (0..n).filter(refused).count();
    let mut line = identity();
    line["first"] = json!(to(0).to_string());
    line["last"] = json!(to(n.saturating_sub(1)).to_string());
    many(ctx, line, n as usize, other)
}

pub fn many(ctx: &Ctx, mut line: Value, made: usize, other: usize) -> Res {
    line["case"] = json!(ctx.case);
    (line["made"], line["rows"], line["not_refused"]) = (json!(made), json!(made), json!(other));
    ctx.emit(&line);
    ensure(other == 0, &format!("{other} connects were not refused"))
}
