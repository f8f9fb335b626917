// SPDX-License-Identifier: Apache-2.0
//! What a run needs, from its options alone: pure, with a test for each rule.

use rustix::thread::CapabilitySet;

use crate::config::Config;
use crate::config::Format;
use crate::config::Mode;
use crate::config::Who;
use crate::config::cli::Sandbox;
use crate::model::filter::Filter;
use crate::model::needs::Needs;

/// 8,700 connects: 40 ms of the fastest storm two CPUs can make (220,000 a
/// second), against the reader's timer of 1 ms. The ring is mapped twice, and
/// all of it counts as resident.
const DEFAULT_RING_BYTES: usize = 1 << 20;
/// Records of processes may take half: 5,000 processes that fork, exec and exit,
/// against the 100 ms in which an idle reader looks again.
const PROCESS_RING_BYTES: usize = 4 << 20;
/// Per CPU; a sample takes as much, and a header.
const DEFAULT_PERF_BYTES: usize = 1 << 20;

/// How much the programs of a hook are able to do: the levels of src/bpf/filter.bpf.h. A higher
/// one costs each connect more instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What BCC's table shows, and filters of it.
    #[default]
    Table,
    /// All that is known of the task and the socket without following either.
    Fields,
    /// Connections, processes and names, too.
    Process,
    /// Connects that fail before their SYN, too.
    Failed,
}

/// Where connects are seen: the hooks of the attach ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Fentry,
    Kprobe,
    Sockops,
    /// What is left of sockops without cgroup v2: inet_sock_set_state.
    StateOnly,
    /// `--procs=only`: no connects at all.
    Processes,
}

/// Programs that run beside those of the hook, by what they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// Forks and exits.
    Descendants,
    /// Forks, exits, execs and names.
    Processes,
    Cgroups,
    /// Messages from and to port 53.
    Names,
    /// Changes of a socket's state.
    States,
    /// Sockets that are no more.
    Destroyed,
    Accepts,
}

/// What a run needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub level: Level,
    /// Events leave the kernel, not a table of counts.
    pub rows: bool,
    pub shown: Shown,
    /// Records of all processes.
    pub processes: bool,
    /// Descendants of processes are known in the kernel.
    pub descendants: bool,
    /// Cgroups have names in rows: records of all of them.
    pub cgroups: bool,
    /// Containers have names in rows.
    pub container_names: bool,
    /// Cgroups are wanted, and the kernel knows them: by their ids or names.
    pub filters_cgroups: bool,
    /// By their names.
    pub cgroup_names: bool,
    /// Rows are wanted by cgroups in a way that the kernel does not know.
    pub judges: bool,
    /// Messages from and to port 53.
    pub names: bool,
    /// Rows name the process on the other end.
    pub peers: bool,
    /// Connections are followed after their connect.
    pub follows: bool,
    /// To their ends, though these have no rows, perhaps.
    pub ends: bool,
    /// Connections that were there before are listed, though these have no rows, perhaps.
    pub lists: bool,
    /// And followed.
    pub adopts: bool,
    pub accepts: bool,
    /// Records of connects and accepts, though these have no rows, perhaps: others are joined
    /// to them.
    pub connect_records: bool,
    pub accept_records: bool,
    /// With a record of a connect a row is lost: its own, or one that is wanted by the name that
    /// only this record finds.
    pub connects_are_missed: bool,
    /// What is known of the process at the connect is kept for later rows.
    pub keeps_who: bool,
    /// What a record has beside what the table of BCC shows.
    pub facts: Facts,
}

/// Which events have rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// A connect when it is made, not only what it came to.
    pub connects: bool,
    /// An accept when it is made, not only its end.
    pub accepts: bool,
    /// Accepted connections at all.
    pub accepted: bool,
    /// Ends of connections.
    pub ends: bool,
    /// Connections of before tracing.
    pub existing: bool,
}

/// Facts of a connect that cost something to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name of the process, beside that of the thread.
    pub leader: bool,
    pub netns: bool,
    pub cgroup: bool,
    pub cookie: bool,
    /// When it was forked, and what it runs.
    pub process: bool,
    /// Its pid in its own pid namespace.
    pub vpid: bool,
}

impl Plan {
    pub fn new(config: &Config, host: Host) -> Self {
        let json = config.format == Format::Json;
        let (peers, existing) = (config.peer.is_some(), config.existing);
        let processes = follows_processes(config);
        let judges = judges(config);
        let cgroups = names_cgroups(config);
        let filters_cgroups =
            config.filter.by_cgroup() && !(host.is_hybrid && config.filter.by_name());
        let shown = Shown {
            connects: config.result.is_none() && !config.life,
            accepts: config.accept && (config.result.is_some() || !config.life),
            accepted: config.accept,
            ends: config.life,
            existing,
        };
        let lists = existing || peers;
        let follows = !shown.connects || peers;
        let ends = config.life || peers;
        let accepts = config.accept || peers;
        let keeps_who = !shown.connects && (processes || cgroups || config.dns);
        let connect_records = keeps_who || lists;
        let (filter, who) = (&config.filter, config.who);
        let facts = Facts {
            leader: json || processes,
            netns: json || config.dns || who.netns_id || lists,
            cgroup: json || cgroups || config.dns,
            cookie: json || lists || follows,
            process: processes || who.container() || judges || config.dns,
            vpid: who.vpid,
        };
        let is_followed = follows || accepts || existing;
        Plan {
            level: level(config, facts, is_followed || host.is_nested),
            rows: config.mode == Mode::Rows || judges,
            shown,
            processes,
            descendants: filter.children,
            cgroups,
            container_names: config.names_containers(),
            filters_cgroups,
            cgroup_names: filters_cgroups && names_in_filter(filter),
            judges,
            names: config.dns,
            peers,
            follows,
            ends,
            lists,
            adopts: lists && ends,
            accepts,
            connect_records,
            accept_records: shown.accepts || connect_records,
            connects_are_missed: shown.connects || config.to_name.is_some(),
            keeps_who,
            facts,
        }
    }

    /// The programs beside those of `hook`. Sockops hears of states by callbacks, but for a
    /// socket that was there before, and for one of which another sockops program has set the
    /// flags: `has_btf` is true if this kernel has its own, without which the callbacks have
    /// to do.
    pub fn companions(&self, hook: Hook, has_btf: bool) -> Vec<Companion> {
        let hears_states = match hook {
            Hook::Fentry | Hook::Kprobe => self.follows,
            Hook::Sockops => self.adopts || self.follows && has_btf,
            Hook::StateOnly | Hook::Processes => false,
        };
        let all = [
            (Companion::Descendants, self.descendants && !self.processes),
            (Companion::Processes, self.processes),
            (Companion::Cgroups, self.cgroups || self.cgroup_names),
            (Companion::Names, self.names),
            (Companion::States, hears_states),
            // What ended in a listener's queue is kept until it can be accepted no more.
            (Companion::Destroyed, self.adopts && self.accepts),
            (Companion::Accepts, self.accepts),
        ];
        all.into_iter()
            .filter_map(|(companion, is_needed)| is_needed.then_some(companion))
            .collect()
    }

    /// Bytes of the ring, or of the perf buffer of each CPU.
    pub fn default_buffer(&self, is_ring: bool) -> usize {
        match (is_ring, self.processes || self.names) {
            (true, false) => DEFAULT_RING_BYTES,
            (true, true) => PROCESS_RING_BYTES,
            (false, _) => DEFAULT_PERF_BYTES,
        }
    }

    /// Whether a reader of the ring hears of all that it has to show by records that wake it. Those
    /// that are no rows of their own do not, and what is lost of descendants and of names of
    /// cgroups has none.
    pub fn is_prompt(&self) -> bool {
        self.rows && !self.has_aux_records() && !self.descendants && !self.cgroup_names
    }

    /// Whether something can be lost without a record before or after it: a connection that is
    /// followed has none while it goes on.
    pub fn loses_unsaid(&self) -> bool {
        self.follows || self.accepts || self.adopts
    }

    /// Whether there are records that are no rows of their own.
    pub fn has_aux_records(&self) -> bool {
        self.processes || self.cgroups || self.names
    }
}

/// The lowest that has these facts; `of_process`: and what is known of processes alone.
fn level(config: &Config, facts: Facts, of_process: bool) -> Level {
    if config.failed {
        Level::Failed
    } else if of_process || facts.process || facts.vpid {
        Level::Process
    } else if shows_uid(config) || config.who.any() || filters_more(&config.filter) {
        Level::Fields
    } else {
        Level::Table
    }
}

fn shows_uid(config: &Config) -> bool {
    match config.format {
        Format::Json => true,
        Format::Table(columns) => columns.uid,
    }
}

/// Whether all processes must be known, not just those that connect.
fn follows_processes(config: &Config) -> bool {
    let who = config.who;
    who.exe
        || who.args
        // Whoever starts a container is seen by its arguments.
        || config.names_containers()
        || who.parents
        || config.procs.is_some()
        || (who.any() || config.peer.is_some()) && config.format == Format::Json
}

/// Whether cgroups must be known by name.
fn names_cgroups(config: &Config) -> bool {
    config.who.container() || config.who.cgroup_path || judges(config)
}

/// Whether rows are wanted by cgroups in a way that the kernel does not know: what people call a
/// container, and of what was there before or is no connection.
fn judges(config: &Config) -> bool {
    let filter = &config.filter;
    filter.by_name() || filter.by_cgroup() && (config.existing || config.procs.is_some())
}

fn names_in_filter(filter: &Filter) -> bool {
    filter.by_container() || !filter.units.is_empty()
}

/// Whether a filter looks at what BCC's table has not.
fn filters_more(filter: &Filter) -> bool {
    filter.by_cgroup()
        || filter.uid.is_some()
        || filter.netns.is_some()
        || filter.cgroupmap.is_some()
        || filter.mntnsmap.is_some()
}

/// What else decides what is needed.
#[derive(Clone, Copy, Default)]
pub struct Host {
    /// Pids are those of a pid namespace below the first.
    pub is_nested: bool,
    /// Containers may be in hierarchies of version 1.
    pub is_hybrid: bool,
    /// Reading a map takes CAP_BPF.
    pub bpf_is_restricted: bool,
    /// The buffer is a perf buffer.
    pub uses_perf: bool,
    pub perf_takes_sys_admin: bool,
}

/// What this run needs while it traces, of what it may have.
pub fn capabilities(config: &Config, host: Host) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    needed.set(CapabilitySet::BPF, host.bpf_is_restricted);
    // A CPU that comes online gets a buffer of its own then.
    needed.set(CapabilitySet::PERFMON, host.uses_perf);
    needed.set(CapabilitySet::SYS_ADMIN, host.uses_perf && host.perf_takes_sys_admin);
    // The program of a process whose exec was lost is read from /proc/PID/exe, cgroups may
    // be mounted in the namespace of init alone, and /proc with hidepid shows no others.
    let reads_proc =
        follows_processes(config) || names_cgroups(config) || config.snapshot.is_some();
    needed.set(CapabilitySet::SYS_PTRACE, reads_proc);
    // After losses the cgroups are listed again, also those below a folder that its owner
    // has closed to others; and the descriptors of a process that was just made are looked at
    // again, whoever it belongs to.
    let looks_again = names_cgroups(config) || reads_holders(config);
    needed.set(CapabilitySet::DAC_READ_SEARCH, looks_again);
    // COMMAND is ended with us, and may be another user by then.
    needed.set(CapabilitySet::KILL, !config.command.is_empty());
    needed
}

/// What this run still does while it traces, `command` being the pid of COMMAND; `None` if
/// nothing is to keep it from more.
pub fn needs(config: &Config, host: Host, command: Option<u32>) -> Option<Needs> {
    let needs = Needs {
        reads_proc: follows_processes(config) || names_cgroups(config),
        lists_processes: follows_processes(config),
        opens_perf: host.uses_perf,
        hears_netlink: config.procs.is_some(),
        records: config.record.is_some(),
        command,
    };
    (config.sandbox != Sandbox::Off).then_some(needs)
}

/// Whether rows have the time of the local zone.
pub fn shows_local_time(config: &Config) -> bool {
    let is_count = matches!(config.mode, Mode::Count { .. });
    matches!(config.format, Format::Table(columns) if columns.time || is_count)
}

/// Whether users have names in rows.
pub fn names_users(config: &Config) -> bool {
    config.who.user || config.procs.is_some()
}

/// Whether a snapshot shows more of the processes that hold a socket than pid and name. The
/// network namespace is the socket's.
pub fn shows_holders(config: &Config) -> bool {
    config.snapshot.is_some() && Who { netns_id: false, ..config.who } != Who::default()
}

/// Whether it has to know more of them.
pub fn reads_holders(config: &Config) -> bool {
    shows_holders(config) || config.snapshot.is_some() && config.filter.by_cgroup()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::cli::Cli;

    fn config(line: &str) -> Config {
        let args = ["tcpconnect"].into_iter().chain(line.split_whitespace());
        Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap()
    }

    fn plan(line: &str) -> Plan {
        Plan::new(&config(line), Host::default())
    }

    #[test]
    fn a_run_is_prompt_if_all_that_it_hears_of_wakes_it() {
        for line in ["", "-j", "-U", "-r", "--life", "--accept", "-e", "--cgroup /"] {
            assert!(plan(line).is_prompt(), "{line}");
        }
        for line in ["-c", "-d", "-x", "--procs", "--unit x", "-p 1 --children"] {
            assert!(!plan(line).is_prompt(), "{line}");
        }
    }

    #[test]
    fn the_level_is_the_lowest_that_has_what_is_asked_for() {
        for (level, lines) in [
            (
                Level::Table,
                &["", "-t", "-L", "-T", "-p 1", "-P 80", "-c", "--to ::1", "--comm x"][..],
            ),
            (Level::Fields, &["-U", "-j", "--user", "--netns-id", "--cgroup-path"]),
            (
                Level::Fields,
                &["-u 0", "--netns 1", "--cgroup /", "--unit x", "--container 4f8a1c6b2d3e"],
            ),
            (Level::Process, &["--container x", "--pod x", "-c --container x"]),
            (Level::Fields, &["-c -u 0", "-c --cgroup /", "-C /x", "-M /x"]),
            (
                Level::Process,
                &["-x", "-a", "--parents", "--vpid", "--container-id", "-d", "--procs"],
            ),
            (Level::Process, &["-r", "--life", "-e", "--accept", "--peer", "--who ::1"]),
            (Level::Failed, &["-f", "-f -r", "-f -x"]),
        ] {
            for line in lines {
                assert_eq!(plan(line).level, level, "{line}");
            }
        }
        let nested = Host { is_nested: true, ..Host::default() };
        assert_eq!(Plan::new(&config(""), nested).level, Level::Process);
    }

    #[test]
    fn a_fact_is_read_only_for_an_option_that_shows_it_or_joins_by_it() {
        let none = Facts::default();
        let json = Facts { leader: true, netns: true, cgroup: true, cookie: true, ..none };
        let joined = Facts { netns: true, cookie: true, ..none };
        for (line, facts) in [
            ("-t -U -L -p 1", none),
            ("-c --cgroup /", none),
            ("-j", json),
            ("-j -x", Facts { process: true, ..json }),
            ("-x", Facts { leader: true, process: true, ..none }),
            ("--netns-id", Facts { netns: true, ..none }),
            ("--cgroup-path", Facts { cgroup: true, ..none }),
            ("--container-id", Facts { cgroup: true, process: true, ..none }),
            ("--image", Facts { leader: true, cgroup: true, process: true, ..none }),
            ("--vpid", Facts { vpid: true, ..none }),
            ("-r", Facts { cookie: true, ..none }),
            ("-e", joined),
            ("--peer", joined),
            ("-d", Facts { netns: true, cgroup: true, process: true, ..none }),
        ] {
            assert_eq!(plan(line).facts, facts, "{line}");
        }
    }

    #[test]
    fn all_processes_are_followed_only_if_somebody_asks_who() {
        for line in
            ["-x", "-a", "--parents", "--procs", "--container-name", "-j --user", "-j --peer"]
        {
            assert!(plan(line).processes, "{line}");
        }
        // The record itself says enough for these.
        let enough = ["", "-j", "--user", "--container-id", "--cgroup-path", "--vpid", "--peer"];
        for line in enough {
            assert!(!plan(line).processes, "{line}");
        }
    }

    #[test]
    fn containers_have_names_where_their_names_or_images_are_shown() {
        let has = |line: &str| plan(line).container_names;
        assert!(has("--container-name") && has("--image -j"));
        assert!(has("--container web") && has("--pod web") && has("--container facade"));
        assert!(!has("--container-id -x") && !has("--container 4f8a1c6b2d3e"));
    }

    #[test]
    fn cgroups_are_judged_where_the_kernel_does_not_know_who_is_wanted() {
        let judges = |line: &str| plan(line).judges;
        for line in ["--container web", "-c --pod web", "-e --unit a", "--who ::1 --cgroup /"] {
            assert!(judges(line), "{line}");
        }
        for line in ["", "--unit a", "--container 4f8a1c6b2d3e", "--cgroup /", "-e", "--procs"] {
            assert!(!judges(line), "{line}");
        }
        assert!(plan("-c --container web").rows && !plan("-c --unit a").rows);
        let hybrid = Host { is_hybrid: true, ..Host::default() };
        let filters = |line: &str, host| Plan::new(&config(line), host).filters_cgroups;
        assert!(filters("--container web", Host::default()) && filters("--unit a", hybrid));
        assert!(!filters("--container web", hybrid), "it may be in version 1");
    }

    #[test]
    fn who_connected_is_kept_for_rows_that_come_later() {
        for line in ["-d -r", "--life -x", "-r --container-id"] {
            assert!(plan(line).keeps_who, "{line}");
        }
        for line in ["-r", "-x", "--life", "-d --accept"] {
            assert!(!plan(line).keeps_who, "{line}");
        }
    }

    #[test]
    fn an_event_has_a_row_of_its_own_unless_a_later_one_says_as_much() {
        let (none, yes) = (Shown::default(), true);
        let connects = Shown { connects: yes, ..none };
        let accepted = Shown { accepts: yes, accepted: yes, ..none };
        for (line, shown) in [
            ("", connects),
            ("-f", connects),
            ("--peer", connects),
            ("-e", Shown { existing: yes, ..connects }),
            ("-r", none),
            ("--life", Shown { ends: yes, ..none }),
            ("--accept", Shown { connects: yes, ..accepted }),
            ("--accept -r", accepted),
            ("--accept --life", Shown { accepted: yes, ends: yes, ..none }),
            ("--accept -r --life", Shown { ends: yes, ..accepted }),
        ] {
            assert_eq!(plan(line).shown, shown, "{line}");
        }
    }

    #[test]
    fn beside_the_hook_only_those_programs_run_that_see_what_is_needed() {
        use Companion::*;
        let of = |line: &str, hook| plan(line).companions(hook, true);
        for (line, companions) in [
            ("", &[][..]),
            ("-c", &[]),
            ("-p 1 --children", &[Descendants]),
            ("-p 1 --children -x", &[Processes]),
            ("--procs", &[Processes]),
            ("--unit x", &[Cgroups]),
            ("--container x", &[Processes, Cgroups]),
            ("--cgroup-path", &[Cgroups]),
            ("-d", &[Names]),
            ("--accept", &[Accepts]),
            ("-r", &[States]),
            ("-e --life", &[States]),
            ("-e --life --accept", &[States, Destroyed, Accepts]),
            ("-x -d --life --accept", &[Processes, Names, States, Accepts]),
        ] {
            assert_eq!(of(line, Hook::Fentry), companions, "{line}");
        }
        let hears = |line, hook, has_btf| plan(line).companions(hook, has_btf).contains(&States);
        assert!(hears("-r", Hook::Sockops, true) && !hears("-r", Hook::Sockops, false));
        assert!(hears("-e --life", Hook::Sockops, false), "no callback comes for what was there");
        assert!(!hears("-r", Hook::StateOnly, true), "it is the hook itself");
    }

    #[test]
    fn connections_are_followed_as_far_as_a_row_or_a_peer_needs() {
        let none = plan("");
        assert!(none.rows && !plan("-c").rows);
        let follows =
            Plan { follows: true, connects_are_missed: false, level: Level::Process, ..none };
        let cookie = Facts { cookie: true, ..Facts::default() };
        let shown = plan("-r").shown;
        assert_eq!(plan("-r"), Plan { facts: cookie, shown, ..follows });
        let shown = plan("--life").shown;
        assert_eq!(plan("--life"), Plan { ends: true, facts: cookie, shown, ..follows });
        let ends = |line: &str| (plan(line).ends, plan(line).adopts, plan(line).accepts);
        assert_eq!(ends("-e"), (false, false, false));
        assert_eq!(ends("-e --life"), (true, true, false));
        assert_eq!(ends("--peer"), (true, true, true));
        assert_eq!(ends("--accept"), (false, false, true));
    }

    #[test]
    fn records_are_made_for_rows_and_for_what_is_joined_to_them() {
        let records = |line: &str| (plan(line).connect_records, plan(line).accept_records);
        assert_eq!(records("-r"), (false, false));
        assert_eq!(records("-r -x"), (true, true), "the outcome shows who connected");
        assert_eq!(records("--accept"), (false, true));
        assert_eq!(records("--accept --life"), (false, false));
        assert_eq!(records("-e"), (true, true));
        let is_missed = |line: &str| plan(line).connects_are_missed;
        assert!(is_missed("-j") && !is_missed("-r -x") && is_missed("-r --to-name *.test"));
        let beside = |line: &str| plan(line).has_aux_records();
        assert!(!beside("-j -r") && beside("-x") && beside("--cgroup-path") && beside("-d"));
    }

    #[test]
    fn the_buffer_has_room_for_the_records_of_processes_and_names() {
        assert_eq!(plan("-t").default_buffer(true), DEFAULT_RING_BYTES);
        assert_eq!(plan("-x").default_buffer(true), PROCESS_RING_BYTES);
        assert_eq!(plan("-d").default_buffer(true), PROCESS_RING_BYTES);
        assert_eq!(plan("-x").default_buffer(false), DEFAULT_PERF_BYTES);
    }

    fn needed_by(line: &str, host: Host) -> CapabilitySet {
        capabilities(&config(line), host)
    }

    #[test]
    fn each_capability_has_an_option_that_needs_it() {
        let none = CapabilitySet::empty();
        let of_cgroups = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
        for (line, needed) in [
            ("-t -U -r --life", none),
            ("-c", none),
            ("-x", CapabilitySet::SYS_PTRACE),
            ("--cgroup-path", of_cgroups),
            ("--snapshot", CapabilitySet::SYS_PTRACE),
            ("--snapshot --netns-id", CapabilitySet::SYS_PTRACE),
            ("--snapshot --user", of_cgroups),
            ("-- true", CapabilitySet::KILL),
        ] {
            assert_eq!(needed_by(line, Host::default()), needed, "{line}");
        }
    }

    #[test]
    fn each_capability_has_a_host_that_needs_it() {
        let old = Host { bpf_is_restricted: true, ..Host::default() };
        assert_eq!(needed_by("-t", old), CapabilitySet::BPF);
        let perf = Host { uses_perf: true, ..Host::default() };
        assert_eq!(needed_by("-t", perf), CapabilitySet::PERFMON);
        let debian = Host { perf_takes_sys_admin: true, ..perf };
        let both = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
        assert_eq!(needed_by("-t", debian), both);
        let ring = Host { perf_takes_sys_admin: true, ..Host::default() };
        assert_eq!(needed_by("-t", ring), CapabilitySet::empty());
    }

    #[test]
    fn a_snapshot_reads_of_processes_only_what_is_shown() {
        let reads = |line: &str| reads_holders(&config(line));
        for line in ["-s", "-s=all -j", "-s --netns-id", "-x"] {
            assert!(!reads(line), "{line}");
        }
        for option in ["-x", "-a", "--parents", "--user", "--container-id", "--wide", "--vpid"] {
            assert!(reads(&format!("-s {option}")), "{option}");
        }
    }

    #[test]
    fn each_need_has_an_option_that_has_it() {
        let needs = |line: &str| needs(&config(line), Host::default(), None);
        let none = Needs::default();
        let listed = Needs { reads_proc: true, lists_processes: true, ..none };
        for (line, needed) in [
            ("-t -U -r --life -d --peer --user", none),
            ("-c -i 1", none),
            ("-j", none),
            ("-T", none),
            ("--container-id", Needs { reads_proc: true, ..none }),
            ("-x", listed),
            ("--procs", Needs { hears_netlink: true, ..listed }),
        ] {
            assert_eq!(needs(line), Some(needed), "{line}");
        }
        assert_eq!(needs("--sandbox off"), None);
    }
}
