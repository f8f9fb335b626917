// SPDX-License-Identifier: Apache-2.0
//! Documentation cannot go stale: the man page, README.md, docs and CHANGELOG.md
//! against the program itself. UPDATE_DOCS=1 refreshes what can be generated.

mod called;
#[path = "docs/roff.rs"]
mod roff;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::PoisonError;

use called::called;
use clap::CommandFactory as _;
use clap::Parser as _;
use clap_complete::Shell;
use tcpconnect::check;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Columns;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::model::cause::Cause;
use tcpconnect::model::coverage::Coverage;
use tcpconnect::model::coverage::Gap;
use tcpconnect::model::event::CloseBy;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::DnsBytes;
use tcpconnect::model::event::DnsPlace;
use tcpconnect::model::event::Flow;
use tcpconnect::model::event::Handshake;
use tcpconnect::model::event::Life;
use tcpconnect::model::event::Origin;
use tcpconnect::model::event::Outcome;
use tcpconnect::model::event::Stage;
use tcpconnect::model::lost::Lost;
use tcpconnect::model::process::Args;
use tcpconnect::model::process::Asker;
use tcpconnect::model::process::COMM_LEN;
use tcpconnect::model::process::Change;
use tcpconnect::model::process::Comm;
use tcpconnect::model::process::ExeFile;
use tcpconnect::model::process::Image;
use tcpconnect::model::process::NoticeKind;
use tcpconnect::model::process::ProcessEvent;
use tcpconnect::model::process::ProcessKey;
use tcpconnect::model::row::Peer;
use tcpconnect::model::row::ProcessRow;
use tcpconnect::model::row::ProcessRowKind;
use tcpconnect::model::row::Row;
use tcpconnect::model::socket;
use tcpconnect::output::json::mark;
use tcpconnect::output::json::mark::Start;
use tcpconnect::output::sockets as lines;
use tcpconnect::trace::new_output;
use tcpconnect::who::names::Names;
use tcpconnect::who::processes::Processes;

const MAN_PAGE: &str = "man/tcpconnect.8";
const JSON_PAGE: &str = "man/tcpconnect-json.5";
/// The copy of -h stands between these in docs/options.md.
const OPTIONS: &str = "docs/options.md";
const USAGE_BEGIN: &str = "<!-- usage: begin -->\n```text\n";
const USAGE_END: &str = "```\n<!-- usage: end -->\n";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All that a user reads, with its name.
fn documents() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let pages = pages.map(|name| format!("docs/{}", name.to_string_lossy()));
    let names = ["README.md", "CHANGELOG.md", "ARCHITECTURE.md"].map(str::to_owned);
    let texts = names.into_iter().chain(pages).map(|name| (name.clone(), read(&name)));
    let pages = [MAN_PAGE, JSON_PAGE].map(|name| (name.to_owned(), man_page(name)));
    texts.chain(pages).collect()
}

/// A man page without fonts and with plain hyphens; macros remain.
fn man_page(name: &str) -> String {
    let page = read(name);
    ["\\fB", "\\fI", "\\fR", "\\fP"]
        .iter()
        .fold(page, |p, font| p.replace(font, ""))
        .replace(r"\-", "-")
}

/// The lines of a section of the man page, up to the next heading of that kind.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let kind = heading.split_whitespace().next().unwrap();
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert_eq!(lines.next(), Some(heading), "the man page lacks this section");
    lines.take_while(|line| !line.starts_with(kind) && !line.starts_with(".SH")).collect()
}

/// The line after each .TP: what is being described.
fn tags<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    lines.windows(2).filter(|pair| pair[0] == ".TP").map(|pair| pair[1]).collect()
}

/// `-p, --pid` of each option of the help.
fn options() -> BTreeSet<String> {
    let command = Cli::command();
    let shown = command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_positional());
    shown
        .map(|a| {
            let short = a.get_short().map(|c| format!("-{c}"));
            let long = a.get_long().map(|l| format!("--{l}"));
            short.into_iter().chain(long).collect::<Vec<_>>().join(", ")
        })
        .collect()
}

fn help() -> String {
    Cli::command().term_width(100).render_help().to_string()
}

#[test]
fn the_man_page_describes_every_option_and_no_other() {
    let page = man_page(MAN_PAGE);
    let tags = tags(&section(&page, ".SH OPTIONS"));
    let described: BTreeSet<String> = tags
        .into_iter()
        .filter(|tag| !tag.starts_with("-- "))
        .map(|tag| {
            let names = tag.split([' ', '[']).take_while(|word| word.starts_with('-'));
            names.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(described, options());
}

/// Anybody may put a link or a FIFO into such a folder, and wait for root to follow the example.
#[test]
fn no_example_writes_where_everybody_may() {
    for (name, text) in documents() {
        let words: Vec<_> = text.split_whitespace().collect();
        for pair in words.windows(2) {
            let into = match pair {
                ["-o" | "--output" | ">" | ">>", file] => file,
                [_, word] => word.strip_prefix('>').unwrap_or_default(),
                _ => "",
            };
            let shared = ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|dir| into.starts_with(dir));
            assert!(!shared, "{name}: an example writes to {into}");
        }
    }
}

#[test]
fn every_option_named_anywhere_in_the_documents_exists() {
    /// Those of docker and kubectl in README.md.
    const OF_OTHERS: [&str; 6] =
        ["rm", "cap-add", "security-opt", "network", "cgroupns", "profile"];
    let command = Cli::command();
    let known = command.get_arguments().filter_map(|a| a.get_long());
    let known: BTreeSet<_> = known.chain(OF_OTHERS).collect();
    for (name, text) in documents() {
        for (at, _) in text.match_indices("--") {
            let word = text[at..].trim_start_matches('-');
            let word = word.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next();
            let word = word.unwrap_or_default();
            assert!(word.is_empty() || known.contains(word), "{name} names --{word}");
        }
    }
}

/// What a shell makes of the words of a command, up to a pipe or a redirection.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                (quote, word) = (Some(c), Some(word.take().unwrap_or_default()));
            }
            None if "|>&;#".contains(c) => {
                // The number before it is that of a descriptor.
                word = word.filter(|word| c != '>' || word.parse::<u32>().is_err());
                break;
            }
            None if c == ' ' => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_in_the_documents_is_one_that_the_program_takes() {
    let mut seen = 0;
    for (name, text) in documents().into_iter().filter(|(name, _)| name.ends_with(".md")) {
        let lines = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let commands = lines.chain(quoted).filter(|line| line.starts_with("tcpconnect -"));
        for command in commands {
            match Cli::try_parse_from(words(command)) {
                Ok(cli) => {
                    let config = Config::new(cli, false);
                    assert!(config.is_ok(), "{name}: {command}: {config:?}");
                }
                // --help and --version.
                Err(e) => assert!(!e.use_stderr(), "{name}: {command}: {e}"),
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn the_readme_is_no_longer_than_a_newcomer_reads() {
    assert!(read("README.md").lines().count() <= 150);
}

#[test]
fn every_page_that_a_document_leads_to_is_there() {
    for (name, text) in documents().into_iter().filter(|(name, _)| name.ends_with(".md")) {
        let folder = Path::new(&name).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let page = link.split('#').next().unwrap_or_default();
            let is_there = page.is_empty()
                || page.starts_with("https://")
                || Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(page).exists();
            assert!(is_there, "{name} leads to {link}");
        }
    }
}

/// What a file has between these two, which UPDATE_DOCS=1 puts there.
fn must_be_fresh(name: &str, begin: &str, end: &str, fresh: &str) {
    // Of a page that two tests refresh, each has its own part.
    static FILES: Mutex<()> = Mutex::new(());
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let page = read(name);
    let (before, rest) = page.split_once(begin).expect("a beginning");
    let (told, after) = rest.split_once(end).expect("an end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = [before, begin, fresh, end, after].concat();
        // Other tests read it meanwhile, and must not find it half written.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::write(root.join(".fresh"), page).unwrap();
        fs::rename(root.join(".fresh"), root.join(name)).unwrap();
        return;
    }
    assert_eq!(told, fresh, "{name}: refresh it: UPDATE_DOCS=1 cargo test --test docs");
}

/// A file that is generated from its first byte to its last.
fn must_be_fresh_as_a_whole(name: &str, fresh: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), fresh).unwrap();
        return;
    }
    assert!(read(name) == fresh, "{name}: refresh it: UPDATE_DOCS=1 cargo test --test docs");
}

/// Under the names that each shell looks for.
#[test]
fn the_completions_have_the_options_of_the_program() {
    let shells = [
        (Shell::Bash, "tcpconnect"),
        (Shell::Zsh, "_tcpconnect"),
        (Shell::Fish, "tcpconnect.fish"),
    ];
    for (shell, file) in shells {
        let mut fresh = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "tcpconnect", &mut fresh);
        must_be_fresh_as_a_whole(&format!("completions/{file}"), str::from_utf8(&fresh).unwrap());
    }
}

#[test]
fn the_options_of_the_documents_are_the_help_of_the_program() {
    must_be_fresh(OPTIONS, USAGE_BEGIN, USAGE_END, &help());
}

/// What the program prints on a terminal of 100 columns.
fn printed(option: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    let output = command.arg(option).env("COLUMNS", "100").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_binary_prints_the_help_that_the_documents_quote() {
    assert_eq!(printed("-h"), help());
}

/// Spaces and lines differ.
#[test]
fn the_long_help_has_all_that_is_to_say_of_each_option() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed = words(&printed("--help"));
    for arg in Cli::command().get_arguments().filter(|a| !a.is_hide_set()) {
        let text = arg.get_long_help().expect("a long help").to_string();
        assert!(text.ends_with('.') && !text.contains("  "), "{}: {text}", arg.get_id());
        assert!(printed.contains(&words(&text)), "{} is not told in full", arg.get_id());
    }
}

/// The keys of each object in JSON lines, in their order.
fn keys(lines: &[u8]) -> Vec<Vec<String>> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    lines
        .map(|line| {
            let object: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
            object.keys().cloned().collect()
        })
        .collect()
}

fn comm(name: &str) -> Comm {
    let mut bytes = [0; COMM_LEN];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Comm(bytes)
}

#[test]
fn the_man_page_describes_every_json_field_in_order_and_no_other() {
    let all = "--exe --args --parents --user --container-name --cgroup-path --vpid --netns-id";
    let words = ["tcpconnect", "-j"].into_iter().chain(all.split(' '));
    let config = Config::new(Cli::parse_from(words), false).unwrap();
    let mut json = new_output(&config);
    let clock = WallClock::at(0);
    let address = Ipv4Addr::LOCALHOST.into();
    // Written out in full, so that a new field stops this from compiling.
    let connect = Connect {
        ts_ns: 1,
        pid: 1,
        tid: 1,
        uid: Some(1),
        gid: Some(1),
        comm: comm("thread"),
        leader: comm("process"),
        cgroup_id: Some(1),
        netns: Some(1),
        saddr: address,
        // As in the answer below.
        daddr: Ipv4Addr::new(127, 3, 0, 1).into(),
        lport: Some(1),
        dport: 1,
        start_ns: 2,
        exec_id: 1,
        exe_deleted: true,
        vpid: Some(1),
        error: 0,
        cookie: Some(1),
        handshake: Handshake::default(),
        origin: Origin::Connected,
        peer_only: false,
    };
    let failed = Connect { error: 1, ..connect };
    // More than has room, and ancestors that are left out.
    let image = Image {
        exe: Some(b"/x"[..].into()),
        exe_truncated: true,
        exe_deleted: true,
        file: Some(ExeFile { dev: (1, 1), inode: 1, mntns: Some(1) }),
        args: Some(Args::new(&[1; 4096])),
    };
    let born = ProcessEvent {
        ts_ns: 1,
        change: Change::Exec(image.clone()),
        pid: 1,
        tid: 1,
        uid: 1,
        gid: 1,
        name: comm("process"),
        cgroup_id: Some(1),
        start_ns: 2,
        parent: 9,
        parent_start_ns: 1,
        exec_id: 1,
        proc_pid: 1,
        file: None,
    };
    let mut processes = Processes::default();
    for pid in 100..140 {
        let (parent, parent_start_ns) = if pid == 100 { (0, 0) } else { (pid - 1, 1) };
        let born = ProcessEvent { pid, start_ns: 1, parent, parent_start_ns, ..born.clone() };
        processes.apply(&born);
    }
    let above = ProcessEvent { pid: 9, start_ns: 1, parent: 139, ..born.clone() };
    processes.apply(&above);
    processes.apply(&born);
    let process = processes.of(&connect);
    let peer = Peer { pid: 1, comm: comm("peer"), image: None, container: None, netns: Some(1) };
    let (user, cgroup) = (Some("root"), Some("/"));
    let container = Some(called("x", true));
    let mut names = Names::default();
    let answer = DnsBytes {
        ts_ns: 1,
        socket: 1,
        asker: Some(Asker { process: ProcessKey { pid: 1, start_ns: 2 }, uid: 1 }),
        cgroup_id: None,
        netns: None,
        place: DnsPlace::Packet([127, 0, 0, 53].into()),
        bytes: include_bytes!("corpus/message/chain")[..].into(),
    };
    let mut question = DnsBytes { place: DnsPlace::Question(None), ..answer.clone() };
    question.bytes[2] &= 0x7f;
    names.apply(&question);
    names.apply(&answer);
    let query = names.of(&connect);
    let row = Row {
        connect: &connect,
        life: None,
        peer: Some(&peer),
        process: Some(Cow::Owned(process.facts(true))),
        user,
        container: container.as_ref(),
        cgroup,
        unit: Some("nginx.service"),
        query: query.as_ref(),
    };
    let happening = |kind| ProcessRow {
        ts_ns: 1,
        pid: 1,
        tid: 1,
        name: comm("process"),
        ppid: Some(9),
        uid: Some(1),
        gid: Some(1),
        user: user.map(Rc::from),
        container: container.clone(),
        cgroup: cgroup.map(Rc::from),
        unit: Some("nginx.service".into()),
        process: Some(process.facts(true)),
        kind,
    };
    let whats = [
        ProcessRowKind::Fork,
        ProcessRowKind::Exec(Cow::Borrowed(&image)),
        ProcessRowKind::Comm(comm("old")),
        ProcessRowKind::Exit(0),
        ProcessRowKind::Exit(139),
        ProcessRowKind::Notice(NoticeKind::Uid { real: 1, effective: 1 }),
        ProcessRowKind::Notice(NoticeKind::Gid { real: 1, effective: 1 }),
        ProcessRowKind::Notice(NoticeKind::Sid),
        ProcessRowKind::Notice(NoticeKind::Ptrace { tracer: Some(1) }),
        ProcessRowKind::Notice(NoticeKind::Coredump),
    ];
    let flow = Flow { saddr: address, daddr: address, dport: 1, connects: 1 };
    let lost = Lost {
        buffer: 1,
        crowded: 1,
        crowder: Some(1),
        cpu: 1,
        skipped: 1,
        stash: 1,
        flows: 1,
        family: 1,
        process: 1,
        names: 1,
        joins: 1,
        lives: 1,
        ends: 1,
        undecodable: 1,
        output: 1,
    };
    let mut written = Vec::new();
    json.header(&mut written);
    json.connect(&row, &clock, &mut written);
    let failed = Row { connect: &failed, ..row.clone() };
    let mut written_of_failed = Vec::new();
    json.connect(&failed, &clock, &mut written_of_failed);
    json.flows(&[flow], 1, &clock, &mut written);
    json.lost(&lost, 1, &clock, &mut written);

    let mut events = Vec::new();
    for what in whats {
        json.process(&happening(what), &clock, &mut events);
    }
    let page = man_page(JSON_PAGE);
    let page_section = section(&page, ".SS Object: process event");
    let fields = tags(&page_section);
    let fields: Vec<_> = fields.iter().map(|tag| tag.trim_start_matches(".B ")).collect();
    let events = keys(&events);
    for event in &events {
        let in_page = fields.iter().filter(|field| event.iter().any(|key| key == *field));
        assert!(event.iter().eq(in_page), "{event:?} in the order of {fields:?}");
    }
    for field in fields {
        assert!(events.iter().flatten().any(|key| key == field), "no event has {field}");
    }

    let stages = [
        Stage::Result(Outcome::Ok),
        Stage::Close { tx_bytes: 1, rx_bytes: 1, retransmits: 1, by: Some(CloseBy::Local) },
    ];
    let mut lives = Vec::new();
    for stage in stages {
        let life = Life { connect: *failed.connect, began_ns: 1, stage };
        json.connect(&Row { life: Some(&life), ..row.clone() }, &clock, &mut lives);
    }
    for origin in [Origin::Existing, Origin::Accepted] {
        let life = Life { connect: Connect { origin, ..connect }, began_ns: 1, stage: stages[1] };
        json.connect(&Row { life: Some(&life), ..row.clone() }, &clock, &mut lives);
    }
    let of_connect = keys(&written).swap_remove(0);
    let fields = keys(&lives).concat();
    let mut fields: Vec<_> = fields.iter().filter(|key| !of_connect.contains(key)).collect();
    // The others have what the second has, but for one or two.
    let mut seen = std::collections::BTreeSet::new();
    fields.retain(|key| seen.insert(*key));
    let tags_of_life = tags(&section(&page, ".SS Object: result, close"));
    let described: Vec<_> = tags_of_life.iter().map(|t| t.trim_start_matches(".B ")).collect();
    assert_eq!(described, fields);

    let names = ["connect", "count", "lost"];
    let mut written = keys(&written);
    assert_eq!(written.len(), names.len());
    // A connect that failed has an error where the others have this.
    let at = written[0].iter().position(|key| key == "community_id").expect("a flow has an id");
    written[0].insert(at + 1, "error".into());
    let mut of_failed = written[0].clone();
    // It came to no connection.
    of_failed.retain(|key| key != "community_id" && key != "conn_id");
    assert_eq!(keys(&written_of_failed), [of_failed]);
    for (name, written) in names.iter().zip(written) {
        let tags = tags(&section(&page, &format!(".SS Object: {name}")));
        let described: Vec<_> = tags.iter().map(|tag| tag.trim_start_matches(".B ")).collect();
        assert_eq!(described, written, "object {name}");
    }
}

#[test]
fn the_man_page_describes_every_field_of_a_coverage() {
    let mut written = Vec::new();
    let cli = Cli::try_parse_from(["tcpconnect", "--json"]).expect("it is an option");
    let mut json = new_output(&Config::new(cli, false).expect("it goes alone"));
    json.coverage(&Coverage { times: Some((1, 2)), ..Coverage::default() }, &mut written);
    let page = man_page(JSON_PAGE);
    let section = section(&page, ".SS Object: coverage");
    let tags = tags(&section);
    let described: Vec<_> = tags.iter().map(|tag| tag.trim_start_matches(".B ")).collect();
    assert_eq!([described], *keys(&written));
}

#[test]
fn make_says_what_it_can_do() {
    let mut make = Command::new("make");
    let output = make.arg("help").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("make is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_unit_of_systemd_starts_what_the_program_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/tcpconnect-record.service");
    let unit = fs::read_to_string(path).expect("the unit is there");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let cli = Cli::try_parse_from(command.expect("it starts a program").split(' '));
    let config = Config::new(cli.expect("its options are right"), false);
    let recording = config.expect("they go together").record.expect("it records");
    let name = recording.dir.file_name().expect("a name").to_string_lossy();
    assert!(unit.contains(&format!("\nStateDirectory={name}\n")), "{name}");
}

#[test]
fn the_man_page_describes_what_a_recording_says_of_itself() {
    let mut written = Vec::new();
    let gap = Gap { from_ns: 1, to_ns: 2, why: String::new() };
    let cli = Cli::try_parse_from(["tcpconnect", "--json"]).expect("it is an option");
    let mut json = new_output(&Config::new(cli, false).expect("it goes alone"));
    json.gap(&gap, &mut written);
    let start = Start {
        version: "",
        host: String::new(),
        boot_id: String::new(),
        run: String::new(),
        sequence: 1,
        options: Vec::new(),
        record_args: "",
    };
    mark::start(1, &start, &mut written);
    let page = man_page(JSON_PAGE);
    let named = |name: &str| -> Vec<String> {
        let section = section(&page, name);
        tags(&section).iter().map(|tag| tag.trim_start_matches(".B ").to_owned()).collect()
    };
    let described =
        [named(".SS Object: gap"), named(".SS Objects of a recording: start, stop, alive")];
    assert_eq!(described, *keys(&written));
}

#[test]
fn the_man_page_describes_every_field_of_a_socket() {
    let address = Ipv4Addr::LOCALHOST.into();
    let ends = socket::Ends { laddr: address, lport: 1, raddr: address, rport: 1 };
    let tcp = socket::Socket {
        netns: 1,
        family: socket::Family::Inet,
        protocol: socket::TCP,
        address: socket::Address::Inet(ends),
        cookie: 1,
        state: socket::ESTABLISHED,
        inode: 1,
        uid: Some(1),
        device: 0,
        is_closed: false,
    };
    let ends = socket::UnixEnds { path: b"/x".to_vec(), peer: Some(1) };
    let unix = socket::Socket {
        family: socket::Family::Unix,
        address: socket::Address::Unix(ends.into()),
        ..tcp.clone()
    };
    let written = |socket, form| {
        let (pid, fd, comm) = (Some(1), Some(1), Some(&b"x"[..]));
        let mut out = Vec::new();
        // What the object connect does not have.
        let connect = Connect { pid: 1, uid: Some(1), ..Connect::nowhere() };
        let row = Row::bare(&connect);
        let line = lines::Line { socket, pid, fd, comm, peer_path: None, who: Some(&row) };
        lines::Sockets::new(form, Columns::default(), String::new(), Vec::new())
            .line(&line, &mut out);
        keys(&out).remove(0)
    };
    let page = man_page(JSON_PAGE);
    let described = tags(&section(&page, ".SS Object: socket"));
    let described: Vec<_> = described.iter().map(|tag| tag.trim_start_matches(".B ")).collect();
    let of_both = [written(&tcp, lines::Form::Json), written(&unix, lines::Form::Json)];
    for object in &of_both {
        let in_page = described.iter().filter(|field| object.iter().any(|key| key == *field));
        assert!(object.iter().eq(in_page), "{object:?} in the order of {described:?}");
    }
    for field in described {
        assert!(of_both.iter().flatten().any(|key| key == field), "no socket has {field}");
    }
    let osquery = written(&tcp, lines::Form::Osquery);
    let page = man_page(MAN_PAGE);
    let text = section(&page, ".SH SNAPSHOT").join(" ");
    let listed = text.split("process_open_sockets: ").nth(1).and_then(|t| t.split(';').next());
    let listed = listed.expect("a list").replace(" and ", ", ");
    assert_eq!(listed.split(", ").collect::<Vec<_>>(), osquery);
}

#[test]
fn the_man_pages_render_without_a_warning() {
    for page in [MAN_PAGE, JSON_PAGE] {
        let mut man = Command::new("man");
        man.args(["--warnings=w", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page]);
        man.current_dir(env!("CARGO_MANIFEST_DIR"));
        man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80");
        let output = man.output().expect("man is installed (make deps-test)");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}");
        assert!(output.status.success());
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn the_older_name_leads_to_the_same_man_page() {
    assert_eq!(read("man/tcpv4connect.8"), ".so man8/tcpconnect.8\n");
}

#[test]
fn the_changelog_has_an_entry_for_this_version() {
    let changelog = read("CHANGELOG.md");
    let entry =
        |name: &str| changelog.lines().any(|line| line.starts_with(&format!("## [{name}]")));
    assert!(entry(env!("CARGO_PKG_VERSION")) || entry("Unreleased"));
}

#[test]
fn the_man_pages_are_of_this_version() {
    let title = format!("\"tcpconnect {}\"", env!("CARGO_PKG_VERSION"));
    for page in [MAN_PAGE, JSON_PAGE].map(read) {
        assert!(page.lines().any(|line| line.starts_with(".TH") && line.contains(&title)));
    }
}

/// All of src, with string literals that are continued on the next line joined.
fn sources() -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms = fs::read_dir(&src).unwrap().map(|entry| entry.unwrap().path());
    let folders = rooms.filter(|path| path.is_dir()).chain([src]);
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    let rust = files.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let text: String = rust.map(|path| fs::read_to_string(path).unwrap()).collect();
    let text = text + &read("build.rs");
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |joined, piece| joined + piece.trim_start())
}

#[test]
fn every_message_that_is_explained_is_one_of_the_program() {
    let page = read("docs/troubleshooting.md");
    let messages: Vec<_> =
        page.lines().filter_map(|l| l.strip_prefix("## `")?.strip_suffix('`')).collect();
    assert!(!messages.is_empty());
    let sources = sources();
    for message in messages {
        for part in message.split('…').map(str::trim) {
            assert!(sources.contains(part), "no source has \"{part}\"");
        }
    }
}

#[test]
fn the_man_page_has_the_diagnostics_of_the_documents() {
    let fresh = roff::diagnostics(&read("docs/troubleshooting.md"));
    must_be_fresh(MAN_PAGE, ".SH DIAGNOSTICS\n", ".SH ", &fresh);
}

/// A table that `--check` has the words of.
#[test]
fn the_causes_of_the_documents_are_those_of_check() {
    let mut fresh = "| `cause` | what it means | what to do |\n|---|---|---|\n".to_owned();
    for &cause in Cause::ALL {
        let words = check::words::of(cause);
        fresh += &format!("| `{}` | {} | {} |\n", cause.name(), words.means, words.todo);
    }
    let (begin, end) = ("<!-- causes: begin -->\n", "<!-- causes: end -->\n");
    must_be_fresh("docs/check.md", begin, end, &fresh);
}

/// As anybody may run it, here or elsewhere.
#[test]
fn each_thing_that_check_looks_at_is_in_the_documents() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    let words = ["--check", "-j", "-x", "--accept", "-e", "-d", "-o", "/dev/null"];
    let output = command.args(words).stdin(Stdio::null()).output().expect("it runs");
    let page = read("docs/check.md");
    let fields = man_page(JSON_PAGE);
    let fields = section(&fields, ".SS Object: check");
    let fields: Vec<_> = tags(&fields).iter().map(|tag| tag.trim_start_matches(".B ")).collect();
    let mut seen = 0;
    for line in String::from_utf8(output.stdout).expect("JSON").lines() {
        let object: serde_json::Map<_, _> = serde_json::from_str(line).expect("an object");
        let id = object["id"].as_str().expect("a name");
        assert!(page.contains(&format!("`{id}`")), "docs/check.md lacks {id}");
        let described = fields.iter().filter(|field| object.contains_key(**field));
        assert!(described.eq(object.keys()), "{line}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn the_man_page_has_the_options_of_the_help() {
    let fresh = roff::options(&mut Cli::command(), &read(MAN_PAGE), &read(JSON_PAGE));
    must_be_fresh(MAN_PAGE, ".SH OPTIONS\n", ".SH ", &fresh);
}

#[test]
fn hosts_are_joined_with_the_sql_that_is_tested() {
    let page = read("docs/fleet.md");
    for engine in ["duckdb", "clickhouse"] {
        let sql = read(&format!("tests/join/pairs.{engine}.sql"));
        assert!(page.contains(&format!("```sql\n{sql}```\n")), "pairs.{engine}.sql");
    }
}
