// SPDX-License-Identifier: Apache-2.0
//! A connect of our own to a listener of our own, seen by the hook that a run would use.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use clap::Parser as _;

use super::Finding;
use super::Severity;
use crate::config::Config;
use crate::config::cli::Cli;
use crate::host::cgroup;
use crate::kernel::attached::Attached;
use crate::kernel::trial;
use crate::model::cause::Cause;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::process::Comm;
use crate::plan::Hook;
use crate::plan::Plan;
use crate::trace;

/// How long a record is waited for that comes within a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(1);

/// `None` for a run that sees no connects.
pub fn look(config: &Config, used: &Attached) -> Option<Finding> {
    (used.hook != Hook::Processes).then(|| match test(config, used) {
        Ok(finding) => finding,
        Err(e) => Finding::new("self-test", Severity::Unknown, Cause::NotTried, format!("{e:#}")),
    })
}

fn test(config: &Config, used: &Attached) -> Result<Finding> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no listener on loopback")?;
    let to = listener.local_addr().context("no listener on loopback")?;
    let own = own_config(config, to);
    let plan = Plan::new(&own, trace::host());
    let mut tracer = match trial::only(&own, &plan, used.hook)? {
        Ok(tracer) => tracer,
        Err(refusal) => anyhow::bail!("{refusal}"),
    };
    let began = Instant::now();
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("no connect on loopback")?;
    let from = stream.local_addr().context("no connect on loopback")?;
    let (mut events, mut horizon_ns) = (Vec::new(), 0);
    let mut row = None;
    while row.is_none() && began.elapsed() < PATIENCE {
        tracer.drain(&mut events, &mut horizon_ns)?;
        row = events.drain(..).find_map(|event| match event {
            Event::Connect(connect) if connect.dport == to.port() => Some(connect),
            _ => None,
        });
        std::thread::sleep(LOOK);
    }
    let took = began.elapsed();
    tracer.detach();
    let lost = tracer.lost().total();
    Ok(match row {
        None => {
            let what = format!("a connect of its own had no record in {} s", PATIENCE.as_secs());
            Finding::new("self-test", Severity::Fail, Cause::WrongRow, what)
        }
        Some(row) => told(&wrong(&row, from, to), took, lost),
    })
}

fn told(wrong: &[String], took: Duration, lost: u64) -> Finding {
    let ms = took.as_millis();
    let lost = if lost == 0 { String::new() } else { format!("; {lost} lost") };
    match wrong {
        [] => Finding::ok("self-test", format!("a connect of its own was right in {ms} ms{lost}")),
        wrong => {
            let what = format!("of a connect of its own {}{lost}", wrong.join(", "));
            Finding::new("self-test", Severity::Fail, Cause::WrongRow, what)
        }
    }
}

/// With this process alone, and all that JSON shows of a connect.
fn own_config(config: &Config, to: SocketAddr) -> Config {
    let (pid, port) = (std::process::id().to_string(), to.port().to_string());
    let cli = Cli::parse_from(["tcpconnect", "-j", "-p", &pid, "-P", &port]);
    let own = Config::new(cli, false).expect("these go together");
    Config { attach: config.attach, buffer: config.buffer, btf: config.btf.clone(), ..own }
}

/// What of the row is not what was done.
fn wrong(row: &Connect, from: SocketAddr, to: SocketAddr) -> Vec<String> {
    let comm = std::fs::read("/proc/thread-self/comm").unwrap_or_default();
    let comm = Comm::new(comm.trim_ascii_end());
    // In another pid namespace we do not know our own.
    let pid = cgroup::own_pidns().is_none().then(std::process::id);
    [
        ("its pid", pid.is_none_or(|pid| pid == row.pid)),
        ("its name", row.comm == comm),
        ("SADDR", row.saddr == from.ip()),
        ("LPORT", row.lport.is_none_or(|port| port == from.port())),
        ("DADDR", row.daddr == to.ip()),
    ]
    .into_iter()
    .filter(|(_, is_right)| !is_right)
    .map(|(name, _)| format!("{name} is wrong"))
    .collect()
}
