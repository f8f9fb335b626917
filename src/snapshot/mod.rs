// SPDX-License-Identifier: Apache-2.0
//! `--snapshot`: the sockets that exist now, with the processes that hold them.
//! Joins what `sockets` and `holders` find, filters, puts in order, writes.
//! Uses no BPF but the optional list of open files.

pub mod existing;
mod facts;
pub mod holders;

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use chrono::DateTime;
use chrono::SecondsFormat;

use crate::clock::unix_now_ns;
use crate::config::Columns;
use crate::config::Config;
use crate::config::Format;
use crate::config::cli::JsonForm;
use crate::config::cli::Snapshot;
use crate::error::StartError;
use crate::error::text_of;
use crate::error::warn;
use crate::host::cgroup;
use crate::host::helpers::Helpers;
use crate::host::proc;
use crate::host::rights;
use crate::host::sock_diag;
use crate::host::sock_diag::Want;
use crate::kernel::files;
use crate::model::filter::Family as Families;
use crate::model::filter::Filter;
use crate::model::filter::Place;
use crate::model::filter::Task;
use crate::model::numbers::NumberMap;
use crate::model::numbers::NumberSet;
use crate::model::process::Comm;
use crate::model::socket::Ends;
use crate::model::socket::Family;
use crate::model::socket::Socket;
use crate::output::sink::Sink;
use crate::output::sink::end_of_output;
use crate::output::sockets::Form;
use crate::output::sockets::Line;
use crate::output::sockets::Sockets;
use crate::plan;
use crate::snapshot::facts::Facts;
use crate::snapshot::facts::Known;
use crate::snapshot::holders::Holder;
use crate::snapshot::holders::Namespace;
use crate::snapshot::holders::Proc;

/// Bytes of a write.
const BATCH: usize = 64 << 10;
/// More threads wait for the same locks of /proc.
const MAX_SCANNERS: usize = 8;

/// Prints the snapshot.
pub fn run(config: &Config, what: Snapshot) -> Result<()> {
    // While there is no other thread.
    let helpers = Helpers::start(plan::names_users(config), config.names_containers())?;
    let sink = Sink::open(config, None)?;
    raise_descriptor_limit();
    let time = DateTime::from_timestamp_nanos(unix_now_ns() as i64);
    let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let began = proc::ticks_now();
    let filter = &config.filter;
    for &pid in filter.pids.iter().filter(|&&pid| !proc::exists(pid)) {
        warn(&format!("tcpconnect: no process has pid {pid}"));
    }
    let proc = Proc::open().context("failed to open /proc")?;
    let seen = look(&proc, filter, what)?;
    if let Some(line) = seen.unseen() {
        warn(&format!("tcpconnect: {line}"));
    }
    rights::give_up(plan::capabilities(config, plan::Host::default()), &|text| {
        if config.verbose {
            warn(&format!("tcpconnect: {text}"));
        }
    })?;
    if config.verbose {
        let (namespaces, sockets) = (seen.namespaces, seen.sockets.len());
        let holders = match &seen.unlisted {
            None => "the kernel's list of open files".to_owned(),
            Some(why) => format!("/proc ({why})"),
        };
        warn(&format!(
            "tcpconnect: {sockets} sockets in {namespaces} network namespaces; their processes \
             from {holders}"
        ));
    }
    let facts = plan::reads_holders(config)
        .then(|| Facts::new(config, &proc, helpers.once_harmless(), began))
        .transpose()?;
    if let Some(names) = facts.as_ref().and_then(Facts::lacks) {
        let searched = if cgroup::is_hybrid() { " in cgroup v2" } else { "" };
        warn(&format!("tcpconnect: nothing is called {names} here{searched}"));
    }
    let printer = Printer {
        filter,
        writer: writer(config, time),
        sink,
        text: Vec::with_capacity(BATCH + 4096),
        left: config.max_events.unwrap_or(u64::MAX),
    };
    let name = printer.sink.name.clone();
    let Seen { sockets, holders, comms, .. } = &seen;
    let (by_cgroup, shows_holders) = (filter.by_cgroup(), plan::shows_holders(config));
    let rows = Rows { sockets, holders, comms, facts, by_cgroup, shows_holders, printer };
    rows.print().or_else(|e| end_of_output(e, &name))
}

fn writer(config: &Config, time: String) -> Sockets {
    let form = match config.json {
        None => Form::Table,
        Some(JsonForm::Native) => Form::Json,
        Some(JsonForm::Osquery) => Form::Osquery,
    };
    let want = match config.format {
        Format::Table(columns) => columns,
        Format::Json => Columns { who: config.who, ..Columns::default() },
    };
    let ours = if config.who.exe { proc::our_mount_namespaces() } else { Vec::new() };
    Sockets::new(form, want, time, ours)
}

/// Writes as many rows as are wanted.
struct Printer<'a> {
    filter: &'a Filter,
    writer: Sockets,
    sink: Sink,
    text: Vec<u8>,
    left: u64,
}

impl Printer<'_> {
    fn wants(&self, line: &Line) -> bool {
        let (uid, comm) = (line.socket.uid, line.comm.map(Comm::new));
        self.filter.wants_task(&Task { pid: line.pid, uid, comm, ..Task::default() })
    }

    fn print(&mut self, line: &Line) -> io::Result<()> {
        self.left -= 1;
        self.writer.line(line, &mut self.text);
        match self.text.len() >= BATCH {
            true => self.sink.write_all(&mut self.text),
            false => Ok(()),
        }
    }
}

/// What was found becomes rows.
struct Rows<'a> {
    sockets: &'a [Socket],
    holders: &'a [Holder],
    comms: &'a NumberMap<u32, Option<Comm>>,
    /// If anything is asked of the processes.
    facts: Option<Facts<'a>>,
    /// Those are wanted whose process is in a cgroup that is.
    by_cgroup: bool,
    shows_holders: bool,
    printer: Printer<'a>,
}

impl Rows<'_> {
    fn print(mut self) -> io::Result<()> {
        let printer = &mut self.printer;
        let paths = paths(self.sockets);
        printer.writer.header(&mut printer.text);
        for socket in self.sockets {
            let peer_path = socket.unix().and_then(|ends| paths.get(&ends.peer?).copied());
            let bare = Line { socket, pid: None, fd: None, comm: None, peer_path, who: None };
            let held = of(self.holders, socket.inode);
            // Of some processes nothing else is looked at.
            let is_unheld = held.is_empty() && printer.filter.pids.is_empty() && !self.by_cgroup;
            if is_unheld && printer.wants(&bare) && printer.left > 0 {
                printer.print(&bare)?;
            }
            for holder in held {
                let comm = self.comms.get(&holder.pid).and_then(Option::as_ref).map(Comm::bytes);
                let line = Line { pid: Some(holder.pid), fd: Some(holder.fd), comm, ..bare };
                if !printer.wants(&line) {
                    continue;
                }
                if printer.left == 0 {
                    break;
                }
                let known = self.facts.as_mut().and_then(|facts| facts.of(holder, socket.netns));
                if self.by_cgroup && !known.as_ref().is_some_and(Known::is_wanted) {
                    continue;
                }
                let row = known.as_ref().filter(|_| self.shows_holders).map(Known::row);
                printer.print(&Line { who: row.as_ref(), ..line })?;
            }
            if printer.left == 0 {
                break;
            }
        }
        printer.sink.write_all(&mut printer.text)
    }
}

/// Connections, each with the processes that hold it.
pub struct Connections {
    pub rows: Vec<(Socket, Vec<u32>)>,
    /// Where they are.
    pub places: Places,
    /// What could not be looked at, in words.
    pub unseen: Option<String>,
}

/// Network namespaces, each kept open, the one we began in first.
#[derive(Default)]
pub struct Places {
    own: u32,
    namespaces: Vec<Namespace>,
}

impl Places {
    /// The cookies of those that have been closed. Leaves the calling thread in another
    /// network namespace. What cannot be asked about counts as open.
    pub fn closed(&self, sockets: &[Socket]) -> NumberSet<u64> {
        let mut of_place: NumberMap<u32, Vec<&Socket>> = NumberMap::default();
        for socket in sockets {
            of_place.entry(socket.netns).or_default().push(socket);
        }
        let mut closed = NumberSet::default();
        for namespace in &self.namespaces {
            let Some(sockets) = of_place.get(&namespace.inode) else { continue };
            if !enter(namespace, self.own) {
                continue;
            }
            let Ok(mut asker) = sock_diag::Asker::open() else { continue };
            let mut is_closed = |socket: &&&Socket| asker.is_closed(socket).unwrap_or(false);
            closed.extend(sockets.iter().filter(&mut is_closed).map(|socket| socket.cookie));
        }
        closed
    }
}

/// A thread begins in its own.
fn enter(namespace: &Namespace, own: u32) -> bool {
    let fd = namespace.file.as_raw_fd();
    // SAFETY: takes a descriptor and a number.
    namespace.inode == own || unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0
}

/// The connections that pass the filter, but for its comm, which is the holder's.
pub fn connections(filter: &Filter) -> Result<Connections> {
    raise_descriptor_limit();
    let proc = Proc::open().context("failed to open /proc")?;
    let seen = look(&proc, filter, Snapshot::Connections)?;
    let unseen = seen.unseen();
    let rows = seen.sockets.into_iter().filter_map(|socket| {
        let mut pids: Vec<_> = of(&seen.holders, socket.inode).iter().map(|h| h.pid).collect();
        pids.dedup();
        let wanted = !pids.is_empty() || filter.pids.is_empty();
        wanted.then_some((socket, pids))
    });
    Ok(Connections { rows: rows.collect(), places: seen.places, unseen })
}

/// How much a snapshot finds: network namespaces and sockets; and what it may not look at.
pub fn found(filter: &Filter, what: Snapshot) -> Result<(usize, usize, Option<String>)> {
    raise_descriptor_limit();
    let proc = Proc::open().context("failed to open /proc")?;
    let seen = look(&proc, filter, what)?;
    Ok((seen.namespaces, seen.sockets.len(), seen.unseen()))
}

/// What was found of sockets and descriptors, both in order.
struct Seen {
    sockets: Vec<Socket>,
    holders: Vec<Holder>,
    comms: NumberMap<u32, Option<Comm>>,
    places: Places,
    namespaces: usize,
    /// Namespaces that may not be entered.
    closed: usize,
    /// Processes that may not be looked into.
    denied: usize,
    /// Processes with more tables of descriptors than are looked into.
    cut: usize,
    /// Why the kernel's list of open files was not used, if it was not.
    unlisted: Option<String>,
}

impl Seen {
    /// What could not be looked at, in one line.
    fn unseen(&self) -> Option<String> {
        let plural = |n: usize, thing: &str, ending: &str| match n {
            1 => format!("1 {thing}"),
            n => format!("{n} {thing}{ending}"),
        };
        let closed = (self.closed > 0).then(|| {
            let namespaces = plural(self.closed, "other network namespace", "s");
            format!("the sockets of {namespaces} (needs CAP_SYS_ADMIN)")
        });
        let denied = (self.denied > 0).then(|| {
            let processes = plural(self.denied, "process", "es");
            format!("the descriptors of {processes} (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)")
        });
        let parts: Vec<_> = closed.into_iter().chain(denied).collect();
        let refused =
            (!parts.is_empty()).then(|| format!("no permission to see {}", parts.join(", ")));
        let cut = (self.cut > 0).then(|| {
            let processes = plural(self.cut, "process", "es");
            format!("only 64 descriptor tables of {processes} with more were looked into")
        });
        let lines: Vec<_> = refused.into_iter().chain(cut).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// Lists the sockets in one thread, which goes from namespace to namespace, while
/// others look at the descriptors: the kernel's list of those needs no namespace,
/// so it is asked for first.
fn look(proc: &Proc, filter: &Filter, what: Snapshot) -> Result<Seen> {
    let has_list = filter.pids.is_empty() && files::are_worth_a_list();
    let files = has_list.then(|| std::thread::spawn(files::list));
    let pids = proc.pids().context("failed to read /proc")?;
    let found = proc.namespaces(&pids);
    let (namespaces, unknown) = found.context("failed to find network namespaces")?;
    let only = filter.netns.as_deref().map(cgroup::netns).transpose()?;
    let own = namespaces[0].inode;
    let list = Listing { want: want(filter, what), filter, only, own };
    let scanned: &[u32] = if filter.pids.is_empty() { &pids } else { &filter.pids };
    let scanners = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_SCANNERS));
    let (mut listed, found, unlisted) = std::thread::scope(|scope| {
        let listed = scope.spawn(|| list.run(&namespaces));
        let files = match files {
            Some(list) => {
                list.join().expect("listing does not panic").map_err(|e| format!("{e:#}"))
            }
            None => Err("few files to look at".into()),
        };
        let (found, unlisted) = match files {
            Ok(files) => (proc.sort_out(&files, &namespaces), None),
            Err(why) => (proc.scan(scanned, &namespaces, scanners), Some(why)),
        };
        (listed.join().expect("listing does not panic"), found, unlisted)
    });
    if !found.namespaces.is_empty() {
        let more = std::thread::scope(|scope| {
            scope.spawn(|| list.run(&found.namespaces)).join().expect("listing does not panic")
        });
        listed.add(more);
    }
    let mut known = namespaces.iter().chain(&found.namespaces);
    if let Some((only, text)) = only.zip(filter.netns.as_ref())
        && known.all(|namespace| namespace.inode != only)
    {
        let why = "no process, mount or descriptor leads to it".into();
        return Err(StartError::BadNetns(text.clone(), why).into());
    }
    let namespaces = namespaces.into_iter().chain(found.namespaces).collect();
    let places = Places { own, namespaces };
    let Listed { mut sockets, namespaces, closed, error } = listed;
    if let Some(error) = error {
        bail!("the kernel does not list its sockets: {}", text_of(&error));
    }
    sockets.sort_unstable();
    Ok(Seen {
        sockets,
        holders: found.holders,
        comms: found.comms,
        places,
        namespaces,
        closed,
        denied: found.denied.max(unknown),
        cut: found.cut,
        unlisted,
    })
}

/// Asks for no more than can pass the filter.
fn want(filter: &Filter, what: Snapshot) -> Want {
    let has_ends = filter.ports.is_some();
    Want {
        inet: filter.family != Families::V6,
        // Mapped addresses are those of IPv6 sockets.
        inet6: true,
        unix: filter.family == Families::Both && !has_ends,
        all: what == Snapshot::All,
    }
}

struct Listing<'a> {
    want: Want,
    filter: &'a Filter,
    /// The only namespace to list.
    only: Option<u32>,
    own: u32,
}

#[derive(Default)]
struct Listed {
    sockets: Vec<Socket>,
    namespaces: usize,
    closed: usize,
    /// Of the first namespace that could be entered but not listed.
    error: Option<io::Error>,
}

impl Listed {
    fn add(&mut self, more: Listed) {
        self.sockets.extend(more.sockets);
        self.namespaces += more.namespaces;
        self.closed += more.closed;
        self.error = self.error.take().or(more.error);
    }
}

impl Listing<'_> {
    /// Leaves the calling thread in another network namespace.
    fn run(&self, namespaces: &[Namespace]) -> Listed {
        let mut listed = Listed::default();
        for namespace in namespaces {
            if self.only.is_some_and(|only| only != namespace.inode) {
                continue;
            }
            if !enter(namespace, self.own) {
                listed.closed += 1;
                continue;
            }
            match sock_diag::list(namespace.inode, self.want, &mut listed.sockets) {
                Ok(()) => listed.namespaces += 1,
                Err(e) => listed.error = listed.error.or(Some(e)),
            }
        }
        let uid = self.filter.uid;
        listed.sockets.retain(|socket| {
            self.filter.wants_place(&place(socket)) && uid.is_none_or(|uid| socket.uid == Some(uid))
        });
        listed
    }
}

/// Where a socket leads, whoever holds it.
pub fn place(socket: &Socket) -> Place {
    let ends = socket.ends();
    Place {
        is_v6: socket.family == Family::Inet6,
        here: ends.map(|ends| ends.laddr),
        there: ends.and_then(Ends::remote),
    }
}

/// The holders of an inode; `holders` is sorted.
fn of(holders: &[Holder], inode: u32) -> &[Holder] {
    if inode == 0 {
        return &[];
    }
    let first = holders.partition_point(|h| h.inode < inode);
    let rest = &holders[first..];
    let count = rest.iter().take_while(|h| h.inode == inode).count();
    &rest[..count]
}

/// Where UNIX sockets are bound, by inode.
fn paths(sockets: &[Socket]) -> NumberMap<u32, &[u8]> {
    let bound = sockets.iter().filter_map(|socket| {
        let ends = socket.unix().filter(|ends| !ends.path.is_empty())?;
        Some((socket.inode, &ends.path[..]))
    });
    bound.collect()
}

/// A host may have more namespaces than a program may have files by default.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
