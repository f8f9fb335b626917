// SPDX-License-Identifier: Apache-2.0
//! From what was typed to what will be done: mode, filters, columns, format, and
//! every rule between options. No I/O.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::Attach;
use crate::cli::Buffer;
use crate::cli::Cli;
use crate::filter::CommFilter;
use crate::filter::NetTable;
use crate::filter::PortSet;

/// What leaves the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rows,
    /// `-c`, with `-i` printed and reset every so often.
    Count {
        interval: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Table(Columns),
    Json,
}

/// The optional columns of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub time: bool,
    pub timestamp: bool,
    pub uid: bool,
    pub lport: bool,
    /// The table of the older tool `tcpv4connect`.
    pub tcpv4connect: bool,
}

/// Address family, by BCC's reading of `-4` and `-6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Both,
    V4,
    V6,
}

/// All of these must hold for a connect to be shown.
#[derive(Clone, Debug)]
pub struct Filter {
    pub pids: Vec<u32>,
    /// Descendants of `pids` too.
    pub children: bool,
    pub uid: Option<u32>,
    pub comm: Option<CommFilter>,
    pub ports: Option<PortSet>,
    pub nets: Option<NetTable>,
    pub family: Family,
    pub cgroups: Vec<PathBuf>,
    pub netns: Option<String>,
    pub cgroupmap: Option<PathBuf>,
    pub mntnsmap: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub format: Format,
    pub filter: Filter,
    pub output: Option<PathBuf>,
    pub max_events: Option<u64>,
    pub duration: Option<Duration>,
    pub ready_fd: Option<i32>,
    pub attach: Attach,
    pub buffer: Buffer,
    pub buffer_size: Option<usize>,
    pub btf: Option<PathBuf>,
    pub verbose: bool,
    pub command: Vec<OsString>,
}

impl Config {
    /// The error is one line for the user; it is a usage error.
    pub fn new(cli: Cli, tcpv4connect: bool) -> Result<Self, String> {
        if cli.count && cli.dns {
            return Err("Error: you may not specify -d/--dns with -c/--count.".into());
        }
        if cli.dns {
            return Err("-d is not available yet; leave it out to trace without names".into());
        }
        if cli.interval.is_some() && !cli.count {
            return Err("-i needs -c: it is how often the table of counts is printed".into());
        }
        if cli.count && cli.max_events.is_some() {
            return Err("-n counts rows and -c prints none; use --duration with -c".into());
        }
        if cli.children && cli.pid.is_empty() && cli.command.is_empty() {
            return Err("--children needs -p: whose children?".into());
        }
        if !cli.pid.is_empty() && !cli.command.is_empty() {
            return Err("-p and a COMMAND exclude each other: a COMMAND is traced alone".into());
        }
        if tcpv4connect && cli.ipv6 {
            return Err("tcpv4connect shows IPv4 only; use tcpconnect -6".into());
        }
        let family = match (cli.ipv4 || tcpv4connect, cli.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Both,
        };
        let children = cli.children || !cli.command.is_empty();
        Ok(Config {
            mode: match cli.count {
                true => Mode::Count { interval: cli.interval },
                false => Mode::Rows,
            },
            format: match cli.json {
                true => Format::Json,
                false => Format::Table(Columns {
                    time: cli.time,
                    timestamp: cli.timestamp,
                    uid: cli.print_uid,
                    lport: cli.lport,
                    tcpv4connect,
                }),
            },
            filter: Filter {
                pids: cli.pid,
                children,
                uid: cli.uid,
                comm: cli.comm,
                ports: cli.port,
                nets: NetTable::new(&cli.to, &cli.not_to),
                family,
                cgroups: cli.cgroup,
                netns: cli.netns,
                cgroupmap: cli.cgroupmap,
                mntnsmap: cli.mntnsmap,
            },
            output: cli.output,
            max_events: cli.max_events,
            duration: cli.duration,
            ready_fd: cli.ready_fd,
            attach: cli.attach,
            buffer: cli.buffer,
            buffer_size: cli.buffer_size,
            btf: cli.btf,
            verbose: cli.verbose,
            command: cli.command,
        })
    }
}
