// SPDX-License-Identifier: Apache-2.0
//! A row becomes a line of JSON, which becomes the row again: all that the line has is in it,
//! and nothing is lost or made up on the way.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use clap::Parser as _;
use proptest::prelude::*;
use tcpconnect::clock::BootClock;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Columns;
use tcpconnect::config::Config;
use tcpconnect::config::Who;
use tcpconnect::config::cli::Cli;
use tcpconnect::model::container::Compose;
use tcpconnect::model::container::Container;
use tcpconnect::model::container::NameSource;
use tcpconnect::model::container::Names;
use tcpconnect::model::container::Pod;
use tcpconnect::model::container::Runtime;
use tcpconnect::model::event::CloseBy;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::Flow;
use tcpconnect::model::event::Life;
use tcpconnect::model::event::Origin;
use tcpconnect::model::event::Outcome;
use tcpconnect::model::event::Stage;
use tcpconnect::model::lost::Lost;
use tcpconnect::model::name::Match;
use tcpconnect::model::name::Name;
use tcpconnect::model::name::Query;
use tcpconnect::model::process::Ancestor;
use tcpconnect::model::process::Args;
use tcpconnect::model::process::Asker;
use tcpconnect::model::process::Comm;
use tcpconnect::model::process::ExeFile;
use tcpconnect::model::process::Image;
use tcpconnect::model::process::NoticeKind;
use tcpconnect::model::process::ProcessFacts;
use tcpconnect::model::process::ProcessKey;
use tcpconnect::model::process::Source;
use tcpconnect::model::row::OwnedRow;
use tcpconnect::model::row::Peer;
use tcpconnect::model::row::ProcessRow;
use tcpconnect::model::row::ProcessRowKind;
use tcpconnect::model::row::SocketRow;
use tcpconnect::model::socket;
use tcpconnect::model::socket::Address;
use tcpconnect::model::socket::Ends;
use tcpconnect::model::socket::Family;
use tcpconnect::model::socket::Socket;
use tcpconnect::model::socket::UnixEnds;
use tcpconnect::output::Output;
use tcpconnect::output::json::read::What;
use tcpconnect::output::json::read::read;
use tcpconnect::output::sockets::Form;
use tcpconnect::output::sockets::Line;
use tcpconnect::output::sockets::Sockets;
use tcpconnect::trace::new_output;

/// With these options, each without its dashes.
fn output_with(options: &[&str]) -> Box<dyn Output> {
    let options = options.iter().map(|option| format!("--{option}"));
    let args = std::iter::once("tcpconnect".to_owned()).chain(options);
    new_output(&Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap())
}

fn json() -> Box<dyn Output> {
    let who = [
        "exe",
        "args",
        "parents",
        "user",
        "container-name",
        "container-id",
        "cgroup-path",
        "vpid",
        "procs",
    ];
    output_with(&[&["json"], &who[..]].concat())
}

fn settings() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) }
}

/// Three centuries after 1970 no time fits any more.
const CENTURY_NS: u64 = 100 * 365 * 86_400 * 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Text as people and attackers write it, and bytes that are none.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(String::into_bytes),
        any::<String>().prop_map(String::into_bytes),
        prop::collection::vec(1..=255u8, 0..24),
    ]
}

fn string() -> impl Strategy<Value = String> {
    text().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn comm() -> impl Strategy<Value = Comm> {
    prop_oneof![text().prop_map(|bytes| Comm::new(&bytes)), any::<[u8; 16]>().prop_map(Comm)]
}

fn address(is_v6: bool) -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(move |bits| match is_v6 {
        true => IpAddr::V6(bits.into()),
        false => IpAddr::V4((bits as u32).into()),
    })
}

fn boxed() -> impl Strategy<Value = Option<Box<str>>> {
    prop::option::of(string().prop_map(Into::into))
}

prop_compose! {
    fn container_names()(
        (name, image, runtime) in (boxed(), boxed(), prop::option::of(prop::sample::select(Runtime::ALL.to_vec()))),
        pod in prop::option::of((string(), boxed(), boxed())),
        compose in prop::option::of((string(), boxed())),
        source in prop::sample::select(NameSource::ALL.to_vec()),
    ) -> Names {
        let pod = pod.map(|(name, namespace, uid)| Pod { name: name.into(), namespace, uid });
        let compose = compose.map(|(project, service)| Compose { project: project.into(), service });
        Names { name, image, pod, compose, runtime, source }
    }
}

fn container() -> impl Strategy<Value = Option<Container>> {
    let found = (string(), any::<bool>(), prop::option::of(container_names()));
    prop::option::of(found.prop_map(|(id, claimed, names)| Container {
        names: names.map(Rc::new),
        ..Container::new(id, claimed)
    }))
}

prop_compose! {
    /// Of nobody, or of a task.
    fn connect()(
        (ts_ns, error) in (SECOND_NS..CENTURY_NS, prop_oneof![Just(0), 1..200u16]),
        task in prop::option::of((1..u32::MAX, any::<u32>(), 0..u32::MAX, 0..u32::MAX)),
        (comm, leader) in (comm(), comm()),
        (saddr, daddr) in any::<bool>().prop_flat_map(|is_v6| (address(is_v6), address(is_v6))),
        (lport, dport) in (prop::option::of(1..u16::MAX), any::<u16>()),
        (cookie, cgroup_id) in (prop::option::of(1..u64::MAX), any::<Option<u64>>()),
        (netns, vpid) in any::<(Option<u32>, Option<u32>)>(),
        origin in prop::sample::select(vec![Origin::Connected, Origin::Accepted, Origin::Existing]),
    ) -> Connect {
        let (pid, tid, uid, gid) = task.unwrap_or((0, 0, 0, 0));
        let known = |id: u32| task.map(|_| id);
        let (comm, leader) = if task.is_some() { (comm, leader) } else { Default::default() };
        // What exists or was accepted has not failed.
        let error = if origin == Origin::Connected { error } else { 0 };
        Connect {
            ts_ns, pid, tid, uid: known(uid), gid: known(gid), comm, leader, cgroup_id, netns, saddr,
            daddr, lport, dport, vpid, error, cookie, origin, ..Connect::nowhere()
        }
    }
}

fn stage() -> impl Strategy<Value = Stage> {
    let by = prop::option::of(prop::sample::select(CloseBy::ALL.to_vec()));
    let close =
        (any::<(u64, u64, u32)>(), by).prop_map(|((tx_bytes, rx_bytes, retransmits), by)| {
            Stage::Close { tx_bytes, rx_bytes, retransmits, by }
        });
    let outcome = prop::sample::select(Outcome::ALL.to_vec()).prop_map(Stage::Result);
    prop_oneof![outcome, close, Just(Stage::Gone)]
}

prop_compose! {
    fn image()(
        exe in prop::option::of(text()),
        (exe_truncated, exe_deleted) in any::<(bool, bool)>(),
        file in any::<Option<((u32, u32), u64, Option<u32>)>>(),
        args in prop::option::of(prop::collection::vec(text(), 0..5)),
        is_cut in any::<bool>(),
    ) -> Image {
        // A path is absolute, or the end of one.
        let start = if exe_truncated { "..." } else { "/" };
        let args = args.map(|args| {
            let bytes: Vec<u8> = args.iter().flat_map(|arg| [&arg[..], b"\0"].concat()).collect();
            Args::cut(&bytes, bytes.len() as u64 + u64::from(is_cut))
        });
        Image {
            exe_truncated: exe_truncated && exe.is_some(),
            exe: exe.map(|exe| [start.as_bytes(), &exe].concat().into()),
            exe_deleted,
            file: file.map(|(dev, inode, mntns)| ExeFile { dev, inode, mntns }),
            args,
        }
    }
}

prop_compose! {
    fn ancestor()(
        (pid, start_ns) in (any::<u32>(), prop_oneof![Just(0), 1..CENTURY_NS]),
        (name, image) in (comm(), image()),
    ) -> Ancestor {
        Ancestor::Known { pid, start_ns, ppid: None, name, image: Rc::new(image) }
    }
}

prop_compose! {
    fn facts()(
        (pid, ppid) in (1..u32::MAX, any::<u32>()),
        (start_ns, name, image) in (1..CENTURY_NS, comm(), image()),
        source in prop::sample::select(Source::ALL.to_vec()),
        near in prop::option::of(prop::collection::vec(ancestor(), 0..4)),
        far in prop::option::of(prop::collection::vec(ancestor(), 4)),
    ) -> ProcessFacts {
        let gap = far.map(|far| [vec![Ancestor::LeftOut(None)], far].concat()).unwrap_or_default();
        let ancestors = near.map(|near| [near, gap].concat());
        ProcessFacts { pid, start_ns, ppid, name, image: Rc::new(image), source, ancestors }
    }
}

prop_compose! {
    fn query()(
        (asked, chain) in (text(), prop::collection::vec(string(), 0..3)),
        by in any::<Option<(u32, u32)>>(),
        matched in prop::sample::select(Match::ALL.to_vec()),
        age_us in 0..SECOND_NS,
    ) -> Query {
        let chain = chain.into_iter().map(|name| name.into_bytes().into()).collect();
        let by = by.map(|(pid, uid)| Asker { process: ProcessKey { pid, start_ns: 0 }, uid });
        Query { name: Rc::new(Name { asked: asked.into(), chain }), by, matched, age_ns: age_us * 1000 }
    }
}

prop_compose! {
    fn peer()(
        (pid, comm) in (any::<u32>(), comm()),
        (exe, mntns) in (prop::option::of(text()), any::<Option<u32>>()),
        (container, netns) in (container(), any::<Option<u32>>()),
    ) -> Peer {
        let file = mntns.map(|mntns| ExeFile { dev: (0, 0), inode: 0, mntns: Some(mntns) });
        let exe = exe.map(Into::into);
        let image = Image { exe, file, ..Image::default() };
        let image = (image != Image::default()).then(|| Rc::new(image));
        Peer { pid, comm, image, container, netns }
    }
}

prop_compose! {
    fn row()(
        (connect, life) in (connect(), prop::option::of((stage(), 0..CENTURY_NS))),
        (peer, process) in (prop::option::of(peer()), prop::option::of(facts())),
        (user, cgroup) in (prop::option::of(string()), prop::option::of(string())),
        unit in prop::option::of(string()),
        (container, query) in (container(), prop::option::of(query())),
    ) -> OwnedRow {
        let life = life.map(|(stage, took_ns)| {
            let origin = match stage {
                Stage::Gone => Origin::Existing,
                Stage::Result(_) => Origin::Connected,
                Stage::Close { .. } => connect.origin,
            };
            let took_ns = if origin == Origin::Existing { 0 } else { took_ns };
            let connect = Connect { origin, ..connect };
            Life { connect, began_ns: connect.ts_ns.saturating_sub(took_ns), stage }
        });
        let connect = life.map_or(connect, |life| life.connect);
        let has_id = life.is_some() || connect.error == 0;
        let start_ns = process.as_ref().map_or(0, |process| process.start_ns);
        let connect = Connect { cookie: connect.cookie.filter(|_| has_id), start_ns, ..connect };
        OwnedRow {
            connect,
            life: life.map(|life| Life { connect, ..life }),
            peer,
            process: process.map(|process| ProcessFacts { name: connect.leader, ..process }.into()),
            user: user.filter(|_| connect.uid.is_some()).map(Into::into),
            container,
            cgroup: cgroup.map(Into::into),
            unit: unit.map(Into::into),
            query,
        }
    }
}

fn kind() -> impl Strategy<Value = ProcessRowKind<'static>> {
    let status = prop_oneof![
        (0..256u32).prop_map(|code| code << 8),
        (1..65u32, any::<bool>()).prop_map(|(signal, core)| signal | u32::from(core) << 7),
    ];
    let ids = any::<(u32, u32)>();
    let notice = |kind| Just(ProcessRowKind::Notice(kind));
    prop_oneof![
        Just(ProcessRowKind::Fork),
        Just(ProcessRowKind::Exec(Cow::Owned(Image::default()))),
        comm().prop_map(ProcessRowKind::Comm),
        status.prop_map(ProcessRowKind::Exit),
        ids.prop_map(|(real, effective)| NoticeKind::Uid { real, effective })
            .prop_map(ProcessRowKind::Notice),
        ids.prop_map(|(real, effective)| NoticeKind::Gid { real, effective })
            .prop_map(ProcessRowKind::Notice),
        notice(NoticeKind::Sid),
        any::<Option<u32>>()
            .prop_map(|tracer| ProcessRowKind::Notice(NoticeKind::Ptrace { tracer })),
        notice(NoticeKind::Coredump),
    ]
}

prop_compose! {
    fn process_row()(
        (ts_ns, pid, tid) in (SECOND_NS..CENTURY_NS, any::<u32>(), any::<u32>()),
        (name, ppid) in (comm(), prop::option::of(1..u32::MAX)),
        ids in any::<Option<(u32, u32)>>(),
        (user, container, cgroup) in (prop::option::of(string()), container(), prop::option::of(string())),
        unit in prop::option::of(string()),
        (process, kind) in (prop::option::of(facts()), kind()),
    ) -> ProcessRow<'static> {
        let process = process.map(|process| {
            ProcessFacts { name, ppid: ppid.unwrap_or(0), ..process }
        });
        let image = process.as_ref().map(|process| Image::clone(&process.image));
        let (kind, ids) = match kind {
            ProcessRowKind::Exec(_) => {
                (ProcessRowKind::Exec(Cow::Owned(image.unwrap_or_default())), ids)
            }
            ProcessRowKind::Notice(_) => (kind, None),
            _ => (kind, ids),
        };
        ProcessRow {
            ts_ns, pid, tid, name, ppid, uid: ids.map(|ids| ids.0), gid: ids.map(|ids| ids.1),
            user: user.map(Into::into), container, cgroup: cgroup.map(Into::into),
            unit: unit.map(Into::into), process, kind,
        }
    }
}

fn lost() -> impl Strategy<Value = Lost> {
    (any::<[u32; 14]>(), any::<u32>()).prop_map(|(counts, uid)| {
        let mut counts = counts.into_iter().map(u64::from);
        let mut count = || counts.next().expect("one for each reason");
        let crowded = count();
        Lost {
            crowded,
            crowder: (crowded > 0).then_some(uid),
            buffer: count(),
            cpu: count(),
            skipped: count(),
            stash: count(),
            flows: count(),
            family: count(),
            joins: count(),
            process: count(),
            names: count(),
            lives: count(),
            ends: count(),
            undecodable: count(),
            output: count(),
        }
    })
}

/// Of each family, with the states and protocols that have a name, and others.
fn socket() -> impl Strategy<Value = Socket> {
    let inet = any::<bool>().prop_flat_map(|is_v6| {
        let ends = (address(is_v6), any::<u16>(), address(is_v6), any::<u16>());
        let protocols =
            vec![socket::TCP, socket::UDP, socket::UDPLITE, socket::RAW, socket::MPTCP, 0];
        (Just(is_v6), ends, any::<bool>(), prop::sample::select(protocols))
    });
    let inet = inet.prop_map(|(is_v6, (laddr, lport, raddr, rport), is_connected, protocol)| {
        let nowhere = if is_v6 { IpAddr::V6(0.into()) } else { IpAddr::V4(0.into()) };
        let (raddr, rport) = if is_connected { (raddr, rport) } else { (nowhere, 0) };
        let family = if is_v6 { Family::Inet6 } else { Family::Inet };
        (family, protocol, Address::Inet(Ends { laddr, lport, raddr, rport }))
    });
    let types =
        prop::sample::select(vec![libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET, 0]);
    let unix = (types, text(), any::<Option<u32>>()).prop_map(|(kind, path, peer)| {
        (Family::Unix, kind as u16, Address::Unix(Box::new(UnixEnds { path, peer })))
    });
    // SYN_RECV and CLOSED each are two.
    let states = prop::sample::select((0..12u8).collect::<Vec<_>>());
    let numbers = (any::<(u32, u64, u32)>(), any::<Option<u32>>());
    (prop_oneof![inet, unix], states, numbers).prop_map(
        |((family, protocol, address), state, ((netns, cookie, inode), uid))| Socket {
            netns,
            family,
            protocol,
            address,
            cookie,
            state,
            inode,
            uid,
            device: 0,
            is_closed: false,
        },
    )
}

/// A snapshot does not say when processes started.
fn undated(pid: u32, mut process: ProcessFacts) -> ProcessFacts {
    for ancestor in process.ancestors.iter_mut().flatten() {
        if let Ancestor::Known { start_ns, .. } = ancestor {
            *start_ns = 0;
        }
    }
    ProcessFacts { pid, start_ns: 0, ..process }
}

prop_compose! {
    fn socket_row()(
        (socket, row) in (socket(), prop::option::of(row())),
        holder in prop::option::of((1..u32::MAX, any::<u32>(), comm())),
    ) -> SocketRow {
        let who = row.zip(holder).map(|(row, (pid, ..))| OwnedRow {
            connect: Connect { pid, ..row.connect },
            process: row.process.map(|process| undated(pid, Rc::unwrap_or_clone(process)).into()),
            ..row
        });
        SocketRow {
            socket,
            pid: holder.map(|(pid, ..)| pid),
            fd: holder.map(|(_, fd, _)| fd),
            comm: holder.map(|(.., comm)| comm),
            who,
        }
    }
}

fn socket_line(row: &SocketRow) -> String {
    let who = Who {
        exe: true,
        args: true,
        parents: true,
        user: true,
        container_id: true,
        container_name: true,
        image: true,
        cgroup_path: true,
        ..Who::default()
    };
    let columns = Columns { who, ..Columns::default() };
    let writer =
        Sockets::new(Form::Json, columns, "2026-11-21T04:30:05.000001Z".into(), Vec::new());
    let known = row.who.as_ref().map(OwnedRow::row);
    let SocketRow { socket, pid, fd, comm, .. } = row;
    let comm = comm.as_ref().map(Comm::bytes);
    let who = known.as_ref();
    line(|out| writer.line(&Line { socket, pid: *pid, fd: *fd, comm, peer_path: None, who }, out))
}

fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut text = Vec::new();
    write(&mut text);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    text.strip_suffix('\n').expect("a whole line").to_owned()
}

/// The clock by which the line was written, but for what is less than a microsecond.
fn clock(unix_ns: u64, ts_ns: u64) -> WallClock {
    WallClock::at(unix_ns - ts_ns)
}

/// What becomes of a process before its next row.
#[derive(Clone, Debug)]
enum Next {
    Same,
    /// The same program, read anew.
    Again,
    Program(Image),
    Called(Comm),
    Parent(u32),
    KnownFrom(Source),
    Ancestors(Option<Vec<Ancestor>>),
    /// Of the first ancestor.
    AncestorCalled(Comm),
    Deleted(bool),
    /// Of another host, or of the same one after another boot.
    Booted(u64),
    /// As it was at first.
    Back,
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        4 => Just(Next::Same),
        2 => Just(Next::Again),
        1 => image().prop_map(Next::Program),
        1 => comm().prop_map(Next::Called),
        1 => (0..3u32).prop_map(Next::Parent),
        1 => prop::sample::select(Source::ALL.to_vec()).prop_map(Next::KnownFrom),
        1 => facts().prop_map(|facts| Next::Ancestors(facts.ancestors)),
        1 => comm().prop_map(Next::AncestorCalled),
        1 => any::<bool>().prop_map(Next::Deleted),
        1 => (1..3u64).prop_map(|n| Next::Booted(n * SECOND_NS)),
        2 => Just(Next::Back),
    ]
}

impl Next {
    fn apply(self, row: &mut OwnedRow, first: &OwnedRow, boot_ns: &mut u64) {
        match self {
            Next::Back => return *row = first.clone(),
            Next::Deleted(is_deleted) => return row.connect.exe_deleted = is_deleted,
            Next::Booted(at) => return *boot_ns = at,
            _ => {}
        }
        let Some(process) = row.process.as_mut().map(Rc::make_mut) else { return };
        match self {
            Next::Again => process.image = Rc::new(Image::clone(&process.image)),
            Next::Program(image) => process.image = Rc::new(image),
            Next::Called(comm) => process.name = comm,
            Next::Parent(ppid) => process.ppid = ppid,
            Next::KnownFrom(source) => process.source = source,
            Next::Ancestors(ancestors) => process.ancestors = ancestors,
            Next::AncestorCalled(comm) => {
                let first = process.ancestors.iter_mut().flatten().next();
                if let Some(Ancestor::Known { name, .. }) = first {
                    *name = comm;
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(settings())]

    /// What is kept ready of a process is what would be written now.
    #[test]
    fn a_line_does_not_depend_on_those_before_it(
        // Pids that have one place where texts are kept, and one process twice.
        first in prop::collection::vec((row(), 0..3u32, 0..2u64), 2..5),
        steps in prop::collection::vec((any::<prop::sample::Index>(), next()), 1..40),
        options in prop::sample::subsequence(vec!["exe", "args", "parents", "user"], 1..=4),
    ) {
        let with = [&["json"], &options[..]].concat();
        let first: Vec<_> = first.into_iter().map(|(mut row, pid, start_ns)| {
            if let Some(process) = row.process.as_mut().map(Rc::make_mut) {
                (process.pid, process.start_ns) = (7 + pid / 2 * 4096, start_ns);
            }
            row
        }).collect();
        let mut rows = first.clone();
        let mut boot_ns = SECOND_NS;
        let mut output = output_with(&with);
        for (at, next) in steps {
            let at = at.index(rows.len());
            next.apply(&mut rows[at], &first[at], &mut boot_ns);
            let write = |output: &mut dyn Output| {
                output.booted(BootClock::booted_at(boot_ns));
                line(|out| output.connect(&rows[at].row(), &WallClock::at(SECOND_NS), out))
            };
            prop_assert_eq!(write(&mut *output), write(&mut *output_with(&with)));
        }
    }

    #[test]
    fn a_row_of_a_connection_survives_the_way_there_and_back(
        row in row(), offset_ns in SECOND_NS..CENTURY_NS, boot_ns in SECOND_NS..CENTURY_NS,
    ) {
        let mut output = json();
        output.booted(BootClock::booted_at(boot_ns));
        let text = line(|out| output.connect(&row.row(), &WallClock::at(offset_ns), out));
        let printed = read(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert!(printed.truncated.is_empty());
        prop_assert_eq!(printed.unix_ns, (offset_ns + row.connect.ts_ns) / 1000 * 1000);
        let What::Connection(back) = printed.what else { panic!("{text}") };
        let mut output = json();
        printed.boot.into_iter().for_each(|boot| output.booted(boot));
        let clock = clock(printed.unix_ns, back.connect.ts_ns);
        prop_assert_eq!(&line(|out| output.connect(&back.row(), &clock, out)), &text);
        prop_assert_eq!(back.connect, row.connect);
        prop_assert_eq!(back.life, row.life);
        prop_assert_eq!(&back.peer, &row.peer);
        prop_assert_eq!(&back.query, &row.query);
        let table = |row: &OwnedRow| {
            let mut text = Vec::new();
            output_with(&["exe", "parents", "user"]).connect(&row.row(), &WallClock::at(0), &mut text);
            String::from_utf8(text).expect("a table is UTF-8")
        };
        prop_assert_eq!(table(&back), table(&row));
        prop_assert_eq!(
            (&back.user, &back.container, &back.cgroup, &back.unit),
            (&row.user, &row.container, &row.cgroup, &row.unit)
        );
    }

    #[test]
    fn a_row_of_a_process_survives_the_way_there_and_back(
        row in process_row(), offset_ns in SECOND_NS..CENTURY_NS,
    ) {
        let mut output = json();
        let text = line(|out| output.process(&row, &WallClock::at(offset_ns), out));
        let printed = read(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        let What::Process(back) = printed.what else { panic!("{text}") };
        let clock = clock(printed.unix_ns, back.ts_ns);
        prop_assert_eq!(&line(|out| output.process(&back, &clock, out)), &text);
        prop_assert_eq!((back.ts_ns, back.pid, back.tid, back.name), (row.ts_ns, row.pid, row.tid, row.name));
        prop_assert_eq!((back.ppid, back.uid, back.gid), (row.ppid, row.uid, row.gid));
    }

    #[test]
    fn counts_and_losses_survive_the_way_there_and_back(
        (saddr, daddr) in any::<bool>().prop_flat_map(|is_v6| (address(is_v6), address(is_v6))),
        (dport, connects, lost) in (any::<u16>(), any::<u64>(), lost()),
        now_ns in SECOND_NS..CENTURY_NS,
    ) {
        let mut output = json();
        let at = WallClock::at(SECOND_NS);
        let flow = Flow { saddr, daddr, dport, connects };
        let text = line(|out| output.flows(&[flow], now_ns, &at, out));
        let What::Count(back) = read(&text).expect(&text).what else { panic!("{text}") };
        prop_assert_eq!(back, flow);
        let text = line(|out| output.lost(&lost, now_ns, &at, out));
        let What::Lost(back) = read(&text).expect(&text).what else { panic!("{text}") };
        prop_assert_eq!(back, lost);
    }

    #[test]
    fn a_socket_survives_the_way_there_and_back(row in socket_row()) {
        let text = socket_line(&row);
        let printed = read(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert_eq!(printed.unix_ns, 1_795_235_405_000_001_000);
        let What::Socket(back) = printed.what else { panic!("{text}") };
        prop_assert_eq!(&socket_line(&back), &text);
        prop_assert_eq!(&back.socket, &row.socket);
        prop_assert_eq!((back.pid, back.fd), (row.pid, row.fd));
        prop_assert_eq!(back.comm.as_ref().map(Comm::bytes), row.comm.as_ref().map(Comm::bytes));
        let uid = row.who.as_ref().and_then(|who| who.connect.uid);
        prop_assert_eq!(back.who.as_ref().and_then(|who| who.connect.uid), uid);
    }

    #[test]
    fn no_line_of_others_upsets_the_reader(
        row in row(), at in any::<prop::sample::Index>(), with in "[ -~]{0,3}", cut in 0..4usize,
    ) {
        let text = line(|out| json().connect(&row.row(), &WallClock::at(SECOND_NS), out));
        let at = at.index(text.len());
        if let (Some(before), Some(after)) = (text.get(..at), text.get((at + cut).min(text.len())..)) {
            let _ = read(&[before, &with, after].concat());
        }
        let _ = read(&with);
    }
}

#[test]
fn a_line_that_is_none_is_refused_with_its_field() {
    let connect = r#"{"event":"connect","time":"2026-11-21T04:30:05.000001Z","ts_ns":1,"ip":4,"daddr":"192.0.2.1","dport":1,"query":"a","query_match":"host","query_age_ms":"#;
    for age in ["1e17", "1e300", "-5.0"] {
        let why = read(&format!("{connect}{age}}}")).unwrap_err().to_string();
        assert_eq!(why, "its field query_age_ms is missing, or no value of it");
    }
    let why = |line: &str| read(line).unwrap_err().to_string();
    assert!(why(r#"{"event":"count","time":"x"}"#).contains("no time in RFC 3339"));
    let time = r#""time":"2026-11-21T04:30:05.000001Z""#;
    let count = format!(r#"{{"event":"count",{time}}}"#);
    assert_eq!(why(&count), "its field saddr is missing, or no value of it");
    let other = format!(r#"{{"event":"other",{time}}}"#);
    assert_eq!(why(&other), "its event is not known");
    assert!(why(r#"{"event":"count","x":1}"#).starts_with("not an object of tcpconnect: missing"));
    // A later version may have more to say.
    let more = format!(r#"{{"event":"lost",{time},"buffer":1,"x":[{{"y":null}}]}}"#);
    assert!(matches!(read(&more).unwrap().what, What::Lost(lost) if lost.total() == 1));
}
