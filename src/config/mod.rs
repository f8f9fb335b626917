// SPDX-License-Identifier: Apache-2.0
//! From what was typed to what will be done: mode, filters, columns and format. Which
//! options go together is in `rules`. No I/O.

pub mod cli;
mod help;
mod rules;
pub mod values;
pub mod when;

use std::ffi::OsString;
use std::mem::take;
use std::path::PathBuf;
use std::time::Duration;

use chrono::DateTime;
use chrono::TimeZone;
use glob::Pattern;

use crate::config::cli::Attach;
use crate::config::cli::Buffer;
use crate::config::cli::Cli;
use crate::config::cli::JsonForm;
use crate::config::cli::Procs;
use crate::config::cli::RecordArgs;
use crate::config::cli::Sandbox;
use crate::config::cli::Snapshot;
use crate::config::values::Whom;
use crate::config::when::When;
use crate::model::filter::Family;
use crate::model::filter::Filter;
use crate::model::filter::NetTable;
use crate::model::filter::PortSet;

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
    pub error: bool,
    pub result: bool,
    pub life: bool,
    pub accept: bool,
    pub existing: bool,
    pub peer: bool,
    pub query: bool,
    pub who: Who,
    /// The table of the older tool `tcpv4connect`.
    pub tcpv4connect: bool,
}

/// Where what is traced is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub dir: PathBuf,
    /// Bytes of all files.
    pub size: u64,
    pub age: Duration,
    pub args: RecordArgs,
}

/// What was written before, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub paths: Vec<PathBuf>,
    pub since: Option<When>,
    pub until: Option<When>,
    /// Nobody has named it.
    pub is_default: bool,
}

/// Where systemd/tcpconnect-record.service keeps what it records.
pub const RECORDING: &str = "/var/lib/tcpconnect";

/// Facts about the process behind a row, all of them optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who {
    pub exe: bool,
    pub args: bool,
    pub parents: bool,
    pub user: bool,
    pub container_id: bool,
    pub container_name: bool,
    pub image: bool,
    pub cgroup_path: bool,
    pub netns_id: bool,
    pub vpid: bool,
}

impl Who {
    pub fn any(self) -> bool {
        self != Who::default()
    }

    /// Which container it is in.
    pub fn container(self) -> bool {
        self.container_id || self.names()
    }

    /// The systemd unit, in JSON, is a name that people use, too.
    pub fn unit(self) -> bool {
        self.cgroup_path || self.container_name
    }

    /// What people call that.
    pub fn names(self) -> bool {
        self.container_name || self.image
    }
}

impl Config {
    /// Whether it has to be known what people call containers.
    pub fn names_containers(&self) -> bool {
        self.who.names() || self.filter.by_name()
    }

    /// For a host that does not tell in which container a process is: --wide, which shows them
    /// where there are any, does without.
    pub fn where_containers_are_unknown(mut self) -> Self {
        if self.may_lack_containers {
            self.who.container_name = false;
            if let Format::Table(columns) = &mut self.format {
                columns.who.container_name = false;
            }
        }
        self
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub format: Format,
    pub filter: Filter,
    pub who: Who,
    /// Connects that fail before their SYN, too.
    pub failed: bool,
    /// A row at the outcome of a connect, if it took this long.
    pub result: Option<Duration>,
    /// A row at the end of a connection.
    pub life: bool,
    /// Connections that are accepted, too.
    pub accept: bool,
    /// First the connections that are already there.
    pub existing: bool,
    /// The process on the other end, remembered this long after a close.
    pub peer: Option<Duration>,
    /// That are open at once and followed; some 200 bytes of kernel memory each.
    pub max_connections: u32,
    /// Networks and ports mean the other end, whoever connected (--who).
    pub by_remote: bool,
    /// Names of destinations.
    pub dns: bool,
    /// Only destinations whose name, or one of its other names, is like this.
    pub to_name: Option<Pattern>,
    pub procs: Option<Procs>,
    /// Nothing is traced; the rest of this holds for the sockets there are.
    pub snapshot: Option<Snapshot>,
    /// What is traced is kept.
    pub record: Option<Recording>,
    /// Nothing is traced; the rest of this holds for what was written before.
    pub read: Option<Reading>,
    /// What this host has recorded comes before what is traced.
    pub past: Option<Reading>,
    /// How a socket of `snapshot` is written.
    pub json: Option<JsonForm>,
    pub output: Option<PathBuf>,
    pub max_events: Option<u64>,
    pub duration: Option<Duration>,
    pub ready_fd: Option<i32>,
    pub attach: Attach,
    pub sandbox: Sandbox,
    pub buffer: Buffer,
    pub buffer_size: Option<usize>,
    pub btf: Option<PathBuf>,
    pub verbose: bool,
    /// Nothing is traced; the rest of this is what would be.
    pub check: bool,
    pub command: Vec<OsString>,
    /// Names of containers were asked for by --wide alone.
    pub may_lack_containers: bool,
}

impl Config {
    /// The error is one line for the user; it is a usage error.
    pub fn new(mut cli: Cli, tcpv4connect: bool) -> Result<Self, String> {
        rules::check(&cli, tcpv4connect)?;
        ask_whom(&mut cli);
        cli.dns |= cli.to_name.is_some();
        if cli.record.is_some() {
            keep_all(&mut cli);
        }
        let who = who_of(&cli);
        Ok(Config {
            mode: match cli.count {
                true => Mode::Count { interval: cli.interval },
                false => Mode::Rows,
            },
            format: match cli.json {
                Some(_) => Format::Json,
                None => Format::Table(columns_of(&cli, who, tcpv4connect)),
            },
            filter: filter_of(&mut cli, tcpv4connect),
            record: recording_of(&mut cli),
            past: past_of(&cli),
            read: reading_of(&mut cli),
            who,
            failed: cli.failed,
            result: cli.result.then(|| cli.min_latency.unwrap_or_default()),
            life: cli.life,
            accept: cli.accept,
            existing: cli.existing,
            peer: cli.peer.then(|| cli.keep.unwrap_or(Duration::from_secs(60))),
            max_connections: cli.max_connections.unwrap_or(65_536),
            by_remote: cli.who.is_some(),
            dns: cli.dns,
            to_name: cli.to_name,
            procs: cli.procs,
            snapshot: cli.snapshot,
            json: cli.json,
            output: cli.output,
            max_events: cli.max_events,
            duration: cli.duration,
            ready_fd: cli.ready_fd,
            attach: cli.attach,
            sandbox: cli.sandbox,
            buffer: cli.buffer,
            buffer_size: cli.buffer_size,
            btf: cli.btf,
            verbose: cli.verbose,
            check: cli.check,
            command: cli.command,
            may_lack_containers: cli.wide && !cli.container_name,
        })
    }

    /// Now that it is known how late it is: what is over is only read, and nothing is traced longer
    /// than it was asked for.
    pub fn at<Z: TimeZone>(mut self, now: &DateTime<Z>) -> Self {
        let Some(until) = self.past.as_ref().and_then(|past| past.until) else { return self };
        let now_ns = u64::try_from(now.timestamp_nanos_opt().unwrap_or(0)).unwrap_or(0);
        match until.unix_ns(now).checked_sub(now_ns).filter(|&left| left > 0) {
            None => self.read = self.past.take(),
            Some(left) => {
                let left = Duration::from_nanos(left);
                self.duration = Some(self.duration.map_or(left, |duration| duration.min(left)));
            }
        }
        self
    }

    /// Refuses what a caller must not do with rights that the program file lends;
    /// `writes_more` if these let us write files that the caller may not.
    pub fn within_lent_rights(self, writes_more: bool) -> Result<Self, String> {
        /// Unlike a user's own memory, the kernel's is charged to nobody who could be
        /// stopped; a storm of 200,000 connects a second fills this in a second or two.
        const MAX_BUFFER: usize = 64 << 20;
        /// Some 50 MiB of kernel memory.
        const MAX_CONNECTIONS: u32 = 262_144;
        if self.output.is_some() && writes_more {
            return Err("-o would write where you may not, with the rights of the program file; \
                        redirect its output, or run it as root"
                .into());
        }
        if self.record.is_some() && writes_more {
            return Err("--record would write where you may not, with the rights of the program \
                        file; run it as root"
                .into());
        }
        for (option, reads) in [("--read", &self.read), ("--since", &self.past)] {
            if reads.is_some() && writes_more {
                return Err(format!(
                    "{option} would read where you may not, with the rights of the program file; \
                     run it as root"
                ));
            }
        }
        if self.buffer_size.is_some_and(|size| size > MAX_BUFFER) {
            return Err("--buffer-size is at most 64M for a program with file capabilities; run \
                        it as root for more"
                .into());
        }
        if self.max_connections > MAX_CONNECTIONS {
            return Err(format!(
                "--max-connections is at most {MAX_CONNECTIONS} for a program with file \
                 capabilities; run it as root for more"
            ));
        }
        if self.btf.is_some() {
            return Err("--btf decides where kernel memory is read, which a program with file \
                        capabilities leaves to no one; run it as root, or leave --btf out"
                .into());
        }
        Ok(self)
    }
}

/// What --who stands for.
fn ask_whom(cli: &mut Cli) {
    let Some(whom) = &cli.who else { return };
    (cli.existing, cli.accept, cli.wide) = (true, true, true);
    let port = match whom {
        Whom::At(remote) => {
            cli.to = vec![remote.net];
            remote.port
        }
        Whom::Called(name, port) => {
            cli.to_name = Some(name.clone());
            *port
        }
    };
    cli.port = port.map(PortSet::one);
}

/// Of what can be known of a connection nothing can be had later.
fn keep_all(cli: &mut Cli) {
    (cli.result, cli.life, cli.accept, cli.dns) = (true, true, true, true);
    (cli.wide, cli.user, cli.image, cli.vpid) = (true, true, true, true);
    (cli.container_id, cli.cgroup_path) = (true, true);
    cli.json = Some(JsonForm::Native);
}

fn recording_of(cli: &mut Cli) -> Option<Recording> {
    Some(Recording {
        dir: cli.record.take()?,
        size: cli.record_size.unwrap_or(1 << 30),
        age: cli.record_age.unwrap_or(Duration::from_secs(30 * 86_400)),
        args: cli.record_args,
    })
}

fn reading_of(cli: &mut Cli) -> Option<Reading> {
    let paths = take(&mut cli.read);
    let (since, until, is_default) = (cli.since, cli.until, false);
    (!paths.is_empty()).then_some(Reading { paths, since, until, is_default })
}

fn past_of(cli: &Cli) -> Option<Reading> {
    let (since, until, is_default) = (cli.since, cli.until, true);
    let is_asked_for = cli.read.is_empty() && (since.is_some() || until.is_some());
    is_asked_for.then(|| Reading { paths: vec![RECORDING.into()], since, until, is_default })
}

fn who_of(cli: &Cli) -> Who {
    Who {
        exe: cli.exe || cli.wide,
        args: cli.args || cli.wide,
        parents: cli.parents || cli.wide,
        user: cli.user,
        container_id: cli.container_id,
        container_name: cli.container_name || cli.wide,
        image: cli.image,
        cgroup_path: cli.cgroup_path,
        netns_id: cli.netns_id,
        vpid: cli.vpid,
    }
}

fn columns_of(cli: &Cli, who: Who, tcpv4connect: bool) -> Columns {
    Columns {
        time: cli.time || cli.wide,
        timestamp: cli.timestamp,
        uid: cli.print_uid || cli.wide,
        lport: cli.lport || cli.wide,
        error: cli.failed,
        result: cli.result,
        life: cli.life,
        accept: cli.accept,
        existing: cli.existing,
        peer: cli.peer,
        query: cli.dns,
        who,
        tcpv4connect,
    }
}

/// Takes the filters out of what was typed.
fn filter_of(cli: &mut Cli, tcpv4connect: bool) -> Filter {
    Filter {
        pids: take(&mut cli.pid),
        children: cli.children || !cli.command.is_empty(),
        uid: cli.uid,
        comm: cli.comm,
        ports: cli.port.take(),
        nets: NetTable::new(&cli.to, &cli.not_to),
        family: match (cli.ipv4 || tcpv4connect, cli.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Both,
        },
        cgroups: take(&mut cli.cgroup),
        containers: take(&mut cli.container),
        pods: take(&mut cli.pod),
        units: take(&mut cli.unit),
        netns: cli.netns.take(),
        cgroupmap: cli.cgroupmap.take(),
        mntnsmap: cli.mntnsmap.take(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn new_as(tcpv4connect: bool, args: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(["tcpconnect"].iter().chain(args)).unwrap();
        Config::new(cli, tcpv4connect)
    }

    fn new(args: &[&str]) -> Config {
        new_as(false, args).unwrap()
    }

    fn refused(args: &[&str]) -> String {
        new_as(false, args).unwrap_err()
    }

    #[test]
    fn counting_with_names_is_refused_before_anything_else() {
        let bcc = "Error: you may not specify -d/--dns with -c/--count.";
        assert_eq!(refused(&["-c", "-d"]), bcc);
        assert_eq!(refused(&["-cd", "-n", "1", "--children"]), bcc);
    }

    #[test]
    fn a_name_to_match_asks_for_names() {
        assert!(!new(&[]).dns);
        for args in [&["-d"][..], &["--to-name", "*.test"], &["-dj"]] {
            assert!(new(args).dns, "{args:?}");
        }
    }

    #[test]
    fn names_need_rows_of_connects() {
        assert!(refused(&["-c", "--to-name", "a"]).starts_with("-c counts connects"));
        assert!(refused(&["--procs=only", "-d"]).starts_with("--procs=only shows no connections"));
    }

    #[test]
    fn an_interval_needs_counting() {
        assert!(refused(&["-i", "1"]).starts_with("-i needs -c"));
        let interval = Some(Duration::from_secs(1));
        assert_eq!(new(&["-c", "-i", "1"]).mode, Mode::Count { interval });
    }

    #[test]
    fn counting_has_no_number_of_rows() {
        assert!(refused(&["-c", "-n", "1"]).starts_with("-n counts rows"));
        assert_eq!(new(&["-c"]).mode, Mode::Count { interval: None });
        assert_eq!(new(&["-n", "1"]).mode, Mode::Rows);
    }

    #[test]
    fn children_need_a_parent() {
        assert!(refused(&["--children"]).starts_with("--children needs -p"));
        assert!(new(&["--children", "-p", "1"]).filter.children);
        assert!(!new(&["-p", "1"]).filter.children);
    }

    #[test]
    fn a_command_is_traced_with_its_children_and_without_other_pids() {
        assert!(refused(&["-p", "1", "--", "true"]).starts_with("-p and a COMMAND exclude"));
        for args in [&["--", "curl", "-s"][..], &["--children", "--", "curl", "-s"]] {
            let config = new(args);
            assert!(config.filter.children && config.filter.pids.is_empty());
            assert_eq!(config.command, ["curl", "-s"]);
        }
    }

    #[test]
    fn the_older_name_is_for_ipv4() {
        assert_eq!(new_as(true, &[]).unwrap().filter.family, Family::V4);
        assert_eq!(new_as(true, &["-4"]).unwrap().filter.family, Family::V4);
    }

    #[test]
    fn the_family_is_one_or_both() {
        assert_eq!(new(&[]).filter.family, Family::Both);
        assert_eq!(new(&["-4"]).filter.family, Family::V4);
        assert_eq!(new(&["-6"]).filter.family, Family::V6);
    }

    #[test]
    fn json_has_no_columns() {
        assert_eq!(new(&["-j", "-t", "-U"]).format, Format::Json);
        let columns = Columns { timestamp: true, uid: true, ..Columns::default() };
        assert_eq!(new(&["-t", "-U"]).format, Format::Table(columns));
    }

    #[test]
    fn lists_of_pids_add_up() {
        assert_eq!(new(&["-p", "1,2", "-p", "3"]).filter.pids, [1, 2, 3]);
    }

    #[test]
    fn without_networks_there_is_no_table_of_them() {
        assert_eq!(new(&[]).filter.nets, None);
        assert!(new(&["--not-to", "::1"]).filter.nets.is_some_and(|nets| nets.default));
        assert!(new(&["--to", "::1"]).filter.nets.is_some_and(|nets| !nets.default));
    }

    #[test]
    fn wide_is_what_an_investigator_wants() {
        let config = new(&["--wide"]);
        let base = Who { exe: true, args: true, parents: true, ..Who::default() };
        let who = Who { container_name: true, ..base };
        assert_eq!(config.who, who);
        let columns = Columns { time: true, uid: true, lport: true, who, ..Columns::default() };
        assert_eq!(config.format, Format::Table(columns));
        let config = config.where_containers_are_unknown();
        assert_eq!(config.who, base);
        assert_eq!(config.format, Format::Table(Columns { who: base, ..columns }));
        let asked = new(&["--wide", "--container-name"]).where_containers_are_unknown();
        assert_eq!(asked.who, who, "it is refused there");
    }

    #[test]
    fn counting_does_not_tell_who() {
        assert!(refused(&["-c", "--exe"]).starts_with("-c counts connects"));
        assert!(refused(&["-c", "--procs"]).starts_with("-c counts connects"));
    }

    #[test]
    fn failed_connects_need_a_hook_that_sees_them_and_rows() {
        assert!(new(&["-f"]).failed && !new(&[]).failed);
        assert!(refused(&["-f", "--attach", "sockops"]).starts_with("-f needs --attach fentry"));
        assert!(refused(&["-c", "-f"]).starts_with("-c counts connects"));
    }

    #[test]
    fn outcomes_and_ends_are_rows_of_their_own() {
        let config = new(&["-r", "--min-latency", "1.5", "--life"]);
        assert_eq!(config.result, Some(Duration::from_micros(1500)));
        assert!(config.life);
        assert_eq!(new(&["-r"]).result, Some(Duration::ZERO));
        assert!(refused(&["--min-latency", "1"]).starts_with("--min-latency needs -r"));
        assert!(refused(&["-c", "-r"]).starts_with("-c counts connects"));
        assert!(refused(&["-c", "--life"]).starts_with("-c counts connects"));
        assert!(refused(&["--procs=only", "-r"]).starts_with("--procs=only shows no connections"));
    }

    #[test]
    fn existing_connections_cannot_be_asked_for_everything() {
        assert!(new(&["-e"]).existing && !new(&[]).existing);
        for args in [&["-c"][..], &["--procs=only"], &["--cgroupmap", "/"], &["--", "true"]] {
            assert!(refused(&[&["-e"], args].concat()).starts_with("-e and --who list"));
        }
    }

    #[test]
    fn who_means_the_other_end() {
        let config = new(&["--who", "192.0.2.1:80"]);
        assert!(config.existing && config.accept && config.by_remote && config.who.exe);
        assert!(config.filter.ports.is_some_and(|ports| ports.contains(80) && !ports.contains(81)));
        assert!(new(&["--who", "2001:db8::1"]).filter.ports.is_none());
        assert!(new(&["--who", "[2001:db8::1]:80"]).filter.ports.is_some());
        assert!(refused(&["--who", "::1", "-P", "80"]).starts_with("--who names the other end"));
        let named = new(&["--who", "*.example.com:443"]);
        assert!(named.dns && named.by_remote && named.filter.nets.is_none());
        assert_eq!(named.to_name.unwrap().as_str(), "*.example.com");
        assert!(named.filter.ports.is_some_and(|ports| ports.contains(443)));
        let why = refused(&["--who", "a.example", "--to-name", "b.example"]);
        assert!(why.starts_with("--who names the other end"), "{why}");
        for text in ["a.example:0", "1.2.3.400", "a b.example", "1.2.3.4.", "a.example:443:1"] {
            assert!(Cli::try_parse_from(["tcpconnect", "--who", text]).is_err(), "{text}");
        }
        for text in ["x", "1.2.3.4:0", "1.2.3.4:x", "[::1", "[::1]:", "::1:80:"] {
            let args = ["tcpconnect", "--who", text];
            assert!(Cli::try_parse_from(args).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_over_is_only_read() {
        let now = DateTime::parse_from_rfc3339("2026-11-29T08:30:00+01:00").unwrap();
        let who = |args: &[&str]| new(&[&["--who", "192.0.2.1"], args].concat()).at(&now);
        assert!(who(&[]).past.is_none());
        let since = who(&["--since", "-7d"]);
        assert!(since.read.is_none() && since.duration.is_none());
        assert_eq!(since.past.unwrap().paths, [PathBuf::from("/var/lib/tcpconnect")]);
        let over = who(&["--since", "-7d", "--until", "-1h"]);
        assert!(over.past.is_none() && over.read.is_some_and(|from| from.is_default));
        let later = who(&["--until", "2026-11-29T09:00+01:00"]);
        assert_eq!(later.duration, Some(Duration::from_secs(1_800)));
        assert!(later.past.is_some() && later.read.is_none());
        let sooner = who(&["--until", "2026-11-29T09:00+01:00", "--duration", "5"]);
        assert_eq!(sooner.duration, Some(Duration::from_secs(5)));
        let named = who(&["--since", "-7d", "--read", "x"]);
        assert!(named.past.is_none() && named.read.is_some_and(|from| !from.is_default));
        let why = refused(&["--who", "::1", "--since", "-7d", "--procs"]);
        assert!(why.starts_with("--who with --since lists connections"), "{why}");
        assert!(refused(&["-e", "--since", "-7d"]).starts_with("--since needs --read"));
    }

    #[test]
    fn a_peer_is_remembered_for_a_minute_unless_told() {
        assert_eq!(new(&["--peer"]).peer, Some(Duration::from_secs(60)));
        assert_eq!(new(&["--peer", "--keep", "1"]).peer, Some(Duration::from_secs(1)));
        assert!(!new(&["--peer"]).existing);
        assert!(refused(&["--keep", "1"]).starts_with("--keep needs --peer"));
    }

    #[test]
    fn as_many_connections_are_followed_as_wanted() {
        assert_eq!(new(&["-r"]).max_connections, 65_536);
        assert_eq!(new(&["--life", "--max-connections", "9"]).max_connections, 9);
        assert!(refused(&["--max-connections", "9"]).starts_with("--max-connections needs -r"));
    }

    #[test]
    fn lent_rights_have_bounds() {
        let lent = |args: &[&str]| new(args).within_lent_rights(false);
        assert!(lent(&["--buffer-size", "64M", "--life", "--max-connections", "262144"]).is_ok());
        let refused = |args: &[&str]| lent(args).unwrap_err();
        assert!(refused(&["--buffer-size", "65537K"]).starts_with("--buffer-size is at most 64M"));
        let why = refused(&["--life", "--max-connections", "262145"]);
        assert!(why.starts_with("--max-connections is at most 262144"));
        assert!(refused(&["--btf", "x"]).starts_with("--btf decides where"));
        let since = new(&["--who", "::1", "--since", "-7d"]);
        assert!(since.clone().within_lent_rights(false).is_ok());
        let why = since.within_lent_rights(true).unwrap_err();
        assert!(why.starts_with("--since would read where you may not"), "{why}");
    }

    #[test]
    fn a_table_of_counts_has_no_accepts() {
        assert!(refused(&["-c", "--accept"]).starts_with("-c counts connects"));
    }

    #[test]
    fn process_events_have_few_filters() {
        for (option, value) in [("--cgroupmap", "/"), ("--netns", "1")] {
            let why = refused(&["--procs", option, value]);
            assert!(why.starts_with("--procs can be narrowed by"), "{why}");
        }
        assert_eq!(new(&["--procs", "-p", "1", "--children"]).procs, Some(Procs::With));
        assert_eq!(new(&["--procs=only", "-u", "0"]).procs, Some(Procs::Only));
    }

    #[test]
    fn a_snapshot_has_filters_but_nothing_of_tracing() {
        let all = "-s=all -j -p 1 -u 0 --comm x -P 80 --to ::1 --not-to ::2 -6 --netns 1 -o x -n 1";
        let config = new(&all.split(' ').collect::<Vec<_>>());
        assert_eq!(config.snapshot, Some(Snapshot::All));
        assert_eq!(new(&["-s"]).snapshot, Some(Snapshot::Connections));
    }

    #[test]
    fn osquery_has_sockets_only() {
        assert!(refused(&["--json=osquery"]).starts_with("--json=osquery needs --snapshot"));
        assert_eq!(new(&["-s", "--json=osquery"]).json, Some(JsonForm::Osquery));
        assert_eq!(new(&["-s", "-j"]).json, Some(JsonForm::Native));
        assert_eq!(new(&["-jt"]).format, Format::Json);
    }
}
